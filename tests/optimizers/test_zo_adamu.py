"""ZO-AdaMU against a plain reference in float64, to 1e-12."""

from __future__ import annotations

import math

import numpy as np
import pytest
from references import Flat


@pytest.mark.parametrize("signed", [True, False])
def test_zo_adamu(signed: bool) -> None:
    lr, eps, sigma, steps, t1, t2 = 3e-3, 1e-2, 1e-6, 10, 2, 7
    ends = {"alpha": 0.5, "beta1": 0.9, "beta2": 0.01}
    ref = Flat("zo-adamu", steps, lr=lr, eps=eps, sigma=sigma, warmup=0.2, anneal=0.7, signed=signed, **ends)
    x, m = ref.x, np.zeros_like(ref.x)
    for t in range(steps):
        if t < t1:
            alpha = beta1 = beta2 = 1.0
        elif t < t2:
            c = 0.5 + 0.5 * math.cos(math.pi * (t - t1) / (t2 - t1))
            alpha, beta1, beta2 = (end + (1 - end) * c for end in ends.values())
        else:
            alpha, beta1, beta2 = ends.values()
        inner = math.sqrt(alpha) * ref.z(t, 0)
        outer = m + math.sqrt(1 - alpha) * ref.z(t, 1)
        d = beta1 * inner + (1 - beta1) * outer
        v = beta2 * inner**2 + (1 - beta2) * outer**2
        g = ref.slope(x, d, eps, ref.rows(t))
        x = x - lr * g * d / np.sqrt(v + sigma)
        m = np.sign(g) * d if signed else d
    ref.ends_at(x, m=m)


def test_momentum_on_the_gradient() -> None:
    """Table 3, column g: the estimate g z in the place of both noises."""
    lr, eps, sigma, steps, t1, t2 = 3e-3, 1e-2, 1e-6, 10, 2, 7
    ends = {"alpha": 0.5, "beta1": 0.9, "beta2": 0.01}
    ref = Flat("zo-adamu", steps, lr=lr, eps=eps, sigma=sigma, warmup=0.2, anneal=0.7, on="gradient", **ends)
    x, m = ref.x, np.zeros_like(ref.x)
    for t in range(steps):
        c = 0.5 + 0.5 * math.cos(math.pi * min(max((t - t1) / (t2 - t1), 0.0), 1.0))
        alpha, beta1, beta2 = (end + (1 - end) * c for end in ends.values())
        estimate = ref.slope(x, ref.z(t), eps, ref.rows(t)) * ref.z(t)
        inner, outer = math.sqrt(alpha) * estimate, m + math.sqrt(1 - alpha) * estimate
        d = beta1 * inner + (1 - beta1) * outer
        v = beta2 * inner**2 + (1 - beta2) * outer**2
        x, m = x - lr * d / np.sqrt(v + sigma), d
    ref.ends_at(x, m=m)
