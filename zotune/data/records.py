"""Records: one example each, a dictionary of columns, brought into uniform shapes.

Knows columns, labels and chat messages; reads no files.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from zotune.errors import DataError, nearest

_WHOLE_NUMBER = re.compile(r"\A(-?[0-9]+)\.0+\Z")

Record = dict[str, Any]
"""One example: values by column name."""


class PlacedRecord(Record):
    """A record that knows where it was read; `record | {…}`, a changed copy, knows it, too.

    where: the file and what is counted in it, such as `data.jsonl, line`; number: the count, from 1.
    """

    __slots__ = ("number", "where")

    def __init__(self, values: Mapping[str, Any], where: str, number: int) -> None:
        super().__init__(values)
        self.where, self.number = where, number

    def __or__(self, other: Mapping[str, Any]) -> PlacedRecord:  # type: ignore[override]
        return PlacedRecord({**self, **other}, self.where, self.number)


def place_of(record: Mapping[str, Any], otherwise: str) -> str:
    """Where a record was read, for a message; `otherwise` for one that was read nowhere."""
    return f"{record.where} {record.number}" if isinstance(record, PlacedRecord) else otherwise


ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "system": "system",
}
"""Names in `from`, in data of ShareGPT's form → roles."""
INSTRUCTION_COLUMNS = (("input", "output"), ("context", "response"))
"""(further input, answer) beside `instruction` in data of Alpaca's and Dolly's form."""


def normalize(records: Sequence[Record], place: str = "") -> list[Record]:
    """Records in uniform shapes. Columns are added or replaced, never dropped; the given records are left as they are.

    `answers` in SQuAD's form (a dictionary of texts and starts), or DROP's `answers_spans`, become `answers`: a list of
    distinct texts. A `prompt` that is a list of messages is joined with its `completion`, or the `chosen` side of a
    pair, to `messages`. A pair of conversations without a `prompt` gets the shared beginning as `prompt`. ShareGPT's
    `conversations` become `messages`; the text parts of a message's content are joined. Alpaca's and Dolly's
    `instruction` with its input becomes `prompt`, its answer `completion`. place: source or split, named in errors on
    records that were read from no file. Raises DataError with the record's place.
    """
    where = f"{place}, record" if place else "record"
    return [_normalized(_placed(record, where, number)) for number, record in enumerate(records, 1)]


def _placed(record: Record, where: str, number: int) -> PlacedRecord:
    return record if isinstance(record, PlacedRecord) else PlacedRecord(record, where, number)


def _normalized(record: Record) -> Record:
    place = place_of(record, "")
    answers, spans = record.get("answers"), record.get("answers_spans")
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        record = record | {"answers": _distinct_texts(answers["text"], f"{place}: answers")}
    elif answers is None and isinstance(spans, dict) and isinstance(spans.get("spans"), list):
        record = record | {"answers": _distinct_texts(spans["spans"], f"{place}: answers_spans")}
    if "messages" not in record and _is_conversation(record.get("conversations")):
        record = record | {"messages": record["conversations"]}
    if "messages" not in record:
        return _join_messages(_joined_instruction(record), place)
    if not isinstance(record["messages"], str):  # a column of plain text may have this name, too
        record = _with_messages(record, "messages", place)
    return record


def _joined_instruction(record: Record) -> Record:
    """The record with `prompt` and `completion`, where it has Alpaca's or Dolly's columns."""
    instruction = record.get("instruction")
    if not isinstance(instruction, str) or "prompt" in record or "completion" in record:
        return record
    for more, answer in INSTRUCTION_COLUMNS:
        if isinstance(record.get(answer), str) and (record.get(more) is None or isinstance(record[more], str)):
            prompt = f"{instruction}\n\n{record[more]}" if record.get(more) else instruction
            return record | {"prompt": prompt, "completion": record[answer]}
    return record


def _join_messages(record: Record, place: str) -> Record:
    """The record with `messages` from its prompt and its answer, where the prompt is a list of messages."""
    record = _split_pair(record)
    if not _is_conversation(record.get("prompt")):
        return record
    for column in ("prompt", "completion", "chosen", "rejected"):
        if _is_conversation(record.get(column)):
            record = _with_messages(record, column, place)
    answer: Any = next((record[column] for column in ("completion", "chosen") if record.get(column)), [])
    answer = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    return record | {"messages": [*record["prompt"], *answer]}


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
    return record | {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _distinct_texts(values: list[Any], place: str) -> list[str]:
    for value in values:
        if not isinstance(value, str):
            raise DataError(f"{place} must be a list of texts, got {value!r:.60} in it")
    return list(dict.fromkeys(values))


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def _with_messages(record: Record, column: str, place: str) -> Record:
    """The record with a column's messages in their plain form: `role` and a text as `content`."""
    messages = record[column]
    plain = _plain_messages(messages, f"{place}: {column}")
    return record if plain == messages else record | {column: plain}


def _plain_messages(messages: Any, place: str) -> list[Any]:
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{place} must be a list of messages, got {messages!r:.60}")
    return [_plain_message(message, f"{place}: message {number}") for number, message in enumerate(messages, 1)]


def _plain_message(message: Any, place: str) -> Any:
    if not isinstance(message, dict):
        raise DataError(f"{place} must have a role and a content, got {message!r:.60}")
    if "from" in message and "value" in message and "role" not in message:
        role = SHAREGPT_ROLES.get(message["from"]) if isinstance(message["from"], str) else None
        if role is None:
            raise DataError(f"{place} is from {message['from']!r:.60}", hint=f"from: {', '.join(SHAREGPT_ROLES)}")
        message = {"role": role, "content": message["value"]}
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise DataError(f"{place} has the role {role!r:.60}", hint=f"roles: {', '.join(ROLES)}")
    if isinstance(content, list) and content:
        message = {**message, "content": "".join(_text_of_part(part, place) for part in content)}
    elif not isinstance(content, str):
        raise DataError(f"{place} must have a text as content, got {content!r:.60}")
    return message


def _text_of_part(part: Any, place: str) -> str:
    """The text of a part of a message's content. Raises DataError for images, sounds and other parts."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise DataError(
        f"{place} must have texts as content, got the part {part!r:.60}", hint="only parts of type text are read"
    )


def rename_columns(records: list[Record], columns: Mapping[str, str], place: str = "") -> list[Record]:
    """Records with a copy of each column under the name that `--column name=column` gives it. place: named in errors.
    Raises DataError where a record lacks a column."""
    if not columns:
        return records
    for name, column in columns.items():
        for number, record in enumerate(records, 1):
            if column not in record:
                raise DataError(
                    f"--column {name}={column}: {place_of(record, f'{place} record {number}'.strip())} has no column "
                    f"{column!r}; "
                    f"{describe_columns(records)}",
                    hint=nearest(column, record),
                )
    return [record | {name: record[column] for name, column in columns.items()} for record in records]


def describe_columns(records: Sequence[Record]) -> str:
    """The column names of the first thousand records, for a message."""
    names: dict[str, None] = {}
    for record in records[:1000]:
        names.update(dict.fromkeys(record))
    return "columns found: " + (", ".join(names) if names else "none")


def label_key(value: Any) -> str:
    """A label as text: 1, 1.0, True, "1" and "1.0" are one class, and so are the Unicode forms of a text."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return _key_of_text(str(value))


@functools.lru_cache(4096)
def _key_of_text(text: str) -> str:
    """Cached: a column has far fewer labels than rows."""
    return _WHOLE_NUMBER.sub(r"\1", unicodedata.normalize("NFC", text).strip())


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN or a text without letters."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


__all__ = [
    "PlacedRecord",
    "Record",
    "describe_columns",
    "is_missing",
    "label_key",
    "normalize",
    "place_of",
    "rename_columns",
]
