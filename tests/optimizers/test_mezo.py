"""MeZO against plain references in float64, to 1e-12."""

from __future__ import annotations

import math

import numpy as np
import pytest
from references import Flat, Reference, load, quadratic


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("n", "batches"), [(1, "shared"), (3, "shared"), (3, "fresh")])
def test_mezo_is_its_paper(schedule: str, n: int, batches: str) -> None:
    lr, eps, decay, steps = 3e-3, 1e-2, 0.1, 5
    ref = Reference(load("mezo", lr=lr, eps=eps, n=n, weight_decay=decay, schedule=schedule, batches=batches))
    for t in range(steps):
        share = {"constant": 1.0, "linear": 1 - t / steps, "cosine": (1 + math.cos(math.pi * t / steps)) / 2}[schedule]
        eta = lr * share
        update = {name: np.zeros_like(w) for name, w in ref.theta.items()}
        for j in range(n):
            z = ref.noise("normal", t, j)
            rows = ref.rows(t, j if batches == "fresh" else 0)
            g = (quadratic(ref.moved(eps, z), rows) - quadratic(ref.moved(-eps, z), rows)) / (2 * eps)
            for name in update:
                update[name] += eta / n * g * z[name]
        for name, w in ref.theta.items():
            lam = 0.0 if ref.kinds[name].kind in ("bias", "norm") else decay
            ref.theta[name] = w - update[name] - eta * lam * w
    ref.agrees()


@pytest.mark.parametrize("scale_lr", [False, True])
def test_mezo_with_growing_n(scale_lr: bool) -> None:
    lr, eps, steps = 3e-3, 1e-2, 6
    ref = Flat("mezo", steps, lr=lr, eps=eps, n=3, growth="linear", scale_lr=scale_lr)
    x = ref.x
    for t in range(steps):
        n = [1, 1, 2, 2, 3, 3][t]
        update = np.zeros_like(x)
        for j in range(n):
            update += lr * (n if scale_lr else 1) / n * ref.slope(x, ref.z(t, j), eps, ref.rows(t)) * ref.z(t, j)
        x = x - update
    ref.ends_at(x)


@pytest.mark.parametrize(("n", "growth"), [(1, "constant"), (3, "constant"), (3, "linear")])
@pytest.mark.parametrize("batches", ["shared", "fresh"])
def test_one_point_estimates_with_residual_feedback(batches: str, n: int, growth: str) -> None:
    """arXiv:2006.10820: the value at the step's point less the one at the last step's point, over ε."""
    lr, eps, steps = 3e-6, 1e-2, 6
    ref = Flat("mezo", steps, lr=lr, eps=eps, n=n, growth=growth, batches=batches, estimate="one-point")
    x, last = ref.x, []
    for t in range(steps):
        count = [1, 1, 2, 2, 3, 3][t] if growth == "linear" else n
        rows = [ref.rows(t, j if batches == "fresh" else 0) for j in range(count)]
        values = [ref.L(x + eps * ref.z(t, j), rows[j]) for j in range(count)]
        update = np.zeros_like(x)
        for j in range(min(count, len(last))):
            update += lr / count * (values[j] - last[j]) / eps * ref.z(t, j)
        x, last = x - update, values
    ref.ends_at(x)
    assert ref.bench.calls == sum([1, 1, 2, 2, 3, 3]) if growth == "linear" else n * steps


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_learning_rate_warms_up(schedule: str) -> None:
    lr, eps, steps, share = 3e-3, 1e-2, 10, 0.4
    ref = Flat("mezo", steps, lr=lr, eps=eps, warmup=share, schedule=schedule, weight_decay=0.1)
    x, shrinks = ref.x, ref.shrinks()
    for t in range(steps):
        eta = lr * min(t / (share * steps), 1.0) * (1 - t / steps if schedule == "linear" else 1.0)
        x = x - eta * ref.slope(x, ref.z(t), eps, ref.rows(t)) * ref.z(t) - eta * 0.1 * shrinks * x
    ref.ends_at(x)
