"""How far weights can be perturbed before an objective gets worse, by evaluations alone.

    unit U: the spread (standard deviation) of one row's value at θ₀
    cost C(Δ): mean of L(θ₀ ± Δ) − L(θ₀)

No choice here changes with a shift or a factor of the objective: costs and units have its factor, and no shift. A
factor that is a power of two changes no bit. Knows the protocols of oracles and recipes; knows no optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zotune.types import At, Batch, Oracle, Recipe, Theta

PARTS, FEWEST_ROWS = (4, 8), 4
"""Fewest and most parts of a batch whose values give the spread of one row, where an objective scores rows together,
and rows that a part has at least."""
DIRECTIONS = 2
"""Directions whose points give a spread where rows give none."""


class Level(NamedTuple):
    """The objective at θ₀. value: smaller is better; spread: U, 0 where the objective is flat around θ₀."""

    value: float
    spread: float


def level(theta: Theta, oracle: Oracle, at: At, batch: Batch, size: Recipe | float) -> Level:
    """The value of a batch at θ₀ and the spread of one of its rows.

    Where the objective scores rows together, the spread comes from parts of the batch: √n times the spread of parts of
    n rows. Where rows give no spread (one row, or all with one value), it is that of θ₀ and of points θ₀ ± `size` z
    with z ~ Rademacher. Raises ObjectiveError.
    """
    value, spread = oracle.spread(theta, batch=batch)
    if spread is None and (parts := parts_of(batch)):
        spread = math.sqrt(len(parts[0].rows)) * deviation([oracle(theta, batch=part)[0] for part in parts])
    if not spread:
        z = [size * at.rademacher(k) for k in range(DIRECTIONS)]
        points = [point for d in z for point in (theta + d, theta - d)]
        spread = deviation([value, *oracle(*points, batch=batch)])
    return Level(value, spread)


def level_cost(at: At, batch: Batch) -> int:
    """Evaluations that `level` takes, about."""
    parts = sum(at.cost(part) for part in parts_of(batch))
    return at.cost(batch) + max(parts, 2 * DIRECTIONS * at.cost(batch))


def parts_of(batch: Batch) -> list[Batch]:
    """Parts of a batch with as many rows each; none where the batch is small."""
    count = min(PARTS[1], len(batch.rows) // FEWEST_ROWS)
    n = len(batch.rows) // count if count >= PARTS[0] else 0
    return [Batch(batch.rows[k * n : (k + 1) * n]) for k in range(count)] if n else []


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    first = values[0]
    rest = [v - first for v in values]
    mean = math.fsum(rest) / len(rest)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in rest) / (len(rest) - 1))


class Tolerated(NamedTuple):
    """A scale that was evaluated, and its cost. cost: above the limit only where every scale that was tried is."""

    scale: float
    cost: float


def largest_tolerated(
    cost: Callable[[float], float],
    limit: float,
    first: float,
    low: float,
    high: float,
    affordable: Callable[[], bool],
) -> Tolerated:
    """The largest scale that costs at most `limit`, of `first` times powers of two in [low, high].

    The search goes up from `first` while scales are tolerated, by a factor of four where costs, which grow with the
    square of a scale, are far from the limit; it goes down where `first` is not. affordable: whether one more cost can
    be evaluated; that of `first` always is.
    """
    best = Tolerated(first, cost(first))
    while best.cost > limit and best.scale > low and affordable():
        factor = 4 if best.cost > 16 * limit and best.scale >= 4 * low else 2
        best = Tolerated(best.scale / factor, cost(best.scale / factor))
    if best.scale < first:
        return best
    while best.scale < high and best.cost <= limit and affordable():
        factor = 4 if 64 * best.cost < limit and 4 * best.scale <= high else 2
        larger = Tolerated(best.scale * factor, cost(best.scale * factor))
        if larger.cost > limit:
            if factor == 4 and affordable():
                between = Tolerated(best.scale * 2, cost(best.scale * 2))
                best = between if between.cost <= limit else best
            break
        best = larger
    return best


__all__ = ["Level", "Tolerated", "deviation", "largest_tolerated", "level", "level_cost", "parts_of"]
