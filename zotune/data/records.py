"""Records: one example each, a dictionary of columns, brought into uniform shapes.

Knows columns, labels and chat messages; reads no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zotune.errors import DataError, nearest

Record = dict[str, Any]
"""One example: values by column name."""

ROLES = ("system", "user", "assistant", "tool")


def normalize(records: Sequence[Record], place: str = "") -> list[Record]:
    """Records in uniform shapes. Columns are added or replaced, never dropped; the given records are left as they are.

    `answers` in SQuAD's form (a dictionary of texts and starts), or DROP's `answers_spans`, become `answers`: a list of
    distinct texts. A `prompt` that is a list of messages is joined with its `completion`, or the `chosen` side of a
    pair, to `messages`. A pair of conversations without a `prompt` gets the shared beginning as `prompt`. place: file
    or split, named in errors. Raises DataError with the record's number.
    """
    prefix = f"{place}, " if place else ""
    return [_normalized(record, f"{prefix}record {number}") for number, record in enumerate(records, 1)]


def _normalized(record: Record, place: str) -> Record:
    answers, spans = record.get("answers"), record.get("answers_spans")
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        record = {**record, "answers": _distinct_texts(answers["text"], f"{place}: answers")}
    elif answers is None and isinstance(spans, dict) and isinstance(spans.get("spans"), list):
        record = {**record, "answers": _distinct_texts(spans["spans"], f"{place}: answers_spans")}
    if "messages" not in record:
        return _join_messages(record, place)
    if not isinstance(record["messages"], str):  # a column of plain text may have this name, too
        _check_messages(record["messages"], f"{place}: messages")
    return record


def _join_messages(record: Record, place: str) -> Record:
    """The record with `messages` from its prompt and its answer, where the prompt is a list of messages."""
    record = _split_pair(record)
    if not _is_conversation(record.get("prompt")):
        return record
    answer: Any = next((record[column] for column in ("completion", "chosen") if record.get(column)), [])
    answer = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    for column in ("prompt", "completion", "chosen", "rejected"):
        if _is_conversation(record.get(column)):
            _check_messages(record[column], f"{place}: {column}")
    return {**record, "messages": [*record["prompt"], *answer]}


def _split_pair(record: Record) -> Record:
    """The record with the messages that `chosen` and `rejected` share as `prompt`, and the rest of each in place."""
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if "prompt" in record or not _is_conversation(chosen) or not _is_conversation(rejected):
        return record
    assert isinstance(chosen, list)
    assert isinstance(rejected, list)
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return {**record, "prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _distinct_texts(values: list[Any], place: str) -> list[str]:
    for value in values:
        if not isinstance(value, str):
            raise DataError(f"{place} must be a list of texts, got {value!r:.60} in it")
    return list(dict.fromkeys(values))


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def _check_messages(messages: Any, place: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{place} must be a list of messages, got {messages!r:.60}")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise DataError(f"{place}: message {number} must have a role and a content, got {message!r:.60}")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise DataError(f"{place}: message {number} has the role {role!r:.60}", hint=f"roles: {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise DataError(f"{place}: message {number} must have a text as content, got {content!r:.60}")


def rename_columns(records: list[Record], columns: Mapping[str, str], place: str = "") -> list[Record]:
    """Records with a copy of each column under the name that `--column name=column` gives it. place: named in errors.
    Raises DataError where a record lacks a column."""
    if not columns:
        return records
    for name, column in columns.items():
        for number, record in enumerate(records, 1):
            if column not in record:
                raise DataError(
                    f"--column {name}={column}: {f'{place} record {number}'.strip()} has no column {column!r}; "
                    f"{describe_columns(records)}",
                    hint=nearest(column, record),
                )
    return [{**record, **{name: record[column] for name, column in columns.items()}} for record in records]


def describe_columns(records: Sequence[Record]) -> str:
    """The column names of the first thousand records, for a message."""
    names: dict[str, None] = {}
    for record in records[:1000]:
        names.update(dict.fromkeys(record))
    return "columns found: " + (", ".join(names) if names else "none")


def label_key(value: Any) -> str:
    """A label as text: 1, 1.0, True, "1" and "1.0" are one class."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    text = str(value).strip()
    whole, point, zeros = text.partition(".")
    return whole if point and zeros and not zeros.strip("0") and whole.removeprefix("-").isdecimal() else text


__all__ = ["Record", "describe_columns", "label_key", "normalize", "rename_columns"]
