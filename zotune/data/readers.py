"""Data files to records: jsonl, json, csv, tsv and parquet, also compressed with gzip.

The content decides between JSON lines, a JSON list and an object of splits, not the file's suffix. Every error is a
DataError of one line that names the file and the line or record. Knows file formats; knows no task.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zotune.data.file_text import PARQUET_MARK, decode, read_bytes
from zotune.data.records import PlacedRecord, Record, place_of
from zotune.errors import DataError
from zotune.text import one_line

_PLAIN = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
SUFFIXES = (*_PLAIN, ".jsonl.gz", ".ndjson.gz", ".json.gz", ".csv.gz", ".tsv.gz")

SPLIT_NAMES = {
    "validation": ("validation", "validation_matched", "valid", "val", "dev", "eval"),
    "test": ("test",),
    "train": ("train",),
}
"""Split → names that files and hub data sets use for it, the first present is taken."""

_ALL_SPLIT_NAMES = {name for names in SPLIT_NAMES.values() for name in names}
_HALF_PAIR = "\\ud"
"""How JSON begins the escape of half of a surrogate pair, in lower case."""


@dataclass(frozen=True)
class DataFile:
    """The content of a file.

    splits: records by split name; a file without splits has one, `train`. notes: what the user should know about how
    the file was read, a sentence each.
    """

    splits: dict[str, list[Record]]
    notes: tuple[str, ...] = ()


def data_suffix(name: str) -> str:
    """The suffix of a data file's name, such as .csv or .csv.gz; "" where the name is no data file's."""
    return max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")


def path_type(path: Path) -> Literal["file", "folder", "other", "missing"]:
    """What is at a path. Raises DataError where the operating system refuses to tell."""
    try:
        if not path.exists():
            return "missing"
        return "file" if path.is_file() else "folder" if path.is_dir() else "other"
    except OSError as error:
        raise DataError(f"{str(path)[:200]} cannot be read: {error.strerror or error}") from None


def read_file(path: Path) -> list[Record]:
    """All records of a file without splits, in its order. Raises DataError with the line or record number, and for a
    file with several splits."""
    splits = read_data_file(path).splits
    if len(splits) > 1:
        raise DataError(
            f"{path} has the splits {', '.join(splits)} where one list of records is needed", hint=f"--dataset {path}"
        )
    return next(iter(splits.values()))


def read_data_file(path: Path) -> DataFile:
    """The content of one file. Raises DataError with the line or record number."""
    suffix = data_suffix(path.name).removesuffix(".gz")
    if not suffix:
        raise DataError(f"{path}: unknown file type {path.suffix!r}", hint=f"file types: {', '.join(_PLAIN)}, and .gz")
    notes: list[str] = []
    try:
        raw = b"" if suffix == ".parquet" else read_bytes(path)
        if suffix == ".parquet" or raw.startswith(PARQUET_MARK):
            splits = {"train": _read_parquet(path)}
        else:
            text = decode(path, raw)
            if suffix in (".csv", ".tsv"):
                splits = {"train": _read_table(path, text, "\t" if suffix == ".tsv" else ",", notes)}
            else:
                splits = _read_json(path, text, suffix == ".json")
                if _HALF_PAIR in text.lower():
                    _replace_half_pairs(path, splits, notes)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or reason_of(error)}") from None
    splits = {name: records for name, records in splits.items() if records}
    if not splits:
        raise DataError(f"{path} has no records")
    return DataFile(splits, tuple(notes))


def reason_of(error: BaseException) -> str:
    """A library's error message on one line of at most 300 characters, or the error's type where it has no message."""
    return one_line(str(error), 300) or type(error).__name__


# JSON


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} occurs twice in one object")
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


def _parsed(place: str, text: str) -> Any:
    """The value of a JSON text. place: named in errors. Raises DataError."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise DataError(f"{place}: nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{place}: broken JSON: {error}") from None


def _read_json(path: Path, text: str, whole: bool) -> dict[str, list[Record]]:
    """Records by split name, of JSON lines, a list, objects one after another, or an object of lists.

    whole: whether the suffix promises one JSON value, which decides what a broken file's error says.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        return {"train": []}
    if text.lstrip().startswith("[") and (whole or not _is_value(lines[0][1]) or len(lines) == 1):
        return {"train": _objects(_parsed(str(path), text), f"{path}, record")}
    if not _is_value(lines[0][1]):
        try:
            values = list(_values(text))
        except RecursionError:
            raise DataError(f"{path}: nested too deeply") from None
        except ValueError as error:
            if whole or "occurs twice" in str(error):
                raise DataError(f"{path}: broken JSON: {error}") from None
            values = [_parsed(f"{path}, line {number}", line) for number, line in lines]  # raises with the line
        if len(values) > 1:
            return {"train": _objects(values, f"{path}, record")}
        value = values[0]
    elif len(lines) > 1:
        return {"train": [_object(_parsed(f"{path}, line {n}", line), f"{path}, line", n) for n, line in lines]}
    else:
        value = _parsed(str(path) if whole else f"{path}, line {lines[0][0]}", lines[0][1])
    splits = _splits_in(path, value)
    if splits is not None:
        return splits
    if whole:
        _refuse_value(path, value)
    return {"train": [_object(value, f"{path}, line", lines[0][0])]}


def _is_value(text: str) -> bool:
    """Whether a text is a whole JSON value."""
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _values(text: str) -> Iterator[Any]:
    """JSON values that follow one another, with white space or nothing between. Raises ValueError."""
    position, end = 0, len(text.rstrip())
    while position < end:
        while text[position].isspace():
            position += 1
        value, position = _DECODER.raw_decode(text, position)
        yield value


def _splits_in(path: Path, value: Any) -> dict[str, list[Record]] | None:
    """The splits of an object such as {"train": […], "test": […]} or {"data": […]}; None for another value."""
    if not isinstance(value, dict) or not value:
        return None
    lists = {name: v for name, v in value.items() if isinstance(v, list)}
    if set(value) == set(lists) and {name.lower() for name in value} <= _ALL_SPLIT_NAMES:
        return {name: _objects(records, f"{path}, {name} record") for name, records in lists.items()}
    if "data" in lists and (len(value) == 1 or all(isinstance(v, dict) for v in lists["data"])):
        return {"train": _objects(lists["data"], f"{path}, record")}
    return None


def _refuse_value(path: Path, value: Any) -> None:
    """Raises DataError that says what a JSON file holds instead of records."""
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a list of records, got {type(value).__name__}")
    names = ", ".join(list(value)[:8])
    if value and all(isinstance(column, list | dict) for column in value.values()):
        raise DataError(
            f"{path} must hold a list of records, got an object of columns: {names}",
            hint="with pandas: frame.to_json(path, orient='records', lines=True)",
        )
    raise DataError(
        f"{path} must hold a list of records, got an object with the keys {names or 'none'}",
        hint="a JSON list, one object a line, or an object of splits {'train': […], 'test': […]}",
    )


def _object(value: Any, where: str, number: int) -> Record:
    if not isinstance(value, dict):
        raise DataError(f"{where} {number}: a record must be an object, got {type(value).__name__}")
    return PlacedRecord(value, where, number)


def _objects(values: Iterable[Any], where: str) -> list[Record]:
    return [_object(value, where, number) for number, value in enumerate(values, 1)]


def _replace_half_pairs(path: Path, splits: dict[str, list[Record]], notes: list[str]) -> None:
    """Halves of surrogate pairs, which no encoding and no tokenizer has, become U+FFFD."""
    changed: list[str] = []
    for records in splits.values():
        for index, record in enumerate(records):
            clean = _map_texts(record, _without_half_pairs)
            if clean != record:
                assert isinstance(record, PlacedRecord)
                records[index] = PlacedRecord(clean, record.where, record.number)
                changed.append(place_of(record, "").removeprefix(f"{path}, "))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        notes.append(f"{path}: half of a surrogate pair is read as U+FFFD in {', '.join(changed[:3])}{more}")


def _without_half_pairs(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text, key or value, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_texts(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _map_texts(item, change) for key, item in value.items()}
    return value


# Tables


def _read_table(path: Path, text: str, delimiter: str, notes: list[str]) -> list[Record]:
    """The first line holds the column names. TSV has no quoting: each line is a record."""
    first = text.lstrip("\r\n").partition("\n")[0]
    if delimiter not in first:
        other = next((d for d in ("\t", ",", ";") if d != delimiter and d in first), None)
        if other is not None:
            names = {"\t": "tabs", ",": "commas", ";": "semicolons"}
            notes.append(f"{path} is separated by {names[other]}")
            delimiter = other
    rows = (
        _tsv_rows(path, text, notes) if delimiter == "\t" and path.name.lower().endswith((".tsv", ".tsv.gz")) else None
    )
    return _table_records(path, rows if rows is not None else _csv_rows(path, text, delimiter), notes)


def _csv_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each row."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the module's own limit is 131,072 characters
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _tsv_rows(path: Path, text: str, notes: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each row. Quotation marks are text."""
    quoted = 0
    for number, line in enumerate(text.split("\n" if "\n" in text else "\r"), 1):
        cells = line.removesuffix("\r").split("\t") if line.strip("\r") else []
        quoted += any(len(c) > 1 and c[0] == c[-1] == '"' for c in cells)
        yield number, cells
    if quoted:
        notes.append(f"{path}: quotation marks around cells are part of the text in {quoted} lines: TSV has no quoting")


def _table_records(path: Path, rows: Iterator[tuple[int, list[str]]], notes: list[str]) -> list[Record]:
    header: list[str] | None = None
    records: list[Record] = []
    empty = 0
    for number, cells in rows:
        if not cells:
            continue
        if header is None:
            header = [name.strip() for name in cells]
            if len(set(header)) != len(header):
                raise DataError(f"{path}, line {number}: a column name occurs twice: {', '.join(header)}")
        elif len(header) > 1 and not any(cell.strip() for cell in cells):
            empty += 1
        elif len(cells) != len(header):
            raise DataError(f"{path}, line {number}: {len(cells)} cells where the header has {len(header)} columns")
        else:
            records.append(PlacedRecord(dict(zip(header, cells, strict=True)), f"{path}, line", number))
    if empty:
        notes.append(f"{path}: {empty} rows have only empty cells and are left out")
    return records


# Parquet


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
            records = [PlacedRecord(r, f"{path}, record", n) for n, r in enumerate(table.to_pylist(), 1)]
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path}: broken parquet: {reason_of(error)}") from None
    return [*records]


__all__ = [
    "SPLIT_NAMES",
    "SUFFIXES",
    "DataFile",
    "data_suffix",
    "path_type",
    "read_data_file",
    "read_file",
    "reason_of",
]
