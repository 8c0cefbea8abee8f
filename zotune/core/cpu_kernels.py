"""Kernels for CPUs, built from the C++ source of programs by torch's C++ builder.

Knows flat tensors and sources; knows no recipe and no noise.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from zotune.core.cpu_source import FLAGS, source


class CpuKernel:
    """A program compiled for tensors of these dtypes, with float32 arithmetic.

    Raises RecipeError where the program has no C++ form, and whatever torch's builder raises where it cannot compile.
    """

    def __init__(self, text: str, dtypes: Sequence[torch.dtype]) -> None:
        from torch._inductor.codecache import CppCodeCache

        library = CppCodeCache.load(source(text, dtypes), device_type="cpu", extra_flags=FLAGS)
        self._run = library.run
        pointer, long = ctypes.c_void_p, ctypes.c_int64
        self._run.argtypes = [pointer, pointer, pointer, long, pointer, long, ctypes.c_int32]
        self._run.restype = None
        self._pointers = ctypes.c_void_p * len(dtypes)

    def __call__(self, tensors: Sequence[Tensor], s: Tensor, k: Tensor, places: Tensor | None = None) -> None:
        """Run on flat tensors of one length. s, k: numbers (float64) and keys (int32, the index of the first element
        last); places: indices of the elements (int32) where these are not contiguous."""
        self._run(
            self._pointers(*[x.data_ptr() for x in tensors]),
            s.data_ptr(),
            k.data_ptr(),
            k.numel() - 1,
            None if places is None else places.data_ptr(),
            tensors[0].numel(),
            torch.get_num_threads(),
        )


__all__ = ["CpuKernel"]
