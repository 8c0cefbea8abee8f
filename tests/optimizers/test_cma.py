"""CMA-ES: the change of each matrix is of low rank and exact, and the search is pycma's own."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest
from references import Members, Reference, load, quadratic

from zotune.errors import OptionError
from zotune.testing import Bench


def test_steps_are_those_of_pycma_over_the_coefficients() -> None:
    cma = pytest.importorskip("cma")
    sigma, rank, steps = 0.05, 2, 4
    ref = Reference(load("cma", eps=sigma, rank=rank, n=6), steps=steps)
    members, start = Members(ref), dict(ref.theta)
    rms = {n: math.sqrt((w**2).mean()) for n, w in ref.theta.items()}
    typical = math.sqrt(sum(r * r for r in rms.values()) / len(rms))
    names = list(members.shapes)
    factors = {n: members.factors(n, 0, rank) for n in names}

    def point(x: Any) -> dict[str, np.ndarray[Any, Any]]:
        out = dict(start)
        for k, name in enumerate(names):
            u, v = factors[name]
            S = max(rms[name], 0.1 * typical)
            out[name] = start[name] + S * sum(x[rank * k + r] * np.outer(u[r], v[r]) for r in range(rank))
        return out

    ref.bench.run()
    generations = ref.bench.engine.state.generations
    draws = type("Draws", (), {"__call__": lambda self, *shape: self.of.standard_normal(shape)})()
    options = {"seed": math.nan, "verbose": -9, "popsize": 6, "CMA_diagonal": True, "randn": draws}
    search = cma.CMAEvolutionStrategy([0.0] * (rank * len(names)), sigma, options)
    for t, (seed, losses) in enumerate(generations):
        draws.of = np.random.default_rng(seed)
        points = search.ask()
        np.testing.assert_allclose([quadratic(point(x), ref.rows(t)) for x in points], losses, rtol=1e-12)
        search.tell(points, list(losses))
    assert len(generations) == steps
    for name, weight in ref.bench.weights().items():
        np.testing.assert_allclose(weight.numpy(), point(search.mean)[name], rtol=1e-12, atol=1e-13)
        if name in names:
            assert np.linalg.matrix_rank(weight.numpy() - start[name], tol=1e-9) <= rank


def test_equal_losses_leave_weights_and_search() -> None:
    from zotune.bench.workbench import same
    from zotune.types import Score

    pytest.importorskip("cma")
    bench = Bench(load("cma"), steps=2, evaluate=lambda rows: Score(0.1))
    start = bench.weights()
    assert same(start, bench.run().weights())
    assert bench.engine.state.generations == ()


def test_without_pycma_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "cma" else find(name, *more))
    with pytest.raises(OptionError, match=r"pycma is not installed .pip install 'zotune\[cma\]'"):
        load("cma")
