"""Files to records: jsonl, json, csv and tsv, as one file or a folder with a file for each split.

A record is a dict. Everything that is wrong with a file is a DataError that names the file and the line, before any
model is loaded. Held-out rows come in two disjoint parts: `select` chooses the best weights, `judge` scores them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zotune.errors import DataError, nearest
from zotune.keys import derive

Record = dict[str, Any]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_ALIASES = {"validation": ("validation", "valid", "val", "dev", "eval"), "test": ("test",), "train": ("train",)}
HELD_OUT_SHARE, HELD_OUT_LEAST = 0.2, 100


@dataclass(frozen=True)
class Splits:
    """Training rows, and the two held-out parts.

    note: what was held out, in words for the user; digest: a hash of all rows.
    """

    train: list[Record]
    select: list[Record]
    judge: list[Record]
    note: str
    digest: str


def read_file(path: Path) -> list[Record]:
    """All records of one file. Raises DataError with the line number."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file {suffix!r}", hint=f"known: {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    if suffix in (".csv", ".tsv"):
        rows = _read_table(path, text, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".json":
        rows = _read_json(path, text)
    else:
        rows = _read_lines(path, text)
    if not rows:
        raise DataError(f"{path} holds no records")
    return rows


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


def read(source: str | Path) -> dict[str, list[Record]]:
    """Records by split name: a folder's `train`, `validation` (or valid, val, dev, eval) and `test` files, or one file
    as "train". Raises DataError."""
    path = Path(source)
    if path.is_file():
        return {"train": read_file(path)}
    if not path.exists():
        raise DataError(f"{source}: no such file or folder")
    files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)
    out: dict[str, list[Record]] = {}
    for split, names in _ALIASES.items():
        for name in names:
            found = [p for p in files if p.stem.lower() == name]
            if len(found) > 1:
                raise DataError(f"{path} has more than one {name} file: {', '.join(p.name for p in found)}")
            if found and split not in out:
                out[split] = read_file(found[0])
    for p in files:
        if not any(p.stem.lower() in names for names in _ALIASES.values()):
            out.setdefault(p.stem, read_file(p))
    if not out:
        raise DataError(f"{path} holds no data file", hint=f"expected train{'|train'.join(SUFFIXES)}")
    return out


def rename(rows: list[Record], columns: Mapping[str, str]) -> list[Record]:
    """Apply `--column wanted=found`: the column `found` is also known as `wanted`. Raises DataError."""
    for wanted, found in columns.items():
        for number, row in enumerate(rows, 1):
            if found not in row:
                raise DataError(
                    f"--column {wanted}={found}: record {number} has no column {found!r}; {columns_of(rows)}"
                )
    return [{**row, **{wanted: row[found] for wanted, found in columns.items()}} for row in rows]


def columns_of(rows: Sequence[Record]) -> str:
    names: dict[str, None] = {}
    for row in rows[:1000]:
        names.update(dict.fromkeys(row))
    return "columns found: " + (", ".join(names) if names else "none")


def split(
    source: str | Path,
    *,
    seed: int,
    columns: Mapping[str, str] | None = None,
    train_split: str = "train",
    eval_split: str | None = None,
    test_split: str | None = None,
    limit: int | None = None,
) -> Splits:
    """Training, selection and judging rows.

    With a validation and a test split, validation selects and test judges. With one of them, its seeded halves do. With
    none, a fifth of the rows (at least 100, at most half) is held out and halved. `limit` keeps the first rows of a
    seeded shuffle of the training rows. Raises DataError.
    """
    found = {name: rename(rows, columns or {}) for name, rows in read(source).items()}

    def pick(name: str) -> list[Record]:
        if name not in found:
            raise DataError(f"{source} has no split {name!r}", hint=nearest(name, found))
        return found[name]

    if len(found) == 1 and train_split not in found and train_split == "train":
        train = next(iter(found.values()))
    else:
        train = pick(train_split)
    validation = pick(eval_split) if eval_split else found.get("validation")
    test = pick(test_split) if test_split else found.get("test")
    if validation is train or test is train:
        raise DataError(f"{source}: the training rows cannot also be held out; name another --eval-split")
    train = list(train)
    if validation is None and test is None:
        if len(train) < 4:
            raise DataError(f"{source} has {len(train)} records; at least 4 are needed to hold some out")
        order = _shuffled(len(train), seed, "hold-out")
        held = min(max(round(len(train) * HELD_OUT_SHARE), HELD_OUT_LEAST), len(train) // 2)
        rows = [train[i] for i in order[:held]]
        train = [train[i] for i in sorted(order[held:])]
        select, judge = rows[: held // 2], rows[held // 2 :]
        note = f"{held} of {held + len(train)} rows held out: {len(select)} select the best weights, {len(judge)} judge"
    elif validation is not None and test is not None:
        select, judge = validation, test
        note = f"{len(select)} validation rows select the best weights, {len(judge)} test rows judge"
    else:
        rows = validation if validation is not None else test or []
        if len(rows) < 2:
            raise DataError(f"{source}: {len(rows)} held-out record is too few; at least 2 are needed")
        order = _shuffled(len(rows), seed, "halves")
        half = len(rows) // 2
        select, judge = [rows[i] for i in order[:half]], [rows[i] for i in order[half:]]
        note = f"{len(rows)} held-out rows: {len(select)} select the best weights, {len(judge)} judge"
    if limit is not None and limit < len(train):
        train = [train[i] for i in sorted(_shuffled(len(train), seed, "limit")[:limit])]
    h = hashlib.blake2b(digest_size=16)
    for part in (train, select, judge):
        h.update(json.dumps(part, ensure_ascii=False, default=str).encode())
    return Splits(train, select, judge, note, h.hexdigest())


def _shuffled(n: int, seed: int, purpose: str) -> list[int]:
    order = list(range(n))
    random.Random(derive(seed, purpose)).shuffle(order)
    return order


__all__ = ["Record", "Splits", "columns_of", "read", "read_file", "rename", "split"]
