"""Linear layers in bfloat16 on a CPU with weights in the layout of its matrix units.

torch brings a weight into that layout for every product. For the few rows of a step of `generate` this takes a third of
the product's time, and the weights stay as they are. Here a weight is packed after some products with few rows, and
later ones read the packed copy. Each shape is compared with torch's own product once; where a bit differs, torch's is
used. Memory: at most one more copy of the weights, until the block ends.

Knows Linear modules; knows no model, no recipe and no population.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

FEW_ROWS = 256
"""Rows of a product up to which packing pays."""
WAIT = 6
"""Products with few rows before a weight is packed, which takes as long as packing saves in so many."""
_same: dict[tuple[int, ...], bool] = {}  # by rows, shape and threads: whether the bits are torch's


class PackedWeights:
    """The packed weights of Linear modules whose weights do not change while this object is used."""

    def __init__(self) -> None:
        self._packed: dict[nn.Module, Tensor] = {}
        self._waited: dict[nn.Module, int] = {}

    def forward(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """The module's forward, with packed weights where it is a Linear that can have them."""
        plain: Callable[[Tensor], Tensor] = module.forward
        if not isinstance(module, nn.Linear) or not _packable(module):
            return plain
        length, width = module.weight.shape

        @functools.wraps(plain)
        def linear(input: Tensor) -> Tensor:
            rows = input.numel() // width
            if not 0 < rows <= FEW_ROWS or input.dtype != torch.bfloat16:
                return plain(input)
            waited = self._waited[module] = self._waited.get(module, 0) + 1
            if waited <= WAIT:
                return plain(input)
            shape = (rows, length, width, torch.get_num_threads())
            if not _same.get(shape, True):
                return plain(input)
            packed = self._packed.get(module)
            if packed is None:
                packed = self._packed[module] = _operations()._reorder_linear_weight(module.weight.detach(), rows)
            out: Tensor = _operations()._linear_pointwise(input, packed, module.bias, "none", [], "")
            if shape not in _same:
                expected = plain(input)
                _same[shape] = torch.equal(out, expected)
                return expected
            return out

        return linear

    def clear(self) -> None:
        """Let go of the packed weights. To be called before weights change."""
        self._packed.clear()
        self._waited.clear()

    @contextlib.contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        """Inside the block, Linear modules of the model use packed weights, except those whose forward is another
        one's already. The weights must not change inside the block."""
        patched = [m for m in model.modules() if _packable(m)]
        try:
            for module in patched:
                module.__dict__["forward"] = self.forward(module)
            yield
        finally:
            for module in patched:
                module.__dict__.pop("forward", None)
            self.clear()


def _operations() -> Any:
    return torch.ops.mkldnn


@functools.cache
def _supported() -> bool:
    """Whether torch packs bfloat16 weights on this CPU."""
    try:
        packed = _operations()._reorder_linear_weight(torch.ones(32, 32, dtype=torch.bfloat16), 32)
        return bool(packed.is_mkldnn)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _packable(module: nn.Module) -> bool:
    """Whether a module is a Linear of torch's own, with an ordinary bfloat16 weight on a CPU."""
    if type(module) is not nn.Linear or "forward" in module.__dict__ or not isinstance(module.weight, nn.Parameter):
        return False
    weight = module.weight.data
    plain = type(weight) is Tensor and weight.layout == torch.strided and weight.is_contiguous()
    return plain and weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and _supported()


__all__ = ["PackedWeights"]
