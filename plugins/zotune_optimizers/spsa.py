"""The two-point estimate of SPSA and what the optimizers of this package build from it.

Spall 1992, "Multivariate Stochastic Approximation Using a Simultaneous Perturbation Gradient Approximation".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from zotune import weighted_sum
from zotune.types import Batch, Noise, Oracle, Recipe, Theta

Growth = Literal["constant", "linear"]


def projected_gradient(oracle: Oracle, theta: Recipe, z: Recipe, eps: float, batch: Batch | None = None) -> float:
    """g = (L(θ + ε z; B) − L(θ − ε z; B)) / 2ε, an estimate of the slope along z. batch: None is the step's own."""
    up, down = oracle(theta + eps * z, theta - eps * z, batch=batch)
    return float((up - down) / (2 * eps))


def directions(n: int, growth: Growth, progress: float) -> int:
    """Directions of n-SPSA at a share of the budget: always n, or growing linearly from 1 to n."""
    return 1 + int(n * progress) if growth == "linear" else n


def moving_average(beta: float, past: Sequence[tuple[float, Noise]], power: int) -> Recipe:
    """Σ_k (1 − β) βᵏ (g z)^power over past estimates (g, z), oldest first, k steps back: an exponential moving average
    that is recomputed from scalars and seeds instead of stored."""
    newest_first = reversed(list(past))
    terms = [((1 - beta) * beta**k * g**power, z) for k, (g, z) in enumerate(newest_first)]
    return weighted_sum(terms, power=power)


def decayed(theta: Theta, rate: float) -> Recipe:
    """θ − rate θ, decoupled weight decay, on all tensors but biases and norm layers; θ itself where the rate is 0.

    The type of the owning module decides what a norm layer is.
    """
    return theta - theta.per(lambda t: 0.0 if t.kind in ("bias", "norm") else rate) * theta if rate else theta
