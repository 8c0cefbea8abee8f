"""A model in a folder: what `zotune export` writes, and what a run folder holds at its end.

Nothing is ever half-written: files come under other names first. Knows models and adapters; tunes nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from zotune import files
from zotune.errors import ModelError, RunFolderError
from zotune.models import adapters, loading, saving
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.yaml_file import read_yaml


def export(run: str | Path, output: str | Path, *, merge: bool = False, dtype: str = "auto") -> Path:
    """Write the model of a run folder (or an adapter's) to a folder of its own, which must be empty or new.

    merge: LoRA is written into its base model, which then loads without peft. Raises ModelError, RunFolderError.
    """
    folder, target = Path(run), Path(output)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such run folder")
    free(target)
    saved = read_yaml(folder / "config.yaml") if (folder / "config.yaml").is_file() else {}
    found = find_model(str(folder), str(saved.get("head") or "auto"))
    if merge and found.adapter is None:
        raise ModelError(f"{folder} holds no adapter to merge; its weights are whole", hint="without --merge")
    loaded = loading.load(found.source, found.folder, found.head, device="cpu", dtype=dtype, classes=_classes(folder))
    if found.adapter:
        adapters.load(loaded, found.adapter)
    if merge:
        adapters.merge(loaded)
    return write(loaded, target)


def free(target: Path) -> None:
    """Raises RunFolderError where a folder is not new and not empty."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunFolderError(f"{target} exists already", hint="name a new folder")


def write(loaded: LoadedModel, target: Path) -> Path:
    """Save a model to a folder that is new or empty: all of it appears at once. Raises ZotuneError where the disk is
    full."""
    partial = target.with_name(target.name + ".partial")
    try:
        with files.writing(target, hint=""):
            _save(loaded, partial)
            if target.exists():
                target.rmdir()
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def place(loaded: LoadedModel, folder: Path) -> dict[str, str]:
    """Save a model into a folder that holds other files; returns a hash of each file that was written. Every file is
    the old or the new one, whenever the process is killed. Raises ZotuneError where the disk is full."""
    partial = folder / ".model.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with files.writing(folder):
            _save(loaded, partial)
            names = sorted(p.relative_to(partial) for p in partial.rglob("*") if p.is_file())
            sums = {str(name): files.checksum(partial / name) for name in names}
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(partial / name, folder / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sums


def _save(loaded: LoadedModel, folder: Path) -> None:
    try:
        saving.save(loaded, folder)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(0, str(error)) from error  # as tokenizers says that a disk is full


def _classes(folder: Path) -> int | None:
    """How many classes the head of an adapter's model has, from the weights that were saved with it."""
    from safetensors import safe_open

    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            if name.endswith(("classifier.weight", "score.weight", "out_proj.weight")) and "lora" not in name:
                return int(file.get_slice(name).get_shape()[0])
    return None


__all__ = ["export", "free", "place", "write"]
