"""Answers that records hold: the options of multiple choice, the correct ones, and reference texts.

Knows records; knows no template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from zotune.data.records import Record, is_missing, label_key

LabelReading = Literal["mark", "index", "text", "letter", "count", "mixed"]
"""How `label` names the correct option: by the data's own mark of it, its index from 0, its text, its letter, its
number from 1, or (mixed) by an index in some records and a text or letter in others."""

_READINGS: Mapping[str, str] = {
    "mark": "the data's own mark of an option",
    "index": "an option's index from 0",
    "text": "an option's text",
    "letter": "an option's letter",
    "count": "an option's number from 1",
    "mixed": "an option's index from 0 where it is a number, else its text or letter",
}
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_WHOLE = re.compile(r"[0-9]{1,6}")
_ENOUGH_TO_MISS_ZERO = 8
"""Records among which an index 0 is to be expected."""


def option_texts(record: Mapping[str, Any], choices: Sequence[str]) -> list[str]:
    """The options of a record: one column each, or one column that holds a list, a list as JSON text, or a dictionary
    of a list `text` and a list `label`. Equal texts are one option, unless `label` may be an index that counts them."""
    if len(choices) == 1:
        listed = _listed(record.get(choices[0]))
        if listed is not None:
            options = [str(option) for option in listed]
            return list(dict.fromkeys(options)) if record.get("label") is None else options
    return [str(record[column]) for column in choices]


def _listed(value: Any) -> Sequence[Any] | None:
    if isinstance(value, dict):
        value = value.get("text")
    if isinstance(value, str) and value.strip().startswith("["):  # a cell of CSV
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list | tuple) else None


def _marks(record: Mapping[str, Any], choices: Sequence[str]) -> list[str]:
    """The data's own marks of the options, such as A, B, C, D; empty where it has none."""
    column = record.get(choices[0]) if len(choices) == 1 else None
    marks = column.get("label") if isinstance(column, dict) else None
    return [label_key(mark) for mark in marks] if isinstance(marks, list | tuple) else []


def correct_options(record: Mapping[str, Any], choices: Sequence[str], reading: LabelReading = "mixed") -> list[int]:
    """Indices of the correct options; empty where the record names none of them.

    choices: the columns of the options; reading: how `label` names an option. Without a label, `answers` are the texts
    of the correct options.
    """
    options = option_texts(record, choices)
    label = record.get("label")
    if label is None:
        answers = reference_texts(record, "answers")
        return [i for i, option in enumerate(options) if option in answers]
    key = label_key(label)
    if reading == "mixed":
        order = ("index",) if _WHOLE.fullmatch(key) else ("mark", "text", "letter")
        found = (_INDEX[name](key, options, _marks(record, choices)) for name in order)
        index = next((i for i in found if i is not None), None)
    else:
        index = _INDEX[reading](key, options, _marks(record, choices))
    return [] if index is None else [index]


def _by_number(first: int) -> Callable[[str, Sequence[str], Sequence[str]], int | None]:
    def index(key: str, options: Sequence[str], marks: Sequence[str]) -> int | None:
        number = int(key) - first if _WHOLE.fullmatch(key) else -1
        return number if 0 <= number < len(options) else None

    return index


def _by_text(key: str, options: Sequence[str], marks: Sequence[str]) -> int | None:
    return next((i for i, option in enumerate(options) if option == key or label_key(option) == key), None)


def _by_letter(key: str, options: Sequence[str], marks: Sequence[str]) -> int | None:
    match = _LETTER.fullmatch(key)
    index = ord(match[1].upper()) - ord("A") if match else len(options)
    return index if index < len(options) else None


def _by_mark(key: str, options: Sequence[str], marks: Sequence[str]) -> int | None:
    return marks.index(key) if key in marks[: len(options)] else None


_INDEX: Mapping[str, Callable[[str, Sequence[str], Sequence[str]], int | None]] = {
    "mark": _by_mark,
    "index": _by_number(0),
    "text": _by_text,
    "letter": _by_letter,
    "count": _by_number(1),
}


def find_reading(parts: Mapping[str, Sequence[Record]], choices: Sequence[str]) -> tuple[LabelReading, list[str]]:
    """How the labels of all records name the correct option, and a note where other readings fit as well.

    The first reading that fits every record counts, whether labels are numbers or texts: the same records mean the same
    in every file format. parts: records by the name of their set.
    """
    labelled = [
        record
        for records in parts.values()
        for record in records
        if not is_missing(record.get("label")) and all(record.get(column) is not None for column in choices)
    ]
    if not labelled:
        return "mixed", []
    names: list[LabelReading] = [name for name in get_args(LabelReading) if name != "mixed"]
    indices = {name: [correct_options(record, choices, name) for record in labelled] for name in names}
    fitting = [name for name in names if all(indices[name])]
    reading = fitting[0] if fitting else "mixed"
    if reading in ("mark", "text") or (reading == "mixed" and not all(correct_options(r, choices) for r in labelled)):
        return reading, []
    others = [_READINGS[name] for name in fitting[1:] if indices[name] != indices[reading] and name != "count"]
    note = f"label is read as {_READINGS[reading]}" + (f", though it could be {' or '.join(others)}" if others else "")
    from_one = reading == "index" and len(labelled) >= _ENOUGH_TO_MISS_ZERO and "count" in fitting
    if from_one:
        note += "; no label is 0, so if they count from 1, write letters (A, B, …) instead"
    return reading, [note] if others or from_one or reading != "index" else []


def reference_texts(record: Mapping[str, Any], column: str) -> list[str]:
    """The reference texts in a column of one text or of a list of texts; empty where the column is absent or None.
    None in a list is no text."""
    value = record.get(column)
    if value is None:
        return []
    return [str(v) for v in value if v is not None] if isinstance(value, list | tuple) else [str(value)]


__all__ = ["LabelReading", "correct_options", "find_reading", "option_texts", "reference_texts"]
