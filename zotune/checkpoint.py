"""Weights and state of one moment, written whole or not at all.

A checkpoint is a folder `checkpoint-<step>` with the tuned weights and the optimizer's fields in safetensors, and its
state and the run's counters in JSON. It is written under a temporary name, synced and renamed, so a half-written one is
never picked up. No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zotune.errors import RunFolderError
from zotune.space import Space

_NAME = re.compile(r"checkpoint-(\d+)$")
STATE = "trainer_state.json"
WEIGHTS = "tuned.safetensors"
FIELDS = "fields.safetensors"


class Store(Protocol):
    """Where the engine keeps weights: `save` now, `weights` of a saved step later."""

    def save(self, space: Space, step: int, meta: Mapping[str, Any], keep: int) -> None: ...

    def weights(self, step: int) -> Mapping[str, Tensor]: ...


class MemoryStore:
    """Keeps the start and the best weights in memory: for tuning a module from Python."""

    def __init__(self) -> None:
        self._saved: dict[int, dict[str, Tensor]] = {}

    def save(self, space: Space, step: int, meta: Mapping[str, Any], keep: int) -> None:
        best = meta["progress"]["best_step"]
        if step in (0, best):
            self._saved = {s: w for s, w in self._saved.items() if s in (0, best)}
            self._saved[step] = space.snapshot()

    def weights(self, step: int) -> Mapping[str, Tensor]:
        return self._saved[step]


class FolderStore:
    """Checkpoints in a run folder; the best and the `limit` newest are kept. Step 0 is the base model, never copied:
    `base` gives its tuned weights again."""

    def __init__(self, folder: Path, limit: int, base: Callable[[], Mapping[str, Tensor]]) -> None:
        self.folder, self.limit, self._base = folder, max(limit, 1), base

    def save(self, space: Space, step: int, meta: Mapping[str, Any], keep: int) -> None:
        if step == 0:
            return
        write(self.folder / f"checkpoint-{step}", space, meta)
        steps = sorted(checkpoints(self.folder), reverse=True)
        for old in [s for s in steps[self.limit :] if s != keep]:
            shutil.rmtree(self.folder / f"checkpoint-{old}", ignore_errors=True)

    def weights(self, step: int) -> Mapping[str, Tensor]:
        return self._base() if step == 0 else _tensors(self.folder / f"checkpoint-{step}" / WEIGHTS)


def checkpoints(folder: Path) -> list[int]:
    """Steps of the whole checkpoints in a run folder, ascending."""
    found = [(_NAME.fullmatch(p.name), p) for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    return sorted(int(m[1]) for m, p in found if m and (p / STATE).is_file())


def write(folder: Path, space: Space, meta: Mapping[str, Any]) -> None:
    """Write one checkpoint: to a temporary folder, synced, then renamed."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save_file({n: p.data.contiguous() for n, p in space.params.items()}, temporary / WEIGHTS)
        fields = {f"{path}|{n}": t for path, field in space.fields.items() for n, t in field.items()}
        save_file(fields, temporary / FIELDS)
        (temporary / STATE).write_text(json.dumps(meta, indent=1))
        for path in temporary.iterdir():
            _sync(path)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(temporary, folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read(folder: Path, space: Space) -> dict[str, Any]:
    """Load weights and fields into the space; returns the meta data. Raises RunFolderError where anything is missing,
    truncated, or of other tensors."""
    try:
        meta = json.loads((folder / STATE).read_text())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder / STATE} cannot be read: {error}") from None
    weights = _tensors(folder / WEIGHTS)
    fields: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _tensors(folder / FIELDS).items():
        path, _, name = key.partition("|")
        fields.setdefault(path, {})[name] = tensor
    for held, names in [
        (weights, set(space.params)),
        *((f, set(f)) for f in fields.values()),
    ]:  # a field may be partial
        for name in sorted(names):
            p = space.params.get(name)
            if p is None or name not in held or held[name].shape != p.shape:
                shape = f" of shape {tuple(p.shape)}" if p is not None else ""
                raise RunFolderError(f"{folder}: no tensor {name!r}{shape}; it is of another model")
    space.load(weights)
    device = {n: p.device for n, p in space.params.items()}
    space.fields = {path: {n: t.to(device[n]) for n, t in f.items()} for path, f in fields.items()}
    if space.digest() != meta.get("weights"):
        raise RunFolderError(f"{folder}: the weights are not those that were saved (checksum differs)")
    return dict(meta)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot sync a directory
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
