"""Kernels for CPUs of what populations cost beside the model's own products, built by torch's C++ builder.

Factors are whole numbers of 10 bits (int16, in units of noise.NORMAL_SCALE), in the order of `noise.units("member")`.
Every kernel is compared with torch before first use. Knows flat tensors; knows no model and no recipe.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from zotune.core import noise
from zotune.core.member_source import FLAGS, member_source

EXACT_TERMS = 1 << 9
"""Terms whose sums are exact in float64: factors of 10 bits and weights of 24."""
ROUNDED_ALIKE = {torch.float32: 1e-5, torch.bfloat16: 0.01}
"""Relative difference of `MemberKernels.add` from float64, at most, by dtype."""
_SIZES = (3, 5, 83, 137)  # pairs, tokens, width, length of the comparison


class MemberKernels:
    """Factors, additions to rows, and exact sums. Raises whatever torch's builder raises where it cannot compile, and
    RuntimeError where a kernel gives other values than torch."""

    def __init__(self) -> None:
        from torch._inductor.codecache import CppCodeCache

        library = CppCodeCache.load(member_source(), device_type="cpu", extra_flags=FLAGS)
        pointer, long, number, threads = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int32
        self._units = _typed(library.units, [pointer, pointer, long, threads])
        self._product = _typed(library.product, [*[pointer] * 5, *[long] * 5, number, threads])
        adds = [_typed(f, [*[pointer] * 5, *[long] * 4, threads]) for f in (library.add_float, library.add_bf16)]
        self._adds = dict(zip((torch.float32, torch.bfloat16), adds, strict=True))
        self._packed = torch.empty(0, dtype=torch.float64)
        self._compare()

    def units(self, key: int, count: int) -> Tensor:
        """`noise.units("member", key, 0, count)` as int16; count: at most noise.BLOCK."""
        out = torch.empty(count, dtype=torch.int16)
        k = torch.tensor(noise.block_key(key, 0), dtype=torch.int32)
        self._units(out.data_ptr(), k.data_ptr(), count, torch.get_num_threads())
        return out

    def adds(self, dtype: torch.dtype) -> bool:
        """Whether `add` takes rows of this dtype."""
        return dtype in self._adds

    def add(self, out: Tensor, x: Tensor, u: Tensor, v: Tensor, factors: Tensor) -> None:
        """out += factors · (x · v) u of every token with its pair's factors, summed in float32 and rounded once.

        out: (2 P tokens, length); x: (2 P tokens, width), both contiguous and of one dtype; u, v: (P, length) and (P,
        width), int16; factors: one float32 for each of 2 P members, those with + first. Raises ValueError for other
        shapes.
        """
        (pairs, width), length = v.shape, u.shape[1]
        tokens, rest = divmod(x.numel(), 2 * pairs * width)
        if rest or out.numel() != 2 * pairs * tokens * length:
            raise ValueError(f"{x.numel()} inputs and {out.numel()} outputs are no rows of {2 * pairs} members")
        self._adds[out.dtype](
            out.data_ptr(),
            x.data_ptr(),
            u.data_ptr(),
            v.data_ptr(),
            factors.data_ptr(),
            pairs,
            tokens,
            width,
            length,
            torch.get_num_threads(),
        )

    def product(self, out: Tensor, u: Tensor, v: Tensor, weights: Tensor, unit: float, first: int) -> None:
        """Rows first … first + len(out) − 1 of Σ_p weights[p] u_p v_pᵀ · unit, exact in float64, as float32.

        u, v: (terms, rows) and (terms, width), int16, of at most EXACT_TERMS terms; weights: whole numbers of at most
        24 bits (float64); unit: a power of two; out: (some rows, width), float32.
        """
        terms, rows = u.shape
        width = v.shape[1]
        if self._packed.numel() < terms * (width + 16):
            self._packed = torch.empty(terms * (width + 16), dtype=torch.float64)
        self._product(
            out.data_ptr(),
            u.data_ptr(),
            v.data_ptr(),
            weights.data_ptr(),
            self._packed.data_ptr(),
            terms,
            rows,
            first,
            first + len(out),
            width,
            unit,
            torch.get_num_threads(),
        )

    def _compare(self) -> None:
        """Raise RuntimeError where a kernel gives other values than torch."""
        pairs, tokens, width, length = _SIZES
        key, cpu = noise.stream_key(0, 0, 0, "member", 1), torch.device("cpu")
        whole = noise.units("member", key, 0, pairs * (width + length), cpu)
        units = self.units(key, len(whole))
        same = torch.equal(units.int(), whole)
        v, u = units[: pairs * width].view(pairs, width), units[pairs * width :].view(pairs, length)
        weights = torch.tensor([2.0**24 - 1, -(2.0**23) - 1, 3.0], dtype=torch.float64)
        expected = ((u.double() * weights[:, None]).T @ v.double() * 2.0**-30).float()[1:]
        out = torch.empty_like(expected)
        self.product(out, u, v, weights, 2.0**-30, 1)
        same &= torch.equal(out, expected)
        factors = torch.tensor([1e-3, 2e-3, 3e-3, -1e-3, -2e-3, -3e-3])
        for dtype, tolerance in ROUNDED_ALIKE.items():
            x = (whole[:width] / 100.0).expand(2 * pairs * tokens, width).to(dtype).contiguous()
            base = (whole[:length] / 100.0).expand(2 * pairs * tokens, length).to(dtype).contiguous()
            along = (x.view(2, pairs, tokens, width).double() * v[:, None]).sum(-1) * factors.view(2, pairs, 1)
            wanted = base.view(2, pairs, tokens, length).double() + along[..., None] * u[:, None]
            self.add(base, x, u, v, factors)
            same &= float((base.double().view_as(wanted) - wanted).abs().max() / wanted.abs().max()) < tolerance
        if not same:
            raise RuntimeError("the compiled kernels of populations give other values")


def _typed(function: Any, types: list[Any]) -> Any:
    function.argtypes, function.restype = types, None
    return function


@functools.lru_cache(1)
def member_kernels() -> MemberKernels | None:
    """The kernels of this process, None where they cannot be compiled or give other values."""
    try:
        return MemberKernels()
    except Exception:  # a compiler may raise anything; torch computes the same
        return None


__all__ = ["EXACT_TERMS", "MemberKernels", "member_kernels"]
