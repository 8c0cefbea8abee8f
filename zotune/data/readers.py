"""Data files to records: jsonl, json, csv, tsv and parquet.

Every error is a DataError of one line that names the file and the line or record. Knows file formats; knows no splits
and no task.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Literal

from zotune.data.records import Record
from zotune.errors import DataError
from zotune.text import one_line

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def path_type(path: Path) -> Literal["file", "folder", "other", "missing"]:
    """What is at a path. Raises DataError where the operating system refuses to tell."""
    try:
        if not path.exists():
            return "missing"
        return "file" if path.is_file() else "folder" if path.is_dir() else "other"
    except OSError as error:
        raise DataError(f"{str(path)[:200]} cannot be read: {error.strerror or error}") from None


def read_file(path: Path) -> list[Record]:
    """All records of one file, in its order. Raises DataError with the line or record number."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown file type {suffix!r}", hint=f"file types: {', '.join(SUFFIXES)}")
    try:
        if suffix == ".parquet":
            records = _read_parquet(path)
        elif suffix in (".csv", ".tsv"):
            records = _read_table(path, _read_text(path), "\t" if suffix == ".tsv" else ",")
        elif suffix == ".json":
            records = _read_json(path, _read_text(path))
        else:
            records = _read_lines(path, _read_text(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or reason_of(error)}") from None
    if not records:
        raise DataError(f"{path} has no records")
    return records


def reason_of(error: BaseException) -> str:
    """A library's error message on one line of at most 300 characters, or the error's type where it has no message."""
    return one_line(str(error), 300) or type(error).__name__


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def _read_lines(path: Path, text: str) -> list[Record]:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: broken JSON: {error}") from None
            except RecursionError:
                raise DataError(f"{path}, line {number}: nested too deeply") from None
            if not isinstance(record, dict):
                raise DataError(f"{path}, line {number}: a record must be an object, got {type(record).__name__}")
            records.append(record)
    return records


def _read_json(path: Path, text: str) -> list[Record]:
    """A list of objects, or an object whose `data` is such a list."""
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
    for number, record in enumerate(data, 1):
        if not isinstance(record, dict):
            raise DataError(f"{path}, record {number}: a record must be an object, got {type(record).__name__}")
    return data


def _read_table(path: Path, text: str, delimiter: str) -> list[Record]:
    """The first line holds the column names."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[Record] = []
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
            records.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None
    return records


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
            records: list[Record] = table.to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path}: broken parquet: {reason_of(error)}") from None
    return records


__all__ = ["SUFFIXES", "path_type", "read_file", "reason_of"]
