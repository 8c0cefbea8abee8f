"""LoRA with a frozen A (LoRA-FA, arXiv:2308.03303): the low-rank accumulator of updates beside frozen base weights.

    y = W x + B A x,   A: (r, columns), drawn once from counter noise and never tuned;   B: (rows, r), float32, from 0

Where W is quantised, no update can be written into it. A member of a population adds σ S u wᵀ to B, which is the
low-rank term σ S u (Aᵀ w)ᵀ beside the layer, and a step adds Σ c_p u_p w_pᵀ to B: exact, from scalars alone. A has the
root mean square GAIN · RMS(W) / √r, so that a unit of B, a tenth for optimizers that start from zeros, moves every
layer by the same share of its own size. What is saved is an adapter that peft loads.

Knows models and peft; knows no run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Final

import torch
from torch import nn

from zotune import seeds
from zotune.core import noise
from zotune.core.space import canonical_name
from zotune.errors import ModelError
from zotune.models.loaded_model import LoadedModel
from zotune.models.quantization import layer_size

METHOD: Final = "lora-fa"
GAIN: Final = 10.0
BLOCK: Final = re.compile(r"(?:^|\.)\d+\.")


def block_layers(loaded: LoadedModel, linear: Collection[str]) -> list[str]:
    """The names of all linear layers inside blocks: heads and embeddings stay as they are. Raises ModelError where the
    model has none."""
    names = sorted({name.rpartition(".")[2] for name in linear if BLOCK.search(name)})
    if not names:
        raise ModelError(f"{loaded.source} has no linear layers in numbered blocks", hint="--lora-target-modules NAME")
    return names


@torch.no_grad()
def freeze_a(loaded: LoadedModel, seed: int) -> None:
    """Draw A of every LoRA layer from the seed, set B to zeros, and freeze A. The bits of A depend on the seed, the
    layer's name and its size alone. Raises ModelError where a layer's weights cannot be read."""
    for name, module in loaded.model.named_modules():
        if not has_lora(module):
            continue
        for key in module.lora_A:
            a, b = module.lora_A[key].weight, module.lora_B[key].weight
            size = layer_size(module.get_base_layer())
            stream = noise.stream_key(seed, -1, 0, "normal", seeds.name_key(canonical_name(f"{name}.lora_A")))
            z = noise.units("normal", stream, 0, a.numel(), torch.device("cpu")).double()
            scaled = z * (noise.NORMAL_SCALE * GAIN * size / math.sqrt(a.shape[0]))
            a.data.copy_(scaled.view(a.shape))
            b.data.zero_()
            a.requires_grad_(False)


def has_lora(module: nn.Module) -> bool:
    """Whether peft has put LoRA on a module."""
    return "lora_A" in module._modules and len(module._modules["lora_A"] or ()) > 0  # type: ignore[arg-type]


__all__ = ["METHOD", "block_layers", "freeze_a"]
