"""`zotune compare`: two models on the same prompts, blind, compared by a person or by a judge.

    zotune compare A B -d prompts.jsonl                     on a local page
    zotune compare A B -d prompts.jsonl --terminal          in the terminal
    zotune compare A B -d prompts.jsonl --judge f.py:judge  by a function

One model is in memory at a time. The folder keeps the completions, the settings that they depend on, the verdicts and
the result. A comparison that is started again continues: it generates nothing and asks nothing twice. Equal completions
are a tie without a question.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from zotune import config as configuration
from zotune import files
from zotune.config import RunConfig
from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.errors import OptionError
from zotune.events import Emit, Note, Phase, ignore
from zotune.humans import console
from zotune.humans.preferences import WinRate
from zotune.models.model_files import ModelFiles
from zotune.runs import evaluate
from zotune.runs.comparison_folder import RESULT, Pair, Side, open_folder, read_pairs, settings, write_pairs
from zotune.runs.frozen_weights import check_loaded
from zotune.runs.model_source import load_model
from zotune.runs.preference_source import Preferences, ask_judge, ask_person, judge_of
from zotune.runs.prompt_settings import recorded_demonstrations
from zotune.runs.recorded import read_header
from zotune.tasks import build, resolve_task
from zotune.tasks.chat import settle_chat
from zotune.tasks.completion_notes import completion_notes
from zotune.tasks.generation import prompt_messages
from zotune.tasks.row_length import encode_sets
from zotune.text import texts

_SHARED: Final = ("dataset", "task", "template", "columns", "max_length", "max_new_tokens", "stop")
"""Options that must be the same for both models. Run directories record them; a flag overrides both."""
_FLAGS: Final = {"columns": "--column"}


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison, in rows.

    judge: None where a person compares. wins, losses, ties: of A; same: ties because both completions are equal;
    skipped: answered by "cannot say"; left: rows without an answer yet. rate: the win rate of A, a tie counts as half;
    low, high: its 95 % interval by Wilson (`WinRate`). agreed, repeated: of the questions that a person saw twice, how
    many got the same answer.
    """

    folder: Path
    a: str
    b: str
    judge: str | None
    rows: int
    wins: int
    losses: int
    ties: int
    same: int
    skipped: int
    left: int
    rate: float
    low: float
    high: float
    agreed: int
    repeated: int

    @property
    def verdict(self) -> str:
        """One sentence: which model is better, by the interval."""
        if self.wins + self.losses + self.ties == 0:
            return "No row has been compared yet."
        if self.low <= 0.5 <= self.high:
            return "The interval contains 1/2: these rows do not show which model is better."
        return f"The interval excludes 1/2: {'A' if self.low > 0.5 else 'B'} is better."

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder), "verdict": self.verdict}


def compare(
    a: str,
    b: str,
    *,
    dataset: str | None = None,
    split: str | None = None,
    judge: str | None = None,
    output_dir: str | None = None,
    ask: Callable[[Path], object] = console.rate,
    emit: Emit = ignore,
    **options: Any,
) -> Comparison:
    """Compare the completions of two models for the prompts of a split: test, else validation, else all rows.

    a, b: folders, run directories, adapters or hub ids. judge: `file.py:function` or `package.module:function`, as the
    objective `judge` takes it; without it a person compares, and `ask` is called with the folder once its questions
    are open and returns when the person stops. output_dir: the folder; one that holds this comparison is continued.
    options: fields of `RunConfig`: task, template, columns, limit, shots, max_new_tokens, stop, temperature, top_p,
    system, seed, device, …; by default those that both run directories record.

    Ctrl-C while questions are open ends the questions; `left` counts the rows without an answer. Raises UsageError
    before a model is loaded (RunFolderError where the folder holds something else), ObjectiveFailures where the judge
    fails.
    """
    first, second = _side_configs(configuration.resolve({"dataset": dataset, **options}, None), a, b)
    task = resolve_task.parse_task(first.task)
    if first.dataset is None and task.data is None:
        raise OptionError("compare needs prompts, and no --dataset is given", hint="-d prompts.jsonl")
    source, name, rows = evaluate.evaluation_rows(first, split)
    kind = resolve_task.task_kind(first, task, rows[0])
    if kind == "classification" and not (first.task or first.labels or "label" in rows[0]):  # only a default
        kind, task = "generation", replace(task, kind="generation")
    if kind != "generation":
        raise OptionError(
            f"compare is for generated text, and this is a {kind} task: zotune eval scores it",
            hint="--task generation with a --template of its own generates",
        )
    judges = judge_of(judge, first) if judge is not None else None
    try:
        shots = int(options.get("shots") or 0)
        drawn = {"train": evaluate.demonstration_rows(first, source, name)} if shots else {}
        sides = [
            _with_demonstrations(
                replace(side, shots=shots), task, resolve_task.resolve(side, task, {name: rows, **drawn})
            )
            for side in (first, second)
        ]
        model_files, spec, parts = sides[0]
        rows = parts[name]
        if judges is not None:
            judges.check(resolve_task.available_fields(spec, model_files.head, {name: rows}), frozenset(rows[0]))
        current = settings(first, (a, b), sides, name, rows)
        folder, created = open_folder(output_dir, a, b, current)
        try:
            pairs = read_pairs(folder, len(rows))
            if pairs is None:
                pairs = write_pairs(folder, current, _generate((first, second), (a, b), sides, name, emit))
        except BaseException:  # Ctrl-C too
            if created:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # it is empty: no completion was written
            raise
        emit(Note(f"the completions are kept in {folder}"))
        if judges is not None:
            preferences = ask_judge(folder, judges, str(judge), first.objective_args, rows, pairs, emit)
        else:
            preferences = ask_person(folder, pairs, first.seed, ask)
    finally:
        if judges is not None:
            judges.close()
    result = _result(folder, (a, b), judge, pairs, preferences)
    files.write(folder / RESULT, json.dumps(result.json(), indent=1) + "\n", hint="")
    return result


def _side_configs(config: RunConfig, a: str, b: str) -> list[RunConfig]:
    """The configuration of each model, with one task for both: the user's, or the one that run directories record.
    Raises OptionError where these differ."""
    own, default = [evaluate.with_recorded_task(replace(config, model=model)) for model in (a, b)], RunConfig()
    shared: dict[str, Any] = {}
    for name in evaluate.RECORDED_OPTIONS:
        if name in ("head", "chat_template", "shots", "calibrate"):  # each model has its own
            continue
        values = [getattr(side, name) for side in own if getattr(side, name) != getattr(default, name)]
        if name in _SHARED and len(values) == 2 and values[0] != values[1]:
            flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            raise OptionError(
                f"{a} was tuned with {flag} {values[0]!r:.60}, {b} with {values[1]!r:.60}", hint=f"give {flag}"
            )
        if values:
            shared[name] = values[0]
    return [replace(side, **shared) for side in own]


def _with_demonstrations(config: RunConfig, task: resolve_task.RequestedTask, side: Side) -> Side:
    """The task of a model with the demonstrations of `--shots`, else with those that its run records."""
    files, spec, parts = side
    if not config.shots:
        return files, replace(spec, **recorded_demonstrations(Path(str(config.model)))), parts
    spec, _ = resolve_task.with_examples(replace(config, calibrate=False), task, spec, files.head, parts["train"])
    return files, spec, parts


def _generate(
    configs: Sequence[RunConfig], names: Sequence[str], sides: Sequence[Side], split: str, emit: Emit
) -> list[Pair]:
    """The completions of both models, one model after the other."""
    completions = []
    for letter, name, config, (model_files, spec, parts) in zip("AB", names, configs, sides, strict=True):
        emit(Phase(f"{letter}, {name}, answers {len(parts[split])} prompts"))
        completions.append(_completions(config, model_files, spec, parts[split], emit))
        gc.collect()  # a model and its task refer to each other: nothing else frees them
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    _, spec, parts = sides[0]
    prompts = [_readable_prompt(row, spec) for row in parts[split]]
    return [Pair(*row) for row in zip(prompts, *completions, strict=True)]


def _completions(
    config: RunConfig, model_files: ModelFiles, spec: TaskSpec, rows: Sequence[Record], emit: Emit
) -> list[str]:
    """The completions of one model, which is in memory only inside this function."""
    loaded = load_model(config, model_files, spec)
    if model_files.adapter and (header := read_header(str(config.model))):  # its base model may have changed since
        check_loaded(loaded.model, header, str(config.model))
    for note in loaded.notes:
        emit(Note(note))
    spec, notes = settle_chat(loaded, spec, rows)

    def make_task(length: int) -> build.Task:
        task = build.build(loaded, spec, length, config.eval_batch_size, config.seed)
        task.forward.report = lambda text: emit(Note(text))
        return task

    length = resolve_task.max_length(config, spec)
    task, (encoded,), longer = encode_sets(make_task, length, config.max_length is not None, [rows])
    outputs = task.outputs(encoded, range(len(encoded)), frozenset({"completions"}))
    for text in [*notes, *longer, *completion_notes(spec, outputs)]:
        emit(Note(text))
    return texts(outputs["completions"])


def _readable_prompt(record: Record, spec: TaskSpec) -> str:
    """A prompt as a person reads it: without the marks of a chat template, messages in turn."""
    if "messages" not in record:
        return spec.template.fill(record, "completion", "", "drop").text.rstrip(" ")
    turns = prompt_messages(record)
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _result(
    folder: Path, names: Sequence[str], judge: str | None, pairs: Sequence[Pair], preferences: Preferences
) -> Comparison:
    verdicts = list(preferences.by_row.values())
    same = sum(pair.same for pair in pairs)
    counts = WinRate.from_counts(verdicts.count(1.0), verdicts.count(0.0), verdicts.count(0.5) + same)
    return Comparison(
        folder=folder,
        a=names[0],
        b=names[1],
        judge=judge,
        rows=len(pairs),
        **asdict(counts),
        same=same,
        skipped=verdicts.count(None),
        left=len(pairs) - same - len(verdicts),
        agreed=preferences.agreed,
        repeated=preferences.repeated,
    )


__all__ = ["Comparison", "compare"]
