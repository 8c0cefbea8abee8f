"""One file or one hub data set to records: jsonl, json, csv, tsv, parquet, and hub ids.

Whatever is wrong is a DataError in one line that names the file and the line or record. Knows formats; knows nothing of
splits that select or judge, and nothing of tasks. Reading never runs code that came with the data.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zotune.errors import DataError

Record = dict[str, Any]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FIRST_WITHOUT_SCRIPTS = 4
"""From this major version on `datasets` cannot run a data set's own script, whatever its settings say."""


def path_type(path: Path) -> str:
    """ "file", "folder", "other", or "" where nothing is. Raises DataError where the system does not tell."""
    try:
        if not path.exists():
            return ""
        return "file" if path.is_file() else "folder" if path.is_dir() else "other"
    except OSError as error:
        raise DataError(f"{str(path)[:200]} cannot be read: {error.strerror or error}") from None


def read_file(path: Path) -> list[Record]:
    """All records of one file. Raises DataError with the line number."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file {suffix!r}", hint=f"known: {', '.join(SUFFIXES)}")
    try:
        if suffix == ".parquet":
            rows = _read_parquet(path)
        elif suffix in (".csv", ".tsv"):
            rows = _read_table(path, _text(path), "\t" if suffix == ".tsv" else ",")
        elif suffix == ".json":
            rows = _read_json(path, _text(path))
        else:
            rows = _read_lines(path, _text(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or _line(error)}") from None
    if not rows:
        raise DataError(f"{path} holds no records")
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def _line(error: BaseException) -> str:
    """A library's message on one line of a length that can be read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _read_lines(path: Path, text: str) -> list[Record]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: broken JSON: {error}") from None
            except RecursionError:
                raise DataError(f"{path}, line {number}: nested too deeply") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: a record must be an object, got {type(row).__name__}")
            rows.append(row)
    return rows


def _read_json(path: Path, text: str) -> list[Record]:
    if not text.strip():
        return []
    try:
        data = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: broken JSON: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply") from None
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        data = data["data"]
    if not isinstance(data, list):
        raise DataError(f"{path} must hold a list of records, got {type(data).__name__}")
    for number, row in enumerate(data, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, record {number}: a record must be an object, got {type(row).__name__}")
    return data


def _read_table(path: Path, text: str, delimiter: str) -> list[Record]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Record] = []
    try:
        header = next(reader, None)
        if header is None:
            return []
        if len(set(header)) != len(header):
            raise DataError(f"{path}, line 1: a column name occurs twice: {', '.join(header)}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells where the header has {len(header)} columns"
                )
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None
    return rows


def _read_parquet(path: Path) -> list[Record]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path}: reading parquet needs pyarrow", hint="pip install 'zotune[parquet]'") from None
    # Opened here and not by name: pyarrow would read columns out of folder names such as label=1.
    with path.open("rb") as file:
        try:
            table = ParquetFile(file).read()
            names = table.column_names
            if len(set(names)) != len(names):
                raise DataError(f"{path}: a column name occurs twice: {', '.join(names)}")
            rows: list[Record] = table.to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path}: broken parquet: {_line(error)}") from None
    return rows


@dataclass(frozen=True)
class HubDataset:
    """A hub data set's usable splits; left_out: split → why it is none of them; notes: rows that were left out."""

    splits: dict[str, list[Record]]
    left_out: dict[str, str]
    notes: tuple[str, ...] = ()


def looks_like_hub_id(spec: str) -> bool:
    """Whether `spec` reads as `name`, `owner/name` or either with `:config`, and not as a path."""
    name, colon, config = spec.partition(":")
    if name.lower().endswith(SUFFIXES) or spec.lower().endswith(SUFFIXES) or spec.count("/") > 1 or "\\" in spec:
        return False
    return _HUB_NAME.fullmatch(name) is not None and (not colon or re.fullmatch(r"[^\s:]+", config) is not None)


def read_hub(spec: str, label: str) -> HubDataset:
    """All splits of the hub data set `spec`.

    A column of class numbers `c` gets a companion `c_text` with their names; that of the label column is `label_text`,
    too. Left out are splits without records, splits whose labels are hidden, and rows without a class. Raises
    DataError.
    """
    missing = f"{spec}: no such file or folder"
    name, _, config = spec.partition(":")
    if path_type(Path(name)):  # the library, too, would read what is here
        raise DataError(f"{missing}; there is {name}, but only a hub data set has a configuration {config!r}")
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
        raise DataError(f"{missing}, and for the hub {name!r} is a kind of file, not a data set")
    try:
        loaded = load_dataset(name, config or None, revision=None)
        found = {str(split): (part.features, part.to_list()) for split, part in loaded.items()}
    except Exception as error:  # the library, its network and its file formats raise all kinds
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        if offline and (isinstance(error, OSError) or "find cache" in str(error)):
            raise DataError(
                f"{missing}, and as a hub data set it is not in the cache; HF_HUB_OFFLINE forbids fetching it"
            ) from error
        hint = f"{name}:CONFIG" if "config name" in str(error).lower() else ""
        reason = _line(error) + (f": {_line(error.__cause__)}" if error.__cause__ else "")
        raise DataError(f"{missing}, and the hub gives no such data set: {reason}", hint=hint) from error
    return _named(found, label, ClassLabel)


def _is_builder(name: str) -> bool:
    """Whether `datasets` takes this name for one of its own builders (json, text, …), which would read the files of the
    working folder."""
    try:
        return "/" not in name and importlib.util.find_spec(f"datasets.packaged_modules.{name}") is not None
    except ImportError:
        return False


def _named(found: dict[str, tuple[Any, list[Record]]], label: str, class_label: Any) -> HubDataset:
    left_out = {split: "it holds no records" for split, (_, rows) in found.items() if not rows}
    # Hidden labels are -1 by the hub's custom. Where no split has any label, the column is not the task's.
    hidden = [s for s, (_, rows) in found.items() if rows and all(_unlabelled(row, label) for row in rows)]
    if len(hidden) + len(left_out) < len(found):
        left_out.update(dict.fromkeys(hidden, "its labels are hidden (-1)"))
    splits: dict[str, list[Record]] = {}
    notes = []
    for split, (features, rows) in found.items():
        if split in left_out:
            continue
        classes = {column: list(f.names) for column, f in features.items() if isinstance(f, class_label)}
        kept = [row for row in rows if split in hidden or label not in classes or not _unlabelled(row, label)]
        if len(kept) < len(rows):
            notes.append(f"{len(rows) - len(kept)} rows of split {split!r} left out: they have no label (-1)")
        splits[split] = [_with_names(row, classes, label) for row in kept]
    return HubDataset(splits, left_out, tuple(notes))


def _unlabelled(row: Record, label: str) -> bool:
    return label in row and row[label] in (None, -1)


def _with_names(row: Record, classes: dict[str, list[str]], label: str) -> Record:
    out = dict(row)
    for column, names in classes.items():
        value = row[column]
        text = names[value] if value is not None and 0 <= value < len(names) else None
        out.setdefault(f"{column}_text", text)
        if column == label:
            out.setdefault("label_text", text)
    return out


__all__ = ["SUFFIXES", "HubDataset", "Record", "looks_like_hub_id", "path_type", "read_file", "read_hub"]
