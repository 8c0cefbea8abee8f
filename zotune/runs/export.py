"""A model written to a folder: `zotune export`, and the model files of a run directory.

Files are written under temporary names first, so that no kill leaves a torn model. Knows models and adapters; tunes
nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from zotune import files
from zotune.config import RunConfig
from zotune.errors import ModelError, RunFolderError
from zotune.models import adapters, saving
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.runs.frozen_weights import check_loaded
from zotune.runs.model_source import load_recorded
from zotune.runs.recorded import read_header
from zotune.runs.run_directory import CONFIG, JOURNAL, check_files
from zotune.search.journal import Journal
from zotune.yaml_file import read_yaml


def export(run: str | Path, output: str | Path, *, merge: bool = False, dtype: str = "auto") -> Path:
    """Write the model of a run directory or of an adapter to a new or empty folder.

    merge: write LoRA into its base model, which then loads without peft; of a run with --quantize into the weights
    before they were quantised. Raises ModelError, and RunFolderError where the weights that were not tuned, such as an
    adapter's base model, are not those of the run.
    """
    folder, target = Path(run), Path(output)
    check_files(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such run directory")
    check_free(target)
    config = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    model = find_model(str(folder), str(config.get("head") or "auto"))
    if merge and model.adapter is None:
        raise ModelError(f"{folder} holds no adapter to merge; its weights are complete", hint="leave out --merge")
    loaded = load_recorded(RunConfig(device="cpu", dtype=dtype), model, read_header(folder))
    if (folder / JOURNAL).is_file():
        check_loaded(loaded.model, Journal.open(folder / JOURNAL, read_only=True).header, str(folder))
    if merge:
        adapters.merge(loaded)
    return write(loaded, target)


def check_free(target: Path) -> None:
    """Raises RunFolderError unless a folder is new or empty."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunFolderError(f"{target} exists already", hint="name a new folder")


def write(loaded: LoadedModel, target: Path) -> Path:
    """Save a model to a new or empty folder; all files appear at once. Raises ZotuneError where the disk is full."""
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
    """Save a model into a folder that holds other files; returns the checksum of each written file by name. A kill
    leaves each file old or new, never torn. Raises ZotuneError where the disk is full."""
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
    except Exception as error:  # tokenizers raises a bare Exception where the disk is full
        if type(error) is not Exception:
            raise
        raise OSError(0, str(error)) from error


__all__ = ["check_free", "export", "place", "write"]
