"""ES, FZOO, MEAZO and random search against plain references in float64, to 1e-12."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from references import Flat, Reference, load, quadratic

from zotune.bench.workbench import same
from zotune.testing import Bench
from zotune.types import Score


def test_random_search_keeps_the_best_of_all() -> None:
    ref = Reference(load("random-search", sigma=0.05, n=4))
    rms = {n: math.sqrt((w**2).mean()) for n, w in ref.theta.items()}
    for t in range(5):
        points = [ref.theta] + [
            ref.moved({n: 0.05 * r for n, r in rms.items()}, ref.noise("normal", t, j)) for j in range(4)
        ]
        values = [quadratic(p, ref.rows(t)) for p in points]
        ref.theta = points[int(np.argmin(values))]
    ref.agrees()


@pytest.mark.parametrize("schedule", ["constant", "linear"])
@pytest.mark.parametrize("sampling", ["independent", "antithetic"])
def test_es(sampling: str, schedule: str) -> None:
    alpha, sigma, n = 0.05, 1e-2, 6
    ref = Flat("es", lr=alpha, eps=sigma, n=n, sampling=sampling, schedule=schedule)
    x = ref.x
    for t in range(5):
        if sampling == "independent":
            z = [ref.z(t, i) for i in range(n)]
        else:
            z = [sign * ref.z(t, i) for sign in (1, -1) for i in range(n // 2)]
        R = np.array([-ref.L(x + sigma * e, ref.rows(t)) for e in z])
        Z = (R - R.mean()) / R.std()
        share = 1 - t / 5 if schedule == "linear" else 1.0
        x = x + alpha * share / n * sum(a * e for a, e in zip(Z, z, strict=True))
    ref.ends_at(x)
    assert ref.bench.engine.state is None


def test_fzoo() -> None:
    eta, eps, n = 0.05, 1e-2, 4
    ref = Flat("fzoo", lr=eta, eps=eps, n=n)
    x = ref.x
    for t in range(5):
        u = [ref.z(t, i, "rademacher") for i in range(n)]
        clean = ref.L(x, ref.rows(t))
        losses = np.array([ref.L(x + eps * e, ref.rows(t)) for e in u])
        x = x - eta * sum((a - clean) * e for a, e in zip(losses, u, strict=True)) / (n * losses.std(ddof=1))
    ref.ends_at(x)


@pytest.mark.parametrize("n", [1, 3])
def test_meazo(n: int) -> None:
    eta, eps, beta, zeta, decay = 3e-3, 1e-2, 0.8, 0.5, 0.1
    ref = Flat("meazo", lr=eta, eps=eps, n=n, beta=beta, zeta=zeta, weight_decay=decay)
    x, v, shrinks = ref.x, 0.0, ref.shrinks()
    for t in range(5):
        z = [ref.z(t, j) for j in range(n)]
        g = [ref.slope(x, e, eps, ref.rows(t)) for e in z]
        v = beta * v + (1 - beta) * np.mean(g) ** 2
        estimate = sum(a * e for a, e in zip(g, z, strict=True)) / n
        x = x - eta / (math.sqrt(v / (1 - beta ** (t + 1))) + zeta) * estimate - eta * decay * shrinks * x
    ref.ends_at(x)
    assert ref.bench.engine.state["v"] == pytest.approx(v, rel=1e-12)


@pytest.mark.parametrize("objective", ["flat", "steep"])
@pytest.mark.parametrize("name", ["es", "fzoo", "meazo", "zo-muon", "grzo"])
def test_equal_losses_change_no_weight(name: str, objective: str) -> None:
    def evaluate(rows: Any) -> Score:
        return Score(0.1 if objective == "flat" else float(sum(p.detach().sum() for p in bench.space.params.values())))

    bench = Bench(load(name), steps=2, evaluate=evaluate)
    start = bench.weights()
    assert same(start, bench.run().weights()) == (objective == "flat")
