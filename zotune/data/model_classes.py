"""Classes that a model or a run has already: which class a label in the data means.

A classification head fixes the number, the order and the names of its classes. Labels are matched with the names; they
are never sorted into class numbers. Knows labels and names; knows no model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from zotune.data.classes import Classes, is_numeric, label_items, label_values
from zotune.data.records import Record, label_key
from zotune.errors import DataError, OptionError

DEFAULT_NAME: Final = re.compile(r"label_(\d+)")
"""The name that transformers gives a class without a name, folded by `fold`."""
SHOWN: Final = 8
"""Names that a message lists at most."""


def fold(text: str) -> str:
    """A name for comparison: without case, without white space around it, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).strip()


@dataclass(frozen=True)
class FixedClasses:
    """Classes that the data cannot change.

    values: how the classes are called in data, as text, in class order; words: their words or names; owner: who fixes
    them, for messages; numbered: whether an integer that is no value is a class number; hint: how to use other labels.
    """

    values: tuple[str, ...]
    words: tuple[str, ...]
    owner: str
    numbered: bool = True
    hint: str = ""


def named_classes(names: Sequence[str], owner: str, hint: str = "") -> FixedClasses:
    """The classes of a model whose head has these names, in class order; default names such as LABEL_0 mean nothing,
    so such classes are called by their numbers."""
    numbers = tuple(str(number) for number in range(len(names)))
    words = numbers if has_default_names(names) else tuple(names)
    return FixedClasses(words if len(set(words)) == len(words) else numbers, words, owner, hint=hint)


def has_default_names(names: Sequence[str]) -> bool:
    """Whether all names are those that transformers gives to classes without names: LABEL_0, LABEL_1, … in order."""
    numbers = [match and match[1] for match in (DEFAULT_NAME.fullmatch(fold(name)) for name in names)]
    return numbers == [str(number) for number in range(len(names))]


def match_classes(
    parts: Mapping[str, Sequence[Record]],
    fixed: FixedClasses,
    labels: str | Sequence[str] | None = None,
    synonyms: Sequence[tuple[Sequence[str], str]] = (),
) -> Classes:
    """The fixed classes, with the class of each label in the data.

    labels: `--labels`, names in class order or value=name pairs. synonyms: (labels, word) of the classes of a task
    file. Raises DataError for a label that is no class, OptionError for `--labels` that do not fit.
    """
    found = label_values(parts)
    fixed, own = _with_words(fixed, labels, list(found))
    if _nameless(fixed):
        fixed = _named_by_data(fixed, found, synonyms)
    classes, notes = _match(fixed, found, own, synonyms)
    if unknown := [label for label, index in classes.items() if index is None]:
        raise DataError(
            f"{'labels' if len(unknown) > 1 else 'label'} {_listed(unknown)} {'are' if len(unknown) > 1 else 'is'} no "
            f"class of {fixed.owner}, which has {_listed(fixed.words)}",
            hint=fixed.hint or "--labels value=class,…",
        )
    aliases = {label: fixed.values[index] for label, index in classes.items() if index is not None}
    return replace(Classes(fixed.values, fixed.words, aliases), notes=notes)


def _match(
    fixed: FixedClasses,
    found: Mapping[str, str | None],
    own: Mapping[str, int],
    synonyms: Sequence[tuple[Sequence[str], str]],
) -> tuple[dict[str, int | None], tuple[str, ...]]:
    """The class of each label, None where it has none, and notes. How numbers are read is decided once for all."""
    by_name, numbers = _names_of(fixed), is_numeric(list(found))
    described = {label: _described(fixed, by_name, label, name, synonyms) for label, name in found.items()}
    ids = {label: _number(fixed, label) for label in found}
    if own:
        return {label: own.get(label) for label in found}, ()
    if all(label in fixed.values for label in found):
        by_value: dict[str, int | None] = {label: fixed.values.index(label) for label in found}
        if numbers and fixed.numbered and all(i is not None for i in ids.values()) and by_value != ids:
            return by_value, (f"the labels are read as names of {fixed.owner}'s classes, {_listed(fixed.words)}",)
        return by_value, ()
    if not numbers:
        return {label: by_name(label) if described[label] is None else described[label] for label in found}, ()
    if all(index is not None for index in described.values()):
        if described != ids and all(i is not None for i in ids.values()):
            pairs = ", ".join(f"{label} is {fixed.words[i]}" for label, i in described.items() if i is not None)
            return described, (f"the labels' names in the data decide, not their numbers: {pairs}",)
        return described, ()
    if not any(is_numeric([value]) for value in fixed.values):
        return ids, ()
    if all(index is not None for index in ids.values()):
        return ids, (f"the labels are read as class numbers of {fixed.owner}",)
    return {label: fixed.values.index(label) if label in fixed.values else None for label in found}, ()


def _names_of(fixed: FixedClasses) -> Callable[[str], int | None]:
    """A function from a text to the class of this value or name: an equal one first, else one of another case."""
    names = [(text, index) for texts in (fixed.values, fixed.words) for index, text in enumerate(texts)]

    def by_name(text: str) -> int | None:
        composed = unicodedata.normalize("NFC", text)
        equal = {index for name, index in names if name in (text, composed)}
        matches = equal or {index for name, index in names if fold(name) == fold(text)}
        if matches:
            return matches.pop() if len(matches) == 1 else None
        default = DEFAULT_NAME.fullmatch(fold(text))
        return _number(fixed, default[1] if default else text)

    return by_name


def _described(
    fixed: FixedClasses,
    by_name: Callable[[str], int | None],
    label: str,
    name: str | None,
    synonyms: Sequence[tuple[Sequence[str], str]],
) -> int | None:
    """The class of the words that the data or a task file has for a label."""
    words = [name] if name else []
    for values, word in synonyms:
        if fold(label) in map(fold, values):
            words += [*values, word]
    matches = {by_name(word) for word in words if not is_numeric([word]) and fold(word) != fold(label)} - {None}
    return matches.pop() if len(matches) == 1 else None


def _number(fixed: FixedClasses, text: str) -> int | None:
    """The class of this number."""
    return int(text) if fixed.numbered and text.isdecimal() and int(text) < len(fixed.values) else None


def _nameless(fixed: FixedClasses) -> bool:
    return fixed.words == tuple(str(number) for number in range(len(fixed.words)))


def _named_by_data(
    fixed: FixedClasses, found: Mapping[str, str | None], synonyms: Sequence[tuple[Sequence[str], str]]
) -> FixedClasses:
    """Classes without names, named by a task file of as many classes, or by the names that the data has for all of
    their numbers."""
    words: list[str | None] = [found.get(value) for value in fixed.values]
    if len(synonyms) == len(fixed.values):
        words = [values[-1] for values, _ in synonyms]
    if all(words) and len(set(words)) == len(words):
        return replace(fixed, words=tuple(str(word) for word in words))
    return fixed


def _with_words(
    fixed: FixedClasses, labels: str | Sequence[str] | None, found: Sequence[str]
) -> tuple[FixedClasses, Mapping[str, int]]:
    """The classes with the words of `--labels`, and the class of each label where it tells. Raises OptionError."""
    words = label_items(labels)
    by_name = _names_of(replace(fixed, numbered=False))
    if not words:
        return fixed, {}
    if all("=" in word for word in words):
        pairs = {label_key(value): word.strip() for value, _, word in (text.partition("=") for text in words)}
        if all(by_name(word) is None for word in pairs.values()) and len(pairs) == len(fixed.values):
            order = sorted(pairs, key=int) if is_numeric(list(pairs)) else list(pairs)
            named = replace(fixed, words=tuple(pairs[value] for value in order))
            return named, {value: index for index, value in enumerate(order)}
        own = {}
        for value, word in pairs.items():
            index = by_name(word)
            if index is None:
                raise OptionError(f"--labels: {word!r} is no class of {fixed.owner}: {_listed(fixed.words)}")
            own[value] = index
        return fixed, own
    if all(by_name(word) is not None for word in words):
        return fixed, {}
    if len(words) != len(fixed.values):
        raise OptionError(
            f"--labels has {len(words)} words, and {fixed.owner} has {len(fixed.values)} classes: "
            f"{_listed(fixed.words)}",
            hint="one word for each class, or value=class,…",
        )
    if len(set(words)) != len(words):
        raise OptionError(f"two labels have the same word: {', '.join(words)}", hint="--labels value=word,…")
    named = replace(fixed, words=tuple(words))
    if is_numeric(found) and len(found) == len(words) and any(_number(named, label) is None for label in found):
        return named, {label: index for index, label in enumerate(sorted(found, key=int))}
    return named, {}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name) if not is_numeric([name]) else name for name in names[:SHOWN]) + more


__all__ = ["FixedClasses", "fold", "has_default_names", "match_classes", "named_classes"]
