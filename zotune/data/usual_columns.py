"""Columns under their usual names: pairs of texts, empty labels, unwanted completions, and columns that nothing uses.

Each function returns a note for the user where it read the data in one of several possible ways. Knows records; knows
no template and no model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from zotune.data.records import Record, is_missing, label_key, place_of
from zotune.errors import DataError

TEXT_PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "passage"),
    ("question", "sentence"),
    ("query", "passage"),
    ("query", "document"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
)
"""(first text, second text) of a pair, as data sets name their columns."""
CHOICE_LABELS = ("answerKey", "answer_key", "answer_idx", "answer", "correct_answer", "correct", "gold")
"""Columns that may hold the correct option of multiple choice where there is no `label` and no `answers`."""
IDENTIFIERS = frozenset({"", "id", "_id", "idx", "index", "guid", "uid", "uuid", "Unnamed: 0", "__index_level_0__"})
"""Columns that number rows; a run need not use them."""
PREVIEW = 1000
"""Records whose columns are looked at."""

_EMPTY_NUMBERS = frozenset({"nan", "null", "none", "na", "n/a", "<na>"})
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
Parts = Mapping[str, Sequence[Record]]


def text_pair(parts: Parts) -> tuple[str, str] | None:
    """The columns of a pair of texts that every record has under a usual name."""
    for first, second in TEXT_PAIRS:
        if all(isinstance(r.get(c), str) for records in parts.values() for r in records for c in (first, second)):
            return first, second
    return None


def without_empty_labels(parts: Parts) -> tuple[dict[str, list[Record]], list[str]]:
    """The records that have a label, and notes on the others. None, NaN and empty texts are no labels; neither is a
    word such as nan or null where all other labels are numbers.

    A set without any label stays as it is. Raises nothing.
    """
    keys = {label_key(r["label"]) for rs in parts.values() for r in rs if not is_missing(r.get("label"))}
    words = {key for key in keys if not _NUMBER.fullmatch(key)}
    empty = words if words and len(words) < len(keys) and all(w.lower() in _EMPTY_NUMBERS for w in words) else set()
    kept: dict[str, list[Record]] = {}
    notes = []
    for name, records in parts.items():
        missing = [
            number
            for number, record in enumerate(records, 1)
            if is_missing(record.get("label")) or (empty and label_key(record["label"]) in empty)
        ]
        if not missing or len(missing) == len(records):
            kept[name] = list(records)
            continue
        left_out = set(missing)
        kept[name] = [record for number, record in enumerate(records, 1) if number not in left_out]
        shown = _start_of([repr(records[number - 1].get("text", number))[:40] for number in missing])
        notes.append(f"{len(missing)} of {len(records)} {name} records have no label and are left out: {shown}")
    return kept, notes


def alike_labels(parts: Parts) -> list[str]:
    """A note on labels that differ only in upper and lower case."""
    by_folded: dict[str, dict[str, None]] = {}
    for records in parts.values():
        for record in records:
            if isinstance(record.get("label"), str):
                key = label_key(record["label"])
                by_folded.setdefault(key.casefold(), {})[key] = None
    alike = [" and ".join(map(repr, sorted(keys))) for keys in by_folded.values() if len(keys) > 1]
    return [f"labels that differ only in case are classes of their own: {_start_of(alike)}"] if alike else []


def is_unpaired_preference(record: Mapping[str, Any]) -> bool:
    """Whether a record has KTO's columns: a prompt, a completion, and a label true or false that rates it."""
    return "prompt" in record and "completion" in record and _wanted(record.get("label")) is not None


def wanted_completions(parts: Parts) -> tuple[dict[str, list[Record]], list[str]]:
    """The records of KTO's form whose completion is wanted, and a note on the others: they are no references. Raises
    DataError where none is wanted, or where a label is neither true nor false."""
    kept: dict[str, list[Record]] = {}
    for name, records in parts.items():
        for number, record in enumerate(records, 1):
            if not is_unpaired_preference(record):
                place = place_of(record, f"{name} record {number}")
                raise DataError(
                    f"{place}: label must be true or false as in the other records, got {record.get('label')!r:.40}",
                    hint="--task classification with a --template classifies",
                )
        kept[name] = [record for record in records if _wanted(record["label"])]
        if records and not kept[name]:
            raise DataError(f"no {name} record has a completion with label true", hint="--template and --task")
    total, count = (sum(map(len, p.values())) for p in (parts, kept))
    note = f"label rates completions: {total - count} of {total} records have label false and are left out"
    return kept, [note]


def _wanted(label: Any) -> bool | None:
    if isinstance(label, str):
        return {"true": True, "false": False}.get(label.strip().lower())
    return label if isinstance(label, bool) else None


def unused_columns(records: Sequence[Record], used: Collection[str]) -> list[str]:
    """A note that names the columns of the first records that nothing uses. A copy of a used column is used, too."""
    preview = records[:PREVIEW]
    names = dict.fromkeys(name for record in preview for name in record)
    unused = []
    for name in names:
        if name in used or name in IDENTIFIERS or name.removesuffix("_text") in used:
            continue
        copied = any(all(r.get(name) is r.get(other) for r in preview[:100]) for other in used if other in names)
        if not copied and any(not is_missing(record.get(name)) for record in preview):
            unused.append(name)
    return [f"columns that nothing uses: {', '.join(unused)}"] if unused else []


def _start_of(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


__all__ = [
    "CHOICE_LABELS",
    "alike_labels",
    "is_unpaired_preference",
    "text_pair",
    "unused_columns",
    "wanted_completions",
    "without_empty_labels",
]
