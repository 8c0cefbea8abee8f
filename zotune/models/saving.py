"""Saves models under the file names that `from_pretrained` and sentence-transformers read.

Knows files; knows no run directory.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from zotune.models.library_calls import quiet
from zotune.models.loaded_model import LoadedModel

SENTENCE_ENCODER_FILES = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling",
)
"""Files and folders of sentence-transformers, which transformers does not save."""


def save(loaded: LoadedModel, folder: Path) -> None:
    """Write the model or its adapter, its tokenizer, and the pooling files of a sentence encoder into a folder."""
    with quiet():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    for name in SENTENCE_ENCODER_FILES:
        origin = loaded.folder / name if loaded.folder else None
        if origin and origin.is_dir():
            shutil.copytree(origin, folder / name, dirs_exist_ok=True)
        elif origin and origin.is_file():
            shutil.copyfile(origin, folder / name)


__all__ = ["save"]
