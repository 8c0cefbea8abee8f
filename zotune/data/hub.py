"""Hub data sets to records, read by the `datasets` library.

Reading never runs code that came with the data. Knows hub ids and the hub's customs for labels; knows no task.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zotune.data.readers import SUFFIXES, path_type, reason_of
from zotune.data.records import Record
from zotune.errors import DataError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FIRST_WITHOUT_SCRIPTS = 4
"""From this major version on `datasets` cannot run a data set's own script, whatever its settings are."""


@dataclass(frozen=True)
class HubDataset:
    """The usable splits of a hub data set.

    splits: records by split name; left_out: split name → why it is not usable; notes: what was left out of the usable
    splits, in words.
    """

    splits: dict[str, list[Record]]
    left_out: dict[str, str]
    notes: tuple[str, ...] = ()


def looks_like_hub_id(source: str) -> bool:
    """Whether a text reads as `name`, `owner/name` or either with `:config`, and not as a path."""
    name, colon, config = source.partition(":")
    if name.lower().endswith(SUFFIXES) or source.lower().endswith(SUFFIXES) or source.count("/") > 1 or "\\" in source:
        return False
    return _HUB_NAME.fullmatch(name) is not None and (not colon or re.fullmatch(r"[^\s:]+", config) is not None)


def read_hub(source: str, label: str) -> HubDataset:
    """All splits of the hub data set `source`, `owner/name` or `owner/name:config`.

    Each column `c` of class numbers gets a column `c_text` with the class names; for the column `label` it is also
    called `label_text`. Left out are splits without records, splits with hidden labels, and records without a class.
    Raises DataError.
    """
    missing = f"{source}: no such file or folder"
    name, _, config = source.partition(":")
    if path_type(Path(name)) != "missing":  # `datasets` would read this path as well
        raise DataError(f"{missing}; {name} exists, but only a hub data set has a configuration {config!r}")
    try:
        import datasets
        from datasets import ClassLabel, load_dataset
    except ImportError:
        raise DataError(
            f"{missing}; reading it from the hub needs the datasets library", hint="pip install 'zotune[hub]'"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < _FIRST_WITHOUT_SCRIPTS:
        raise DataError(
            f"{missing}; reading it from the hub needs datasets {_FIRST_WITHOUT_SCRIPTS} or newer, "
            f"found {datasets.__version__}",
            hint="pip install -U 'zotune[hub]'",
        )
    if _is_builder(name):
        raise DataError(f"{missing}, and {name!r} is a file format of the datasets library, not a hub data set")
    try:
        loaded = load_dataset(name, config or None, revision=None)
        parts = {str(split): (part.features, part.to_list()) for split, part in loaded.items()}
    except Exception as error:  # the library, its network and its file formats raise all kinds
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        if offline and (isinstance(error, OSError) or "find cache" in str(error)):
            raise DataError(
                f"{missing}, and no hub data set of this name is in the cache; HF_HUB_OFFLINE forbids downloading it"
            ) from error
        hint = f"{name}:CONFIG" if "config name" in str(error).lower() else ""
        reason = reason_of(error) + (f": {reason_of(error.__cause__)}" if error.__cause__ else "")
        raise DataError(f"{missing}, and the hub returns no such data set: {reason}", hint=hint) from error
    return _usable(parts, label, ClassLabel)


def named_classes(part: Any) -> list[Record]:
    """The records of a `datasets.Dataset`, with the names of classes beside their numbers, as `read_hub` gives them."""
    from datasets import ClassLabel

    return _usable({"train": (part.features, part.to_list())}, "label", ClassLabel).splits.get("train", [])


def _is_builder(name: str) -> bool:
    """Whether `datasets` takes this name for one of its file formats (json, text, …), whose files it would read from
    the working directory."""
    try:
        return "/" not in name and importlib.util.find_spec(f"datasets.packaged_modules.{name}") is not None
    except ImportError:
        return False


def _usable(parts: dict[str, tuple[Any, list[Record]]], label: str, class_label: Any) -> HubDataset:
    """parts: split name → (features, records)."""
    left_out = {split: "it has no records" for split, (_, records) in parts.items() if not records}
    # Hidden labels are -1 by the hub's custom. Where no split has any label, the column is not the task's.
    hidden = [s for s, (_, records) in parts.items() if records and all(_has_no_label(r, label) for r in records)]
    if len(hidden) + len(left_out) < len(parts):
        left_out.update(dict.fromkeys(hidden, "its labels are hidden (-1)"))
    splits: dict[str, list[Record]] = {}
    notes = []
    for split, (features, records) in parts.items():
        if split in left_out:
            continue
        classes = {column: list(f.names) for column, f in features.items() if isinstance(f, class_label)}
        kept = [r for r in records if split in hidden or label not in classes or not _has_no_label(r, label)]
        if len(kept) < len(records):
            notes.append(f"{len(records) - len(kept)} rows of split {split!r} left out: they have no label (-1)")
        splits[split] = [_with_class_names(record, classes, label) for record in kept]
    return HubDataset(splits, left_out, tuple(notes))


def _has_no_label(record: Record, label: str) -> bool:
    return label in record and record[label] in (None, -1)


def _with_class_names(record: Record, classes: dict[str, list[str]], label: str) -> Record:
    named = dict(record)
    for column, names in classes.items():
        value = record[column]
        text = names[value] if value is not None and 0 <= value < len(names) else None
        named.setdefault(f"{column}_text", text)
        if column == label:
            named.setdefault("label_text", text)
    return named


__all__ = ["HubDataset", "looks_like_hub_id", "named_classes", "read_hub"]
