"""Objectives: called by name, read strictly; ours keep the contract and equal scikit-learn."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import zotune
from zotune import plugins
from zotune.errors import ObjectiveError, OptionError, PluginError, UsageError
from zotune.scoring import objective_spec
from zotune.scoring.objective import wrap
from zotune.testing import ObjectiveContract
from zotune.types import Score

EXAMPLES: dict[str, dict[str, Any]] = {
    "sklearn": {"metric": "balanced_accuracy"},
    "length": {"unit": "characters", "target": 15},
    "regex": {"pattern": "green$"},
    "contains": {"text": "green"},
}
"""Options of those that need some, or that score label words only with them."""
ELSEWHERE = {"exec", "http", "https", "reward-model", "judge", "human"}
"""Objectives that need a program, a server or a model (tests/objectives/test_scorers.py runs their contract) and
objectives that give an order (tests/scoring/test_objective.py, tests/humans/test_human_runs.py)."""


@pytest.mark.parametrize("name", [n for n in plugins.default().names("objective") if n not in ELSEWHERE])
class TestEveryInstalledObjective(ObjectiveContract):
    @pytest.fixture(autouse=True)
    def _chosen(self, name: str) -> None:
        self.name = name

    def objective(self) -> Callable[..., Any]:
        target = plugins.default().find("objective", self.name).load()
        return target(**EXAMPLES.get(self.name, {})) if isinstance(target, type) else target


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "binary"])
def test_f1_equals_scikit_learn(average: str) -> None:
    from sklearn.metrics import f1_score

    goal = objective_spec.resolve("f1", {"average": average})
    rng = random.Random(0)
    for trial in range(50):
        classes = 2 if average == "binary" else rng.randint(2, 6)
        n = rng.randint(1, 30)
        gold = [rng.randrange(classes) for _ in range(n)]
        found = [rng.randrange(classes) for _ in range(n)]
        expected = f1_score(gold, found, average=average, zero_division=0)
        score = goal.score(n, {"predictions": found, "labels": gold})
        assert score.value == pytest.approx(expected, abs=1e-12), trial
        assert score.samples is None


def test_unknown_answers_are_wrong_and_no_class_of_their_own() -> None:
    goal = objective_spec.resolve("f1", {})
    assert goal.score(4, {"predictions": [0, None, 1, 1], "labels": [0, 0, 1, 1]}).value == pytest.approx(
        (2 / 3 + 1.0) / 2
    )
    accuracy = objective_spec.resolve("accuracy", {})
    assert accuracy.score(2, {"predictions": [None, 1], "labels": [0, 1]}).value == 0.5


def test_cross_entropy_is_what_the_task_lost_on_each_row() -> None:
    goal = objective_spec.resolve("cross-entropy", {})
    score = goal.score(3, {"losses": [0.25, None, 0.75]})
    assert goal.direction == "minimize"
    assert score == Score(0.5, (0.25, None, 0.75))


@pytest.mark.parametrize(
    ("found", "right", "f1", "exact"),
    [
        ("the Eiffel Tower", "Eiffel Tower!", 1.0, 1.0),
        ("", "Paris", 0.0, 0.0),
        ("a", "the", 1.0, 1.0),  # nothing is left of either
        ("in Paris, France", ["Lyon", "Paris"], 0.5, 0.0),
        ("to be or not to be", "to be", 0.5, 0.0),  # tokens count as often as they occur in both
        ("北京", "北京", 1.0, 1.0),
        ("yes 👍", "yes", 2 / 3, 0.0),
        ("x", None, None, None),
        ("x", [], None, None),
    ],
)
def test_answers_as_squad_scores_them(found: str, right: Any, f1: float | None, exact: float | None) -> None:
    inputs = {"completions": [found, "x"], "references": [right, "x"]}
    for name, expected in (("token-f1", f1), ("exact-match", exact)):
        samples = objective_spec.resolve(name, {}).score(2, inputs).samples
        assert samples is not None
        assert samples[0] == pytest.approx(expected) if expected is not None else samples[0] is None


def test_only_declared_names_are_passed() -> None:
    seen: dict[str, Any] = {}

    def narrow(predictions: Any, weight: float = 2.0) -> float:
        return weight

    def wide(completions: Any, **rest: Any) -> list[float]:
        seen.update(rest)
        return [-len(c) for c in completions]

    inputs = {"predictions": [1], "completions": ["abc"], "prompts": ["p"], "topic": ["t"]}
    assert wrap(narrow, "narrow").score(1, inputs).value == 2.0
    assert wrap(wide, "wide").score(1, inputs) == Score(-3.0, (-3.0,))
    assert seen == {"predictions": [1], "prompts": ["p"], "topic": ["t"]}


def test_async_objectives_are_awaited() -> None:
    async def later(completions: Any, **_: Any) -> list[float | None]:
        return [1.0, None]

    assert wrap(later, "later").score(2, {"completions": ["a", "b"]}) == Score(1.0, (1.0, None))


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (float("nan"), "returned nan"),
        (float("inf"), "returned inf"),
        ("0.5", "returned a str where a number belongs: '0.5'"),
        (None, "returned a NoneType"),
        ([1.0], "returned 1 scores for 2 rows"),
        ([1.0, "x"], "returned a str"),
        ([None, None], "None for every row"),
        ([1.0, float("nan")], "returned nan"),
        ({"score": 1}, "returned a dict"),
        (np.array([[1.0], [2.0]]), "returned a list"),
    ],
)
def test_a_bad_result_is_never_a_number(result: Any, said: str) -> None:
    with pytest.raises(ObjectiveError, match=said):
        wrap(lambda labels: result, "odd").score(2, {"labels": [0, 1]})


@pytest.mark.parametrize("result", [np.float32(0.5), torch.tensor(0.5), np.array(0.5), True, 1])
def test_numbers_of_all_libraries_are_numbers(result: Any) -> None:
    assert isinstance(wrap(lambda labels: result, "x").score(2, {"labels": [0, 1]}).value, float)


def test_an_exception_is_an_objective_error() -> None:
    def broken(labels: Any) -> float:
        raise KeyError("gold")

    with pytest.raises(ObjectiveError, match="raised KeyError: 'gold'"):
        wrap(broken, "broken").score(1, {"labels": [0]})


def test_direction() -> None:
    @zotune.objective(direction="minimize")
    def cost(labels: Any) -> float:
        return 1.0

    assert wrap(cost, "cost").direction == "minimize"
    assert wrap(cost, "cost", "maximize").direction == "maximize"
    assert wrap(lambda labels: 1.0, "plain").direction == "maximize"
    with pytest.raises(OptionError, match="maximise"):
        zotune.objective(direction="maximise")  # type: ignore[arg-type]


def test_what_cannot_be_given_is_refused_before_a_model_is_loaded() -> None:
    goal = wrap(lambda completions, difficulty: 1.0, "needy")
    with pytest.raises(UsageError, match=r"asks for difficulty.*columns: text"):
        goal.check(frozenset({"completions"}), frozenset({"text"}))
    goal.check(frozenset({"completions"}), frozenset({"difficulty"}))


def test_names() -> None:
    with pytest.raises(PluginError, match="did you mean 'f1'"):
        objective_spec.resolve("f11", {})
    with pytest.raises(OptionError, match="did you mean 'average'"):
        objective_spec.resolve("f1", {"averag": "macro"})
    with pytest.raises(OptionError, match="takes no options"):
        objective_spec.resolve("accuracy", {"x": 1})
    assert objective_spec.resolve("zotune/f1", {}).direction == "maximize"
