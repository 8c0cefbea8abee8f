"""`zotune eval`: a model or a run scored on a split, by one or several objectives.

Joins data, models and objectives; tunes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints, overload

from zotune import config, files, seeds
from zotune.config import RunConfig
from zotune.data.records import Record, rename_columns
from zotune.data.sources import DataSource, load_source
from zotune.data.synthetic import synthetic_name
from zotune.errors import DataError, ObjectiveError, ObjectiveFailures, OptionError
from zotune.events import Emit, Note, Phase, ignore
from zotune.options import convert
from zotune.runs.completions_log import completion_rows
from zotune.runs.frozen_weights import check_loaded
from zotune.runs.heldout import HeldOutSet
from zotune.runs.model_source import load_model
from zotune.runs.plan import check_rows, data_of, inputs_of
from zotune.runs.prompt_settings import is_before_chat_templates, recorded_demonstrations, with_recorded_length
from zotune.runs.recorded import fixed_classes, read_header, with_recorded_quantization
from zotune.runs.result import ScoreEstimate
from zotune.runs.run_directory import CONFIG
from zotune.runs.training_signal import mean_score
from zotune.scoring import objective_spec
from zotune.scoring.calls import Calls
from zotune.tasks import build, resolve_task
from zotune.tasks.chat import settle_chat
from zotune.tasks.completion_notes import completion_notes
from zotune.tasks.row_length import encode_sets
from zotune.types import Score
from zotune.yaml_file import read_yaml

ObjectiveName = str | Callable[..., Any]
RECORDED_OPTIONS = (
    "dataset",
    "head",
    "task",
    "template",
    "labels",
    "choices",
    "columns",
    "max_length",
    "max_new_tokens",
    "stop",
    "system",
    "chat_template",
    "chat_args",
    "shots",
    "calibrate",
)
"""Options that a run directory records and that evaluating its model takes over."""


@overload
def evaluate(*, objective: ObjectiveName | None = None, **options: Any) -> ScoreEstimate: ...
@overload
def evaluate(*, objective: Sequence[ObjectiveName | None], **options: Any) -> dict[str, ScoreEstimate]: ...
def evaluate(
    *,
    model: str | None = None,
    dataset: str | None = None,
    objective: ObjectiveName | Sequence[ObjectiveName | None] | None = None,
    split: str | None = None,
    save_completions: str | None = None,
    emit: Emit = ignore,
    **options: Any,
) -> ScoreEstimate | dict[str, ScoreEstimate]:
    """Score a model, a run directory or an adapter on a split: test, else validation, else all rows.

    objective: one, or several that share the forward passes; by default the task's own metric.
    save_completions: a file that gets a line of JSON for each row: prompt, completion, reference and scores; of several
        samples of a prompt the first, with the mean of their scores.
    options: fields of `RunConfig`: task, template, labels, head, columns, shots, calibrate, chat_template, ….

    Returns a score with its standard error, or a dictionary of scores by objective where several are given. Raises
    UsageError, and ObjectiveFailures where an objective fails.
    """
    own = config.resolve({"model": model, "dataset": dataset, **options}, None)
    cfg = with_recorded_task(own)
    examples = recorded_demonstrations(Path(cfg.model)) if cfg.model and not own.shots and cfg.shots else {}
    shots = 0 if examples else cfg.shots
    header = read_header(cfg.model) if cfg.model else None
    classes = fixed_classes(header) if header else None
    if classes is not None:
        cfg = replace(cfg, labels=own.labels)
    if header:
        cfg = with_recorded_quantization(cfg, header)
    task = resolve_task.parse_task(cfg.task)
    emit(Phase("reading the data", brief=True))
    source, name, rows = evaluation_rows(cfg, split)
    for note in source.notes:
        emit(Note(note))
    parts = {name: rows}
    if shots:
        parts["train"] = demonstration_rows(cfg, source, name)
    seed = header["seed"] if header else None
    others = {s: rename_columns(records, cfg.columns) for s, records in source.splits.items()}
    model_files, spec, parts = resolve_task.resolve(
        cfg, task, parts, others=others, fixed=classes, head_seed=seed, draws=False
    )
    rows = parts[name]
    spec, _ = resolve_task.with_examples(
        replace(cfg, shots=shots), task, spec, model_files.head, parts["train"] if shots else []
    )
    spec = replace(spec, **examples)
    several = isinstance(objective, Sequence) and not isinstance(objective, str)
    wanted = list(objective) if isinstance(objective, Sequence) and not isinstance(objective, str) else [objective]
    calls = Calls(cfg.score_concurrency, cfg.score_batch_size, cfg.score_timeout, cfg.score_cache)
    names = [o or task.default_objective(spec.kind) for o in wanted]
    resolved = objective_spec.resolve_each(names, cfg.objective_args, cfg.direction, calls, task.objective_args)
    for each in resolved:
        if each.ordered:
            raise OptionError(
                f"objective {each.name!r} compares two models and has no score of one",
                hint="zotune compare A B, with --judge or answered by a person",
            )
        each.check(resolve_task.available_fields(spec, model_files.head, {name: rows}), frozenset(rows[0]))
    scored = [part for each in resolved for part in each.each]
    of_rows = check_rows(scored, {name: rows})
    inputs, takes_all = inputs_of(scored)
    unused = resolve_task.unused_columns(spec, rows, inputs, takes_all, cfg.columns)
    for note in [*of_rows, *spec.notes, *(unused if synthetic_name(source.name) is None else [])]:
        emit(Note(note))
    emit(Phase("loading the model", brief=True))
    loaded = load_model(cfg, model_files, spec)
    if header and model_files.adapter:  # whose base model may have changed since
        check_loaded(loaded.model, header, str(cfg.model))
    for note in (*(spec.classes.notes if spec.classes else ()), *loaded.notes):
        emit(Note(note))
    emit(Phase("reading the prompts and tokenising the rows", brief=True))
    spec, notes = settle_chat(loaded, spec, rows)

    def make_task(length: int) -> build.Task:
        task = build.build(loaded, spec, length, cfg.eval_batch_size, cfg.seed)
        task.forward.report = lambda text: emit(Note(text))
        return task

    length = resolve_task.max_length(cfg, spec)
    task_model, (encoded,), longer = encode_sets(make_task, length, cfg.max_length is not None, [rows])
    for text in [*notes, *longer]:
        emit(Note(text))
    wants = frozenset().union(*(g.inputs for g in resolved))
    if save_completions:
        if "completions" not in task_model.fields:
            raise OptionError("--save-completions: this task has no completions")
        wants |= {"completions"}
    for note in resolve_task.reference_note(spec, {name: rows}, frozenset().union(*(g.required for g in resolved))):
        emit(Note(note))
    emit(Phase(f"running the model on {len(encoded):,} rows", brief=True))
    draws = _draws(task_model, encoded, wants, cfg.samples_per_prompt)
    outputs = draws[0]
    for text in completion_notes(spec, outputs):
        emit(Note(text))
    emit(Phase("scoring the outputs and computing standard errors", brief=True))
    scores, samples = dict[str, ScoreEstimate](), dict[str, Sequence[float | None] | None]()
    try:
        for g in resolved:
            held = HeldOutSet(task_model, encoded, g)
            score = mean_score([_score(held, drawn) for drawn in draws])
            samples[g.name] = score.samples
            scores[g.name] = held.estimate(outputs, score, seeds.derive(cfg.seed, "bootstrap"))
    finally:
        for each in resolved:
            each.close()
    if save_completions:
        _save(Path(save_completions), name, outputs, samples)
    return scores if several else next(iter(scores.values()))


def _draws(task: build.Task, rows: build.EncodedRows, wants: frozenset[str], samples: int) -> list[Mapping[str, Any]]:
    """The outputs, so often as completions are sampled for each prompt."""
    if not isinstance(task, build.GenerationTask):
        return [task.outputs(rows, range(len(rows)), wants)]
    draws: list[Mapping[str, Any]] = []
    for task.draw in range(samples):
        draws.append(task.outputs(rows, range(len(rows)), wants))
    return draws


def _score(held: HeldOutSet, outputs: Mapping[str, Any]) -> Score:
    try:
        return held.objective.score(len(held.rows), outputs)
    except ObjectiveError as error:
        raise ObjectiveFailures(str(error)) from error


def _save(
    path: Path, split: str, outputs: Mapping[str, Any], samples: Mapping[str, Sequence[float | None] | None]
) -> None:
    """Write a line for each completion. `score` is that of the first objective; where there are several, `scores` has
    each by its name. Raises ZotuneError."""
    rows = completion_rows(outputs, next(iter(samples.values())))
    for i, row in enumerate(rows):
        if len(samples) > 1:
            row["scores"] = {name: scores[i] if scores else None for name, scores in samples.items()}
    lines = (json.dumps({"set": split, **row}, ensure_ascii=False) + "\n" for row in rows)
    files.write(path, "".join(lines), hint="--save-completions FILE, in a folder that exists")


def evaluation_rows(cfg: RunConfig, split: str | None) -> tuple[DataSource, str, list[Record]]:
    """The data, the name of the split that is scored (test, else validation, else the first) and its rows. Raises
    DataError."""
    source = load_source(data_of(cfg, resolve_task.parse_task(cfg.task)), label=cfg.columns.get("label", "label"))
    name = split or next((s for s in ("test", "validation") if s in source.splits), next(iter(source.splits)))
    return source, name, rename_columns(source.split(name), cfg.columns)[: cfg.limit]


def demonstration_rows(cfg: RunConfig, source: DataSource, split: str) -> list[Record]:
    """The training rows that `--shots` draws from. split: the one that is scored. Raises OptionError, DataError."""
    if split == cfg.train_split:
        raise OptionError(f"--shots draws from the split {split!r}, which is scored", hint="--split test")
    if cfg.train_split not in source.splits:
        raise DataError(f"--shots needs training rows; {source.name} has no split {cfg.train_split!r}")
    return rename_columns(source.splits[cfg.train_split], cfg.columns)


def with_recorded_task(cfg: RunConfig) -> RunConfig:
    """The configuration with the task options that the model's run directory records, where the user gave none."""
    path = Path(cfg.model) / CONFIG if cfg.model else None
    if path is None or not path.is_file():
        return cfg
    saved, default = read_yaml(path), RunConfig()
    hints = get_type_hints(RunConfig)
    recorded = {n: saved[n] for n in RECORDED_OPTIONS if saved.get(n) and getattr(cfg, n) == getattr(default, n)}
    cfg = replace(cfg, **{n: convert(value, hints[n], f"{path}: {n}") for n, value in recorded.items()})
    if not is_before_chat_templates(path.parent):
        return cfg
    chat = "off" if cfg.chat_template == "auto" else cfg.chat_template
    return with_recorded_length(replace(cfg, chat_template=chat), path.parent)


__all__ = ["RECORDED_OPTIONS", "demonstration_rows", "evaluate", "evaluation_rows", "with_recorded_task"]
