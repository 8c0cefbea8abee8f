"""The weights of a run that are not tuned: their hash, which the journal's header records, and checks against it.

Knows spaces, modules and headers; loads nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from zotune.core.space import Space, named_tensors
from zotune.errors import RunFolderError, SideEffectError
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


def check_loaded(model: nn.Module, header: Mapping[str, Any], source: str) -> None:
    """Raise RunFolderError where a run's model, loaded again from `source`, has other frozen weights than the run had.

    Of weights in another dtype than the run's nothing is known, nor of an adapter that replaces a head which the run
    drew: the replaced head is drawn anew.
    """
    tuned, recorded = header.get("tensors") or {}, header.get("frozen_weights")
    parameters = named_tensors(model)
    known = recorded is not None and tuned and tuned.keys() <= parameters.keys() and not header.get("quantize")
    if not known or str(parameters[min(tuned)].dtype) != header.get("dtype"):
        return
    task = header.get("task") or {}
    drew = task.get("new_head") or task.get("init") == "linear-probe"
    if drew and any(".original_module." in name for name in parameters):
        return
    if frozen_digest(model, tuned) != recorded:
        raise RunFolderError(
            f"{source}: the weights that were not tuned differ from those that the run had",
            hint=f"the run tuned {header.get('model')}; zotune verify names what has changed",
        )


__all__ = ["check_frozen", "check_loaded", "frozen_digest"]
