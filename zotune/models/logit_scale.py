"""Tensors that scale a model's logits: multiplied by c they multiply every logit by c, and change no greedy choice.

Most models end in a normalisation whose weight and bias do so; else a head that is not tied does. Which tensors they
are is found out by doubling them, for names and formulas differ from model to model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zotune.core.space import describe, named_tensors
from zotune.models.loaded_model import LoadedModel

TOLERANCE = 1e-3
"""Largest relative difference from twice the logits: a product with 2 is exact, sums of such products nearly so."""


@torch.no_grad()
def logit_scales(loaded: LoadedModel, logits: Callable[[], Tensor]) -> frozenset[str]:
    """The names of tensors by which all logits are multiplied; empty where there are none.

    logits: one forward pass, the same whenever it is called. Each candidate, the tensors of one module outside all
    blocks, is doubled for a pass and restored, whatever happens.
    """
    tensors = named_tensors(loaded.model)
    candidates: dict[tuple[bool, str], list[str]] = {}  # normalisations first: they are small
    for info in describe(loaded.model).values():
        if info.block is None and info.kind != "embedding":
            candidates.setdefault((info.kind != "norm", info.name.rpartition(".")[0]), []).append(info.name)
    expected = 2 * logits().double()
    for _, names in sorted(candidates.items()):
        if _doubles([tensors[n] for n in names], expected, logits):
            return frozenset(names)
    return frozenset()


def _doubles(tensors: list[Tensor], expected: Tensor, logits: Callable[[], Tensor]) -> bool:
    """Whether the logits are the expected ones with these tensors doubled."""
    before = [t.detach().clone() for t in tensors]
    try:
        for t in tensors:
            t.mul_(2)
        found = logits().double()
    finally:
        for t, kept in zip(tensors, before, strict=True):
            t.copy_(kept)
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


__all__ = ["logit_scales"]
