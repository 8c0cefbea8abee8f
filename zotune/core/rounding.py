"""Stochastic rounding of weights below float32, and the form of a recipe in which small changes are kept.

Two versions exist, and the journal's header records the second one. Version 1 rounds the float32 value of a recipe, in
which a change below 6e-8 of a weight is already lost. Version 2 rounds the exact sum θ + change, with 30 random bits
for bfloat16 and float16, so that changes of 1e-8 of a weight are kept on average, and a zero keeps its sign.

Knows recipes and float32 tensors; knows no noise key, no model and no memory.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from zotune.core.recipe import Constant, Op, PerTensor, Recipe, Theta, where
from zotune.errors import UsageError

VERSION: Final = 2
"""The version of new runs. Runs without a record of it have version 1."""

_SCALARS = (Constant, PerTensor)
_EXPONENT = 0x7F800000
_SIGN = -0x80000000
_TOP = 254 << 23
FLOAT16_MAX, FLOAT16_OVERFLOW = 65504.0, 65520.0
BFLOAT16_MAX, BFLOAT16_OVERFLOW = (2 - 2.0**-7) * 2.0**127, (2 - 2.0**-8) * 2.0**127
"""The largest values, and the smallest ones that rounding to the nearest makes infinite."""
SMALLEST_NORMAL = 2.0**-14
"""Of float16."""


def change_of(recipe: Recipe) -> Recipe | None:
    """recipe - theta, where the recipe is a sum that holds theta; None for other recipes.

    The change is computed without adding theta, so that it may be far smaller than a weight.
    """
    match recipe:
        case Theta():
            return Constant(0.0)
        case Op(name="add", args=(a, b)):
            if (change := change_of(a)) is not None:
                return _sum(change, b)
            return None if (change := change_of(b)) is None else _sum(change, a)
        case Op(name="sub", args=(a, b)) if (change := change_of(a)) is not None:
            return _sum(change, -b)
        case Op(name="mul", args=(Constant() | PerTensor() as c, Theta() as theta)):
            return (c - 1.0) * theta
        case Op(name="where", args=(condition, a, b)):
            first, second = change_of(a), change_of(b)
            return None if first is None or second is None else where(condition, first, second)
    return None


def _sum(a: Recipe, b: Recipe) -> Recipe:
    return b if isinstance(a, Constant) and a.value == 0.0 else a + b


def round_value(x: Tensor, dtype: torch.dtype, words: Tensor) -> Tensor:
    """Version 1: float32 `x` rounded up or down to bfloat16 or float16, with a probability by distance.

    words: int32 random words, one for each element. Values that `dtype` holds exactly are unchanged; a value becomes
    infinite only where rounding to the nearest value makes it so. Raises UsageError for another dtype.
    """
    if dtype == torch.bfloat16:
        rounded = ((x.view(torch.int32) + (words & 0xFFFF)) & -0x10000).view(torch.float32)
        rounded = rounded.clamp(-BFLOAT16_MAX, BFLOAT16_MAX)
        return torch.where(x.abs() < BFLOAT16_OVERFLOW, rounded, x).to(dtype)
    if dtype == torch.float16:
        exponent = ((x.view(torch.int32) >> 23) & 0xFF).clamp_min(127 - 14)  # subnormals share the smallest quantum
        quantum = ((exponent - 10) << 23).view(torch.float32)
        uniform = (words & 0x1FFF).to(torch.float32) * 2.0**-13
        rounded = (torch.floor(x / quantum + uniform) * quantum).clamp(-FLOAT16_MAX, FLOAT16_MAX)
        return torch.where(x.abs() < FLOAT16_OVERFLOW, rounded, x).to(dtype)
    raise UsageError(f"weights of dtype {dtype} cannot be tuned; use float32, bfloat16, float16 or float64")


def round_sum(a: Tensor, b: Any, dtype: torch.dtype, words: Tensor) -> Tensor:
    """Version 2: the exact sum of float32 `a` and `b`, rounded to a neighbour in bfloat16 or float16, by distance.

    words: int32 random words of 30 bits, one for each element. The error that float32 addition makes is computed
    exactly (where |a| ≥ |b|, else to float32's precision) and added to the random word below the bits that are dropped,
    so the expected value is the sum to 2⁻³⁰ of the spacing. Values that `dtype` holds exactly are unchanged; a sum of
    zeros has the sign of `a`. Raises UsageError for another dtype.
    """
    x = a + b
    below = b - (x - a)  # what the addition dropped
    bits = x.view(torch.int32)
    sign = torch.where(x == 0, a.view(torch.int32), bits) & _SIGN
    below = (below.view(torch.int32) ^ sign).view(torch.float32)
    if dtype == torch.bfloat16:
        rounded = (_carried(bits, below, words, 14) & -0x10000) | sign
        limited = rounded.view(torch.float32).clamp(-BFLOAT16_MAX, BFLOAT16_MAX)
        return torch.where(x.abs() < BFLOAT16_OVERFLOW, limited, x).to(dtype)
    if dtype == torch.float16:
        size = torch.abs(x)
        subnormal = (size < SMALLEST_NORMAL) | ((size == SMALLEST_NORMAL) & (below < 0))
        base = torch.where(subnormal, SMALLEST_NORMAL, 0.0)  # subnormals have the spacing above 2**-14
        raised = size + base
        below = below + (size - (raised - base))
        kept = (_carried(raised.view(torch.int32), below, words, 17) & -0x2000).view(torch.float32) - base
        limited = (kept.clamp(max=FLOAT16_MAX).view(torch.int32) | sign).view(torch.float32)
        return torch.where(size < FLOAT16_OVERFLOW, limited, x).to(dtype)
    raise UsageError(f"weights of dtype {dtype} cannot be tuned; use float32, bfloat16, float16 or float64")


def _carried(bits: Tensor, below: Tensor, words: Tensor, fine: int) -> Tensor:
    """The bits of a float32 plus a carry into the bits that are kept. below: what is missing to the exact size; fine:
    bits of a random word below float32's last place."""
    next_bits = bits - (below < 0).to(torch.int32)  # below a power of two the last place is half as large
    unit = (_TOP - (next_bits & _EXPONENT)).view(torch.float32)  # 2**-23 over the last place
    units = torch.round((below * unit) * 2.0 ** (23 + fine)).to(torch.int32)
    return bits + ((words + units) >> fine)


__all__ = ["VERSION", "change_of", "round_sum", "round_value"]
