"""Range checks of optimizer options. Each raises OptionError, which names optimizer, option, range and value."""

from __future__ import annotations

import math

from zotune.errors import OptionError


def require(condition: bool, message: str, hint: str = "") -> None:
    """Raise OptionError where the condition does not hold."""
    if not condition:
        raise OptionError(message, hint=hint)


def positive(optimizer: str, **values: float) -> None:
    """Finite numbers above 0."""
    for name, value in values.items():
        require(value > 0 and math.isfinite(value), f"{optimizer}: {name} must be positive, got {value}")


def at_least(low: int, optimizer: str, **values: int) -> None:
    """Numbers of at least `low`."""
    for name, value in values.items():
        require(value >= low, f"{optimizer}: {name} must be at least {low}, got {value}")


def fraction(optimizer: str, **values: float) -> None:
    """Numbers in [0, 1)."""
    for name, value in values.items():
        require(0 <= value < 1, f"{optimizer}: {name} must be in [0, 1), got {value}")


def decay_rate(optimizer: str, weight_decay: float, lr: float) -> None:
    """A weight decay λ with 0 ≤ η λ < 1: a step shrinks weights and never flips their signs."""
    message = f"{optimizer}: weight_decay must be in [0, 1/lr), got {weight_decay}"
    require(weight_decay >= 0 and lr * weight_decay < 1, message)
