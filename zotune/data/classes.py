"""Classes of a classification task: the labels in the data and the words that stand for them.

Knows records; knows no template and no model.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zotune.data.records import Record, describe_columns, is_missing, label_key, place_of
from zotune.errors import DataError, OptionError

MAX_CLASSES = 1000
"""With more distinct labels the column holds identifiers or numbers, not classes."""


@dataclass(frozen=True)
class Classes:
    """The classes of a task, in class order.

    values: the label of each class in the data, as text; words: the word for each class in a prompt, or its
    description; aliases: other labels that mean the class of a value. notes: what the user must know of how labels
    were read.
    """

    values: tuple[str, ...]
    words: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def index(self, label: Any) -> int | None:
        """The class of a label, or None where it is no class."""
        key = label_key(label)
        key = self.aliases.get(key, key)
        return self.values.index(key) if key in self.values else None


def label_values(parts: Mapping[str, Sequence[Record]]) -> dict[str, str | None]:
    """Each distinct label of the records as text, with its class name where a column `label_text` has one.

    parts: records by the name of their set, which errors show. Raises DataError.
    """
    names: dict[str, str | None] = {}
    for part, records in parts.items():
        for number, record in enumerate(records, 1):
            label, place = record.get("label"), place_of(record, f"{part} record {number}")
            if is_missing(label):
                lack = "an empty label" if "label" in record else "no column 'label'"
                raise DataError(f"{place} has {lack}; {describe_columns(records)}", hint="--column label=…")
            if isinstance(label, list | dict):
                raise DataError(f"{place}: a label must be a number or a text, got {label!r:.40}")
            name = record.get("label_text")
            names.setdefault(label_key(label), name if isinstance(name, str) and name else None)
    return names


def find_classes(
    parts: Mapping[str, Sequence[Record]], labels: str | Sequence[str] | None, needs_words: bool
) -> Classes:
    """The classes of the data.

    labels: `--labels`, either words in class order (numbers ascending, texts sorted), `bad,good`, or `value=word,…`, or
    a sequence of such items. A quoted word may have commas, `"no, sir",yes`; so may the items of a sequence of several.
    Without it the words are the labels themselves, or their class names where the labels are numbers. needs_words:
    refuse numbers without class names. Raises DataError or OptionError.
    """
    names = label_values(parts)
    values = sorted(names, key=int) if is_numeric(list(names)) else sorted(names)
    if len(values) > MAX_CLASSES:
        raise DataError(
            f"the column 'label' has {len(values)} distinct values, classification takes at most {MAX_CLASSES}",
            hint="--task generation, or another column with --column label=…",
        )
    if not labels:
        return _from_data(values, names, needs_words)
    words = label_items(labels)
    if words and all("=" in word for word in words):
        return _from_pairs(values, words)
    return _from_words(values, words)


def label_items(labels: str | Sequence[str] | None) -> list[str]:
    """The items of `--labels`, split at commas outside of quotation marks. Raises OptionError."""
    if not labels:
        return []
    if not isinstance(labels, str):
        if len(labels) > 1:
            return [unicodedata.normalize("NFC", item.strip()) for item in labels if item.strip()]
        labels = labels[0]
    items, quoted = [""], False
    for character in unicodedata.normalize("NFC", labels):
        if character == '"' and (quoted or not items[-1].strip() or items[-1].endswith("=")):
            quoted = not quoted
        elif character == "," and not quoted:
            items.append("")
        else:
            items[-1] += character
    if quoted:
        raise OptionError(f"--labels {labels!r} has a quotation mark that is not closed")
    return [item.strip() for item in items if item.strip()]


def _from_data(values: list[str], names: Mapping[str, str | None], needs_words: bool) -> Classes:
    if not is_numeric(values):
        return _checked(values, values)
    words = [names[value] for value in values]
    if all(words) and len(set(words)) == len(words):
        return _checked(values, [str(word) for word in words])
    if needs_words:
        raise OptionError(
            f"the labels are numbers ({', '.join(values[:8])}), and this model needs a word for each",
            hint="--labels 'word for the first,word for the second'",
        )
    return _checked(values, values)


def _from_pairs(values: list[str], pairs: Sequence[str]) -> Classes:
    """Classes of `value=word` pairs; values that the data lack come last."""
    words = {value.strip(): word.strip() for value, _, word in (pair.partition("=") for pair in pairs)}
    missing = sorted(set(values) - set(words))
    if missing:
        raise OptionError(f"--labels has no word for {', '.join(missing)}", hint=f"labels found: {', '.join(values)}")
    values = values + sorted(set(words) - set(values))
    return _checked(values, [words[value] for value in values])


def _from_words(values: list[str], words: list[str]) -> Classes:
    """Classes of words in class order. More words than numeric labels stand for the numbers from 0."""
    if set(values) <= set(words):
        return _checked(words, words)
    if not is_numeric(values) or len(words) < len(values):
        raise OptionError(
            f"--labels has {len(words)} words ({', '.join(words)}) that do not fit the {len(values)} labels found: "
            f"{', '.join(values[:12])}",
            hint="one word for each in ascending order, or value=word,…",
        )
    if len(words) > len(values):
        numbers = [int(value) for value in values]
        if min(numbers) < 0 or max(numbers) >= len(words):
            raise OptionError(
                f"--labels has {len(words)} words for the {len(values)} labels {', '.join(values[:12])}",
                hint="one word for each in ascending order, or value=word,…",
            )
        values = [str(i) for i in range(len(words))]
    return _checked(values, words)


def preset_classes(parts: Mapping[str, Sequence[Record]], classes: Sequence[tuple[Sequence[str], str]]) -> Classes:
    """The classes of a task file.

    classes: (labels in the data, word) of each class, in class order. Raises DataError for a label of the data that no
    class has.
    """
    aliases = {label_key(v): label_key(values[0]) for values, _ in classes for v in values}
    for label in label_values(parts):
        if label not in aliases:
            raise DataError(
                f"label {label!r} is not among this task's labels: {', '.join(aliases)}", hint="--labels value=word,…"
            )
    checked = _checked([label_key(values[0]) for values, _ in classes], [word for _, word in classes])
    return replace(checked, aliases=aliases)


def is_numeric(values: Sequence[str]) -> bool:
    """Whether all labels are whole numbers."""
    return all(value.removeprefix("-").isdecimal() for value in values)


def _checked(values: Sequence[str], words: Sequence[str]) -> Classes:
    if len(values) < 2:
        raise DataError(f"only one label found: {', '.join(values) or 'none'}; classification needs at least two")
    if len(set(words)) != len(words):
        raise OptionError(f"two labels have the same word: {', '.join(words)}", hint="--labels value=word,…")
    return Classes(tuple(values), tuple(words))


__all__ = ["Classes", "find_classes", "is_numeric", "label_items", "label_values", "preset_classes"]
