"""Checkpoints: the weights and the state of one step, written whole or not at all.

A checkpoint is a folder `checkpoint-<step>`. It holds the tuned weights and the optimizer's fields as safetensors, the
optimizer's state and the run's counters as JSON, and checksums of these files and of the journal up to that step. It is
written under a temporary name, synced and renamed, so a half-written checkpoint is never used. A checkpoint that was
damaged, exchanged or copied from another run is detected before any of it is loaded. No file is a pickle.

Knows spaces, journals and files; knows no optimizer and no model.
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
from zotune.core.bits import is_packed, packed_size
from zotune.core.plain_parts import plain_parts
from zotune.core.space import Space
from zotune.errors import RunFolderError
from zotune.search.journal import Journal

_NAME = re.compile(r"checkpoint-(\d+)$")
STATE = "trainer_state.json"
WEIGHTS = "tuned.safetensors"
FIELDS = "fields.safetensors"


class Store(Protocol):
    """Where the engine keeps weights."""

    def save(self, space: Space, step: int, meta: Mapping[str, Any], keep: int) -> None:
        """Save the present weights and fields, and `meta` with them. keep: a saved step that must not be removed."""
        ...

    def weights(self, step: int) -> Mapping[str, Tensor]:
        """The tuned weights of a saved step, or of the base model (step 0)."""
        ...

    def restore(self, step: int, space: Space) -> Mapping[str, Any] | None:
        """Load the weights and fields of a saved step; returns its meta data, None for the base model (step 0)."""
        ...


class MemoryStore:
    """Keeps the base weights and the best weights in memory, for tuning a module from Python."""

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
    """Checkpoints in a run directory: the best one and the `limit` newest, none where limit is 0.

    base: returns the tuned weights of the base model, which has no checkpoint. rebuild: replays the journal to a step
    whose checkpoint is missing or damaged; returns a space with its weights and fields, and its meta data.
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
            read_meta(folder)
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
    """Checkpoints that another process of the run writes."""

    def save(self, space: Space, step: int, meta: Mapping[str, Any], keep: int) -> None:
        """Does nothing: the other process saves."""


def interpolate(base: Mapping[str, Tensor], last: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """base + share · (last - base) of each tensor of `last`, in float32 arithmetic at least."""
    interpolated = {}
    for name, y in last.items():
        wide = torch.promote_types(y.dtype, torch.float32)
        x = base[name].to(y.device, wide)
        interpolated[name] = (x + (y.to(wide) - x) * share).to(y.dtype)
    return interpolated


def checkpoints(folder: Path) -> list[int]:
    """The steps of the checkpoints in a run directory, ascending."""
    paths = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    matches = [(_NAME.fullmatch(p.name), p) for p in paths]
    return sorted(int(m[1]) for m, p in matches if m and (p / STATE).is_file())


def load_newest(
    folder: Path, space: Space, journal: Journal, on_note: Callable[[str], None] = lambda text: None
) -> tuple[Path, dict[str, Any]] | None:
    """Load the newest checkpoint that is complete and belongs to this journal; returns its path and meta data.

    None where there is none; the space is unchanged then. Removes half-written checkpoints. on_note: called with a text
    for every checkpoint that cannot be used.
    """
    for path in [*folder.glob(".checkpoint-*.tmp"), *folder.glob("checkpoint-*")]:
        if path.is_dir() and not (_NAME.fullmatch(path.name) and (path / STATE).is_file()):
            shutil.rmtree(path, ignore_errors=True)
    for step in reversed(checkpoints(folder)):
        path = folder / f"checkpoint-{step}"
        try:
            return path, read(path, space, journal)
        except RunFolderError as error:
            on_note(f"{error}: not used; the journal is replayed from an earlier step")
    return None


def write(folder: Path, space: Space, meta: Mapping[str, Any]) -> None:
    """Write one checkpoint to a temporary folder, sync it and rename it.

    Raises ZotuneError where that fails; no part of the checkpoint is left then.
    """
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
        except BaseException:  # Ctrl-C too: no half-written checkpoint stays
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def read_meta(folder: Path) -> dict[str, Any]:
    """The meta data of a checkpoint. Raises RunFolderError where a checksum in it is wrong."""
    try:
        meta = json.loads((folder / STATE).read_text())
        if meta.pop("sum") != _sum(meta):
            raise RunFolderError(f"{folder / STATE} was changed after it was saved (checksum differs)")
        if folder.name != f"checkpoint-{meta['step']}":
            raise RunFolderError(f"{folder} holds the checkpoint of step {meta['step']}")
        for name, wanted in meta["files"].items():
            if files.checksum(folder / Path(name).name) != wanted:
                raise RunFolderError(f"{folder / name} was changed after it was saved (checksum differs)")
    except OSError as error:
        raise RunFolderError(f"{error.filename} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RunFolderError(f"{folder / STATE} cannot be read: not the state of a checkpoint") from None
    return dict(meta)


def read(folder: Path, space: Space, journal: Journal | None = None) -> dict[str, Any]:
    """Load weights and fields into the space; returns the meta data.

    Raises RunFolderError where a part is missing, damaged, of other tensors or of another journal; the space is
    unchanged then.
    """
    meta = read_meta(folder)
    if journal is not None and not (
        meta["lines"] <= len(journal.lines) and meta.get("mark") == journal.checksum(meta["lines"])
    ):
        raise RunFolderError(f"{folder} does not belong to the journal beside it")
    weights = _tensors(folder / WEIGHTS)
    fields: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _tensors(folder / FIELDS).items():
        path, _, name = key.partition("|")
        fields.setdefault(path, {})[name] = tensor
    expected = [(weights, set(space.params)), *((f, set(f)) for f in fields.values())]  # a field may be partial
    for saved, names in expected:
        for name in sorted(names):
            p = space.params.get(name)
            x = saved.get(name)
            one_bit = p is not None and x is not None and saved is not weights and is_packed(x)
            if p is None or x is None or x.shape != ((packed_size(p.numel()),) if one_bit else p.shape):
                shape = f" of shape {tuple(p.shape)}" if p is not None else ""
                raise RunFolderError(f"{folder} belongs to another model: no tensor {name!r}{shape}")
            if saved is weights and x.dtype != p.dtype:
                raise RunFolderError(f"{folder} holds {saved[name].dtype}, the model is {p.dtype}")
    space.load(weights)
    device = {n: p.device for n, p in space.params.items()}
    space.fields = {path: {n: t.to(device[n]) for n, t in f.items()} for path, f in fields.items()}
    return meta


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of the names and of every bit of some tensors."""
    h = hashlib.blake2b(digest_size=16)
    for name, x in tensors.items():
        h.update(name.encode())
        for part in plain_parts(x):
            h.update(part.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


def _sum(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _remove(folder: Path) -> None:
    """Remove a checkpoint, its state first, so that a kill leaves no folder that looks complete."""
    if folder.exists():
        (folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from None
