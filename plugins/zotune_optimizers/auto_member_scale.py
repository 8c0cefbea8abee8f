"""The perturbation scale of `auto` on generated text: the largest that the model stands, and the best of three.

σ₁: K(θ₀ ± σ₁ S u vᵀ) ≈ LARGEST for one member, K: KL divergence from the base model in nats a token
σ: the one of σ₁, σ₁/2 and σ₁/4 whose pairs tell most
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from zotune.types import At, Oracle, PerTensor, Theta
from zotune_optimizers.eggroll import update

LARGEST = 0.7
"""KL divergence of a member at σ₁ from the model that it perturbs, in nats a token."""
SCALES = (1.0, 0.5, 0.25)
"""Sizes that the first step tries, in units of σ₁."""
FIRST_SCALE, LOWEST, HIGHEST = 2.0**-6, 2.0**-12, 4.0
"""Where the search for σ₁ begins, and its ends."""
TRIES = 7
NEAR = 1.15
"""The search for σ₁ ends within this factor of LARGEST."""


def largest_scale(theta: Theta, oracle: Oracle, at: At, S: PerTensor) -> tuple[float, float]:
    """σ₁ and the KL divergence there: by secants of log K over log σ, for K grows like a power of σ."""
    tried: list[tuple[float, float]] = []
    directions = at.directions(2)

    def kl(scale: float) -> float:
        members = [update(S, directions, z, 2 * scale) for z in ((1.0, 0.0), (0.0, -1.0))]
        values = oracle.kl(*(theta + member for member in members), counted=False)
        return max(math.fsum(values) / len(values), 1e-6)

    scale = FIRST_SCALE
    for _ in range(TRIES):
        tried.append((scale, kl(scale)))
        tried.sort(key=lambda x: abs(math.log(x[1] / LARGEST)))
        best, perturbed = tried[0]
        if max(perturbed / LARGEST, LARGEST / perturbed) <= NEAR:
            break
        power = 2.0
        if len(tried) > 1 and tried[1][0] != best:
            power = math.log(tried[1][1] / perturbed) / math.log(tried[1][0] / best)
        factor = (LARGEST / perturbed) ** (1 / min(max(power, 1.0), 4.0))
        scale = min(max(best * min(max(factor, 1 / 16), 16.0), LOWEST), HIGHEST)
        if any(scale == s for s, _ in tried):
            break
    return tried[0]


def best_scale(scales: Sequence[float], up: Sequence[float | None], down: Sequence[float | None]) -> float:
    """The scale of the pairs that tell most: by the size of differences, less what its rows lose against those of the
    smallest scale. The largest where nothing differs. up, down: losses, as the oracle gives them."""
    size: dict[float, float] = {}
    mean: dict[float, float] = {}
    for scale in sorted({*scales}):
        pairs = [
            (a, b) for s, a, b in zip(scales, up, down, strict=True) if s == scale and a is not None and b is not None
        ]
        if pairs:
            size[scale] = math.sqrt(math.fsum((a - b) ** 2 for a, b in pairs) / len(pairs)) / 2
            mean[scale] = math.fsum(a + b for a, b in pairs) / (2 * len(pairs))
    if not any(size.values()):
        return max(scales)
    smallest = mean[min(mean)]
    return max(size, key=lambda s: (size[s] - max(0.0, mean[s] - smallest), -s))
