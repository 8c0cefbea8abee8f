"""MeZO as it is usually written, for comparison with zotune's own step (`zotune bench`).

    z ~ N(0, I) from a seed, drawn again for each of four passes, tensor by tensor
    θ ← θ + ε z;  L₊ = L(θ);   θ ← θ − 2ε z;  L₋ = L(θ);   θ ← θ + ε z;   θ ← θ − η (L₊ − L₋) / 2ε z

Malladi et al. 2023, arXiv:2305.17333, Algorithm 1. It draws, multiplies and adds with torch's own operations, as public
trainers do. Adding and subtracting ε z does not restore θ to the last bit, so zotune itself never tunes with this loop.

Knows modules and nothing else of zotune.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn


@torch.no_grad()
def step(params: Sequence[nn.Parameter], loss: Callable[[], float], seed: int, lr: float, eps: float) -> float:
    """Take one step on these parameters, whose `data` are new tensors afterwards. Returns (L₊ − L₋) / 2ε."""

    def perturb(scale: float) -> None:
        generator = torch.Generator(params[0].device).manual_seed(seed)
        for p in params:
            z = torch.normal(0.0, 1.0, p.shape, generator=generator, device=p.device, dtype=p.dtype)
            p.data = p.data + z * scale

    perturb(eps)
    up = loss()
    perturb(-2 * eps)
    down = loss()
    perturb(eps)
    slope = (up - down) / (2 * eps)
    perturb(-lr * slope)
    return slope


__all__ = ["step"]
