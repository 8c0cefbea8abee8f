"""How records become texts: templates, and the classes or options that they are asked about.

A template is text with `{column}` places. Filters stand after a bar: `{premise|unstop}` drops a final full stop,
`{choice|uncap}` writes the first letter small (but I), `{x|cap}` large, `{query|fill}` puts the option where
@placeholder stands. `{sep}` parts the two texts of a pair for models that read pairs. The target is `{label}` in
classification, `{choice}` in multiple choice, `{completion}` in generation.

Knows records; knows no tokens and no model.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from zotune.data.splits import Record, describe_columns
from zotune.errors import DataError, OptionError, nearest

TaskKind = Literal["classification", "choice", "generation"]
TASK_KINDS: tuple[TaskKind, ...] = ("classification", "choice", "generation")
TARGETS = {"classification": "label", "choice": "choice", "generation": "completion"}
LM_HEADS = frozenset({"causal", "masked", "seq2seq"})
"""Heads that answer in words."""

PLACEHOLDER = "@placeholder"
FILTERS: dict[str, Callable[[str], str]] = {
    "unstop": lambda s: s.rstrip().removesuffix("."),
    "uncap": lambda s: s if re.match(r"I\b", s) else s[:1].lower() + s[1:],
    "cap": lambda s: s[:1].upper() + s[1:],
    "strip": str.strip,
    "fill": lambda s: s,
}
SHOTS = "shots"
"""The name of the span that demonstrations take up in a filled text."""


@dataclass(frozen=True)
class FilledTemplate:
    """A template with its places filled. spans: (start, end) of each column's text; target: (start, end) of what is
    asked for; pair: where the second text of a pair starts."""

    text: str
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    target: tuple[int, int] | None = None
    pair: int | None = None

    def truncate(self, end: int) -> FilledTemplate:
        """What stands before a place, which asks for nothing."""
        spans = {name: (a, min(b, end)) for name, (a, b) in self.spans.items() if a < end}
        pair = self.pair if self.pair is not None and self.pair < end else None
        return FilledTemplate(self.text[:end], spans, None, pair)

    def prepend(self, lead: str) -> FilledTemplate:
        """The same after another text, which is the first to be shortened."""
        n = len(lead)
        moved = {name: (a + n, b + n) for name, (a, b) in self.spans.items()}
        target = (self.target[0] + n, self.target[1] + n) if self.target else None
        return FilledTemplate(
            lead + self.text, {SHOTS: (0, n), **moved}, target, None if self.pair is None else self.pair + n
        )


class Template:
    """`{column}` and `{column|filter}` places in a text. No attributes, indices or formats.

    values: column -> value -> what is shown instead (COPA's question: cause -> because).
    """

    def __init__(self, text: str, values: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self.text, self._values = text, values or {}
        self.parts: list[tuple[str, str | None, tuple[str, ...]]] = []
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
        """Columns that it names, and its target."""
        return [name for _, name, _ in self.parts if name is not None and name != "sep"]

    def has_place(self, target: str) -> bool:
        """Whether it has a place for this target."""
        return target in self.columns or any("fill" in filters for _, _, filters in self.parts)

    def render(self, record: Mapping[str, Any], until: str | None = None) -> str:
        """The text with its places filled; with `until`, only what stands before that place."""
        if until is None:
            return self.fill(record).text
        filled = self.fill(record, until, "")
        return filled.text[: filled.target[0]] if filled.target else filled.text

    def fill(
        self,
        record: Mapping[str, Any],
        target: str | None = None,
        said: str = "",
        tail: Literal["keep", "score", "drop"] = "keep",
    ) -> FilledTemplate:
        """The text of a record, with `said` in the place of the target.

        tail: what follows the target is text like the rest, is asked for with it, or is dropped.
        """
        text, spans, found, pair = "", {}, None, None
        for literal, name, filters in self.parts:
            text += literal
            if name is None:
                continue
            if name == "sep":
                pair = len(text)
                continue
            start = len(text)
            if target is not None and name == target:
                text += self._filtered(said, filters)
                found = (start, len(text))
            else:
                value = self._shown(name, record[name])
                before, hole, rest = value.partition(PLACEHOLDER) if "fill" in filters else (value, "", "")
                text += self._filtered(before, filters)
                if hole and target is not None:
                    found = (len(text), len(text) + len(said))
                    text += said + rest
                spans[name] = (start, len(text))
            if found and tail == "drop":
                break
        if found and tail == "score":
            found = (found[0], len(text))
        return FilledTemplate(text, spans, found, pair)

    def _shown(self, name: str, value: Any) -> str:
        return self._values.get(name, {}).get(str(value), str(value))

    @staticmethod
    def _filtered(text: str, filters: Sequence[str]) -> str:
        for f in filters:
            text = FILTERS[f](text)
        return text


# -- classes and options -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classes:
    """The classes of a task. keys: their values in the data, as text, in class order; words: what stands for each
    class in the model (a label word or a description); also: other values that mean the class of a key."""

    values: tuple[str, ...]
    words: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def index(self, value: Any) -> int | None:
        """Class of a record's label, or None where it is no class."""
        key = _key(value)
        key = self.aliases.get(key, key)
        return self.values.index(key) if key in self.values else None


def _key(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _numeric(keys: Sequence[str]) -> bool:
    return all(k.lstrip("-").isdigit() for k in keys)


def label_values(parts: Mapping[str, Sequence[Record]]) -> dict[str, str | None]:
    """Labels of all parts, and the text of each where a `label_text` column has one. Raises DataError."""
    seen: dict[str, str | None] = {}
    for part, rows in parts.items():
        for number, row in enumerate(rows, 1):
            if row.get("label") is None or _key(row["label"]) == "":
                raise DataError(
                    f"{part} record {number} has no column 'label'; {describe_columns(rows)}", hint="--column label=…"
                )
            if isinstance(row["label"], list | dict):
                raise DataError(f"{part} record {number}: a label must be a number or a text, got {row['label']!r:.40}")
            text = row.get("label_text")
            seen.setdefault(_key(row["label"]), text if isinstance(text, str) and text else None)
    return seen


def find_classes(parts: Mapping[str, Sequence[Record]], labels: str | None, needs_words: bool) -> Classes:
    """The classes of the data, and the words that stand for them.

    labels: `a,b,c` in class order (numbers ascending, texts sorted), or `value=word,…`. Without it the data's own
    texts are the words, or its `label_text` column where labels are numbers. Raises DataError or OptionError.
    """
    seen = label_values(parts)
    keys = sorted(seen, key=int) if _numeric(list(seen)) else sorted(seen)
    if len(keys) > 1000:
        raise DataError(f"{len(keys)} different labels: this does not look like classification")
    if labels is None:
        if not _numeric(keys):
            return _checked(keys, keys)
        names = [seen[k] for k in keys]
        if all(names) and len(set(names)) == len(names):
            return _checked(keys, [str(n) for n in names])
        if needs_words:
            raise OptionError(
                f"labels are numbers ({', '.join(keys[:8])}) and nothing says what they mean",
                hint="--labels 'word for the first,word for the second'",
            )
        return _checked(keys, keys)
    given = [w.strip() for w in labels.split(",") if w.strip()]
    if given and all("=" in w for w in given):
        named = {k.strip(): w.strip() for k, _, w in (g.partition("=") for g in given)}
        extra, missing = sorted(set(named) - set(keys)), sorted(set(keys) - set(named))
        if missing:
            raise OptionError(f"--labels has no word for {', '.join(missing)}", hint=f"labels found: {', '.join(keys)}")
        keys = keys + extra
        return _checked(keys, [named[k] for k in keys])
    if set(keys) <= set(given):
        return _checked(given, given)
    if not _numeric(keys) or len(given) < len(keys):
        raise OptionError(
            f"--labels has {len(given)} words ({', '.join(given)}) that do not fit the {len(keys)} labels found: "
            f"{', '.join(keys[:12])}",
            hint="one word for each in ascending order, or value=word,…",
        )
    if len(given) > len(keys):
        top = max(int(k) for k in keys)
        if min(int(k) for k in keys) < 0 or top >= len(given):
            raise OptionError(f"--labels has {len(given)} words for the {len(keys)} labels {', '.join(keys[:12])}")
        keys = [str(i) for i in range(len(given))]
    return _checked(keys, given)


def preset_classes(parts: Mapping[str, Sequence[Record]], known: Sequence[tuple[Sequence[str], str]]) -> Classes:
    """The classes of a task file: (values in the data, word) for each, in class order. Raises DataError for a label of
    the data that it does not have."""
    also = {_key(v): _key(values[0]) for values, _ in known for v in values}
    for label in label_values(parts):
        if label not in also:
            raise DataError(f"label {label!r} is none of this task's: {', '.join(also)}", hint="--labels value=word,…")
    made = _checked([_key(values[0]) for values, _ in known], [word for _, word in known])
    return replace(made, aliases=also)


def _checked(keys: Sequence[str], words: Sequence[str]) -> Classes:
    if len(keys) < 2:
        raise DataError(f"only one label found: {', '.join(keys) or 'none'}; classification needs at least two")
    if len(set(words)) != len(words):
        raise OptionError(f"two labels have the same word: {', '.join(words)}")
    return Classes(tuple(keys), tuple(words))


def option_texts(record: Mapping[str, Any], choices: Sequence[str]) -> list[str]:
    """The texts to choose from: one column each, or one column that holds a list. The same text twice is one option,
    unless `label` may count them."""
    if len(choices) == 1 and isinstance(record.get(choices[0]), list | tuple):
        found = [str(x) for x in record[choices[0]]]
        return list(dict.fromkeys(found)) if record.get("label") is None else found
    return [str(record[c]) for c in choices]


def correct_options(record: Mapping[str, Any], options: Sequence[str]) -> list[int]:
    """Indices of the right options: `label` is one or its text, or `answers` are the texts of the right ones. A number
    is an index first, a text an option first: options can be numbers too."""
    label = record.get("label")
    if label is not None:
        key = _key(label)
        index = [int(key)] if key.isdigit() and int(key) < len(options) else []
        named = [options.index(key)] if key in options else []
        return (named or index) if isinstance(label, str) else (index or named)
    answers = reference_texts(record, "answers")
    return [i for i, option in enumerate(options) if option in answers]


def reference_texts(record: Mapping[str, Any], column: str) -> list[str]:
    """Right texts: a column of one text or of a list of them; none where it is absent or empty."""
    value = record.get(column)
    if value is None:
        return []
    return [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]


# -- a task ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskSpec:
    """What a run asks its model: kind, template, and what the kind needs.

    classes: of a classification; choices: columns of the options; cut: the column that is shortened first; calibration:
    a template whose answers' log-probabilities are subtracted; demonstrations: what stands before every prompt; stop,
    max_new_tokens, temperature (0: greedy), top_p, system (the first message of a chat): of generation.
    """

    kind: TaskKind
    template: Template
    classes: Classes | None = None
    choices: tuple[str, ...] = ()
    cut: str | None = None
    calibration: Template | None = None
    demonstrations: str = ""
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    system: str | None = None

    @property
    def target(self) -> str:
        return TARGETS[self.kind]

    def check(self, parts: Mapping[str, Sequence[Record]], head: str) -> None:
        """Refuse, before a model is loaded, what the records lack. Raises OptionError or DataError."""
        check_template(self.template, parts, head, self.kind)
        if self.kind == "choice":
            for part, rows in parts.items():
                for number, row in enumerate(rows, 1):
                    _check_choice(part, number, row, self.choices, rows)
        if self.kind == "generation" and not any("messages" in rows[0] for rows in parts.values() if rows):
            return

    def references(self, record: Mapping[str, Any]) -> list[str]:
        """What the record says is right, as text; empty where it says nothing."""
        if self.kind == "classification":
            index = self.classes.index(record["label"]) if self.classes else None
            return [self.classes.words[index]] if self.classes and index is not None else []
        if self.kind == "choice":
            options = option_texts(record, self.choices)
            return [options[i] for i in correct_options(record, options)]
        return reference_texts(record, "completion")

    def demonstration(self, record: Mapping[str, Any]) -> str:
        """The record with its right answer, as a demonstration."""
        answers = self.references(record)
        return self.template.fill(record, self.target, answers[0] if answers else "").text.strip()


def _check_choice(part: str, number: int, row: Record, choices: Sequence[str], rows: Sequence[Record]) -> None:
    for name in choices:
        if row.get(name) is None:
            raise DataError(
                f"{part} record {number} has no column {name!r}; {describe_columns(rows)}", hint="--choices a,b,…"
            )
    options = option_texts(row, choices)
    if len(options) < 2:
        raise DataError(f"{part} record {number} has {len(options)} option to choose from; at least two are needed")
    if not correct_options(row, options):
        said = row.get("label", row.get("answers"))
        raise DataError(
            f"{part} record {number}: {said!r:.60} names none of its {len(options)} options",
            hint="label is an option's index or text; answers are the texts of the right ones",
        )


def check_template(
    template: Template, parts: Mapping[str, Sequence[Record]], head: str, kind: TaskKind = "classification"
) -> None:
    """Refuse, before a model is loaded, columns that the template names and the records lack."""
    target, worded = TARGETS[kind], head in LM_HEADS
    if kind != "generation" and worded and not template.has_place(target):
        raise OptionError(
            f"--template {template.text!r} has no {{{target}}}", hint=f"such as '{{text}} It was {{{target}}}'"
        )
    wanted = [f for f in template.columns if not (f == target and (worded or kind != "classification"))]
    if not wanted:
        raise OptionError(f"--template {template.text!r} shows nothing of a record", hint="name a column: '{text}'")
    for part, rows in parts.items():
        for number, row in enumerate(rows, 1):
            for name in wanted:
                if name not in row or row[name] is None:
                    raise DataError(
                        f"{part} record {number} has no column {name!r}; {describe_columns(rows)}",
                        hint=f"--column {name}=…, or another --template",
                    )


__all__ = [
    "LM_HEADS",
    "TARGETS",
    "TASK_KINDS",
    "Classes",
    "FilledTemplate",
    "TaskKind",
    "TaskSpec",
    "Template",
    "check_template",
    "correct_options",
    "find_classes",
    "label_values",
    "option_texts",
    "preset_classes",
    "reference_texts",
]
