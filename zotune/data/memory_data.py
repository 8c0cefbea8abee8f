"""Data that the user holds in memory, written to files that every later command reads again.

Lists of records, `datasets.Dataset` and `DatasetDict`, pandas frames, and mappings from the names of splits to these.
Knows how such objects become records; imports neither datasets nor pandas.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from zotune import declarations, files
from zotune.data.hub import named_classes
from zotune.data.records import Record
from zotune.errors import DataError


class Table(Protocol):
    """A pandas frame."""

    @property
    def columns(self) -> Any: ...


class HubData(Protocol):
    """A `datasets.Dataset`."""

    @property
    def column_names(self) -> Any: ...


Rows = Sequence[Mapping[str, Any]] | Table | HubData
Data = Rows | Mapping[str, Rows] | str | Path
"""Records, the records of several splits by name, or a path."""


def write(data: Rows | Mapping[str, Rows], folder: Path) -> Path:
    """Write a file `<split>.jsonl` for each split into a folder, which is created; a single set is the split "train".
    Raises DataError for what holds no records."""
    splits = {str(name): rows for name, rows in data.items()} if isinstance(data, Mapping) else {"train": data}
    if not splits:
        raise DataError("data is an empty mapping")
    several = isinstance(data, Mapping)
    texts = {name: _lines(rows, f"data[{name!r}]" if several else "data") for name, rows in splits.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if not name or "/" in name or name.startswith("."):
            raise DataError(f"data has a split named {name!r}")
        files.write(folder / f"{name}.jsonl", text)
    return folder


def named(message: str, folder: Path, several: bool) -> str:
    """An error message about the files of `folder`, with the names that the user's own objects have. several: whether
    the data are a mapping of splits."""
    name = r"data['\1']" if several else "data"
    return re.sub(rf"{re.escape(str(folder))}/([^/,]+)\.jsonl, line (\d+)", rf"{name}, record \2", message)


def _lines(rows: Any, what: str) -> str:
    """JSON lines of the records of a split."""
    records = _records(rows, what)
    if not records:
        raise DataError(f"{what} has no records")
    try:
        return "".join(json.dumps({str(k): _plain(v) for k, v in r.items()}, allow_nan=False) + "\n" for r in records)
    except (TypeError, ValueError):
        number, column, value = next(_not_json(records))
        raise DataError(
            f"{what}, record {number}: column {column!r} holds a {type(value).__name__}, not JSON"
        ) from None


def _records(rows: Any, what: str) -> list[Record]:
    kind = type(rows).__module__.partition(".")[0]
    if kind == "pandas":
        found: list[Record] = rows.to_dict(orient="records")
        return found
    if kind == "datasets":
        return named_classes(rows)
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise DataError(
            f"{what} is a {type(rows).__name__}",
            hint="a list of records, a datasets.Dataset, a pandas frame, or a mapping from splits to these",
        )
    records = list(rows)
    for number, record in enumerate(records, 1):
        if not isinstance(record, Mapping):
            raise DataError(f"{what}, record {number}: a record must be a mapping, got {type(record).__name__}")
    return [dict(record) for record in records]


def _plain(value: Any) -> Any:
    """A value as JSON: numbers and arrays of numpy as Python's own, a missing number as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    value = declarations.plain(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def _not_json(records: Sequence[Record]) -> Iterator[tuple[int, str, Any]]:
    for number, record in enumerate(records, 1):
        for column, value in record.items():
            try:
                json.dumps(_plain(value), allow_nan=False)
            except (TypeError, ValueError):
                yield number, column, value


__all__ = ["Data", "HubData", "Rows", "Table", "named", "write"]
