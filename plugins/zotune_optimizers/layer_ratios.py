"""The search for DiZO's ratios, one number a tensor (Tan et al. 2025, arXiv:2502.03304, equations 6 and 7).

Both functions take the ratios r at the start, the unit of r for a unit of u, `slope(r, u)`, the slope of the loss at r
along u, the number of rounds, the step size η' and the bound τ (infinite: no clipping); they return the new ratios.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from zotune.types import At

Ratios = dict[str, float]
"""A number by name of the tensor."""
Slope = Callable[[Ratios, Ratios], float]
BETA1, BETA2, SIGMA = 0.9, 0.999, 1e-8
"""Adam's defaults (Kingma and Ba 2015)."""
NEW1, NEW2 = 0.1, 0.001
"""1 − β₁ and 1 − β₂ as decimals; in floating point 1 − 0.9 is not 0.1."""


def descended(r: Ratios, unit: Ratios, slope: Slope, iters: int, lr: float, tau: float, at: At) -> Ratios:
    """SPSA on the ratios: iters times along a direction u ~ N(0, I_L), with η' / L."""
    for k in range(iters if r else 0):
        u = dict(zip(r, at.vector(len(r), k), strict=True))  # ~ N(0, I_L)
        G = slope(r, u)  # (6)
        r = moved(r, {n: G * u[n] / len(r) for n in r}, unit, lr, tau)
    return r


def adam_descended(r: Ratios, unit: Ratios, slope: Slope, iters: int, lr: float, tau: float) -> Ratios:
    """Adam on the ratios: iters times by the slope along each one."""
    m, v = dict.fromkeys(r, 0.0), dict.fromkeys(r, 0.0)
    for k in range(iters if r else 0):
        G = {n: slope(r, {n: 1.0}) for n in r}
        m = {n: BETA1 * m[n] + NEW1 * G[n] for n in r}
        v = {n: BETA2 * v[n] + NEW2 * G[n] ** 2 for n in r}
        v_hat = {n: v[n] / (1 - BETA2 ** (k + 1)) for n in r}
        down = {n: m[n] / (1 - BETA1 ** (k + 1)) / (math.sqrt(v_hat[n]) + SIGMA) for n in r}
        r = moved(r, down, unit, lr, tau)
    return r


def moved(r: Ratios, down: Ratios, unit: Ratios, lr: float, tau: float) -> Ratios:
    """(7): a step down, and clipping to 1 ± τ."""
    return {n: min(max(x - lr * down[n] * unit[n], 1 - tau), 1 + tau) for n, x in r.items()}
