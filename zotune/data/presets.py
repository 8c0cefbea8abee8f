"""What a task shows a model: templates by head, label words and columns, read from a small YAML file.

The usual tasks ship as presets, with the papers' own prompts; a user's file has the same keys, in short forms where
these say enough. Whatever is wrong with a file is one OptionError with one line, before any data is read.

Knows the file and its rules; reads no records and renders no template. Imports neither torch nor transformers.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from zotune.errors import OptionError, nearest
from zotune.options import convert
from zotune.yaml_file import read_yaml

TaskKind = Literal["classification", "choice", "generation"]
TARGETS: Mapping[str, str] = {"classification": "label", "choice": "choice", "generation": "completion"}
"""The place of the answer in a template, by kind. A generation template may leave it out: the completion follows."""

LM_HEADS = ("causal", "masked", "seq2seq")
"""Heads that score or write the words at the target. The others see a row's own texts, never a label."""

HEADS = (*LM_HEADS, "classification", "embedding")
_SHIPPED = Path(str(resources.files("zotune") / "data" / "tasks"))


@dataclass(frozen=True)
class LabelWord:
    """One class. values: the labels in the data that mean it, as text; word: what stands for it in a prompt;
    description: what stands for it for an embedding model (None: the word)."""

    values: tuple[str, ...]
    word: str
    description: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """A task as its file says it.

    classification: the class is in column `label`. choice: the right option is in column `label` (its index, from 0) or
    `answers` (a list of the right texts). generation: the right text, or a list of them, is in column `completion`.

    A place in a template is `{column}` or `{column|filter}`: unstop drops a final full stop, uncap and cap change the
    first letter, fill puts the option into the column's text, where that says @placeholder. `{sep}` parts two texts.
    """

    name: str
    about: str = ""
    paper: str = ""
    kind: TaskKind = "classification"
    template: Mapping[str, str]  # by head; "default" for the heads not named
    labels: tuple[LabelWord, ...] = ()  # in class order
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> names in the data, the first found
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # column -> value -> text shown for it
    choices: tuple[str, ...] = ()  # columns of the options, or one column that holds a list of them
    cut: str | None = None  # the column that is shortened where a row is too long
    calibration: str | None = None  # prompt without the row's content, for surface-form calibration
    objective: str | None = None  # where nothing else is said; None: the run's own default
    stop: tuple[str, ...] = ()  # texts that end a completion
    max_new_tokens: int | None = None


def names() -> list[str]:
    """The presets that ship."""
    return sorted(p.stem for p in _SHIPPED.glob("*.yaml"))


def load(spec: str) -> TaskFile:
    """A preset by its name, or a user's YAML file by its path. Raises OptionError."""
    path = _SHIPPED / f"{spec}.yaml" if spec in names() else Path(spec)
    if path.suffix not in (".yaml", ".yml") and not _is_file(path):
        raise OptionError(f"unknown task {spec!r:.80}, and no such file", hint=nearest(spec, names()))
    return _read(path, spec)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def template_for(task: TaskFile, head: str) -> str:
    """The template that a head is given. Raises OptionError where there is none, or one that does not suit the head."""
    _known([head], HEADS, "unknown head")
    named = head if head in task.template else "default"
    if named not in task.template:
        raise OptionError(f"task {task.name} has no template for head {head!r}, only {', '.join(task.template)}")
    _suits(task, head, f"task {task.name}: template {named!r}", task.template[named])
    return task.template[named]


def _read(path: Path, source: str) -> TaskFile:
    given = read_yaml(path)
    _known(given, _READERS, f"{source}: unknown key")
    found = {key: _READERS[key](value, f"{source}: {key}") for key, value in given.items() if value is not None}
    if not found.get("template"):
        raise OptionError(f"{source} has no template", hint="such as template: '{text} It was {label}'")
    task = TaskFile(**{"name": path.stem, **found})
    target, shown = TARGETS[task.kind], {place for text in task.template.values() for place in _places(text, source)}
    for head in sorted(task.template.keys() - {"default"}):
        _suits(task, head, f"{source}: template {head!r}", task.template[head])
    if task.kind == "choice" and not task.choices:
        raise OptionError(f"{source} has no choices", hint="the columns of the options, or one column with a list")
    if task.calibration is not None and target not in _places(task.calibration, source):
        raise OptionError(f"{source}: calibration {task.calibration!r} has no {{{target}}}")
    for key, kind in (("labels", "classification"), ("choices", "choice")):
        if getattr(task, key) and task.kind != kind:
            raise OptionError(f"{source}: {key} are for kind {kind}, not {task.kind}")
    if task.max_new_tokens is not None and task.max_new_tokens < 1:
        raise OptionError(f"{source}: max_new_tokens must be positive, got {task.max_new_tokens}")
    _known([*task.values, *([task.cut] if task.cut else [])], shown, f"{source}: no template shows column")
    return task


def _places(text: str, what: str) -> set[str]:
    """The names in a template's places, without their filters."""
    try:
        places = [place.split("|") for _, place, _, _ in string.Formatter().parse(text) if place is not None]
    except ValueError as error:
        raise OptionError(f"{what}: template {text!r}: {error}") from None
    return {name for name, *_ in places if name != "sep"} | {"choice" for _, *filters in places if "fill" in filters}


def _suits(task: TaskFile, head: str, what: str, text: str) -> None:
    target, places = TARGETS[task.kind], _places(text, what)
    if head in LM_HEADS and task.kind != "generation" and target not in places:
        raise OptionError(f"{what} has no {{{target}}}, which head {head!r} needs")
    if head not in LM_HEADS and target != "choice" and target in places:
        raise OptionError(f"{what} would show {{{target}}} to head {head!r}", hint=f"give {head} one of its own")


def _known(given: Iterable[Any], known: Iterable[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise OptionError(f"{what} {name!r}", hint=nearest(str(name), known))


def _text(value: Any, what: str) -> str:
    if isinstance(value, bool):
        raise OptionError(f"{what} must be text, got {str(value).lower()}", hint="quote a bare yes, no, true or false")
    if not isinstance(value, str | int) or value == "":
        raise OptionError(f"{what} must be text, got {value!r:.40}")
    return str(value)


def _names(value: Any, what: str) -> tuple[str, ...]:
    """Names of a column in the data; an empty one at the end says that it may be missing."""
    items = value if isinstance(value, list) else [value]
    optional = len(items) > 1 and items[-1] == ""
    return (*_texts(items[:-1] if optional else items, what), *([""] if optional else []))


def _texts(value: Any, what: str) -> tuple[str, ...]:
    return tuple(_text(item, what) for item in (value if isinstance(value, list) else [value]))


def _mapping(value: Any, what: str, read: Callable[[Any, str], Any]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise OptionError(f"{what} must be a mapping, got {value!r:.40}")
    return {_text(key, what): read(item, f"{what}: {' '.join(str(key).split())[:40]}") for key, item in value.items()}


def _template(value: Any, what: str) -> dict[str, str]:
    by_head = value if isinstance(value, dict) else {"default": value}
    _known(by_head, (*HEADS, "default"), f"{what}: unknown head")
    return _mapping(by_head, what, _text)


def _columns(value: Any, what: str) -> dict[str, tuple[str, ...]]:
    return _mapping({_text(n, what): n for n in value} if isinstance(value, list) else value, what, _names)


def _labels(value: Any, what: str) -> tuple[LabelWord, ...]:
    rows = [{"values": v, "word": word} for v, word in value.items()] if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise OptionError(f"{what} must map values to words, or list entries with values and word, got {value!r:.40}")
    labels = tuple(_label(row, f"{what}, entry {number}") for number, row in enumerate(rows, 1))
    for key, texts in (("value", [v for x in labels for v in x.values]), ("word", [x.word for x in labels])):
        for text in texts:
            if texts.count(text) > 1:
                raise OptionError(f"{what}: {key} {text!r} occurs twice")
    return labels


def _label(row: dict[Any, Any], what: str) -> LabelWord:
    _known(row, LabelWord.__dataclass_fields__, f"{what}: unknown key")
    for key in ("values", "word"):
        if row.get(key) in (None, []):
            raise OptionError(f"{what} has no {key}")
    said = None if row.get("description") is None else _text(row["description"], f"{what}: description")
    return LabelWord(_texts(row["values"], f"{what}: values"), _text(row["word"], f"{what}: word"), said)


def _plugin(value: Any, what: str) -> str:
    """The name of an installed objective, and of nothing that would be run or asked: a task file is data."""
    name = _text(value, what)
    if not re.fullmatch(r"[\w-]+(/[\w-]+)?", name):
        raise OptionError(f"{what} must be the name of an installed objective, got {name!r:.40}", hint="say it with -o")
    return name


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("name", "about", "paper", "cut", "calibration"), _text),
    "objective": _plugin,
    **dict.fromkeys(("choices", "stop"), _texts),
    "kind": lambda value, what: convert(value, TaskKind, what),
    "template": _template,
    "labels": _labels,
    "columns": _columns,
    "values": lambda value, what: _mapping(value, what, lambda v, w: _mapping(v, w, _text)),
    "max_new_tokens": lambda value, what: convert(value, int, what),
}

__all__ = ["LabelWord", "TaskFile", "load", "names", "template_for"]
