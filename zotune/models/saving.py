"""Saves models under the file names that `from_pretrained` and sentence-transformers read.

Knows files; knows no run directory.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from zotune.models.library_calls import quiet
from zotune.models.loaded_model import LoadedModel


def save(loaded: LoadedModel, folder: Path) -> None:
    """Write the model or its adapter, its tokenizer, and the pooling files of a sentence encoder into a folder."""
    with quiet():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        if not (folder / "config.json").exists() and (
            loaded.head == "classification" or loaded.linear_head is not None
        ):
            loaded.unwrapped.config.save_pretrained(folder)  # an adapter's own files do not name its classes
    for name, path in loaded.encoder.files.items():  # transformers does not save them
        if name != "config.json":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)


__all__ = ["save"]
