"""How long a step of `auto` on generated text is: by the KL divergence K that it may still spend (nats a token).

    k ← limit · RISE max(rows of the run / SHORT, 1)^¾, at most its share MOST
    a reward is rare while less than FOUND of the way from the first mean reward to a member's best is gone and fewer
        than RARE of the pairs differ; K₀: K up to which it was rare
    with n of T steps to go, r: what is left of that way, f: LONG (rows of the run / SHORT − 1) within 0 and 1
        k' ← the limit's share BOUND while the reward is rare;  k where it never was
             K₀ + k, up to BOUND, once it is found
        α² ← max(k' − K, 0) / n κ max(mean z², 1 − f (1 − QUIET)) · max(min(SLOWER r, 1)², f)
             without the last factor where K ≤ FREE k; f = 0 in the denominator while the reward is rare
        at most CATCH_UP² times the KL of T equal steps

Edition 2 knows no rare reward, has f = 0 in the denominator, a smaller SLOWER, and
k = limit · 0.9 (SHORT / rows of the run)^⅓ within 0.5 and 0.9 of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

RISE, MOST = 0.31, 0.7
"""k as a share of `--max-kl`: of short runs, and at most. Steps that are too long for their rows add up chance, which
costs KL and gives no reward; with more rows there is more to gain."""
BOUND = 0.9
"""Share of `--max-kl` that a run aims at in no case to exceed: weights beyond the limit are never kept."""
FOUND, RARE = 0.25, 0.25
"""While a reward is rare the few pairs that differ are all that is known of it, and K counts from where it is found."""
SLOWER = {2: 1.4, 3: 2.0}
"""By edition: steps become smaller once less than 1 / SLOWER of the way to the best score of a member is left."""
FREE = 0.15
"""Share of k that is spent without becoming slower."""
SHORT, LONG = 1280, 1.0
"""In long runs steps do not become smaller, for sampled rewards still gain where greedy ones cannot."""
QUIET = 0.3
"""Once most rows have the best score few pairs differ, and in long runs their steps are still to move."""
CATCH_UP = 4.0
"""How much longer than planned a step may be, after steps without signal."""


class Situation(NamedTuple):
    """What the length of a step depends on. kl, spared: K, and K₀; k, bound: nats that the run may spend, and at most
    in any case; energy: mean z²; differing: share of pairs that differ; room: r; rows: of the run; left, total: steps
    to go and of the run; edition: of the rules."""

    kl: float
    spared: float
    k: float
    bound: float
    energy: float
    differing: float
    room: float
    rows: int
    left: int
    total: int
    edition: int

    @property
    def rare(self) -> bool:
        return self.edition > 2 and self.room > 1 - FOUND and self.differing < RARE


def share(rows: int, edition: int) -> float:
    """k as a share of the limit. rows: of the run."""
    if edition < 3:
        return max(min(0.9 * math.pow(SHORT / rows, 1 / 3), 0.9), 0.5)
    return min(RISE * math.pow(max(rows / SHORT, 1.0), 3 / 4), MOST)


def squared_length(now: Situation) -> float:
    """α² κ: 0 where no pair differs or all KL is spent."""
    long = min(max(LONG * (now.rows / SHORT - 1), 0.0), 1.0)
    speed = max(min(SLOWER[max(now.edition, 2)] * now.room, 1.0) ** 2, long) if now.kl > FREE * now.k else 1.0
    k, least = now.k, 1.0
    if now.edition > 2:
        k = now.bound if now.rare else min(now.spared + k, now.bound)
        least = 1.0 if now.rare else 1.0 - long * (1.0 - QUIET)
    if not now.energy:
        return 0.0
    planned = max(k - now.kl, 0.0) / max(now.left, 1) * speed
    return min(planned / max(now.energy, least), CATCH_UP**2 * k / now.total)


__all__ = ["BOUND", "Situation", "share", "squared_length"]
