"""Scores of a model or a run: zero-shot, with demonstrations, calibrated; several objectives at once.

Wires data, models and objectives together; tunes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints, overload

from zotune import config, seeds
from zotune.config import RunConfig
from zotune.data.records import Record, rename_columns
from zotune.data.sources import DataSource, load_source
from zotune.errors import DataError, ObjectiveError, ObjectiveFailures, OptionError
from zotune.events import Emit, Note, ignore
from zotune.models.heads import LM_HEADS
from zotune.options import convert
from zotune.runs.heldout import HeldOutSet
from zotune.runs.model_source import load_model
from zotune.runs.plan import embedded_data
from zotune.runs.result import ScoreEstimate
from zotune.scoring import objective_spec
from zotune.scoring.calls import Calls
from zotune.tasks import build, task_spec
from zotune.yaml_file import read_yaml

Goal = str | Callable[..., Any]
REMEMBERED = (
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
)
"""What a run folder knows of its task."""


@overload
def evaluate(*, objective: Goal | None = None, **options: Any) -> ScoreEstimate: ...
@overload
def evaluate(*, objective: Sequence[Goal | None], **options: Any) -> dict[str, ScoreEstimate]: ...
def evaluate(
    *,
    model: str | None = None,
    dataset: str | None = None,
    objective: Goal | Sequence[Goal | None] | None = None,
    split: str | None = None,
    shots: int = 0,
    calibrate: bool = False,
    emit: Emit = ignore,
    **options: Any,
) -> ScoreEstimate | dict[str, ScoreEstimate]:
    """Score a model, a run folder or an adapter on a split: test, else validation, else all rows.

    objective: one, or several that share the forwards (then a dict by name); by default what the task is measured by.
    shots: training rows that stand before every prompt with their answers, drawn by seed. calibrate: subtract what the
    label words score without the row. options are fields of `RunConfig`: task, template, labels, head, columns, ….
    Every score has a standard error, by bootstrap where the objective is of the whole set. Raises UsageError, and
    ObjectiveFailures where an objective fails.
    """
    cfg = inherit(config.resolve({"model": model, "dataset": dataset, **options}, None))
    task = task_spec.read(cfg.task)
    source, name, rows = held_out(cfg, split)
    parts = {name: rows}
    if shots and name == cfg.train_split:
        raise OptionError(f"--shots are drawn from the split {name!r}, which is scored", hint="--split test")
    if shots and cfg.train_split not in source.splits:
        raise DataError(f"--shots needs training rows; {source.name} has no split {cfg.train_split!r}")
    if shots:
        parts["train"] = rename_columns(source.splits[cfg.train_split], cfg.columns)
    found, spec, parts = task_spec.resolve(cfg, task, parts)
    if (shots or calibrate) and found.head not in LM_HEADS:
        raise OptionError(f"--shots and --calibrate are for models that score words, not the head {found.head!r}")
    if calibrate and spec.kind == "generation":
        raise OptionError("--calibrate is for label words and options, not for generation")
    rows = parts[name]
    spec = replace(
        spec,
        demonstrations=task_spec.demonstrations(spec, parts["train"], shots, cfg.seed) if shots else "",
        calibration=task_spec.calibration(task, spec) if calibrate else None,
    )
    several = isinstance(objective, Sequence) and not isinstance(objective, str)
    asked = list(objective) if isinstance(objective, Sequence) and not isinstance(objective, str) else [objective]
    calls = Calls(cfg.score_concurrency, cfg.score_batch_size, cfg.score_timeout, cfg.score_cache)
    named = [o or task.measure(spec.kind) for o in asked]
    goals = objective_spec.resolve_each(named, cfg.objective_args, cfg.direction, calls)
    for goal in goals:
        if goal.ordered:
            raise OptionError(
                f"objective {goal.name!r} compares two models and has no score of one",
                hint="zotune compare A B, with --judge or answered by a person",
            )
        goal.check(task_spec.offered(spec, found.head, {name: rows}), frozenset(rows[0]))
    loaded = load_model(cfg, found, spec)
    asks = build.build(loaded, spec, task_spec.max_length(cfg, spec), cfg.eval_batch_size, cfg.seed)
    asks.forward.tell = lambda text: emit(Note(text))
    coded = asks.rows(rows)
    if coded.cut:
        emit(Note(f"{coded.cut} rows are longer than {asks.max_length} tokens and were cut"))
    wants = frozenset().union(*(g.wants for g in goals))
    outputs = asks.outputs(coded, range(len(coded)), wants)
    try:
        out = {g.name: _score(HeldOutSet(asks, coded, g), outputs, cfg.seed) for g in goals}
    finally:
        for goal in goals:
            goal.close()
    return out if several else next(iter(out.values()))


def _score(held: HeldOutSet, outputs: Mapping[str, Any], seed: int) -> ScoreEstimate:
    try:
        score = held.objective.score(len(held.rows), outputs)
    except ObjectiveError as error:
        raise ObjectiveFailures(str(error)) from error
    return held.estimate(outputs, score, seeds.derive(seed, "bootstrap"))


def held_out(cfg: RunConfig, split: str | None) -> tuple[DataSource, str, list[Record]]:
    """The data, and of it the split (test, else validation, else the first) and its rows that are scored. Raises
    DataError."""
    source = load_source(cfg.dataset or embedded_data(), label=cfg.columns.get("label", "label"))
    name = split or next((s for s in ("test", "validation") if s in source.splits), next(iter(source.splits)))
    return source, name, rename_columns(source.split(name), cfg.columns)[: cfg.limit]


def inherit(cfg: RunConfig) -> RunConfig:
    """With what the model's run folder, where it is one, remembers of its task and nothing here says otherwise."""
    path = Path(cfg.model) / "config.yaml" if cfg.model else None
    if path is None or not path.is_file():
        return cfg
    saved, default = read_yaml(path), RunConfig()
    hints = get_type_hints(RunConfig)
    given = {n: saved[n] for n in REMEMBERED if saved.get(n) and getattr(cfg, n) == getattr(default, n)}
    return replace(cfg, **{n: convert(value, hints[n], f"{path}: {n}") for n, value in given.items()})


__all__ = ["REMEMBERED", "evaluate", "held_out", "inherit"]
