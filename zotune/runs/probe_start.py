"""Where tuning starts on labelled data: from a linear probe in the model's head, or from the model as it is.

Knows the held-out rows and the source of the model; knows no optimizer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from zotune.config import RunConfig
from zotune.errors import ObjectiveError
from zotune.events import Emit, Note, Phase
from zotune.runs.heldout import HeldOutSet, Outputs
from zotune.runs.model_source import PROBE_ROWS, ModelSource
from zotune.runs.plan import Plan
from zotune.runs.set_sizes import affordable_rows, draw
from zotune.tasks import build
from zotune.types import Score

FEWEST_ROWS: Final = 1000
SHARE: Final = 3
"""By itself a run fits a probe on so many training rows, or on so many times the rows of a held-out set that its budget
affords: about a tenth of what its steps read."""
BaseScore = tuple[Outputs, Score]
"""Outputs and score of the base model on the test set."""


def start_from_probe(
    plan: Plan, source: ModelSource, validation: HeldOutSet, test: HeldOutSet | None, emit: Emit
) -> tuple[RunConfig, BaseScore | None]:
    """Write a linear probe into the model's head where tuning starts from one: where `--init linear-probe` or the run
    that is resumed wants it, and with `--init auto` where the probe's validation score is better than the model's.

    Returns the configuration with the choice in `init`, and what the base model scored on the test set before its head
    was replaced; None where it was not replaced, or scores are counted. test: None in a dry run, where the head gets
    its shape and is not fitted unless it is asked for. Raises OptionError and DataError for `--init linear-probe`.
    """
    config, task = plan.config, validation.task
    if config.init == "none" or source.initialised:
        return replace(config, init="linear-probe" if source.initialised else "none"), None
    if config.init == "linear-probe":
        base = _scored(test, emit) if test is not None and test.resamples else None
        source.write_head(task.loaded, draw(plan.splits.train, PROBE_ROWS, config.seed, "initial probe"))
        return config, base
    if not _possible(plan, validation):
        return replace(config, init="none"), None
    assert isinstance(task, build.HeadClassification)
    rows = max(FEWEST_ROWS, SHARE * affordable_rows(config, plan.objective.info.batch_size))
    train = draw(plan.splits.train, min(rows, PROBE_ROWS), config.seed, "initial probe")
    before = _value(validation) if test is not None else None
    undo = source.try_head(task.loaded, train, fit=test is not None)
    if undo is None:
        return replace(config, init="none"), None
    if test is None:
        return replace(config, init="linear-probe"), None
    after, head = _value(validation), source.head
    undo()
    better = before is not None and after is not None and after < before
    base = _scored(test, emit) if better else None
    if before is None or after is None or base is None:
        return replace(config, init="none"), None
    source.head = head
    source.write_head(task.loaded, train)
    sign = -1.0 if plan.objective.direction == "maximize" else 1.0
    scores = f"{sign * after:.4f} on the validation set, the base model {sign * before:.4f}"
    emit(Note(f"tuning starts from a linear probe: {plan.objective.name} {scores} (--init none: from the base model)"))
    return replace(config, init="linear-probe"), base


def _possible(plan: Plan, validation: HeldOutSet) -> bool:
    """Whether a run may choose a probe by itself: for an embedding model, or a head that it draws, without an adapter;
    where held-out scores are free."""
    task, loaded = validation.task, validation.task.loaded
    free = validation.resamples and plan.objective.info.validates and len(validation.rows) > 0
    if not free or not isinstance(task, build.HeadClassification) or plan.spec.kind != "classification":
        return False
    if plan.adapter.method != "none" or plan.model_files.adapter:
        return False
    return loaded.linear_head is None if loaded.head == "embedding" else bool(loaded.drawn)


def _scored(test: HeldOutSet, emit: Emit) -> BaseScore | None:
    """Outputs and score on the test set; None where the objective fails, which the run reports when it scores again."""
    emit(Phase("scoring the base model on the test set"))
    try:
        return test.score()
    except ObjectiveError:
        return None


def _value(held_out: HeldOutSet) -> float | None:
    """The score, smaller is better; None where the objective fails."""
    sign = -1.0 if held_out.objective.direction == "maximize" else 1.0
    try:
        return sign * held_out.score()[1].value
    except ObjectiveError:
        return None


__all__ = ["BaseScore", "start_from_probe"]
