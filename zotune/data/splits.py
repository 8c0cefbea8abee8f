"""Records to training rows and held-out rows: from a file, a folder with a file for each split, or a hub id.

A record is a dict. Everything that is wrong with the data is a DataError that names the file and the line or record,
before any model is loaded. Held-out rows come in two disjoint parts: `select` chooses the best weights, `judge` scores
them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zotune.data.readers import SUFFIXES as SUFFIXES
from zotune.data.readers import Record, looks_like_hub_id, path_type, read_file, read_hub
from zotune.errors import DataError, OptionError, nearest
from zotune.seeds import derive

_ALIASES = {
    "validation": ("validation", "validation_matched", "valid", "val", "dev", "eval"),
    "test": ("test",),
    "train": ("train",),
}
ROLES = ("system", "user", "assistant", "tool")
HELD_OUT_SHARE, HELD_OUT_LEAST = 0.2, 100


@dataclass(frozen=True)
class Splits:
    """Training rows, and the two held-out parts.

    note: what was held out and what was drawn, in words for the user; digest: a hash of all rows.
    """

    train: list[Record]
    validation: list[Record]
    test: list[Record]
    summary: str
    digest: str


@dataclass(frozen=True)
class DataSource:
    """What a source holds.

    splits: records by split name. also: other names of these splits (`dev` for `validation`). files: records by
    resolved path, so that one file under two names is still known as one. left_out: split → why it cannot be used.
    notes: what was left out, in words.
    """

    name: str
    splits: dict[str, list[Record]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    files: dict[Path, list[Record]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> list[Record]:
        """The records of a split, by its name or as the path of a file. The same records are the same list, however
        they are named. Raises DataError."""
        if name in self.splits or name in self.aliases:
            return self.splits[self.aliases.get(name, name)]
        if name in self.left_out:
            raise DataError(f"{self.name}: split {name!r} cannot be used: {self.left_out[name]}")
        if name.lower().endswith(SUFFIXES):
            path = _path(name)
            kind = path_type(path)
            if kind == "file":
                return self._file(path)
            said = "that is a folder, not a file" if kind == "folder" else "there is no such file"
            raise DataError(f"{self.name} has no split {name!r}, and {said}", hint=nearest(name, self.splits))
        raise DataError(f"{self.name} has no split {name!r}", hint=nearest(name, self.splits))

    def _file(self, path: Path) -> list[Record]:
        place = path.resolve()
        if place not in self.files:
            self.files[place] = normalize(read_file(path), str(path))
        return self.files[place]


def load_source(source: str | Path, *, label: str = "label") -> DataSource:
    """All splits of a source, with records in the uniform shapes of `normalize`.

    A file is "train". In a folder each file is a split by its stem, and valid, val, dev, eval and validation_matched
    count as validation. A text that names no file and looks like a hub id is loaded from the hub, `owner/name:config`,
    where `label` is the column of class numbers. Raises DataError.
    """
    if isinstance(source, str) and not source.strip():
        raise DataError(f"the path of the data is empty: {source!r}")
    path = _path(source)
    kind = path_type(path)
    if kind == "file":
        rows = normalize(read_file(path), str(path))
        return DataSource(str(source), {"train": rows}, files={path.resolve(): rows})
    if kind == "folder":
        return _load_folder(source, path)
    if kind:
        raise DataError(f"{source} is neither a file nor a folder")
    if not isinstance(source, str) or not looks_like_hub_id(source):
        raise DataError(f"{source}: no such file or folder")
    hub = read_hub(source, label)
    also = _counting_as(hub.splits)
    splits = {also.get(s, s): normalize(rows, f"{source}, split {s!r}") for s, rows in hub.splits.items()}
    notes = [f"split {split!r} left out: {reason}" for split, reason in hub.left_out.items()]
    return DataSource(source, splits, also, left_out=hub.left_out, notes=(*notes, *hub.notes))


def _load_folder(source: str | Path, path: Path) -> DataSource:
    try:
        entries = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}") from None
    by_stem: dict[str, Path] = {}
    known = {name for names in _ALIASES.values() for name in names}
    for entry in entries:
        kind = path_type(entry)
        if kind != "file":
            raise DataError(f"{entry} is {'a folder' if kind == 'folder' else 'missing'}, but named like a data file")
        stem = entry.stem.removesuffix("-00000-of-00001")  # as the hub names the only parquet file of a split
        stem = stem.lower() if stem.lower() in known else stem
        if stem in by_stem:
            raise DataError(f"{path} has more than one {stem} file: {by_stem[stem].name}, {entry.name}")
        by_stem[stem] = entry
    if not by_stem:
        raise DataError(f"{path} holds no data file", hint=f"expected train{'|train'.join(SUFFIXES)}")
    also = _counting_as(by_stem)
    splits, files = {}, {}
    for stem, entry in by_stem.items():
        rows = normalize(read_file(entry), str(entry))
        splits[also.get(stem, stem)] = files[entry.resolve()] = rows
    return DataSource(str(source), splits, also, files)


def _counting_as(names: Iterable[str]) -> dict[str, str]:
    """Which of `names` stands for which split. Of several for one split the first of `_ALIASES` does; the others keep
    their own names."""
    lower = {name.lower(): name for name in names}
    chosen = {split: next((lower[a] for a in known if a in lower), None) for split, known in _ALIASES.items()}
    return {name: split for split, name in chosen.items() if name is not None and name != split}


def _path(source: str | Path) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # ~name of somebody unknown
        return Path(source)


def read_splits(source: str | Path, *, label: str = "label") -> dict[str, list[Record]]:
    """Records by split name, as `load_source` finds them. Raises DataError."""
    return load_source(source, label=label).splits


def normalize(rows: Sequence[Record], where: str = "") -> list[Record]:
    """Records in a uniform shape; no column is lost, and records are not changed in place.

    `answers` as SQuAD's dict of texts and starts, or DROP's `answers_spans`, become `answers`: a list of different
    texts. A `prompt` that is a list of messages also stands as `messages`, with its `completion`, or the `chosen` one
    of a pair, where that is one too; where both of a pair begin alike and there is no `prompt`, what they share is it.
    Messages are checked. where: named in errors. Raises DataError with the record's number.
    """
    prefix = f"{where}, " if where else ""
    return [_completed(row, f"{prefix}record {number}") for number, row in enumerate(rows, 1)]


def _completed(row: Record, where: str) -> Record:
    answers, spans = row.get("answers"), row.get("answers_spans")
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        row = {**row, "answers": _texts(answers["text"], f"{where}: answers")}
    elif answers is None and isinstance(spans, dict) and isinstance(spans.get("spans"), list):
        row = {**row, "answers": _texts(spans["spans"], f"{where}: answers_spans")}
    if "messages" in row and not isinstance(row["messages"], str):  # a plain text column may bear that name
        _check_messages(row["messages"], f"{where}: messages")
    elif "messages" not in row:
        row = _conversation(row, where)
    return row


def _conversation(row: Record, where: str) -> Record:
    """Lists of messages in other columns, together as `messages`."""
    pair = [row.get(column) for column in ("chosen", "rejected")]
    if "prompt" not in row and all(map(_is_conversation, pair)):
        shared = 0
        while shared < min(map(len, pair)) - 1 and pair[0][shared] == pair[1][shared]:  # type: ignore[arg-type, index]
            shared += 1
        chosen, rejected = ([*said[shared:]] for said in pair)  # type: ignore[index]
        row = {**row, "prompt": pair[0][:shared], "chosen": chosen, "rejected": rejected}  # type: ignore[index]
    if not _is_conversation(row.get("prompt")):
        return row
    said: Any = next((row[c] for c in ("completion", "chosen") if row.get(c)), [])
    said = [{"role": "assistant", "content": said}] if isinstance(said, str) else said
    for column in ("prompt", "completion", "chosen", "rejected"):
        if _is_conversation(row.get(column)):
            _check_messages(row[column], f"{where}: {column}")
    return {**row, "messages": [*row["prompt"], *said]}


def _texts(values: list[Any], where: str) -> list[str]:
    for value in values:
        if not isinstance(value, str):
            raise DataError(f"{where} must be texts, got {value!r:.60}")
    return list(dict.fromkeys(values))


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def _check_messages(messages: Any, where: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where} must be a list of messages, got {messages!r:.60}")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise DataError(f"{where}: message {number} must have a role and a content, got {message!r:.60}")
        if message.get("role") not in ROLES:
            raise DataError(
                f"{where}: message {number} has the role {message.get('role')!r:.60}", hint=f"known: {', '.join(ROLES)}"
            )
        if not isinstance(message.get("content"), str):
            raise DataError(f"{where}: message {number} needs a text as content, got {message.get('content')!r:.60}")


def rename_columns(rows: list[Record], columns: Mapping[str, str], where: str = "") -> list[Record]:
    """Apply `--column wanted=found`: the column `found` is also known as `wanted`. where: named in errors. Raises
    DataError."""
    if not columns:
        return rows
    for wanted, found in columns.items():
        for number, row in enumerate(rows, 1):
            if found not in row:
                place = f"{where} record {number}".strip()
                raise DataError(f"--column {wanted}={found}: {place} has no column {found!r}; {describe_columns(rows)}")
    return [{**row, **{wanted: row[found] for wanted, found in columns.items()}} for row in rows]


def describe_columns(rows: Sequence[Record]) -> str:
    names: dict[str, None] = {}
    for row in rows[:1000]:
        names.update(dict.fromkeys(row))
    return "columns found: " + (", ".join(names) if names else "none")


def load_splits(
    source: str | Path,
    *,
    seed: int,
    columns: Mapping[str, str] | None = None,
    train_split: str = "train",
    eval_split: str | None = None,
    test_split: str | None = None,
    limit: int | None = None,
    train_size: int | None = None,
    k_per_class: int | None = None,
) -> Splits:
    """Training, selection and judging rows.

    With a validation and a test split, validation selects and test judges. With one of them, its seeded halves do. With
    none, a fifth of the rows (at least 100, at most half) is held out and halved. A split is a name or a file.

    Of the training rows, `limit` keeps at most that many, `train_size` draws exactly that many, and `k_per_class` draws
    that many of each class of `label`: all by seed, in the order of the file. Raises DataError, and OptionError for
    numbers that make no sense.
    """
    if train_size is not None and k_per_class is not None:
        raise OptionError(f"--train-size {train_size} and --k-per-class {k_per_class} exclude each other")
    for option, value in (("--train-size", train_size), ("--k-per-class", k_per_class)):
        if value is not None and value < 1:
            raise OptionError(f"{option} {value} must be at least 1")
    columns = columns or {}
    found = load_source(source, label=columns.get("label", "label"))
    unnamed = train_split == "train" and train_split not in found.splits and train_split not in found.left_out
    if unnamed and len(found.splits) == 1:
        train = next(iter(found.splits.values()))
    else:
        train = found.split(train_split)
    validation = found.split(eval_split) if eval_split else found.splits.get("validation")
    test = found.split(test_split) if test_split else found.splits.get("test")
    if validation is train or test is train:
        raise DataError(f"{source}: the training rows cannot also be held out; name another --eval-split")
    if not any(part is rows for part in (train, validation, test) for rows in found.splits.values()):
        raise DataError(
            f"{source} would not be used: the rows to train on come from {train_split}, and those held out not from it",
            hint="give the training file as --dataset",
        )
    if validation is test:  # one split under both names: it selects and judges by halves, never by the same rows
        test = None
    train = rename_columns(train, columns, "training")
    validation = rename_columns(validation, columns, "validation") if validation is not None else None
    test = rename_columns(test, columns, "test") if test is not None else None
    train, select, judge, held = _hold_out(str(source), train, validation, test, seed)
    if limit is not None and limit < len(train):
        train = [train[i] for i in sorted(_shuffled(len(train), seed, "limit")[:limit])]
    notes = [held]
    if train_size is not None:
        if train_size > len(train):
            raise DataError(f"{source}: --train-size {train_size}, but there are only {len(train)} training rows")
        notes.append(f"{train_size} of {len(train)} training rows drawn")
        train = [train[i] for i in sorted(_shuffled(len(train), seed, "train-size")[:train_size])]
    if k_per_class is not None:
        total = len(train)
        train, classes = _balanced(str(source), train, [*select, *judge], k_per_class, seed)
        notes.append(f"{len(train)} of {total} training rows drawn: {k_per_class} of each of {classes} classes")
    h = hashlib.blake2b(digest_size=16)
    for part in (train, select, judge):
        # JSON can spell half of a surrogate pair, which plain UTF-8 refuses.
        h.update(json.dumps(part, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass"))
    return Splits(train, select, judge, "; ".join([*notes, *found.notes]), h.hexdigest())


def _hold_out(
    source: str, train: list[Record], validation: list[Record] | None, test: list[Record] | None, seed: int
) -> tuple[list[Record], list[Record], list[Record], str]:
    """(training rows, those that select, those that judge, what was held out in words)."""
    if validation is not None and test is not None:
        said = f"{len(validation)} validation rows select the best weights, {len(test)} test rows judge"
        return train, validation, test, said
    rows = validation if validation is not None else test
    if rows is not None:
        if len(rows) < 2:
            raise DataError(f"{source}: {len(rows)} held-out record is too few; at least 2 are needed")
        order, said = _shuffled(len(rows), seed, "halves"), f"{len(rows)} held-out rows"
    else:
        if len(train) < 4:
            raise DataError(f"{source} has {len(train)} records; at least 4 are needed to hold some out")
        order = _shuffled(len(train), seed, "hold-out")
        held = min(max(round(len(train) * HELD_OUT_SHARE), HELD_OUT_LEAST), len(train) // 2)
        said = f"{held} of {len(train)} rows held out"
        rows, train, order = train, [train[i] for i in sorted(order[held:])], order[:held]
    half = len(order) // 2
    select, judge = [rows[i] for i in order[:half]], [rows[i] for i in order[half:]]
    return train, select, judge, f"{said}: {len(select)} select the best weights, {len(judge)} judge"


def _balanced(
    source: str, train: Sequence[Record], held: Sequence[Record], k: int, seed: int
) -> tuple[list[Record], int]:
    """k training rows of each class, and the number of classes, those that only held-out rows have included. Each class
    is drawn by its own key, so that what is drawn of one does not depend on the others."""
    places: dict[str, list[int]] = {_class_key(row): [] for row in held}
    for i, row in enumerate(train):
        key = _class_key(row)
        if not key:
            raise DataError(
                f"{source}: --k-per-class needs labels, and training record {i + 1} has no column 'label'; "
                f"{describe_columns(train)}",
                hint="--column label=…",
            )
        places.setdefault(key, []).append(i)
    places.pop("", None)
    few = sorted((len(indices), key) for key, indices in places.items() if len(indices) < k)
    if few:
        raise DataError(f"{source}: --k-per-class {k}, but class {few[0][1]!r} has only {few[0][0]} training rows")
    drawn = [[indices[j] for j in _shuffled(len(indices), seed, f"class {key}")[:k]] for key, indices in places.items()]
    return [train[i] for i in sorted(i for part in drawn for i in part)], len(places)


def _class_key(row: Record) -> str:
    """The row's class as text, "" where it has none. 1, 1.0, True and "1" are the same class, as they are for tasks."""
    value = row.get("label")
    if value is None:
        return ""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return str(value).strip()


def _shuffled(n: int, seed: int, purpose: str) -> list[int]:
    order = list(range(n))
    random.Random(derive(seed, purpose)).shuffle(order)
    return order


__all__ = [
    "DataSource",
    "Record",
    "Splits",
    "describe_columns",
    "load_source",
    "load_splits",
    "normalize",
    "read_file",
    "read_splits",
    "rename_columns",
]
