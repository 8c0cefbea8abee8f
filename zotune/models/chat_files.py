"""Whether a model has a chat template, from its small files, before any weight is loaded.

Knows files and tokenizers; knows no task.
"""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Final

from zotune.models.configuration import config_value
from zotune.models.gguf_files import gguf_options, gguf_path, is_gguf
from zotune.models.loading import load_tokenizer
from zotune.models.memory_model import lent_model
from zotune.models.model_files import ModelFiles

TEMPLATES: Final = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
SETTINGS: Final = ("tokenizer_config.json", "processor_config.json")
"""Files that may hold a template under the key `chat_template`."""
GGUF_KEY: Final = b"tokenizer.chat_template"
GGUF_METADATA: Final = 2**28
"""Bytes of a GGUF file that are searched: its metadata stand before the weights."""


def has_chat_template(files: ModelFiles, trust_remote_code: bool = False) -> bool:
    """Whether the tokenizer has a chat template. Loads the tokenizer where the files show none, which decides. Raises
    ModelError for a tokenizer that cannot be loaded."""
    if lent := lent_model(files.source):
        return bool(config_value(lent.tokenizer, "chat_template"))
    if is_gguf(files.source):
        path = gguf_path(files.source, files.revision)
        if path is not None and _in_metadata(path):
            return True
    elif any(_in_folder(folder) for folder in (files.folder, files.adapter) if folder is not None):
        return True
    place, gguf = gguf_options(files.source)
    options = {"trust_remote_code": trust_remote_code, "revision": files.revision or "main", **gguf}
    return bool(config_value(load_tokenizer(files.source, place, options), "chat_template"))


def _in_folder(folder: Path) -> bool:
    return any((folder / name).exists() for name in TEMPLATES) or any(_in_settings(folder / name) for name in SETTINGS)


def _in_settings(path: Path) -> bool:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and bool(values.get("chat_template"))


def _in_metadata(path: Path) -> bool:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(GGUF_KEY, 0, GGUF_METADATA) >= 0
    except (OSError, ValueError):
        return False


__all__ = ["has_chat_template"]
