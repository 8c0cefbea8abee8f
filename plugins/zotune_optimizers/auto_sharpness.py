"""The sharpness of `auto` where completions are sampled: all logits times c, for which no greedy completion changes.

    c⁺: the largest of SHARPER with K(θ, c) ≤ limit;  c⁻: the smallest of FLATTER with K(θ, c) ≤ limit
    c ← c⁺ or c⁻, the one with the better value on the same sampled rows; 1 where both have the same

K: KL divergence from the base model in nats a token, which costs forward passes and no score. Steps raise the reward of
greedy completions; how much of it samples have is a matter of c. A metric of diversity chooses c⁻. Two values far apart
are told apart by few rows, and between them the reward mostly rises or falls.
"""

from __future__ import annotations

from collections.abc import Sequence

from zotune.types import At, Oracle, Recipe, Theta

SHARPER = tuple(1.15**k for k in range(1, 9))
"""Values of c above 1 that are tried, ascending."""
FLATTER = (1 / 1.15, 1 / 1.3)


def scaled(theta: Theta, at: At, c: float) -> Recipe:
    """θ with all logits times c."""
    return theta * theta.per(lambda t: c if t.name in at.logit_scales else 1.0)


def best_sharpness(theta: Theta, oracle: Oracle, at: At, limit: float) -> float:
    """c; 1 where no other value keeps the KL divergence within the limit. Costs the scores of one population."""

    def farthest(scales: Sequence[float]) -> float:
        values = oracle.kl(*(scaled(theta, at, c) for c in scales), counted=False)
        inside = 0
        while inside < len(scales) and values[inside] <= limit:
            inside += 1
        return scales[inside - 1] if inside else 1.0

    tried = sorted({farthest(FLATTER), farthest(SHARPER)})
    if tried == [1.0]:
        return 1.0
    tried = tried if len(tried) > 1 else sorted({*tried, 1.0})
    losses = oracle(*(scaled(theta, at, c) for c in tried), batch=at.large(max(at.population.rows // 2, 1)))
    return 1.0 if losses[0] == losses[1] else min(zip(losses, tried, strict=True))[1]


__all__ = ["best_sharpness", "scaled"]
