"""The model of a recorded run: loaded as the header of its journal describes it.

Knows headers and models; runs no code that a run directory names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from zotune.config import RunConfig
from zotune.errors import RunFolderError
from zotune.search.journal import Journal

REQUIRED: Final = frozenset(
    [
        *("model", "revision", "head", "dtype", "quantize", "versions", "task", "base_weights", "frozen_weights"),
        *("tensors", "seed", "noise", "rule", "optimizer", "optimizer_options"),
        *("rows", "batch_size", "budget", "eval_steps", "direction", "drift"),
    ]
)
"""Keys of the header that a replay reads."""


def complete_header(journal: Journal) -> dict[str, Any]:
    """A journal's header. Raises RunFolderError where it lacks keys that a replay reads."""
    if missing := sorted(REQUIRED - journal.header.keys()):
        raise RunFolderError(f"{journal.path}, line 1: the header lacks {', '.join(missing)}: not the journal of a run")
    return journal.header


def config_of(header: Mapping[str, Any], model: str | None) -> RunConfig:
    """The configuration that loads the run's model from another place; it allows no code and no pickle."""
    return RunConfig(
        model=model,
        model_revision=header["revision"],
        head=header["head"],
        dtype=header["dtype"].removeprefix("torch."),
        seed=header["seed"],
        peft=header["task"]["adapter"]["method"],
        quantize=header["quantize"],
    )


def class_names(header: Mapping[str, Any]) -> list[str]:
    """The words of the classes, in order; empty for other tasks."""
    return list(header["task"]["labels"][1]) if "labels" in header["task"] else []


__all__ = ["REQUIRED", "class_names", "complete_header", "config_of"]
