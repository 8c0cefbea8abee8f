"""Class names of a model's own head, read from its small files and the headers of its weights.

Knows configuration files and tensor names; loads no weights and knows no labels of data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from zotune.models.loaded_model import LINEAR_HEAD
from zotune.models.model_files import ModelFiles, saved_config

HEAD_TENSOR = re.compile(
    r"(?:^|\.)(?:classifier|score|classification_head|logits_proj|sequence_summary|pre_classifier)\."
)
"""Names of the tensors of transformers' classification heads."""
LAST_LAYER = re.compile(r"(?:^|\.)(?:classifier|score|out_proj|logits_proj|linear_out)\.weight$")
"""The layer that ends such a head: its first size is the number of classes."""


def saved_class_names(files: ModelFiles) -> list[str] | None:
    """The names of the classes of the head that a model's files hold, in class order; None where they hold no head.

    Classes without a name are called LABEL_0, LABEL_1, … as in transformers. Raises ModelError.
    """
    if files.head not in ("classification", "embedding"):
        return None
    named_by = files
    if files.adapter and (files.adapter / "config.json").is_file():
        named_by = replace(files, source=str(files.adapter), folder=files.adapter)
    config = saved_config(named_by)
    names = config.get("id2label")
    named: list[str] = []
    if isinstance(names, dict):
        named = [str(names[key]) for key in sorted(names, key=lambda key: int(key) if str(key).isdecimal() else -1)]
    if files.head == "embedding":
        size = _linear_head_size(files)
        return None if size is None else _fitting(named, size)
    if files.adapter and (size := _last_layer_size(files.adapter)) is not None:  # the adapter's own copy of the head
        return _fitting(named, size)
    own = any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())
    if not own or (files.folder is not None and not _has_head(files.folder)):
        return None
    return named or _fitting(named, int(config.get("num_labels") or 2))


def _fitting(named: list[str], size: int) -> list[str]:
    return named if len(named) == size else [f"LABEL_{number}" for number in range(size)]


def _has_head(folder: Path) -> bool:
    """Whether some tensor is a head's. Pickle files are not read: config.json decides there."""
    names = [name for name, _ in _shapes(folder)]
    return not names or any(HEAD_TENSOR.search(name) for name in names)


def _linear_head_size(files: ModelFiles) -> int | None:
    for folder in filter(None, (files.adapter, files.folder)):
        for name, shape in _shapes(folder):
            if name.split(".")[-2:] == [LINEAR_HEAD, "weight"]:
                return shape[0]
    return None


def _last_layer_size(adapter: Path) -> int | None:
    sizes = [
        shape[0]
        for name, shape in _shapes(adapter)
        if LAST_LAYER.search(name) and HEAD_TENSOR.search(name) and "lora_" not in name
    ]
    return sizes[-1] if sizes else None


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """The names and shapes of the tensors in a folder's safetensors files, from their headers."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, list(file.get_slice(name).get_shape())
        except (SafetensorError, OSError):  # loading the weights says what is wrong with the file
            continue


__all__ = ["saved_class_names"]
