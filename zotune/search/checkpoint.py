"""Weights and state of one moment, written whole or not at all.

A checkpoint is a folder `checkpoint-<step>` with the tuned weights and the optimizer's fields in safetensors, and its
state and the run's counters in JSON, with checksums of all of them and of the journal up to there. It is written under
a temporary name, synced and renamed, so a half-written one is never picked up; one that was damaged, swapped or taken
from another run is recognised before anything of it is loaded. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zotune import files
from zotune.core.space import Space
from zotune.errors import RunFolderError
from zotune.search.journal import Journal

_NAME = re.compile(r"checkpoint-(\d+)$")
STATE = "trainer_state.json"
WEIGHTS = "tuned.safetensors"
FIELDS = "fields.safetensors"


class Store(Protocol):
    """Where the engine keeps weights: `save` now, `weights` of a saved step later. `restore` loads a saved step's
    weights and fields into the space and returns what was saved with them; of step 0 the weights, and None."""

    def save(self, space: Space, step: int, meta: Mapping[str, Any], keep: int) -> None: ...

    def weights(self, step: int) -> Mapping[str, Tensor]: ...

    def restore(self, step: int, space: Space) -> Mapping[str, Any] | None: ...


class MemoryStore:
    """Keeps the start and the best weights in memory: for tuning a module from Python."""

    def __init__(self) -> None:
        self._saved: dict[int, dict[str, Tensor]] = {}
        self._best: tuple[Mapping[str, Any], dict[str, dict[str, Tensor]]] = {}, {}

    def save(self, space: Space, step: int, meta: Mapping[str, Any], keep: int) -> None:
        best = meta["progress"]["best_step"]
        if step in (0, best):
            self._saved = {s: w for s, w in self._saved.items() if s in (0, best)}
            self._saved[step] = space.snapshot()
            self._best = meta, {path: {n: t.clone() for n, t in f.items()} for path, f in space.fields.items()}

    def weights(self, step: int) -> Mapping[str, Tensor]:
        return self._saved[step]

    def restore(self, step: int, space: Space) -> Mapping[str, Any] | None:
        space.load(self._saved[step])
        if step == 0:
            space.fields = {}
            return None
        meta, fields = self._best
        space.fields = {path: {n: t.clone() for n, t in f.items()} for path, f in fields.items()}
        return meta


class FolderStore:
    """Checkpoints in a run folder: the best and the `limit` newest are kept, none at all where it is 0.

    Step 0 is the base model, never copied: `base` gives its tuned weights again. rebuild: for steps that have no whole
    checkpoint, gives a space with the weights and fields of a step, by a replay, and what a checkpoint would say of it.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        base: Callable[[], Mapping[str, Tensor]],
        rebuild: Callable[[int], tuple[Space, Mapping[str, Any]]] | None = None,
    ) -> None:
        self.folder, self.limit, self._base, self._rebuild = folder, limit, base, rebuild

    def save(self, space: Space, step: int, meta: Mapping[str, Any], keep: int) -> None:
        if step == 0 or not self.limit:
            return
        write(self.folder / f"checkpoint-{step}", space, meta)
        steps = sorted(checkpoints(self.folder), reverse=True)
        for old in [s for s in steps[self.limit :] if s != keep]:
            _remove(self.folder / f"checkpoint-{old}")

    def weights(self, step: int) -> Mapping[str, Tensor]:
        folder = self.folder / f"checkpoint-{step}"
        if step == 0:
            return self._base()
        try:
            examine(folder)
            return _tensors(folder / WEIGHTS)
        except RunFolderError:
            if self._rebuild is None:
                raise
            return self._rebuild(step)[0].snapshot()

    def restore(self, step: int, space: Space) -> Mapping[str, Any] | None:
        if step == 0:
            space.load(self._base())
            space.fields = {}
            return None
        try:
            return read(self.folder / f"checkpoint-{step}", space)
        except RunFolderError:
            if self._rebuild is None:
                raise
            rebuilt, meta = self._rebuild(step)
            space.load(rebuilt.snapshot())
            space.fields = rebuilt.fields
            return meta


class OtherStore(FolderStore):
    """The checkpoints that another process writes."""

    def save(self, space: Space, step: int, meta: Mapping[str, Any], keep: int) -> None:
        """Left to that process."""


def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Tensors at a share of the way from `start` to `end`, in arithmetic of float32 at least."""
    out = {}
    for name, y in end.items():
        wide = torch.promote_types(y.dtype, torch.float32)
        x = start[name].to(y.device, wide)
        out[name] = (x + (y.to(wide) - x) * share).to(y.dtype)
    return out


def checkpoints(folder: Path) -> list[int]:
    """Steps of the checkpoints in a run folder, ascending."""
    found = [(_NAME.fullmatch(p.name), p) for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    return sorted(int(m[1]) for m, p in found if m and (p / STATE).is_file())


def newest(
    folder: Path, space: Space, journal: Journal, tell: Callable[[str], None] = lambda text: None
) -> tuple[Path, dict[str, Any]] | None:
    """Load the newest checkpoint that is whole and of this journal; None where there is none: the space is then as it
    was. Removes what kills have left half-written; `tell` hears of every checkpoint that cannot be used."""
    for path in [*folder.glob(".checkpoint-*.tmp"), *folder.glob("checkpoint-*")]:
        if path.is_dir() and not (_NAME.fullmatch(path.name) and (path / STATE).is_file()):
            shutil.rmtree(path, ignore_errors=True)
    for step in reversed(checkpoints(folder)):
        path = folder / f"checkpoint-{step}"
        try:
            return path, read(path, space, journal)
        except RunFolderError as error:
            tell(f"{error}: not used, the journal is replayed from further back")
    return None


def write(folder: Path, space: Space, meta: Mapping[str, Any]) -> None:
    """Write one checkpoint: to a temporary folder, synced, then renamed. Raises ZotuneError where that fails, with
    nothing of it left."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with files.writing(folder):
        try:
            temporary.mkdir()
            save_file({n: p.data.contiguous() for n, p in space.params.items()}, temporary / WEIGHTS)
            fields = {f"{path}|{n}": t for path, field in space.fields.items() for n, t in field.items()}
            save_file(fields, temporary / FIELDS)
            body = {**meta, "files": {name: files.checksum(temporary / name) for name in (WEIGHTS, FIELDS)}}
            (temporary / STATE).write_text(json.dumps({**body, "sum": _sum(body)}, indent=1))
            for path in [*temporary.iterdir(), temporary]:
                files.sync(path)
            _remove(folder)
            os.rename(temporary, folder)
            files.sync(folder.parent)
        except BaseException:  # Ctrl-C too: nothing half-written stays
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def examine(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, with every checksum in it found right. Raises RunFolderError."""
    try:
        meta = json.loads((folder / STATE).read_text())
        if meta.pop("sum") != _sum(meta):
            raise RunFolderError(f"{folder / STATE} is not as it was saved (checksum differs)")
        if folder.name != f"checkpoint-{meta['step']}":
            raise RunFolderError(f"{folder} holds what was saved at step {meta['step']}")
        for name, wanted in meta["files"].items():
            if files.checksum(folder / Path(name).name) != wanted:
                raise RunFolderError(f"{folder / name} is not as it was saved (checksum differs)")
    except OSError as error:
        raise RunFolderError(f"{error.filename} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RunFolderError(f"{folder / STATE} cannot be read: it is no state of a checkpoint") from None
    return dict(meta)


def read(folder: Path, space: Space, journal: Journal | None = None) -> dict[str, Any]:
    """Load weights and fields into the space; returns the meta data. Raises RunFolderError, with the space as it was,
    where anything is missing, damaged, of other tensors, or of another journal than the one given."""
    meta = examine(folder)
    if journal is not None and not (
        meta["lines"] <= len(journal.lines) and meta.get("mark") == journal.checksum(meta["lines"])
    ):
        raise RunFolderError(f"{folder} does not belong to the journal beside it")
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
            if held is weights and held[name].dtype != p.dtype:
                raise RunFolderError(f"{folder} holds {held[name].dtype}, the model is {p.dtype}")
    space.load(weights)
    device = {n: p.device for n, p in space.params.items()}
    space.fields = {path: {n: t.to(device[n]) for n, t in f.items()} for path, f in fields.items()}
    return meta


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of every bit of some tensors and of their names."""
    found = hashlib.blake2b(digest_size=16)
    for name, x in tensors.items():
        found.update(name.encode())
        found.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _sum(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _remove(folder: Path) -> None:
    """Remove a checkpoint, its state first: a kill leaves nothing that looks like a whole one."""
    if folder.exists():
        (folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from None
