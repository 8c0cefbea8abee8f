"""Factors of a population's directions, and weighted sums of directions that are exact in float64.

The factors of the last population are kept, where they are small: the update of a step reads what its members read.
Knows keys and flat tensors; knows no module and no optimizer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zotune.core import noise
from zotune.core.member_kernels import EXACT_TERMS, MemberKernels
from zotune.core.recipe import Directions, Noise
from zotune.errors import RecipeError

KEPT = 64 << 20
"""Bytes of factors that are kept at most."""
WEIGHT_BITS = 24
"""Bits of a direction's weight: with two factors of 10 bits and 2⁹ terms a sum needs 53, all that a float64 has."""


class _Recent:
    """The factors that were made last, by their keys; never written to."""

    def __init__(self) -> None:
        self._units: dict[tuple[object, ...], Tensor] = {}
        self._bytes = 0

    def get(self, which: tuple[object, ...], make: Callable[[], Tensor]) -> Tensor:
        if which not in self._units:
            made = make()
            self._units[which] = made
            self._bytes += made.nbytes
            while self._bytes > KEPT:
                self._bytes -= self._units.pop(next(iter(self._units))).nbytes
            return made
        return self._units[which]


_RECENT = _Recent()


def member_factors(
    directions: Directions,
    name: str,
    key: Callable[[str, Noise], int],
    device: torch.device,
    kernels: MemberKernels | None = None,
) -> tuple[Tensor, Tensor]:
    """The factors u_p and v_p of all directions for one tensor, in units of noise.NORMAL_SCALE: integers of 10 bits,
    shapes (count, rows) and (count, columns), float32, and int16 from kernels; not to be written to. The counter is p ×
    length + index, so a direction does not depend on how many there are. key: as of `Evaluation`."""
    sides = []
    for side, length in enumerate(directions.shapes[name]):
        stream = key(name, Noise("member", directions.step, 2 * directions.draw + side))
        count = directions.count * length

        def units(stream: int = stream, count: int = count) -> Tensor:
            if kernels:
                return kernels.units(stream, count)
            return noise.units("member", stream, 0, count, device).float()

        found = _RECENT.get((stream, count, device, kernels is None), units)
        sides.append(found.view(directions.count, length))
    return sides[0], sides[1]


@functools.lru_cache(8)
def whole_weights(weights: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """Weights (a tuple) times NORMAL_SCALE² as whole numbers of at most 24 bits, and the power of two that they are
    multiples of. Raises RecipeError for weights that are not finite."""
    scaled = [w * noise.NORMAL_SCALE**2 for w in weights]
    largest = max((abs(w) for w in scaled), default=0.0)
    if not math.isfinite(largest):
        raise RecipeError(f"weights of directions must be finite, got {largest}")
    unit = math.ldexp(1.0, math.frexp(largest)[1] - WEIGHT_BITS) if largest else 1.0
    return tuple(float(round(w / unit)) for w in scaled), unit


def exact_product(left: Tensor, right: Tensor, unit: float) -> Tensor:
    """left · rightᵀ · unit of whole numbers in float64: every partial sum of EXACT_TERMS terms is exact, so any order,
    number of threads and device gives the same bits. left: (rows, terms); right: (columns, terms)."""
    total = left[:, :EXACT_TERMS] @ right[:, :EXACT_TERMS].T
    for first in range(EXACT_TERMS, left.shape[1], EXACT_TERMS):
        total += left[:, first : first + EXACT_TERMS] @ right[:, first : first + EXACT_TERMS].T
    return total.mul_(unit)


__all__ = ["exact_product", "member_factors", "whole_weights"]
