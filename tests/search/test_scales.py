"""Units of a calibration: the spread of a row, of parts of a batch, and of perturbed points."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from references import load

from zotune.scales import deviation, level, level_cost, parts_of
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.testing import Bench
from zotune.types import Batch, Score


def measured(evaluate: Any, rows: int = 24) -> tuple[Any, Bench]:
    bench = Bench(load("auto"), evaluate=evaluate, dtype=torch.float64)
    tape = Tape()
    bench.oracle.begin(tape, -1)
    at = At(bench.space, bench.batches, tape, -1, 6, 0.0)
    found = level(bench.space.theta, bench.oracle, at, Batch(tuple(range(rows))), 0.25)
    assert bench.oracle.evaluations == bench.calls <= level_cost(at, Batch(tuple(range(rows))))
    return found, bench


def test_the_spread_is_that_of_rows() -> None:
    found, _ = measured(lambda rows: Score(7.0, tuple(float(i * i) for i in rows)))
    mean = sum(i * i for i in range(24)) / 24
    assert found == (7.0, pytest.approx(math.sqrt(sum((i * i - mean) ** 2 for i in range(24)) / 23), rel=1e-12))


def test_where_rows_are_scored_together_it_is_that_of_parts() -> None:
    """Six parts of four rows: their means differ by 1/√4 of what rows with these values differ."""
    values = [0.1, 0.9, 0.4, 0.2] * 2 + [0.8, 0.3, 0.5, 0.6] * 2 + [0.7, 0.0, 1.0, 0.2] * 2
    found, bench = measured(lambda rows: Score(sum(values[i] for i in rows) / len(rows)))
    means = [sum(values[4 * k : 4 * k + 4]) / 4 for k in range(6)]
    assert found.spread == pytest.approx(2 * deviation(means), rel=1e-12)
    assert bench.calls == 4 + 6  # 24 rows in batches of 6, and six parts


@pytest.mark.parametrize("rows", [1, 15, 24])
def test_where_neither_differs_it_is_that_of_perturbed_points(rows: int) -> None:
    """Such as for an objective of the weights alone; where it is flat too, there is no spread."""
    bench = Bench(load("auto"), dtype=torch.float64)
    weight = next(iter(bench.space.params.values()))
    bench.oracle._evaluate = lambda _: Score(float(weight.detach().sum()))
    at, batch = At(bench.space, bench.batches, Tape(), -1, 6, 0.0), Batch(tuple(range(rows)))
    bench.oracle.begin(Tape(), -1)
    value = float(weight.detach().sum())
    name = next(iter(bench.space.params))
    moves = [0.25 * float(bench.space.value(at.rademacher(k))[name].sum()) for k in (0, 1)]
    found = level(bench.space.theta, bench.oracle, at, batch, 0.25)
    assert found.value == value
    assert found.spread == pytest.approx(deviation([0.0, *(s * m for m in moves for s in (1, -1))]), rel=1e-9)
    bench.oracle._evaluate = lambda _: Score(1.0)
    assert level(bench.space.theta, bench.oracle, at, batch, 0.25) == (1.0, 0.0)


def test_parts_have_as_many_rows() -> None:
    sizes = {n: [len(part.rows) for part in parts_of(Batch(tuple(range(n))))] for n in (15, 16, 30, 64)}
    assert sizes == {15: [], 16: [4] * 4, 30: [4] * 7, 64: [8] * 8}
