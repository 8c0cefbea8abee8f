"""Answers that records hold: the options of multiple choice, the correct ones, and reference texts.

Knows records; knows no template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zotune.data.records import label_key


def option_texts(record: Mapping[str, Any], choices: Sequence[str]) -> list[str]:
    """The options of a record: one column each, or one column that holds a list. Equal texts are one option, unless
    `label` may be an index that counts them."""
    if len(choices) == 1 and isinstance(record.get(choices[0]), list | tuple):
        options = [str(option) for option in record[choices[0]]]
        return list(dict.fromkeys(options)) if record.get("label") is None else options
    return [str(record[column]) for column in choices]


def correct_options(record: Mapping[str, Any], options: Sequence[str]) -> list[int]:
    """Indices of the correct options. `label` is an index or an option's text; without it `answers` are the texts of
    the correct ones. A number is tried as an index first, a text as an option first: options can be numbers, too."""
    label = record.get("label")
    if label is not None:
        key = label_key(label)
        by_index = [int(key)] if key.isdigit() and int(key) < len(options) else []
        by_text = [options.index(key)] if key in options else []
        return (by_text or by_index) if isinstance(label, str) else (by_index or by_text)
    answers = reference_texts(record, "answers")
    return [i for i, option in enumerate(options) if option in answers]


def reference_texts(record: Mapping[str, Any], column: str) -> list[str]:
    """The reference texts in a column of one text or of a list of texts; empty where the column is absent or None.
    None in a list is no text."""
    value = record.get(column)
    if value is None:
        return []
    return [str(v) for v in value if v is not None] if isinstance(value, list | tuple) else [str(value)]


__all__ = ["correct_options", "option_texts", "reference_texts"]
