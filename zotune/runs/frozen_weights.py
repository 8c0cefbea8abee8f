"""The weights of a run that are not tuned: their hash, which the journal's header records, and checks against it.

Knows spaces and headers; loads nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from zotune.core.space import Space, named_tensors
from zotune.errors import SideEffectError
from zotune.search import checkpoint


def frozen_digest(model: nn.Module, tuned: Collection[str]) -> str:
    """A hash of every bit of a model's parameters except the tuned ones, given by canonical name."""
    return checkpoint.digest({name: p for name, p in named_tensors(model).items() if name not in tuned})


def check_frozen(space: Space, header: Mapping[str, Any]) -> None:
    """Raise SideEffectError where the present frozen weights are not those that the run began with."""
    if frozen_digest(space.module, space.params) != header.get("frozen_weights"):
        raise SideEffectError(
            "frozen weights of the model have changed during the run, so its scores belong to no model",
            hint="no objective and no plugin may write them",
        )


__all__ = ["check_frozen", "frozen_digest"]
