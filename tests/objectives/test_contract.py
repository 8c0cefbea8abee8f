"""Every installed objective keeps the contract that plugin authors get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zotune import plugins
from zotune.testing import ObjectiveContract

OPTIONS: dict[str, dict[str, Any]] = {
    "sklearn": {"metric": "balanced_accuracy"},
    "length": {"unit": "characters", "target": 15},
    "regex": {"pattern": "green$"},
    "contains": {"text": "green"},
}
"""Options of the objectives that need some, or that score the contract's label words only with them."""
TESTED_ELSEWHERE = {"exec", "http", "https", "reward-model", "judge", "human"}
"""Objectives that need a program, a server or a model: test_exec.py, test_http.py and test_reward_model.py run the
contract for them. tests/scoring/test_objective.py and tests/humans/test_human_runs.py test those that give an order."""
NO_CLASSES = {"json", "countdown", "final-number", "vader", "grader"}
"""Objectives that no class's words please: test_task_rewards.py and test_grader.py test them."""


@pytest.mark.parametrize(
    "name", [n for n in plugins.default().names("objective") if n not in TESTED_ELSEWHERE | NO_CLASSES]
)
class TestEveryInstalledObjective(ObjectiveContract):
    @pytest.fixture(autouse=True)
    def _name(self, name: str) -> None:
        self.name = name

    def objective(self) -> Callable[..., Any]:
        target = plugins.default().find("objective", self.name).load()
        return target(**OPTIONS.get(self.name, {})) if isinstance(target, type) else target
