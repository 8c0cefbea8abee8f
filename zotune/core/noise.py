"""Counter-based noise: every element is a pure function of (seed, step, draw, tensor name, index).

There is no generator state. Noise can be drawn again at any time, in any chunking, on any device and in any process,
and freezing one tensor leaves the noise of all others unchanged. The global generators of torch, numpy and random are
never touched. Elements are small *integers* (`units`), made by 32-bit integer arithmetic. The caller folds the scale of
these integers into its own coefficient, which is rounded to so few bits that the product of both is exact. Adding the
product to a weight then rounds once, with or without fused multiply-add.

    normal      sum of four bytes of one hashed word, minus 510, over sqrt(21845): mean 0, variance 1, kurtosis 2.70
    rademacher  -1 or +1, one bit of a hashed word an element
    factor      as normal, for the small matrices of low-rank directions

Knows integers and devices; knows no model, no recipe and no optimizer.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from zotune.seeds import MASK64, splitmix64

VERSION: Final = 2
"""Changes whenever the same key would give other bits. The journal's header records it."""

KINDS: Final = ("normal", "rademacher", "rounding", "factor", "member")
NORMAL_SCALE: Final = 1.0 / math.sqrt(21845.0)  # variance of the sum of four uniform bytes: 4 * (256**2 - 1) / 12
UNIT_BITS: Final = 9  # units lie in (-2**9, 2**9)
BLOCK: Final = 1 << 32
"""Elements that share one key. No chunk crosses a multiple of it."""


def stream_key(seed: int, step: int, draw: int, kind: str, tensor: int) -> int:
    """The 64-bit key of one tensor's noise.

    Each argument is mixed before the next is added, so that neighbouring seeds, steps, draws and tensors do not
    correlate. `step` may be negative: what runs before step 0 uses -1 and below.
    """
    return splitmix64(_stream(seed, step, draw, kind) ^ (tensor & MASK64))


@functools.lru_cache(256)
def _stream(seed: int, step: int, draw: int, kind: str) -> int:
    """The part of a key that all tensors share."""
    key = splitmix64(seed & MASK64)
    for part in (step, draw, KINDS.index(kind)):
        key = splitmix64(key ^ (part & MASK64))
    return key


def _signed32(x: int) -> int:
    x &= 0xFFFFFFFF
    return x - (1 << 32) if x >= 1 << 31 else x


def block_key(key: int, start: int) -> tuple[int, int]:
    """The two signed 32-bit halves of the key for the block of elements that holds `start`."""
    block = start // BLOCK
    if block:
        key = splitmix64(key ^ splitmix64(block))
    return _signed32(key), _signed32(key >> 32)


MULTIPLIERS: Final = tuple(_signed32(m) for m in (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB))


def hash32(index: Tensor, k0: int | Tensor, k1: int | Tensor) -> Tensor:
    """A keyed bijection of 32-bit words: int32, in the shape of `index`.

    Three multiplications, each followed by folding the upper half of the word into the lower half. The same shift in
    every round keeps vector registers free.
    """
    a, b, c = MULTIPLIERS
    x = (index ^ k0) * a + k1
    x = (x ^ ((x >> 16) & 0xFFFF)) * b
    x = (x ^ ((x >> 16) & 0xFFFF)) * c
    return x ^ ((x >> 16) & 0xFFFF)


def _hash32_(x: Tensor, scratch: Tensor, k0: int, k1: int) -> Tensor:
    """`hash32` in place, for the eager path: the same integers without a new tensor for each operation."""
    a, b, c = MULTIPLIERS
    x.bitwise_xor_(k0).mul_(a).add_(k1)
    for factor in (b, c, 1):
        torch.bitwise_right_shift(x, 16, out=scratch)
        x.bitwise_xor_(scratch.bitwise_and_(0xFFFF))
        if factor != 1:
            x.mul_(factor)
    return x


@dataclass(frozen=True)
class Span:
    """A contiguous run of elements of one tensor, on one device. start: index of the first within its block."""

    start: int
    count: int
    device: torch.device


def _words(first: int, count: int, device: torch.device, k0: int, k1: int) -> Tensor:
    """The hashed words first, first+1, …: int32, shape (count,)."""
    low = _signed32(first)
    if low + count <= 1 << 31:
        x = torch.arange(low, low + count, dtype=torch.int32, device=device)
    else:  # the counter passes 2**31 and wraps
        x = (torch.arange(count, dtype=torch.int64, device=device) + first).to(torch.int32)
    return _hash32_(x, torch.empty_like(x), k0, k1)


def draw(kind: str, where: Span | Tensor, k0: Any, k1: Any) -> Tensor:
    """Integer noise of the elements in `where`, under the key of one block (`block_key`): int32, shape (count,).

    `normal` returns integers in [-510, 510] to be scaled by NORMAL_SCALE, `rademacher` returns -1 or 1, `rounding`
    returns the hashed words for stochastic rounding. where: a Span, for which few operations run in place; or the
    indices of any elements as 32-bit words (int32, negative in the upper half of a block), for which plain operations
    run that a compiler fuses. With indices, k0 and k1 may be 0-d tensors.
    """
    if isinstance(where, Tensor):
        return _draw_at(kind, where, k0, k1)
    start, count, device = where.start, where.count, where.device
    if kind == "rademacher":
        first, last = start // 32, (start + count + 31) // 32
        w = _words(first, last - first, device, k0, k1)
        bits = (w[:, None] >> _bit_index(device)).bitwise_and_(1).mul_(2).sub_(1)
        return bits.view(-1)[start - first * 32 :][:count]
    x = _words(start, count, device, k0, k1)
    if kind == "rounding":
        return x
    odd = (x >> 8).bitwise_and_(0xFF00FF)
    pairs = x.bitwise_and_(0xFF00FF).add_(odd)  # two sums of two bytes in the halves of a word
    torch.bitwise_right_shift(pairs, 16, out=odd)
    return pairs.bitwise_and_(0xFFFF).add_(odd).sub_(510)


def _draw_at(kind: str, index: Tensor, k0: int | Tensor, k1: int | Tensor) -> Tensor:
    if kind == "rademacher":
        w = hash32((index >> 5) & 0x7FFFFFF, k0, k1)
        return ((w >> (index & 31)) & 1) * 2 - 1
    x = hash32(index, k0, k1)
    if kind == "rounding":
        return x
    pairs = (x & 0xFF00FF) + ((x >> 8) & 0xFF00FF)
    return (pairs & 0xFFFF) + (pairs >> 16) - 510


def units(kind: str, key: int, start: int, count: int, device: torch.device) -> Tensor:
    """Integer noise of the elements start … start+count-1, which must not cross a multiple of BLOCK.

    key: of the stream (`stream_key`). As `draw`.
    """
    return draw(kind, Span(start % BLOCK, count, device), *block_key(key, start))


SHARERS: Final = 4
"""Elements that share one hashed word of `rounding_words`, each with its bytes in another order."""
LANES: Final = 16
"""Elements side by side that have words of their own."""


def rounding_words(where: Span | Tensor, k0: Any, k1: Any) -> Tensor:
    """Random words of 30 bits for stochastic rounding, below 2**30: int32, shape (count,). Arguments as for `draw`.

    Elements i, i + 16, i + 32 and i + 48 of a run of 64 share a hashed word, rotated by 0, 8, 16 and 24 bits. Each word
    is uniform; whether two sharers are rounded up correlates by at most 2**-8.
    """
    if isinstance(where, Tensor):
        w = hash32(((where >> 2) & 0x3FFFFFF0) | (where & 15), k0, k1)
        return _rotated(w, (where >> 1) & 24)
    run, count = SHARERS * LANES, where.count
    first, last = where.start // run, -(-(where.start + count) // run)
    w = _words(first * LANES, (last - first) * LANES, where.device, k0, k1)
    rotations = 8 * _bit_index(where.device)[:SHARERS, None]
    return _rotated(w.view(-1, 1, LANES), rotations).reshape(-1)[where.start - first * run :][:count]


def _rotated(w: Tensor, by: Tensor) -> Tensor:
    """The upper 30 bits of words rotated to the left."""
    return (((w << by) | (((w >> 1) & 0x7FFFFFFF) >> (31 - by))) >> 2) & 0x3FFFFFFF


_BITS: dict[torch.device, Tensor] = {}


def _bit_index(device: torch.device) -> Tensor:
    if device not in _BITS:
        _BITS[device] = torch.arange(32, dtype=torch.int32, device=device)
    return _BITS[device]


def factor(key: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """A small matrix of normal noise: float32, shape (rows, columns)."""
    return units("factor", key, 0, rows * columns, device).float().mul_(NORMAL_SCALE).view(rows, columns)


def scale(kind: str) -> float:
    """The value of one unit of this kind."""
    return NORMAL_SCALE if kind in ("normal", "factor") else 1.0


def coefficient(value: float, kind: str, dtype: torch.dtype) -> float:
    """`value` times the scale of a unit, rounded so that its product with any unit is exact in `dtype`.

    It keeps 15 significant bits where arithmetic is float32 (24 - 9) and 44 where it is float64 (53 - 9). Rademacher
    units need no rounding.
    """
    exact = value * scale(kind)
    if kind != "normal" or not math.isfinite(exact) or exact == 0.0:
        return exact
    bits = (53 if dtype == torch.float64 else 24) - UNIT_BITS
    mantissa, exponent = math.frexp(exact)
    return math.ldexp(round(math.ldexp(mantissa, bits)), exponent - bits)
