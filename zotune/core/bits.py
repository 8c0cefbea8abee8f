"""One-bit fields: masks in a state that are stored as one bit for each element of a tensor.

Element 8 i + j of a tensor is bit j of byte i. Knows flat tensors; knows no recipe and no step.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def is_packed(x: Tensor) -> bool:
    """Whether a stored field has one bit an element."""
    return x.dtype == torch.uint8


def packed_size(numel: int) -> int:
    """Bytes that so many bits take."""
    return -(-numel // 8)


def pack(values: Tensor) -> Tensor:
    """1 where a value is not 0: (n,) numbers as (⌈n / 8⌉,) bytes; the last byte is filled up with 0."""
    bits = torch.zeros(8 * packed_size(values.numel()), dtype=torch.uint8, device=values.device)
    bits[: values.numel()] = values != 0
    places = torch.arange(8, dtype=torch.uint8, device=values.device)
    return (bits.view(-1, 8) << places).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, out: Tensor) -> None:
    """Write the bits of (n,) bytes as numbers, 0 or 1, to a flat tensor of 8 n elements."""
    table = _table(out.dtype, out.device)
    torch.index_select(table, 0, packed.int(), out=out.view(-1, 8))


def pick(packed: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """The bits at these indices (int64), as numbers."""
    return ((packed[index >> 3].int() >> (index & 7).int()) & 1).to(dtype)


@functools.cache
def _table(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The eight bits of every byte, as numbers: (256, 8)."""
    places = torch.arange(8, device=device)
    return ((torch.arange(256, device=device)[:, None] >> places) & 1).to(dtype)


__all__ = ["is_packed", "pack", "packed_size", "pick", "unpack"]
