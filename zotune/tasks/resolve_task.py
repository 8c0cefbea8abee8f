"""What a run asks: from flags, a task file and the data's own columns to a spec.

Without `--task` the columns decide: `label` is classification; `messages`, or a column of right texts, is generation;
`--choices` is multiple choice. Knows configuration, records and a model's small files; loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zotune.config import RunConfig
from zotune.data import presets
from zotune.data.answers import reference_texts
from zotune.data.classes import Classes, find_classes, preset_classes
from zotune.data.records import Record, describe_columns, rename_columns
from zotune.data.task import TaskSpec
from zotune.data.task_kinds import TARGETS, TASK_KINDS, TaskKind
from zotune.data.templates import Template
from zotune.errors import DataError, OptionError
from zotune.models.heads import LM_HEADS, Head
from zotune.models.model_files import ModelFiles, find_model
from zotune.tasks import build
from zotune.tasks.generation import PAIRS

RecordSets = dict[str, list[Record]]
COMPLETIONS = ("completion", "answers", "answer", "summary", "target", "output", "response", "chosen")
"""Columns that hold right texts, the first found is used."""

DEFAULT = {"classification": "{text}", "embedding": "{text}", "causal": "{text} {label}"}
DEFAULT |= {"masked": "{text} {label}.", "seq2seq": "{text} {label}"}
MAX_LENGTH = {"classification": 256, "choice": 512, "generation": 1024}
MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Task:
    """What `--task` says: a task file, or a kind alone, or nothing."""

    file: presets.TaskFile | None = None
    kind: TaskKind | None = None

    def measure(self, kind: TaskKind) -> str:
        """What it is usually measured by."""
        own = self.file.objective if self.file else None
        return own or ("cross-entropy" if kind == "generation" else "accuracy")

    @property
    def objective_args(self) -> Mapping[str, str]:
        """Options that objectives have in this task, unless the user sets them."""
        return self.file.objective_args if self.file else {}


def parse_task(task: str | None) -> Task:
    """A preset's name, a file, or a kind of task. Raises OptionError."""
    if task is None:
        return Task()
    if task in TASK_KINDS:
        return Task(kind=task)
    file = presets.load(task)
    return Task(file, file.kind)


def resolve(
    cfg: RunConfig, task: Task, parts: Mapping[str, Sequence[Record]]
) -> tuple[ModelFiles, TaskSpec, RecordSets]:
    """The model's head, the spec, and the records with the names that the task uses. Raises UsageError of all kinds."""
    rows = {name: _aliased(list(records), task.file) for name, records in parts.items()}
    first = next(r[0] for r in rows.values() if r)
    kind = task_kind(cfg, task, first)
    found = find_model(cfg.model, cfg.head, cfg.allow_pickle)
    if cfg.init == "linear-probe" and cfg.head == "auto" and found.head not in ("classification", "embedding"):
        found = find_model(cfg.model, "classification", cfg.allow_pickle)
    if kind == "generation":
        rows = {name: _completed(records) for name, records in rows.items()}
    values = task.file.values if task.file else {}
    template = Template(cfg.template or _template(task.file, kind, found.head, first), values)
    choices = (
        tuple(c.strip() for c in cfg.choices.split(",")) if cfg.choices else task.file.choices if task.file else ()
    )
    if kind == "choice" and not choices:
        raise OptionError("multiple choice needs the columns of its options", hint="--choices choice1,choice2")
    spec = TaskSpec(
        kind,
        template,
        classes=_classes(cfg, task.file, rows, found.head) if kind == "classification" else None,
        choices=choices,
        cut=task.file.cut if task.file else None,
        stop=tuple(cfg.stop) or (task.file.stop if task.file else ()),
        max_new_tokens=cfg.max_new_tokens or (task.file and task.file.max_new_tokens) or MAX_NEW_TOKENS,
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        system=cfg.system,
    )
    build.task_class(spec, found.head)
    spec.check(rows, found.head)
    return found, spec, rows


def max_length(cfg: RunConfig, spec: TaskSpec) -> int:
    return cfg.max_length or MAX_LENGTH[spec.kind]


def available_fields(spec: TaskSpec, head: Head, parts: Mapping[str, Sequence[Record]]) -> frozenset[str]:
    """What objectives may ask for: without right texts there are no references and no losses."""
    names = build.task_class(spec, head).fields
    if spec.kind != "generation":
        return names
    every = [row for rows in parts.values() for row in rows]
    if all("chosen" in row and "rejected" in row for row in every):
        names |= PAIRS
    return names if all(map(_has_answer, every)) else names - {"references", "losses"}


def _has_answer(row: Record) -> bool:
    if "messages" in row:
        return bool(row["messages"]) and row["messages"][-1]["role"] == "assistant"
    return any(reference_texts(row, "completion"))


def calibration_template(task: Task, spec: TaskSpec) -> Template:
    """What the row's own words are taken out of: the task file's prompt, or the template without its columns."""
    if task.file and task.file.calibration:
        return Template(task.file.calibration, task.file.values)
    target = TARGETS[spec.kind]
    text = ""
    for literal, name, filters in spec.template.parts:
        text += literal.replace("{", "{{").replace("}", "}}")
        if name == target:
            text += "{" + "|".join([name, *filters]) + "}"
    return Template(text.lstrip())


def task_kind(cfg: RunConfig, task: Task, row: Record) -> TaskKind:
    """What kind of task it is: as said, or by the columns of a record."""
    if task.kind:
        return task.kind
    if cfg.choices:
        return "choice"
    if cfg.template and "{completion}" in cfg.template:
        return "generation"
    if "label" in row or cfg.labels:
        return "classification"
    if "messages" in row or "prompt" in row or any(c in row for c in COMPLETIONS):
        return "generation"
    return "classification"


def _aliased(rows: list[Record], file: presets.TaskFile | None) -> list[Record]:
    """The columns that a task file knows under other names, under its own."""
    if file is None or not rows:
        return rows
    found = {}
    for wanted, names in file.columns.items():
        name = next((n for n in names if n in rows[0]), None)
        if name is None and "" in names:  # it may be missing: its line of the template goes with it
            continue
        if name is None:
            raise DataError(
                f"task {file.name} needs a column {' or '.join(names)}; {describe_columns(rows)}", hint="--column"
            )
        if name != wanted:
            found[wanted] = name
    return rename_columns(rows, found) if found else rows


def _completed(rows: list[Record]) -> list[Record]:
    """The column of right texts, where there is one, under the name `completion`."""
    if not rows or "completion" in rows[0] or "messages" in rows[0]:
        return rows
    name = next((c for c in COMPLETIONS if c in rows[0]), None)
    return rename_columns(rows, {"completion": name}) if name else rows


def _template(file: presets.TaskFile | None, kind: TaskKind, head: str, row: Record) -> str:
    if file is not None:
        absent = [c for c, names in file.columns.items() if "" in names and c not in row]
        lines = presets.template_for(file, head).split("\n")
        return "\n".join(line for line in lines if not any(f"{{{c}" in line for c in absent))
    if kind == "choice":
        raise OptionError("multiple choice needs a template", hint="--template '{premise} {choice}'")
    if kind == "classification":
        return DEFAULT[head]
    for columns, text in (
        (("messages",), "{messages}"),
        (("prompt",), "{prompt}"),
        (("context", "question"), "{context}\nQuestion: {question}\nAnswer: {completion}"),
        (("question",), "Question: {question}\nAnswer: {completion}"),
        (("document",), "{document}\nSummary: {completion}"),
        (("text",), "{text}"),
    ):
        if all(c in row for c in columns):
            return text
    raise OptionError(
        f"no prompt found; {describe_columns([row])}", hint="--template '{question} Answer: {completion}'"
    )


def _classes(cfg: RunConfig, file: presets.TaskFile | None, rows: RecordSets, head: str) -> Classes:
    if file is None or cfg.labels or not file.labels:
        return find_classes(rows, cfg.labels, needs_words=head != "classification")
    described = head == "embedding"
    known = [(x.values, (x.description or x.word) if described else x.word) for x in file.labels]
    if head in LM_HEADS or described:
        return preset_classes(rows, known)
    return preset_classes(rows, [(x.values, x.values[-1]) for x in file.labels])


def draw_demonstrations(spec: TaskSpec, rows: Sequence[Record], count: int, seed: int) -> str:
    """Training records with their right answers, drawn by seed, to stand before every prompt. Raises DataError."""
    import random

    from zotune.seeds import derive

    if count > len(rows):
        raise DataError(f"--shots {count}: there are {len(rows)} training rows to draw from")
    drawn = random.Random(derive(seed, "shots")).sample(list(rows), count)
    return "".join(spec.demonstration(r) + "\n\n" for r in drawn)


__all__ = [
    "Task",
    "available_fields",
    "calibration_template",
    "draw_demonstrations",
    "max_length",
    "parse_task",
    "resolve",
    "task_kind",
]
