"""Standard errors of scores of held-out rows, and how often an objective is called for them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

import zotune
from zotune.runs.heldout import GROUPS, HeldOutSet
from zotune.scoring.objective import Objective, wrap
from zotune.types import Score

ROWS = 400


class Rows(list[int]):
    pass


def held_out(objective: Objective, **more: Any) -> HeldOutSet:
    return HeldOutSet(None, Rows(range(ROWS)), objective, **more)  # type: ignore[arg-type]


def outputs(shift: float, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    return {"completions": [rng.gauss(shift, 1.0) for _ in range(ROWS)], "model": object()}


def mean(completions: Sequence[float]) -> float:
    return math.fsum(completions) / len(completions)


def scored(objective: Objective, given: dict[str, Any]) -> tuple[dict[str, Any], Score]:
    return given, objective.score(ROWS, given)


@pytest.mark.parametrize("seed", range(4))
def test_a_jackknife_of_few_calls_gives_the_standard_error(seed: int) -> None:
    objective = wrap(mean, "mean")
    held, base, tuned = held_out(objective), outputs(0.0, seed), outputs(0.3, 100 + seed)
    before, after = scored(objective, base), scored(objective, tuned)
    called = objective.meter.rows
    estimate = held.estimate(*before, seed=0)
    assert estimate.error == pytest.approx(1 / math.sqrt(ROWS), rel=0.5)
    difference = held.difference(before, after, 0)
    assert difference.error == pytest.approx(math.sqrt(2 / ROWS), rel=0.5)
    assert difference.low is not None
    assert difference.high is not None
    assert difference.low < difference.value < difference.high
    assert difference.high - difference.value == pytest.approx(2.093 * (difference.error or 0), rel=1e-3)
    deficit = held.standard_errors_below(before, after, held.paired_error(before, after, 0))
    assert deficit == pytest.approx(-difference.value / (difference.error or 1))
    assert objective.meter.rows - called == 2 * (GROUPS - 1) * ROWS  # each model's values are kept


def test_a_declared_fast_objective_is_bootstrapped_and_the_resamples_are_no_scored_rows() -> None:
    calls = 0

    @zotune.objective(level="set", fast=True)
    def fast(completions: Sequence[float]) -> float:
        nonlocal calls
        calls += 1
        return mean(completions)

    objective = wrap(fast, "fast")
    held, before = held_out(objective), scored(objective, outputs(0.0, 1))
    estimate = held.estimate(*before, seed=0)
    assert estimate.error == pytest.approx(1 / math.sqrt(ROWS), rel=0.2)
    assert calls > 100
    assert objective.meter.rows == ROWS


@pytest.mark.parametrize("fast", [None, True, False])
def test_rows_that_are_scored_by_themselves_need_no_further_call(fast: bool | None) -> None:
    calls = 0

    @zotune.objective(level="sample", fast=fast)
    def each(completions: Sequence[float]) -> list[float]:
        nonlocal calls
        calls += 1
        return list(completions)

    objective = wrap(each, "each")
    held, before, after = held_out(objective), *(scored(objective, outputs(k, k)) for k in (0, 1))
    assert held.estimate(*before, seed=0).error == pytest.approx(1 / math.sqrt(ROWS), rel=0.2)
    assert held.difference(before, after, 0).error == pytest.approx(math.sqrt(2 / ROWS), rel=0.2)
    assert calls == 2


@pytest.mark.parametrize("case", ["slow", "counted", "model"])
def test_slow_counted_and_model_objectives_have_no_error(case: str) -> None:
    @zotune.objective(level="set", fast=False if case == "slow" else None)
    def score(completions: Sequence[float]) -> float:
        return mean(completions)

    def of_model(completions: Sequence[float], model: Any = None) -> float:
        return mean(completions)

    objective = wrap(of_model if case == "model" else score, "score")
    held, before = held_out(objective, scores_counted=case == "counted"), scored(objective, outputs(0.0, 1))
    assert held.estimate(*before, seed=0).error is None
    assert objective.meter.rows == ROWS


def test_an_objective_that_fails_on_fewer_rows_has_no_error() -> None:
    def whole(completions: Sequence[float]) -> float:
        if len(completions) < ROWS:
            raise ValueError("too few")
        return mean(completions)

    objective = wrap(whole, "whole")
    before = scored(objective, outputs(0.0, 1))
    assert held_out(objective).estimate(*before, seed=0).error is None


def test_two_rows_are_left_out_one_at_a_time() -> None:
    objective = wrap(mean, "mean")
    held = HeldOutSet(None, Rows(range(2)), objective)  # type: ignore[arg-type]
    estimate = held.estimate({"completions": [0.0, 1.0]}, Score(0.5), 0)
    assert estimate.error == pytest.approx(0.5)  # the standard deviation 1/√2 over √2


def test_built_in_objectives_of_a_set_declare_that_they_are_fast() -> None:
    from zotune.scoring import objective_spec

    for name in "f1", "mcc", "perplexity", "sklearn:f1_macro", "bleu", "chrf":
        assert objective_spec.resolve(name, {}).info.fast is True, name


def test_rows_with_one_score_alone_make_no_difference() -> None:
    """The same answers, of which another row failed: the mean of the others moves, the model has not changed."""
    held = held_out(wrap(mean, "mean"))
    first = [0.0, None, *[float(i) for i in range(2, ROWS)]]
    second = [None, 1.0, *first[2:]]
    before, after = (({}, Score(math.fsum(s for s in x if s is not None), tuple(x))) for x in (first, second))
    difference = held.difference(before, after, 0)
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert held.comparable_value(before[1], after[1]) == before[1].value
    better = ({}, Score(0.0, (None, *[s + 1 if s is not None else 5.0 for s in first[1:]])))
    assert held.difference(before, better, 0).value == pytest.approx(1.0)
    none = ({}, Score(9.0, (*[None] * (ROWS - 1), None)))
    assert held.difference(before, none, 0).value == 0.0
