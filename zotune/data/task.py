"""The task of a run: its kind, template and what the kind needs, checked against the records.

Knows records and templates; knows no tokens and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from zotune.data.answers import LabelReading, correct_options, option_texts, reference_texts
from zotune.data.classes import Classes
from zotune.data.records import Record, describe_columns, place_of
from zotune.data.task_kinds import TARGETS, TaskKind
from zotune.data.templates import Template, no_text
from zotune.errors import DataError, OptionError
from zotune.models.heads import LM_HEADS
from zotune.text import texts

ChatMode = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    temperature: 0 is greedy. Of the tokens are left: the top_k most probable ones (0: all); of these the most probable
    ones that hold the probability top_p; of these those with at least min_p times the largest probability.
    repetition_penalty: divides positive scores of tokens that the row has already, and multiplies negative ones.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def record(self) -> dict[str, float]:
        """The options that the bits of a run depend on beside temperature and top_p, without those that do nothing."""
        values = {
            "top_k": (self.top_k, 0),
            "min_p": (self.min_p, 0.0),
            "repetition_penalty": (self.repetition_penalty, 1.0),
        }
        return {name: value for name, (value, neutral) in values.items() if value != neutral}


@dataclass(frozen=True)
class TaskSpec:
    """What a run asks its model.

    classes: the classes of a classification task; choices: the columns of the options of multiple choice, and
    choice_labels how `label` names one; cut: the column that is shortened first; calibration: a template without the
    row's content, whose log-probabilities are subtracted from those of the answers; demonstrations: the text before
    every prompt; example_messages: the same as messages of a chat. For generation: stop (texts that end a completion),
    max_new_tokens and the options of `Sampling`. For chats: system (the first message), chat_template (whether
    plain prompts get the model's chat template), chat_args (arguments of the template) and prompt_from_file (whether a
    task file gives the prompts). notes: how the data were read where they could be read otherwise, a sentence each.
    """

    kind: TaskKind
    template: Template
    classes: Classes | None = None
    choices: tuple[str, ...] = ()
    choice_labels: LabelReading = "mixed"
    cut: str | None = None
    calibration: Template | None = None
    demonstrations: str = ""
    example_messages: tuple[Mapping[str, Any], ...] = ()
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    system: str | None = None
    chat_template: ChatMode = "off"
    chat_args: Mapping[str, Any] = field(default_factory=dict)
    prompt_from_file: bool = False
    notes: tuple[str, ...] = ()

    @property
    def sampling(self) -> Sampling:
        """How completions are sampled."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty)

    @property
    def target(self) -> str:
        """The place of the answer in the template."""
        return TARGETS[self.kind]

    def check(self, parts: Mapping[str, Sequence[Record]], head: str) -> None:
        """Check, before a model is loaded, that every record has what the template and the kind need.

        parts: records by the name of their set, which errors show. Raises OptionError or DataError.
        """
        check_template(self.template, parts, head, self.kind)
        for part, records in parts.items():
            for number, record in enumerate(records, 1):
                if self.kind == "choice":
                    _check_options(place_of(record, f"{part} record {number}"), record, self, records)
                elif self.kind == "generation":
                    _check_answers(place_of(record, f"{part} record {number}"), record)

    def references(self, record: Mapping[str, Any]) -> list[str]:
        """The correct answers of a record as text; empty where the record has none."""
        if self.kind == "classification":
            index = self.classes.index(record["label"]) if self.classes else None
            return [self.classes.words[index]] if self.classes and index is not None else []
        if self.kind == "choice":
            options = option_texts(record, self.choices)
            return [options[i] for i in correct_options(record, self.choices, self.choice_labels)]
        return reference_texts(record, "completion")

    def demonstration(self, record: Mapping[str, Any]) -> str:
        """The record's prompt with its first correct answer."""
        references = self.references(record)
        return self.template.fill(record, self.target, references[0] if references else "").text.strip()


def check_template(
    template: Template, parts: Mapping[str, Sequence[Record]], head: str, kind: TaskKind = "classification"
) -> None:
    """Check a template against the records. Raises OptionError where the template lacks the target that the head needs,
    DataError where a record lacks a column that the template names, or holds no text in it."""
    target, with_answer = TARGETS[kind], head in LM_HEADS
    if kind != "generation" and with_answer and not template.has_place(target):
        raise OptionError(
            f"--template {template.text!r} has no {{{target}}}, which the head {head!r} needs",
            hint=f"such as '{{text}} It was {{{target}}}'",
        )
    columns = [name for name in template.columns if name != target or not (with_answer or kind != "classification")]
    if not columns:
        raise OptionError(f"--template {template.text!r} names no column of the data", hint="such as '{text}'")
    for part, records in parts.items():
        for number, record in enumerate(records, 1):
            place = place_of(record, f"{part} record {number}")
            for name in columns:
                if record.get(name) is None:
                    raise DataError(
                        f"{place} has no column {name!r}; {describe_columns(records)}",
                        hint=f"--column {name}=…, or another --template",
                    )
            if kind == "generation" and "messages" in record:
                continue  # the model's chat template is used instead
            for name in columns:
                listed = name in template.lists and isinstance(record[name], list)
                if not listed and (fault := no_text(name, record[name])):
                    raise DataError(f"{place}: {fault}")


def _check_options(place: str, record: Record, spec: TaskSpec, records: Sequence[Record]) -> None:
    for name in spec.choices:
        if record.get(name) is None:
            raise DataError(f"{place} has no column {name!r}; {describe_columns(records)}", hint="--choices a,b,…")
        if len(spec.choices) > 1 and (fault := no_text(name, record[name])):
            raise DataError(f"{place}: {fault}")
    options = option_texts(record, spec.choices)
    if len(options) < 2:
        raise DataError(f"{place} has {len(options)} option to choose from; at least two are needed")
    if not correct_options(record, spec.choices, spec.choice_labels):
        label = record.get("label", record.get("answers"))
        raise DataError(
            f"{place}: {label!r:.60} is none of its {len(options)} options",
            hint="label is an option's index, text or letter; answers are the texts of the correct ones",
        )


def _check_answers(place: str, record: Record) -> None:
    """Raises DataError for messages that are no list, and for an answer, or one side of a pair, that is no text."""
    messages = record.get("messages")
    if "messages" in record and not isinstance(messages, list):
        raise DataError(
            f"{place}: messages must be a list of messages, got {messages!r:.60}",
            hint="--template for a column of text",
        )
    answers = record.get("completion")
    copied = any(value is answers for name, value in record.items() if name != "completion")  # of an objective's column
    if not isinstance(messages, list) and not copied:
        for answer in answers if isinstance(answers, list) else [answers]:
            if fault := no_text("completion", answer):
                raise DataError(f"{place}: {fault}")
    for side in ("chosen", "rejected") if "chosen" in record and "rejected" in record else ():
        value = record[side]
        if not isinstance(value, str | list) or not texts([value])[0].strip():
            raise DataError(f"{place}: a {side} completion must be a text, got {value!r:.60}")


__all__ = ["ChatMode", "Sampling", "TaskSpec", "check_template"]
