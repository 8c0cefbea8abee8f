"""What a step may ask: batches, reductions, ranks, samples; all of it through the tape."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from zotune.core.space import Space
from zotune.errors import RunFolderError, UsageError
from zotune.search.batches import Batches
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.search.oracle import Oracle
from zotune.testing import Bench, TinyNet
from zotune.types import Score


class Still:
    def init(self, theta: Any) -> None: ...

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> Any:
        return theta, state


def at(space: Space, tape: Tape, t: int = 3) -> At:
    return At(space, Batches(24, 6, 0), tape, t, 10, 0.3)


def test_batches_are_pure_and_epochs_are_permutations() -> None:
    a, b = Batches(25, 6, 1), Batches(25, 6, 1)
    assert [a.at(t).rows for t in (7, 2, 9)] == [b.at(t).rows for t in (7, 2, 9)]
    epoch = [r for t in range(4) for r in a.at(t).rows]
    assert len(set(epoch)) == 24
    assert a.at(0).rows != a.at(4).rows
    assert a.at(3, draw=1).rows != a.at(3).rows
    assert a.at(3, draw=2).rows != a.at(3, draw=1).rows
    assert Batches(25, 6, 2).at(0).rows != a.at(0).rows
    assert a.cost(a.full) == 5
    assert Batches(4, 9, 0).at(5).rows == (0, 1, 2, 3)
    assert len(a.sample(0, 14).rows) == 14
    assert len(a.sample(0, 99).rows) == 25


def test_stratified_batches_hold_the_classes_in_proportion() -> None:
    strata = [(k % 10 == 0) + (k % 10 < 4) for k in range(100)]  # 60, 30 and 10 of three classes
    a, b = Batches(100, 20, 1, strata), Batches(100, 20, 1, strata)
    epoch = [a.at(t) for t in range(5)]
    assert [x.rows for x in epoch] == [b.at(t).rows for t in range(5)]
    assert sorted(r for x in epoch for r in x.rows) == list(range(100))
    for drawn in (*epoch, a.at(7), a.at(3, draw=1), a.sample(0, 20)):
        counts = [sum(strata[r] == s for r in drawn.rows) for s in (0, 1, 2)]
        assert all(abs(n - share) <= 1 for n, share in zip(counts, (12, 6, 2), strict=True)), counts
    assert a.at(0).rows != a.at(5).rows
    assert a.at(0).rows != Batches(100, 20, 2, strata).at(0).rows
    assert a.at(3, draw=1).rows != a.at(3, draw=2).rows
    assert a.reseeded(1).at(0).rows == Batches(100, 20, 2, strata).at(0).rows
    with pytest.raises(UsageError, match="a stratum for each row, got 3 for 4 rows"):
        Batches(4, 2, 0, [0, 1, 1])


def test_a_stratified_batch_favours_no_row() -> None:
    strata = [k < 7 for k in range(30)]
    seen = Counter(r for seed in range(3000) for r in Batches(30, 6, seed, strata).at(0).rows)
    for row in range(30):  # each with chance 1/5: five standard errors
        assert abs(seen[row] - 600) < 5 * math.sqrt(3000 * 0.2 * 0.8)


def test_reductions_equal_numpy_and_are_read_back() -> None:
    space = Space(TinyNet(), 0, chunk=32)
    tape = Tape()
    made = at(space, tape)
    norm, rms, q = made.norm(space.theta), made.rms(space.theta), made.quantile(abs(space.theta), 0.75)
    for name, p in space.params.items():
        x = p.detach().double().numpy().ravel()
        assert norm.values[name] == pytest.approx(np.linalg.norm(x), rel=1e-12)
        assert rms.values[name] == pytest.approx(np.sqrt((x**2).mean()), rel=1e-12)
        assert q.values[name] == pytest.approx(np.quantile(np.abs(x), 0.75), rel=1e-12)
    again = Tape(json.loads(json.dumps(tape.entries)))
    with torch.no_grad():
        next(iter(space.params.values())).zero_()
    assert at(space, again).norm(space.theta).values == norm.values
    with pytest.raises(RunFolderError, match="does not hold what this optimizer asks for"):
        at(space, again).norm(space.theta)
    with pytest.raises(UsageError, match="q in"):
        made.quantile(space.theta, 1.5)


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
    made = at(bench.space, Tape())
    bench.oracle(bench.space.theta, bench.space.theta, batch=made.full)
    assert bench.oracle.evaluations == 8
    assert made.epoch == 0
    assert len(made.vector(5)) == 5
    assert made.vector(5) == made.vector(5)
    assert made.vector(5, draw=1) != made.vector(5)
