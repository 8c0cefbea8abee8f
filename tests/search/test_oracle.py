"""The oracle: ranks, values and samples of points, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest

from zotune.core.space import Space
from zotune.errors import UsageError
from zotune.search.batches import Batches
from zotune.search.oracle import Oracle
from zotune.testing import Bench, TinyNet
from zotune.types import Score


class Still:
    def init(self, theta: Any) -> None: ...

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> Any:
        return theta, state


def test_ranks_share_a_place_when_equal() -> None:
    values = iter([0.5, 0.1, 0.5, 0.9])
    bench = Bench(Still(), evaluate=lambda rows: Score(next(values)))
    t = bench.space.theta
    assert bench.oracle.rank(t, t, t, t) == (1, 0, 1, 3)
    assert bench.oracle.evaluations == 4


def test_per_sample_gives_one_loss_a_row_in_the_right_direction() -> None:
    space = Space(TinyNet(), 0)
    batches = Batches(24, 6, 0)
    oracle = Oracle(space, lambda rows: Score(0.5, tuple(float(r) for r in rows)), batches, "maximize")
    ((*losses,),) = oracle(space.theta, per_sample=True)
    assert losses == [-float(r) for r in batches.at(0).rows]
    plain = Oracle(space, lambda rows: Score(0.5), batches, "maximize")
    assert plain(space.theta) == (-0.5,)
    with pytest.raises(UsageError, match="one score a row"):
        plain(space.theta, per_sample=True)


def test_the_full_batch_costs_what_it_costs() -> None:
    bench = Bench(Still())
    bench.oracle(bench.space.theta, bench.space.theta, batch=bench.batches.full)
    assert bench.oracle.evaluations == 8
