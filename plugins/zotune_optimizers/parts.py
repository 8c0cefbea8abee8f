"""What several of these optimizers share: checks of their options, schedules, the two-point estimate, layer groups."""

from __future__ import annotations

import math
from typing import Any, Final

from zotune.core.recipe import Constant
from zotune.errors import OptionError

ZERO: Final = Constant(0.0)
"""A field that starts at zero."""


def require(holds: bool, said: str, hint: str = "") -> None:
    if not holds:
        raise OptionError(said, hint=hint)


def positive(optimizer: str, **values: float) -> None:
    for name, value in values.items():
        require(value > 0 and math.isfinite(value), f"{optimizer}: {name} must be positive, got {value}")


def at_least(low: int, optimizer: str, **values: int) -> None:
    for name, value in values.items():
        require(value >= low, f"{optimizer}: {name} must be at least {low}, got {value}")


def share(optimizer: str, **values: float) -> None:
    """Numbers in [0, 1)."""
    for name, value in values.items():
        require(0 <= value < 1, f"{optimizer}: {name} must be in [0, 1), got {value}")


def check_decay(optimizer: str, weight_decay: float, lr: float) -> None:
    said = f"{optimizer}: weight_decay must be in [0, 1/lr), got {weight_decay}"
    require(weight_decay >= 0 and lr * weight_decay < 1, said)


def decay(schedule: str, progress: float) -> float:
    """The share of the learning rate that is left: 1 at the start; linear and cosine reach 0 at the end."""
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0


def slope(oracle: Any, theta: Any, z: Any, eps: float, batch: Any = None) -> float:
    """g = (L(θ + ε z; B) − L(θ − ε z; B)) / 2ε, the projected gradient of SPSA (Spall 1992)."""
    up, down = oracle(theta + eps * z, theta - eps * z, batch=batch)
    return float((up - down) / (2 * eps))


def shrunk(theta: Any, rate: float) -> Any:
    """θ − rate θ on all tensors but biases and norm layers, by the type of the owning module; θ itself for rate 0."""
    return theta - theta.per(lambda t: 0.0 if t.kind in ("bias", "norm") else rate) * theta if rate else theta


def layer_groups(theta: Any) -> dict[str, list[str]]:
    """Tensor names by layer: each block, the embeddings, and what stands outside of both (the head)."""
    groups: dict[str, list[str]] = {}
    for t in theta.tensors:
        outside = "embeddings" if t.kind == "embedding" else "head"
        groups.setdefault(f"block {t.block}" if t.block is not None else outside, []).append(t.name)
    return groups


def matrix(t: Any) -> tuple[int, int] | None:
    """Rows and columns of a tensor with two axes or more, as it lies in memory; None for what has one or none."""
    return (t.shape[0], t.numel // t.shape[0]) if len(t.shape) > 1 else None
