"""How objectives are called and how their results are read: by name, and strictly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import zotune
from zotune.errors import ObjectiveError, OptionError, PluginError, UsageError
from zotune.scoring import objective_spec, trl_arguments
from zotune.scoring.calls import Calls
from zotune.scoring.objective import wrap
from zotune.types import Score


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
    assert seen.keys() == {"predictions", "prompts", "topic", *trl_arguments.LOGGING}
    assert (seen["predictions"], seen["prompts"], seen["topic"]) == ([1], ["p"], ["t"])


def test_reward_functions_get_every_argument_of_trl() -> None:
    def reward(
        completions: Any, trainer_state: Any, log_extra: Any, log_metric: Any, environments: Any, **_: Any
    ) -> list[float]:
        log_extra("length", [len(c) for c in completions])
        log_metric("mean", 1.0)
        assert environments == [None, None]
        return [float(trainer_state.global_step)] * 2

    def optional(completions: Any, log_metric: Any = None, trainer_state: Any = None) -> float:
        log_metric("x", 1.0)
        return float(trainer_state.global_step)

    given = {"completions": ["a", "b"]}
    for function in reward, optional:
        objective = wrap(function, "reward")
        objective.check(frozenset(given), frozenset())
        assert objective.score(2, given).value == 0.0
    state = wrap(lambda completions, trainer_state: trainer_state[0], "own")  # a column of that name
    assert state.score(1, {"completions": ["a"], "trainer_state": [3.0]}).value == 3.0
    with pytest.raises(UsageError, match="asks for completion, which"):
        wrap(lambda completions, completion: 1.0, "own").check(frozenset(given), frozenset({"completion"}))


@pytest.mark.parametrize(
    "result",
    [
        [Decimal("0.5"), Fraction(1, 2)],
        np.array([0.5, 0.5], dtype=np.float16),
        torch.tensor([0.5, 0.5], dtype=torch.bfloat16),
        (0.5 for _ in range(2)),
    ],
)
def test_numbers_of_every_type(result: Any) -> None:
    assert wrap(lambda completions: result, "f").score(2, {"completions": ["a", "b"]}) == Score(0.5, (0.5, 0.5))


def test_a_generator_runs_inside_its_call() -> None:
    def slow(completions: Any) -> Iterator[float]:
        for _ in completions:
            time.sleep(5)
            yield 1.0

    with pytest.raises(ObjectiveError, match="no score within"):
        wrap(slow, "slow", calls=Calls(timeout=0.1)).score(1, {"completions": ["a"]})


@pytest.mark.parametrize("result", [1e308, -1e308, [1e308] * 3, [1e308, -1e308, 0.0], [2e100, 0.0, 0.0], 10**400])
def test_scores_too_large_to_add_are_failed_scores(result: Any) -> None:
    inputs = {"completions": ["a", "b", "c"]}
    with pytest.raises(
        ObjectiveError, match=r"returned (inf|-?[0-9.]+e\+\d+; scores lie between -1e\+100 and 1e\+100)"
    ):
        wrap(lambda completions: result, "big").score(3, inputs)


@pytest.mark.parametrize("weights", [(1e308, 1e308), (1e308, -1e308), (1e10, 0.0)])
@pytest.mark.parametrize("per_row", [True, False])
def test_a_sum_too_large_is_a_failed_score(weights: tuple[float, float], per_row: bool) -> None:
    def large(completions: Any) -> Any:
        return [1e95] * 2 if per_row else 1e95

    objective = objective_spec.resolve([large, large], {}, weights=weights)
    with pytest.raises(ObjectiveError, match="returned"):
        objective.score(2, {"completions": ["a", "b"]})


def test_async_objectives_are_awaited() -> None:
    async def later(completions: Any, **_: Any) -> list[float | None]:
        return [1.0, None]

    assert wrap(later, "later").score(2, {"completions": ["a", "b"]}) == Score(1.0, (1.0, None))


@pytest.mark.parametrize(
    ("result", "message"),
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
def test_bad_results_are_errors(result: Any, message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        wrap(lambda labels: result, "odd").score(2, {"labels": [0, 1]})


@pytest.mark.parametrize("result", [np.float32(0.5), torch.tensor(0.5), np.array(0.5), True, 1])
def test_numbers_of_all_libraries_are_accepted(result: Any) -> None:
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


def test_unknown_parameters_are_refused_before_a_model_is_loaded() -> None:
    objective = wrap(lambda completions, difficulty: 1.0, "needy")
    with pytest.raises(UsageError, match=r"asks for difficulty.*columns: text"):
        objective.check(frozenset({"completions"}), frozenset({"text"}))
    objective.check(frozenset({"completions"}), frozenset({"difficulty"}))


def test_names() -> None:
    with pytest.raises(PluginError, match="did you mean 'f1'"):
        objective_spec.resolve("f11", {})
    with pytest.raises(OptionError, match="did you mean 'average'"):
        objective_spec.resolve("f1", {"averag": "macro"})
    with pytest.raises(OptionError, match="takes no options"):
        objective_spec.resolve("accuracy", {"x": 1})
    assert objective_spec.resolve("zotune/f1", {}).direction == "maximize"
