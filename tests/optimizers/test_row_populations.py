"""ES, FZOO and GRZO with `population=true` against plain references in float64, to 1e-12."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from references import Members, Reference, load, quadratic

PAIRS = 4


class Population:
    """A run of five steps with members of rank 1, and the losses of its members."""

    def __init__(self, name: str, sigma: float, **options: Any) -> None:
        self.ref = Reference(load(name, eps=sigma, population=True, **options))
        self.members, self.sigma = Members(self.ref), sigma
        self.ones = dict.fromkeys(self.members.shapes, 1.0)

    def losses(self, t: int, rows: Any, pairs: int) -> np.ndarray[Any, Any]:
        f = np.zeros((2, pairs))
        for half, sign in enumerate((1.0, -1.0)):
            for p in range(pairs):
                scale = {n: self.sigma * s for n, s in self.ones.items()}
                point = self.members.moved(scale, sign * np.eye(pairs)[p], t)
                f[half, p] = quadratic(point, rows[p : p + 1])
        return f

    def moves(self, weights: np.ndarray[Any, Any], t: int) -> None:
        self.ref.theta = self.members.moved(self.ones, weights, t)


def test_es() -> None:
    alpha = 0.02
    run = Population("es", 0.03, lr=alpha, n=2 * PAIRS)
    for t in range(5):
        f = run.losses(t, run.ref.bench.batches.members(t, PAIRS).rows, PAIRS)
        Z = -(f - f.mean()) / f.std()
        run.moves(alpha / (2 * PAIRS) * (Z[0] - Z[1]), t)
    run.ref.agrees()


def test_fzoo() -> None:
    eta = 0.02
    run = Population("fzoo", 0.03, lr=eta, n=2 * PAIRS)
    for t in range(5):
        f = run.losses(t, run.ref.bench.batches.members(t, PAIRS).rows, PAIRS)
        d = (f[0] - f[1]) / 2
        run.moves(-eta * d / (PAIRS * np.sqrt((d**2).mean())), t)
    run.ref.agrees()


def test_grzo() -> None:
    eta, sigma, floor = 1e-3, 0.03, 0.1
    run = Population("grzo", sigma, lr=eta, floor=floor)
    for t in range(5):
        rows = run.ref.rows(t)
        delta = np.subtract(*run.losses(t, rows, len(rows)))
        run.moves(-eta / (2 * sigma * len(rows)) * delta / (delta.std() + floor), t)
    run.ref.agrees()


@pytest.mark.parametrize("name", ["es", "fzoo", "grzo"])
def test_the_paper_form_stays_the_default(name: str) -> None:
    from zotune.declarations import optimizer_info, unrecorded

    assert not optimizer_info(load(name)).populations
    assert optimizer_info(load(name, population=True)).populations
    assert unrecorded(load(name)) == {"population": False}


@pytest.mark.parametrize("name", ["es", "fzoo", "grzo"])
def test_equal_losses_change_no_weight(name: str) -> None:
    from zotune.bench.workbench import same
    from zotune.testing import Bench
    from zotune.types import Score

    bench = Bench(load(name, population=True), steps=2, evaluate=lambda rows: Score(0.1))
    start = bench.weights()
    assert same(start, bench.run().weights())
