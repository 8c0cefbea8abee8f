"""`--dry-run`: the time, memory and steps of a run, from one timed batch.

Knows plans and sessions; writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from zotune import declarations
from zotune.config import RunConfig
from zotune.core.recipe import Noise
from zotune.events import Emit, Note
from zotune.runs.influence import check_influence
from zotune.runs.plan import plan as make_plan
from zotune.runs.session import Session


def estimate(config: RunConfig, emit: Emit) -> dict[str, Any]:
    """Load everything, time a forward pass and a perturbation of one batch, and compute what the run would take.

    Returns JSON: seconds has three significant digits, memory is in MiB. Raises what `fit` raises before its first
    step.
    """
    plan = make_plan(config)
    for note in [*plan.notes, plan.splits.summary]:
        emit(Note(note))
    session = Session(plan, emit)
    check_influence(session)
    session.choose_perturbation()
    rows = session.batches.at(0).rows
    point = session.space.theta + 1e-3 * Noise("normal", 0, 0)
    passes = session.task.forward_passes(len(rows))

    def evaluate() -> None:
        session.task.outputs(session.train, rows, plan.objective.inputs)

    def evaluate_perturbed() -> None:
        with session.space.at(point, passes):
            evaluate()

    forward = _seconds(evaluate)
    perturb = max(_seconds(evaluate_perturbed) - forward, 0.0)
    limits = session.budget.limits()
    steps, evals = session.budget.planned()
    if steps is None or evals is None:  # time alone limits the run
        cost = session.budget.cost()
        steps = max(int((limits.seconds or 0.0) / (cost * (forward + perturb) + perturb)), 1)
        evals = steps * cost
    validation_rows = len(session.validation.held_out.rows)
    validation = (validation_rows / len(rows)) * forward * (steps // session.budget.eval_steps() + 2)
    seconds = evals * (forward + perturb) + steps * perturb + validation
    seconds = seconds if limits.seconds is None else min(seconds, limits.seconds)
    weights = sum(p.numel() * p.element_size() for p in session.loaded.model.parameters())
    tuned = sum(p.numel() * p.element_size() for p in session.space.params.values())
    return {
        "config": asdict(config),
        "model": plan.model_name,
        "head": plan.head,
        "classes": list(plan.spec.classes.words) if plan.spec.classes else [],
        "task": plan.spec.kind,
        "rows": [len(session.train), validation_rows, len(session.test.rows)],
        "tuned_weights": session.space.numel,
        "steps": steps,
        "evaluations": evals,
        "seconds": float(f"{seconds:.3g}"),
        "memory_mb": {
            "model": round(weights / 2**20, 1),
            "probing": round(session.space.perturb_bytes / 2**20, 1),
            "fields": round(tuned * declarations.optimizer_info(plan.optimizer).fields / 2**20, 1),
        },
    }


def _seconds(function: Callable[[], None]) -> float:
    """Seconds of the faster of two calls, after a first one that may compile."""
    function()
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


__all__ = ["estimate"]
