"""Training, validation and test sets: which rows of a source are used for what.

The validation set chooses the best weights, the test set scores them; no row is in two sets. Knows records; knows no
model.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zotune.data.records import Record, describe_columns, is_missing, label_key, place_of, rename_columns
from zotune.data.sources import load_source
from zotune.errors import DataError, OptionError
from zotune.seeds import derive

HELD_OUT_SHARE = 0.2
HELD_OUT_MINIMUM = 100
"""Rows that are held out at least, where half of the rows are as many."""


@dataclass(frozen=True)
class Splits:
    """The rows of a run: training, validation and test set.

    summary: what was held out and what was drawn, in words; digest: a hash of all rows.
    """

    train: list[Record]
    validation: list[Record]
    test: list[Record]
    summary: str
    digest: str


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
    """The training, validation and test set of a source.

    A source with a validation and a test split is used as it is. A single held-out split is halved by seed into
    validation and test set. Without one, a fifth of the training rows (at least 100, at most half) is held out and
    halved. `eval_split` and `test_split` name a split or a file.

    Of the training rows, `limit` keeps at most that many, `train_size` draws exactly that many, and `k_per_class` draws
    that many of each class of the column `label`: all by seed, in the order of the file. Raises DataError, and
    OptionError for numbers out of range.
    """
    if train_size is not None and k_per_class is not None:
        raise OptionError(
            f"--train-size {train_size} and --k-per-class {k_per_class} exclude each other", hint="give one of them"
        )
    for option, value in (("--train-size", train_size), ("--k-per-class", k_per_class)):
        if value is not None and value < 1:
            raise OptionError(f"{option} must be at least 1, got {value}")
    columns = columns or {}
    data = load_source(source, label=columns.get("label", "label"))
    has_train = train_split in data.splits or train_split in data.left_out
    if train_split == "train" and not has_train and len(data.splits) == 1:
        train = next(iter(data.splits.values()))
    else:
        train = data.split(train_split)
    validation = data.split(eval_split) if eval_split else data.splits.get("validation")
    test = data.split(test_split) if test_split else data.splits.get("test")
    if validation is train or test is train:
        raise DataError(
            f"{source}: the training rows cannot be held out as well", hint="name another --eval-split or --test-split"
        )
    if not any(part is records for part in (train, validation, test) for records in data.splits.values()):
        raise DataError(
            f"{source} would not be used: --train-split {train_split} and the held-out splits are other files",
            hint="give the training file as --dataset",
        )
    if validation is test:  # one split under both names is halved: a row is never in both sets
        test = None
    train = rename_columns(train, columns, "training")
    validation = rename_columns(validation, columns, "validation") if validation is not None else None
    test = rename_columns(test, columns, "test") if test is not None else None
    train, validation, test, summary = _hold_out(str(source), train, validation, test, seed)
    if limit is not None and limit < len(train):
        train = [train[i] for i in sorted(_shuffled(len(train), seed, "limit")[:limit])]
    notes = [summary]
    if train_size is not None:
        if train_size > len(train):
            raise DataError(f"{source}: --train-size {train_size}, but there are only {len(train)} training rows")
        notes.append(f"{train_size} of {len(train)} training rows drawn")
        train = [train[i] for i in sorted(_shuffled(len(train), seed, "train-size")[:train_size])]
    if k_per_class is not None:
        total, unlabelled = len(train), sum(not _class_of(record) for record in train)
        train, classes = _balanced(str(source), train, [*validation, *test], k_per_class, seed)
        notes.append(f"{len(train)} of {total} training rows drawn: {k_per_class} of each of {classes} classes")
        if unlabelled:
            notes.append(f"{unlabelled} training rows have no label and are not drawn")
    return Splits(train, validation, test, "; ".join([*notes, *data.notes]), _digest(train, validation, test))


def _hold_out(
    source: str, train: list[Record], validation: list[Record] | None, test: list[Record] | None, seed: int
) -> tuple[list[Record], list[Record], list[Record], str]:
    """(training set, validation set, test set, what was held out in words)."""
    if validation is not None and test is not None:
        return train, validation, test, f"validation set: {len(validation)} rows, test set: {len(test)} rows"
    held_out = validation if validation is not None else test
    if held_out is not None:
        if len(held_out) < 2:
            raise DataError(f"{source} has {len(held_out)} held-out record; at least 2 are needed")
        records, order = held_out, _shuffled(len(held_out), seed, "halves")
        origin = f"{len(held_out)} held-out rows halved"
    else:
        if len(train) < 4:
            raise DataError(f"{source} has {len(train)} records; at least 4 are needed to hold some out")
        records, order = train, _shuffled(len(train), seed, "hold-out")
        count = min(max(round(len(train) * HELD_OUT_SHARE), HELD_OUT_MINIMUM), len(train) // 2)
        origin = f"{count} of {len(train)} rows held out"
        train, order = [train[i] for i in sorted(order[count:])], order[:count]
    half = len(order) // 2
    validation, test = [records[i] for i in order[:half]], [records[i] for i in order[half:]]
    return train, validation, test, f"{origin}: {len(validation)} for validation, {len(test)} for the test set"


def _balanced(
    source: str, train: Sequence[Record], held_out: Sequence[Record], k: int, seed: int
) -> tuple[list[Record], int]:
    """k training rows of each class, and the number of classes; classes of held-out rows count. Each class is drawn
    with a seed of its own, so that the rows drawn of a class do not depend on the other classes."""
    indices: dict[str, list[int]] = {_class_of(record): [] for record in held_out}
    labelled = any(map(_class_of, train))
    for i, record in enumerate(train):
        key = _class_of(record)
        if not key and not labelled:
            place = place_of(record, f"training record {i + 1}")
            raise DataError(
                f"--k-per-class needs labels, and {place} has no column 'label'; {describe_columns(train)}",
                hint="--column label=…",
            )
        indices.setdefault(key, []).append(i)
    indices.pop("", None)
    too_few = sorted((len(rows), key) for key, rows in indices.items() if len(rows) < k)
    if too_few:
        count, key = too_few[0]
        raise DataError(f"{source}: --k-per-class {k}, but class {key!r} has only {count} training rows")
    drawn = [[rows[j] for j in _shuffled(len(rows), seed, f"class {key}")[:k]] for key, rows in indices.items()]
    return [train[i] for i in sorted(i for rows in drawn for i in rows)], len(indices)


def _class_of(record: Record) -> str:
    """The record's class as text, "" where it has none."""
    return "" if is_missing(record.get("label")) else label_key(record["label"])


def _shuffled(count: int, seed: int, purpose: str) -> list[int]:
    """The indices below `count` in an order that depends on the seed and the purpose alone."""
    order = list(range(count))
    random.Random(derive(seed, purpose)).shuffle(order)
    return order


def _digest(*parts: list[Record]) -> str:
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        # JSON can spell half of a surrogate pair, which plain UTF-8 refuses.
        h.update(json.dumps(part, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass"))
    return h.hexdigest()


__all__ = ["Splits", "load_splits"]
