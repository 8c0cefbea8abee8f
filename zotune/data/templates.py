"""Templates: records to texts, with the character spans of columns and of the answer.

A template is text with `{column}` places. Filters stand after a bar: `{premise|unstop}` drops a final full stop,
`{choice|uncap}` makes the first letter lower case (but not the word I), `{x|cap}` makes it upper case, `{x|strip}`
drops surrounding white space, and `{query|fill}` puts the option where the column's text has @placeholder. `{sep}`
separates the two texts of a pair for models that read pairs. The target, the place of the answer, is `{label}` in
classification, `{choice}` in multiple choice and `{completion}` in generation.

Knows records; knows no tokens and no model.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from zotune.errors import DataError, OptionError, nearest

PLACEHOLDER = "@placeholder"
FILTERS: dict[str, Callable[[str], str]] = {
    "unstop": lambda s: s.rstrip().removesuffix("."),
    "uncap": lambda s: s if re.match(r"I\b", s) else s[:1].lower() + s[1:],
    "cap": lambda s: s[:1].upper() + s[1:],
    "strip": str.strip,
    "fill": lambda s: s,
    "list": lambda s: s,
}
SHOTS = "shots"
"""The span name of demonstrations that stand before a prompt."""


_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}


def unescape(text: str) -> str:
    """A text from a command line or a file in which backslash n is a line break, backslash t a tab, and two
    backslashes are one."""
    return re.sub(r"\\[nt\\]", lambda match: _ESCAPES[match[0]], text)


@dataclass(frozen=True)
class FilledTemplate:
    """A text with character positions.

    spans: (start, end) of each column's text; target: (start, end) of the answer, None where the text has none; pair:
    where the second text of a pair starts, None for a single text; content: (start, end) of the prompt inside a chat,
    of which nothing else may be left out; None for a text without a chat template.
    """

    text: str
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    target: tuple[int, int] | None = None
    pair: int | None = None
    content: tuple[int, int] | None = None

    def truncate(self, end: int) -> FilledTemplate:
        """The text before a position, without a target."""
        spans = {name: (a, min(b, end)) for name, (a, b) in self.spans.items() if a < end}
        pair = self.pair if self.pair is not None and self.pair < end else None
        content = None if self.content is None else (min(self.content[0], end), min(self.content[1], end))
        return FilledTemplate(self.text[:end], spans, None, pair, content)

    def after(self, text: str) -> FilledTemplate:
        """The text after another one, which belongs to no column."""
        n = len(text)
        spans = {name: (a + n, b + n) for name, (a, b) in self.spans.items()}
        target = (self.target[0] + n, self.target[1] + n) if self.target else None
        pair = None if self.pair is None else self.pair + n
        return FilledTemplate(text + self.text, spans, target, pair)

    def prepend(self, shots: str) -> FilledTemplate:
        """The text after demonstrations."""
        after = self.after(shots)
        return replace(after, spans={SHOTS: (0, len(shots)), **after.spans})


class Template:
    """A text with `{column}` and `{column|filter}` places; attributes, indices and formats are refused.

    values: column → value → the text that stands for it (COPA's question: cause → because). Raises OptionError.
    """

    def __init__(self, text: str, values: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self.text, self._values = text, values or {}
        self.parts: list[tuple[str, str | None, tuple[str, ...]]] = []  # (text, place after it, filters of the place)
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise OptionError(f"--template {text!r}: {error}") from None
        for literal, place, form, conversion in parsed:
            name, *filters = (place or "").split("|")
            if place is not None and (not name.replace("_", "a").isalnum() or form or conversion):
                raise OptionError(f"--template {text!r}: {place!r} must be a plain column name")
            for f in filters:
                if f not in FILTERS:
                    raise OptionError(f"--template {text!r}: no filter {f!r}", hint=nearest(f, FILTERS))
            self.parts.append((literal, name if place is not None else None, tuple(filters)))

    @property
    def columns(self) -> list[str]:
        """The names of all places in order: columns, and the target."""
        return [name for _, name, _ in self.parts if name is not None and name != "sep"]

    @property
    def lists(self) -> frozenset[str]:
        """The columns that may hold a list, which the filter `list` joins."""
        return frozenset(name for _, name, filters in self.parts if name is not None and "list" in filters)

    def has_place(self, target: str) -> bool:
        """Whether the template has a place for this target."""
        return target in self.columns or any("fill" in filters for _, _, filters in self.parts)

    def render(self, record: Mapping[str, Any], until: str | None = None) -> str:
        """The text of a record; with `until`, only the text before that place."""
        if until is None:
            return self.fill(record).text
        filled = self.fill(record, until, "")
        return filled.text[: filled.target[0]] if filled.target else filled.text

    def fill(
        self,
        record: Mapping[str, Any],
        target: str | None = None,
        answer: str = "",
        tail: Literal["keep", "score", "drop"] = "keep",
    ) -> FilledTemplate:
        """The text of a record with `answer` in the place of the target.

        tail: what happens to the text after the target. "keep": it stays; "score": it stays and becomes part of the
        target; "drop": it is left out. Raises KeyError for a column that the record lacks,
        DataError for one that holds a list or an object.
        """
        text, spans, span, pair = "", {}, None, None
        for literal, name, filters in self.parts:
            text += literal
            if name is None:
                continue
            if name == "sep":
                pair = len(text)
                continue
            start = len(text)
            if target is not None and name == target:
                text += _filtered(answer, filters)
                span = (start, len(text))
            else:
                if "list" in filters and isinstance(record[name], list):
                    record = {**record, name: ", ".join(map(str, record[name]))}
                if fault := no_text(name, record[name]):
                    raise DataError(fault)
                value = self._values.get(name, {}).get(str(record[name]), str(record[name]))
                before, hole, rest = value.partition(PLACEHOLDER) if "fill" in filters else (value, "", "")
                text += _filtered(before, filters)
                if hole and target is not None:
                    span = (len(text), len(text) + len(answer))
                    text += answer + rest
                spans[name] = (start, len(text))
            if span and tail == "drop":
                break
        if span and tail == "score":
            span = (span[0], len(text))
        return FilledTemplate(text, spans, span, pair)


def no_text(name: str, value: Any) -> str:
    """What is wrong with a column's value that is no text, number or truth value; "" for one that is."""
    if not isinstance(value, dict | list):
        return ""
    what = "an object" if isinstance(value, dict) else "a list"
    return f"the column {name!r} holds {what} where a text belongs: {value!r:.80}"


def _filtered(text: str, filters: Sequence[str]) -> str:
    for f in filters:
        text = FILTERS[f](text)
    return text


__all__ = ["FILTERS", "SHOTS", "FilledTemplate", "Template", "no_text", "unescape"]
