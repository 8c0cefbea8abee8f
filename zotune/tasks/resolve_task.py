"""Resolves the task of a run from its options, a task file and the columns of the data.

Without `--task`, a column `label` means classification, `messages`, `prompt` or a column of reference texts means
generation, and `--choices` means multiple choice. Knows configuration, records and the small files of a model; loads no
model.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from zotune import seeds
from zotune.config import RunConfig
from zotune.data import presets, usual_columns
from zotune.data.answers import find_reading, reference_texts
from zotune.data.model_classes import FixedClasses
from zotune.data.records import Record, describe_columns, rename_columns
from zotune.data.task import ChatMode, TaskSpec
from zotune.data.task_kinds import TARGETS, TASK_KINDS, TaskKind
from zotune.data.templates import Template, unescape
from zotune.errors import DataError, OptionError
from zotune.models.heads import LM_HEADS, Head
from zotune.models.model_files import ModelFiles, find_model
from zotune.options import convert
from zotune.tasks import build
from zotune.tasks.chat import check_chat_template, example_messages
from zotune.tasks.generation import PAIRS
from zotune.tasks.resolve_classes import resolve_classes
from zotune.text import texts
from zotune.yaml_file import yaml_value

RecordSets = dict[str, list[Record]]
"""Records by the name of their set, such as train or test."""
COMPLETIONS = ("completion", "answers", "answer", "summary", "target", "output", "response", "chosen")
"""Columns that may hold reference texts; the first that the data has is used."""

DEFAULT_TEMPLATES = {"classification": "{text}", "embedding": "{text}", "causal": "{text} {label}"}
DEFAULT_TEMPLATES |= {"masked": "{text} {label}.", "seq2seq": "{text} {label}"}
"""Head → default template of classification."""
MAX_LENGTH = {"classification": 256, "choice": 512, "generation": 1024}
"""Task kind → default of `--max-length`."""
MAX_NEW_TOKENS = 64
"""Default of `--max-new-tokens`."""


@dataclass(frozen=True)
class RequestedTask:
    """The value of `--task`: a task file, a task kind alone, or neither."""

    file: presets.TaskFile | None = None
    kind: TaskKind | None = None

    def default_objective(self, kind: TaskKind) -> str:
        """The objective of the task file, else the default of the task kind."""
        own = (self.file.reward or self.file.objective) if self.file else None
        return own or ("cross-entropy" if kind == "generation" else "accuracy")

    @property
    def data(self) -> str | None:
        """The task file's own data set."""
        return self.file.data if self.file else None

    @property
    def objective_args(self) -> Mapping[str, str]:
        """The task file's options of objectives, which the user's own options override."""
        return self.file.objective_args if self.file else {}


def parse_task(task: str | None) -> RequestedTask:
    """Parse `--task`: the name of a preset, the path of a task file, or a task kind. Raises OptionError."""
    if task is None:
        return RequestedTask()
    if task in TASK_KINDS:
        return RequestedTask(kind=task)
    file = presets.load(task)
    return RequestedTask(file, file.kind)


def resolve(
    config: RunConfig,
    task: RequestedTask,
    parts: Mapping[str, Sequence[Record]],
    *,
    others: Mapping[str, Sequence[Record]] | None = None,
    fixed: FixedClasses | None = None,
    head_seed: int | None = None,
    draws: bool = True,
) -> tuple[ModelFiles, TaskSpec, RecordSets]:
    """Resolve the task of a run before the model is loaded.

    parts: records by the name of their set. others: further records of the same data, which are not scored; their
    labels tell classes, and how labels name an option, as in a run on all of the data. fixed: the classes of a run,
    which go before those of the model's files. head_seed: the seed of a run, whose adapter may belong to a head that
    was drawn from it. draws: whether a classification head may be drawn where the model's files hold none. Returns the
    model's files with its head, the task specification, and the records with their columns renamed to those of the
    task. Raises OptionError, DataError or ModelError.
    """
    record_sets = {name: _with_task_columns(list(records), task.file) for name, records in parts.items()}
    first = next(r[0] for r in record_sets.values() if r)
    kind = task_kind(config, task, first)
    files = find_model(config.model, config.head, config.allow_pickle, config.model_revision)
    if config.init == "linear-probe" and config.head == "auto" and files.head not in ("classification", "embedding"):
        files = find_model(config.model, "classification", config.allow_pickle, config.model_revision)
    record_sets, notes = _prepared(record_sets, task, kind)
    values = task.file.values if task.file else {}
    reads_pairs = kind == "classification" and files.head == "classification" and task.file is None
    pair = usual_columns.text_pair(record_sets) if reads_pairs else None
    if config.template:
        template = Template(unescape(config.template), values)
    elif pair is not None:
        template = Template(f"{{{pair[0]}}} {{sep}}{{{pair[1]}}}", values)
        notes.append(f"the columns {pair[0]} and {pair[1]} are read as a pair of texts")
    else:
        template = Template(unescape(_template(task.file, kind, files.head, first)), values)
    choices = task.file.choices if task.file else ()
    if config.choices:
        choices = tuple(column.strip() for column in config.choices.split(","))
    if kind == "choice" and not choices:
        raise OptionError("multiple choice needs the columns of the options", hint="--choices choice1,choice2")
    classes = None
    labelled = record_sets | (_labelled(others, task, kind) if others else {})
    if kind == "classification":
        classes, new_head = resolve_classes(config, task.file, record_sets, labelled, files, fixed=fixed, draws=draws)
        files = replace(files, new_head=new_head, head_seed=head_seed if files.adapter else None)
    choice_labels, reading = find_reading(labelled, choices) if kind == "choice" else ("mixed", [])
    spec = TaskSpec(
        kind,
        template,
        classes=classes,
        choices=choices,
        choice_labels=choice_labels,
        cut=task.file.cut if task.file else None,
        **generation_options(config, task),
        prompt_from_file=task.file is not None and not task.file.chat and config.template is None,
        notes=(*notes, *reading),
    )
    build.task_class(spec, files.head)  # raises OptionError where the kind and the head do not fit
    spec.check(record_sets, files.head)
    check_chat_template(files, spec, chain(*record_sets.values()), config.trust_remote_code)
    return files, spec, record_sets


def _prepared(rows: RecordSets, task: RequestedTask, kind: TaskKind) -> tuple[RecordSets, list[str]]:
    """The records that a task of this kind uses, with their columns under its names, and notes on what was left out or
    read in one of several ways."""
    first = next(r[0] for r in rows.values() if r)
    if kind == "classification":
        rows, notes = usual_columns.without_empty_labels(rows)
        return rows, [*notes, *usual_columns.alike_labels(rows)]
    if kind == "choice":
        column = next((c for c in usual_columns.CHOICE_LABELS if c in first), None)
        if column is None or "label" in first or "answers" in first:
            return rows, []
        renamed = {name: rename_columns(records, {"label": column}) for name, records in rows.items()}
        return renamed, [f"the correct option is read from the column {column}"]
    notes = []
    if task.kind is None and usual_columns.is_unpaired_preference(first):
        rows, notes = usual_columns.wanted_completions(rows)
    return {name: _with_completion_column(records) for name, records in rows.items()}, notes


def _labelled(others: Mapping[str, Sequence[Record]], task: RequestedTask, kind: TaskKind) -> RecordSets:
    """The sets among others that have labels, by names that no other set has."""
    sets: RecordSets = {}
    for name, records in others.items() if kind != "generation" else ():
        try:
            prepared, _ = _prepared({name: _with_task_columns(list(records), task.file)}, task, kind)
        except DataError:  # rows without labels, which nothing scores
            continue
        if prepared[name] and "label" in prepared[name][0]:
            sets[f"{name} (not scored)"] = prepared[name]
    return sets


def unused_columns(
    spec: TaskSpec, rows: Sequence[Record], inputs: frozenset[str], takes_all: bool, columns: Mapping[str, str]
) -> list[str]:
    """A note that names the columns of the data that neither the task nor an objective reads. inputs: those that the
    objectives name; takes_all: whether an objective gets every input; columns: those that the user names with
    `--column`."""
    if takes_all or "batch" in inputs:
        return []
    used = {
        *spec.template.columns,
        *spec.choices,
        *inputs,
        *columns,
        *columns.values(),
        "label",
        "label_text",
        "answers",
    }
    names = rows[0].keys()
    if spec.kind == "generation":
        used |= {"completion"}
        sources = {"prompt", "completion", "chosen", "conversations"} if "messages" in used else set()
        if "prompt" in used and "instruction" in names:
            sources |= {"instruction", "input", "output", "context", "response"}
        if "chosen" in used | sources or inputs & PAIRS:
            sources |= {"chosen", "rejected"}
        used |= sources
    if spec.cut:
        used.add(spec.cut)
    return usual_columns.unused_columns(rows, used)


def generation_options(config: RunConfig, task: RequestedTask, tokens: int = MAX_NEW_TOKENS) -> dict[str, Any]:
    """The fields of a task specification that say how prompts are put to the model and how it answers. tokens: of a
    completion at most, where neither the configuration nor the task says so. Raises OptionError."""
    return {
        "stop": tuple(map(unescape, config.stop or (task.file.stop if task.file else ()))),
        "max_new_tokens": config.max_new_tokens or (task.file and task.file.max_new_tokens) or tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "min_p": config.min_p,
        "repetition_penalty": config.repetition_penalty,
        "system": config.system and unescape(config.system),
        "chat_template": convert(config.chat_template, ChatMode, "--chat-template"),
        "chat_args": {name: yaml_value(value) for name, value in config.chat_args.items()},
    }


def max_length(config: RunConfig, spec: TaskSpec) -> int:
    """Tokens a row at most: `--max-length`, or the default of the task kind."""
    return config.max_length or MAX_LENGTH[spec.kind]


def available_fields(spec: TaskSpec, head: Head, parts: Mapping[str, Sequence[Record]]) -> frozenset[str]:
    """The fields that objectives may ask for. Generation has `references` and `losses` where a record has a reference
    text (None for the others, see `reference_note`), and the fields of pairs only where every record has a chosen and a
    rejected completion."""
    names = build.task_class(spec, head).fields
    if spec.kind != "generation":
        return names
    records = [record for part in parts.values() for record in part]
    if all("chosen" in record and "rejected" in record for record in records):
        names |= PAIRS
    return names if any(map(_has_reference, records)) else names - {"references", "losses"}


def reference_note(spec: TaskSpec, parts: Mapping[str, Sequence[Record]], required: Collection[str]) -> list[str]:
    """A note where some records have no reference text and an objective requires one."""
    if spec.kind != "generation" or not {"references", "losses"} & set(required):
        return []
    records = [record for part in parts.values() for record in part]
    lacking = sum(not _has_reference(record) for record in records)
    return (
        [f"{lacking} of {len(records)} rows have no reference text: objectives that need one do not score them"]
        if lacking
        else []
    )


def _has_reference(row: Record) -> bool:
    if "messages" in row:
        return bool(row["messages"]) and row["messages"][-1]["role"] == "assistant"
    return any(text.strip() for text in reference_texts(row, "completion"))


def calibration_template(task: RequestedTask, spec: TaskSpec) -> Template:
    """The template of the neutral prompt, without the row's content: the task file's, or the task's template without
    its columns."""
    if task.file and task.file.calibration:
        return Template(unescape(task.file.calibration), task.file.values)
    target = TARGETS[spec.kind]
    text = ""
    for literal, name, filters in spec.template.parts:
        text += literal.replace("{", "{{").replace("}", "}}")
        if name == target:
            text += "{" + "|".join([name, *filters]) + "}"
    return Template(text.lstrip())


def task_kind(config: RunConfig, task: RequestedTask, row: Record) -> TaskKind:
    """The task kind: as requested with `--task`, or inferred from the options and the columns of a record."""
    if task.kind:
        return task.kind
    if config.choices:
        return "choice"
    if config.template and "{completion}" in config.template:
        return "generation"
    if usual_columns.is_unpaired_preference(row) and not config.labels and not config.template:
        return "generation"
    if "label" in row or config.labels:
        return "classification"
    if "messages" in row or "prompt" in row or any(c in row for c in COMPLETIONS):
        return "generation"
    return "classification"


def _with_task_columns(rows: list[Record], file: presets.TaskFile | None) -> list[Record]:
    """Rename columns to the names that the task file uses. Raises DataError for a missing column."""
    if file is None or not rows:
        return rows
    renamed = {}
    for column, names in file.columns.items():
        name = next((n for n in names if n in rows[0]), None)
        if name is None and "" in names:  # an optional column; its line of the template is left out
            continue
        if name is None:
            raise DataError(
                f"task {file.name} needs a column {' or '.join(names)}; {describe_columns(rows)}",
                hint=f"--column {column}=…; {presets.nearest_task(rows[0])}",
            )
        if name != column:
            renamed[column] = name
    return rename_columns(rows, renamed) if renamed else rows


def _with_completion_column(rows: list[Record]) -> list[Record]:
    """Rename the column of reference texts, where there is one, to `completion`."""
    if not rows or "completion" in rows[0] or "messages" in rows[0]:
        return rows
    name = next((c for c in COMPLETIONS if c in rows[0]), None)
    rows = rename_columns(rows, {"completion": name}) if name else rows
    if name == "chosen":  # a text, or messages that end with it
        return [r | {"completion": texts([r[name]])[0]} if isinstance(r[name], list) else r for r in rows]
    return rows


def _template(file: presets.TaskFile | None, kind: TaskKind, head: str, row: Record) -> str:
    """The template of a task file, without the lines of absent optional columns; else the default for the task kind,
    the head and the columns. Raises OptionError where there is none."""
    if file is not None:
        absent = [c for c, names in file.columns.items() if "" in names and c not in row]
        lines = presets.template_for(file, head).split("\n")
        return "\n".join(line for line in lines if not any(f"{{{c}" in line for c in absent))
    if kind == "choice":
        raise OptionError("multiple choice needs a template", hint="--template '{premise} {choice}'")
    if kind == "classification":
        return DEFAULT_TEMPLATES[head]
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
        f"no prompt found; {describe_columns([row])}",
        hint=f"--template '{{question}} Answer: {{completion}}'; {presets.nearest_task(row)}",
    )


def with_examples(
    config: RunConfig, task: RequestedTask, spec: TaskSpec, head: Head, rows: Sequence[Record]
) -> tuple[TaskSpec, set[int]]:
    """The task with the demonstrations of `--shots` and the neutral prompt of `--calibrate`, and the places of the
    drawn demonstrations in `rows`. Raises OptionError, or DataError where there are fewer rows."""
    if (config.shots or config.calibrate) and head not in LM_HEADS:
        raise OptionError(f"--shots and --calibrate are for language models, not for the head {head!r}")
    if config.calibrate and spec.kind == "generation":
        raise OptionError("--calibrate is for label words and options, not for generation")
    if config.calibrate:
        spec = replace(spec, calibration=calibration_template(task, spec))
    if not config.shots:
        return spec, set()
    if config.shots > len(rows):
        raise DataError(f"--shots {config.shots}: there are only {len(rows)} training rows")
    places = random.Random(seeds.derive(config.seed, "shots")).sample(range(len(rows)), config.shots)
    drawn = [rows[i] for i in places]
    messages = tuple(m for r in drawn for m in example_messages(spec, r))
    text = "".join(spec.demonstration(r) + "\n\n" for r in drawn if "messages" not in r)
    return replace(spec, demonstrations=text, example_messages=messages), set(places)


__all__ = [
    "RequestedTask",
    "available_fields",
    "calibration_template",
    "generation_options",
    "max_length",
    "parse_task",
    "reference_note",
    "resolve",
    "task_kind",
    "unused_columns",
    "with_examples",
]
