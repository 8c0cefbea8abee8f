"""Batches: pure functions of seed, step and draw, in the proportions of the strata."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from zotune.errors import UsageError
from zotune.search.batches import Batches


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
