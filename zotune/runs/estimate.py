"""`--dry-run`: the time, memory and steps of a run, from one timed batch.

Knows plans and sessions; writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from zotune import declarations
from zotune.config import RunConfig
from zotune.core.recipe import Noise
from zotune.events import Emit, Note, Phase
from zotune.runs.end_time import FIT_SHARE
from zotune.runs.influence import check_influence
from zotune.runs.peak_memory import peak_bytes, read_longest
from zotune.runs.plan import plan as make_plan
from zotune.runs.session import Session
from zotune.runs.timed_budget import LONG, seconds_of
from zotune.search.time_left import INTERPOLATED

MIB = 2**20


def estimate(config: RunConfig, emit: Emit) -> dict[str, Any]:
    """Load everything, time a forward pass and a perturbation of one batch, and compute what the run would take.

    Returns JSON: seconds has three significant digits, memory is in MiB; its peak is that of the whole process, on a
    GPU that of the device. Raises what `fit` raises before its first step.
    """
    emit(Phase("reading the data", brief=True))
    plan = make_plan(config)
    for note in [*plan.notes, plan.splits.summary]:
        emit(Note(note))
    session = Session(plan, emit, quick=True)
    check_influence(session)
    session.choose_perturbation()
    emit(Phase("timing a batch", brief=True))
    rows = session.batches.at(0).rows
    point = session.space.theta + 1e-3 * Noise("normal", 0, 0)
    passes, on_cpu = session.task.forward_passes(len(rows)), session.loaded.device.type == "cpu"

    def evaluate() -> None:
        session.task.outputs(session.train, rows, plan.objective.inputs)

    def perturbed(work: Callable[[], None]) -> None:
        with session.space.at(point, passes):
            work()

    uncached = session.uncached_seconds(rows)
    forward = session.batch_seconds or _seconds(evaluate, on_cpu)
    if session.space.copies(passes):  # written before the passes, which then cost what they cost without
        perturb = _seconds(lambda: perturbed(lambda: None), on_cpu)
    else:
        perturb = max(_seconds(lambda: perturbed(evaluate), on_cpu) - forward, 0.0)
    read_longest(session)
    limits = session.budget.limits()
    steps, evals = session.budget.planned()
    if steps is None or evals is None:  # time alone limits the run
        cost = session.budget.cost()
        steps = max(int((limits.seconds or 0.0) / (cost * (forward + perturb) + perturb)), 1)
        evals = steps * cost
    held_out, test = len(session.validation.held_out.rows), len(session.test.rows)
    row, whole_row = forward / len(rows), (uncached or forward) / len(rows)
    validations = -(-steps // session.budget.eval_steps()) + 1 + INTERPOLATED * session.interpolates
    loop = evals * (forward + perturb) + steps * perturb + validations * held_out * row
    loop = loop if limits.seconds is None else min(loop, limits.seconds)
    ends = 2 * test * whole_row + session.cached_rows * whole_row
    if plan.head == "embedding" and session.test.resamples:
        ends += FIT_SHARE * session.probe_count * (row if session.caches_training_rows else whole_row)
    tuned = sum(p.numel() * p.element_size() for p in session.space.params.values())
    weights = sum(p.numel() * p.element_size() for p in session.loaded.model.parameters())
    fields = tuned * declarations.optimizer_info(plan.optimizer).fields
    return {
        "config": asdict(config),
        "model": plan.model_name,
        "head": plan.head,
        "classes": list(plan.spec.classes.words) if plan.spec.classes else [],
        "task": plan.spec.kind,
        "rows": [len(session.train), held_out, test],
        "tuned_weights": session.space.numel,
        "steps": steps,
        "evaluations": evals,
        "seconds": float(f"{loop + ends:.3g}"),
        "memory_mb": {
            "model": round(weights / MIB, 1),
            "probing": round(session.space.perturb_bytes / MIB, 1),
            "fields": round(fields / MIB, 1),
            "peak": round(peak_bytes(session) / MIB, 1),
        },
    }


def _seconds(function: Callable[[], None], on_cpu: bool) -> float:
    """Seconds of a call: of the faster of two where one is fast."""
    seconds = seconds_of(function, on_cpu)
    return seconds if seconds >= LONG else min(seconds, seconds_of(function, on_cpu))


__all__ = ["estimate"]
