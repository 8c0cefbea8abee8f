"""Task files: templates by head, label words and column names of a task, read from a small YAML file.

The usual benchmark tasks ship as presets with the prompts of their papers; a user's file has the same keys, which take
short forms. Every error in a file is an OptionError of one line, raised before any data is read.

Knows the file and its keys; reads no records and fills no template. Imports neither torch nor transformers.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from zotune.data.synthetic import MAKERS, PREFIX, synthetic_name
from zotune.data.task_kinds import TARGETS, TaskKind
from zotune.errors import OptionError, nearest
from zotune.models.heads import HEADS, LM_HEADS
from zotune.options import convert
from zotune.yaml_file import read_yaml

_SHIPPED = Path(str(resources.files("zotune") / "data" / "tasks"))


@dataclass(frozen=True)
class LabelWord:
    """One class. values: the labels in the data that mean it, as text; word: the word for it in a prompt; description:
    the text for it that an embedding model compares with (None: the word)."""

    values: tuple[str, ...]
    word: str
    description: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """A task as its file defines it. Fields are the file's keys.

    classification: the class is in column `label`. choice: the correct option is in column `label` (its index, from 0)
    or `answers` (a list of the correct texts). generation: the reference, or a list of references, is in column
    `completion`.

    A place in a template is `{column}` or `{column|filter}`, see zotune.data.templates.
    """

    name: str
    about: str = ""
    paper: str = ""
    kind: TaskKind = "classification"
    template: Mapping[str, str]  # by head; "default" for the other heads
    labels: tuple[LabelWord, ...] = ()  # in class order
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> names in the data, the first present
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # column -> value -> text in the prompt
    choices: tuple[str, ...] = ()  # columns of the options, or one column that holds a list of them
    cut: str | None = None  # the column that is shortened where a row is too long
    calibration: str | None = None  # prompt without the row's content, for surface-form calibration
    objective: str | None = None  # unless -o names another; None: the run's own default
    objective_args: Mapping[str, str] = field(default_factory=dict)  # options of any objective that has them
    reward: str | None = None  # the objective of every command, unless -o names another
    data: str | None = None  # a synthetic data set, where no --dataset is given
    chat: bool = False  # whether a chat template goes around the prompts of a model that has one
    stop: tuple[str, ...] = ()  # texts that end a completion
    max_new_tokens: int | None = None


def names() -> list[str]:
    """The presets that ship."""
    return sorted(p.stem for p in _SHIPPED.glob("*.yaml"))


def load(task: str) -> TaskFile:
    """A preset by its name, or a user's YAML file by its path. Raises OptionError."""
    path = _SHIPPED / f"{task}.yaml" if task in names() else Path(task)
    if path.suffix not in (".yaml", ".yml") and not _is_file(path):
        raise OptionError(f"unknown task {task!r:.80}, and no such file", hint=nearest(task, names()))
    return _read(path, task)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def needed_columns(task: TaskFile) -> list[tuple[str, ...]]:
    """The columns that data of a task must have: for each the names that it may have."""
    named = [names for names in task.columns.values() if "" not in names]
    others = {c for text in task.template.values() for c in _columns_in(text, task.name)} - set(task.columns)
    return [*named, *((c,) for c in sorted(others - {TARGETS[task.kind], "completion"}))]


def nearest_task(columns: Iterable[str]) -> str:
    """A hint for data with these columns: the preset of text generation or multiple choice whose columns they are, else
    the one that lacks the fewest."""
    found = set(columns)
    lacking: list[tuple[int, int, str, list[str]]] = []
    for name in names():
        task = load(name)
        if task.kind == "classification":
            continue
        needed = needed_columns(task)
        missing = ["/".join(names) for names in needed if not found & set(names)]
        if len(missing) < len(needed):
            lacking.append((len(missing), -len(needed), name, missing))
    if not lacking:
        return "zotune ls tasks shows what each task needs"
    count, _, name, missing = min(lacking)
    return f"--task {name}" if not count else f"--task {name} is the nearest preset; it also needs {', '.join(missing)}"


def template_for(task: TaskFile, head: str) -> str:
    """The task's template for a head. Raises OptionError where the task has none, or where it does not suit the
    head."""
    _check_names([head], HEADS, "unknown head")
    key = head if head in task.template else "default"
    if key not in task.template:
        raise OptionError(
            f"task {task.name} has no template for head {head!r}, only for {', '.join(task.template)}",
            hint="--template, or another --head",
        )
    _check_target(task, head, f"task {task.name}: template {key!r}", task.template[key])
    return task.template[key]


def _read(path: Path, source: str) -> TaskFile:
    """source: the file's name in errors."""
    keys = read_yaml(path)
    _check_names(keys, _READERS, f"{source}: unknown key")
    fields = {key: _READERS[key](value, f"{source}: {key}") for key, value in keys.items() if value is not None}
    if not fields.get("template"):
        raise OptionError(f"{source} has no template", hint="such as template: '{text} It was {label}'")
    task = TaskFile(**{"name": path.stem, **fields})
    target, columns = TARGETS[task.kind], {c for text in task.template.values() for c in _columns_in(text, source)}
    for head in sorted(task.template.keys() - {"default"}):
        _check_target(task, head, f"{source}: template {head!r}", task.template[head])
    if task.kind == "choice" and not task.choices:
        raise OptionError(f"{source} has no choices", hint="the columns of the options, or one column with a list")
    if task.calibration is not None and target not in _columns_in(task.calibration, source):
        raise OptionError(f"{source}: calibration {task.calibration!r} has no {{{target}}}")
    for key, used, kind in (("labels", task.labels, "classification"), ("choices", task.choices, "choice")):
        if used and task.kind != kind:
            raise OptionError(f"{source}: {key} are for kind {kind}, not {task.kind}")
    if task.max_new_tokens is not None and task.max_new_tokens < 1:
        raise OptionError(f"{source}: max_new_tokens must be positive, got {task.max_new_tokens}")
    cut = [task.cut] if task.cut else []
    _check_names([*task.values, *cut], columns, f"{source}: no template has a place for column")
    return task


def _columns_in(text: str, place: str) -> set[str]:
    """The column names in a template, without filters."""
    try:
        places = [name.split("|") for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise OptionError(f"{place}: template {text!r}: {error}") from None
    return {name for name, *_ in places if name != "sep"} | {"choice" for _, *filters in places if "fill" in filters}


def _check_target(task: TaskFile, head: str, place: str, text: str) -> None:
    """Raises OptionError for a template without the answer that its head scores, or with an answer that its head would
    read."""
    target, columns = TARGETS[task.kind], _columns_in(text, place)
    if head in LM_HEADS and task.kind != "generation" and target not in columns:
        raise OptionError(f"{place} has no {{{target}}}, which head {head!r} needs")
    if head not in LM_HEADS and target != "choice" and target in columns:
        raise OptionError(
            f"{place} would show {{{target}}} to head {head!r}", hint=f"give {head} a template without it"
        )


def _check_names(given: Iterable[Any], known: Iterable[str], message: str) -> None:
    for name in given:
        if name not in known:
            raise OptionError(f"{message} {name!r}", hint=nearest(str(name), known))


# Readers of one key's value; `place` is the file and key in errors.


def _text(value: Any, place: str) -> str:
    if isinstance(value, bool):
        raise OptionError(f"{place} must be text, got {str(value).lower()}", hint="quote a bare yes, no, true or false")
    if not isinstance(value, str | int) or value == "":
        raise OptionError(f"{place} must be text, got {value!r:.40}")
    return str(value)


def _names(value: Any, place: str) -> tuple[str, ...]:
    """Names of a column in the data; an empty name at the end marks a column that may be missing."""
    items = value if isinstance(value, list) else [value]
    optional = len(items) > 1 and items[-1] == ""
    return (*_texts(items[:-1] if optional else items, place), *([""] if optional else []))


def _texts(value: Any, place: str) -> tuple[str, ...]:
    return tuple(_text(item, place) for item in (value if isinstance(value, list) else [value]))


def _mapping(value: Any, place: str, read: Callable[[Any, str], Any]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise OptionError(f"{place} must be a mapping, got {value!r:.40}")
    return {_text(key, place): read(v, f"{place}: {' '.join(str(key).split())[:40]}") for key, v in value.items()}


def _template(value: Any, place: str) -> dict[str, str]:
    by_head = value if isinstance(value, dict) else {"default": value}
    _check_names(by_head, (*HEADS, "default"), f"{place}: unknown head")
    return _mapping(by_head, place, _text)


def _columns(value: Any, place: str) -> dict[str, tuple[str, ...]]:
    return _mapping({_text(n, place): n for n in value} if isinstance(value, list) else value, place, _names)


def _labels(value: Any, place: str) -> tuple[LabelWord, ...]:
    items = [{"values": v, "word": word} for v, word in value.items()] if isinstance(value, dict) else value
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise OptionError(f"{place} must map values to words, or list entries with values and word, got {value!r:.40}")
    labels = tuple(_label(item, f"{place}, entry {number}") for number, item in enumerate(items, 1))
    for key, texts in (("value", [v for x in labels for v in x.values]), ("word", [x.word for x in labels])):
        for text in texts:
            if texts.count(text) > 1:
                raise OptionError(f"{place}: {key} {text!r} occurs twice")
    return labels


def _label(item: dict[Any, Any], place: str) -> LabelWord:
    _check_names(item, LabelWord.__dataclass_fields__, f"{place}: unknown key")
    for key in ("values", "word"):
        if item.get(key) in (None, []):
            raise OptionError(f"{place} has no {key}")
    description = item.get("description")
    return LabelWord(
        _texts(item["values"], f"{place}: values"),
        _text(item["word"], f"{place}: word"),
        None if description is None else _text(description, f"{place}: description"),
    )


def _objective(value: Any, place: str) -> str:
    """The name of an installed objective. A file, program or address is refused: a task file is data, not code."""
    name = _text(value, place)
    if not re.fullmatch(r"[\w-]+(/[\w-]+)?", name):
        raise OptionError(
            f"{place} must be the name of an installed objective, got {name!r:.40}", hint="give it with -o instead"
        )
    return name


def _data(value: Any, place: str) -> str:
    """A synthetic data set. Files are named with -d: a task file leads nowhere."""
    text = _text(value, place)
    if (name := synthetic_name(text)) is None or name not in MAKERS:
        known = ", ".join(f"{PREFIX}{n}" for n in MAKERS)
        raise OptionError(f"{place} must be one of {known}, got {text!r:.40}", hint="name files with -d instead")
    return text


OBJECTIVE_OPTIONS = ("normalize",)
"""Options of objectives that a task file may set. Others can name a program or a file, which a task file must not."""


def _objective_args(value: Any, place: str) -> dict[str, str]:
    options: dict[str, str] = _mapping(value, place, _text)
    if unknown := sorted(options.keys() - set(OBJECTIVE_OPTIONS)):
        raise OptionError(
            f"{place}: a task file cannot set the option {unknown[0]!r:.40} of an objective",
            hint=f"it can set {', '.join(OBJECTIVE_OPTIONS)}; use --objective-arg for others",
        )
    return options


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("name", "about", "paper", "cut", "calibration"), _text),
    "objective": _objective,
    "reward": _objective,
    "data": _data,
    "chat": lambda value, place: convert(value, bool, place),
    "objective_args": _objective_args,
    **dict.fromkeys(("choices", "stop"), _texts),
    "kind": lambda value, place: convert(value, TaskKind, place),
    "template": _template,
    "labels": _labels,
    "columns": _columns,
    "values": lambda value, place: _mapping(value, place, lambda v, p: _mapping(v, p, _text)),
    "max_new_tokens": lambda value, place: convert(value, int, place),
}

__all__ = ["LabelWord", "TaskFile", "load", "names", "nearest_task", "needed_columns", "template_for"]
