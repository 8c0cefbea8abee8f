"""A budget in time, as evaluations: a batch is timed before the first step, and never again.

The number of evaluations is recorded and printed, so that `--max-evals` repeats the run; the limit on time stays as the
last moment at which the run ends. Knows plans and tasks; takes no step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from zotune.config import RunConfig
from zotune.distributed import Processes
from zotune.runs.budget import EVALUATIONS
from zotune.runs.plan import Plan
from zotune.runs.set_sizes import DEFAULT_EVALS
from zotune.search.batches import Batches
from zotune.search.time_left import INTERPOLATED
from zotune.tasks import build
from zotune.text import duration

SHARE: Final = 0.85
"""The share of the time that is planned: steps cost more than their evaluations, and a machine is not always idle."""
DEFAULT_SECONDS: Final = 1800.0
"""Where text is generated and no budget is given, at most so many seconds are planned: decoding costs a model's forward
pass for each token, and the default number of evaluations would take a language model many hours."""
LONG: Final = 2.0
"""Seconds from which on a call is timed once."""
LEAST: Final = 0.4
"""The share of the evaluations that steps get at least, however many held-out rows there are."""


def batch_seconds(
    plan: Plan, task: build.Task, train: build.EncodedRows, batches: Batches, processes: Processes
) -> float | None:
    """Seconds of an evaluation of the first batch, as the first process measures them; None where time does not limit
    the plan."""
    if timed_seconds(plan) is None:
        return None
    rows, on_cpu = batches.at(0).rows, task.loaded.device.type == "cpu"
    measured = seconds_of(lambda: task.outputs(train, rows, plan.objective.inputs), on_cpu)
    return processes.on_first(lambda: measured)


def with_evals(plan: Plan, each: float, batches: Batches, held_out: int, note: Callable[[str], None]) -> Plan:
    """The plan with the evaluations that its `--max-time` pays for, where time alone limits it.

    each: seconds of an evaluation; held_out: validation rows, which are scored a dozen times within that time. note:
    shows a line to the user.
    """
    config, seconds = plan.config, timed_seconds(plan)
    if seconds is None:
        return plan
    evals = evaluations(seconds, each, held_out / batches.size)
    if config.max_time is None and evals >= DEFAULT_EVALS:
        return plan
    given = "--max-time" if config.max_time is not None else "no budget is given"
    note(
        f"{given}: an evaluation of {batches.size} rows takes {each:.2g} s, so {evals:,} of them are planned in "
        f"{duration(seconds)}; --max-evals {evals} repeats this run"
    )
    return replace(plan, config=replace(config, max_evals=evals))


def timed_seconds(plan: Plan) -> float | None:
    """The time that decides how many evaluations are planned: `--max-time`, or half an hour for generated text where
    no budget is given; None where another limit decides."""
    config = plan.config
    if any((config.max_steps, config.max_evals, config.max_score_calls)):
        return None
    if config.max_time is None and (plan.spec.kind != "generation" or plan.objective.info.max_scores is not None):
        return None
    return config.max_time or DEFAULT_SECONDS


def evaluations(seconds: float, each: float, validation: float) -> int:
    """Evaluations that so many seconds pay for, with two significant digits. each: seconds of one; validation: the
    evaluations that one pass over the validation set is worth."""
    total = SHARE * seconds / max(each, 1e-9)
    passes = EVALUATIONS + 1 + INTERPOLATED
    steps = max(total - passes * validation, LEAST * total)
    return max(int(float(f"{steps:.2g}")), 1)


def with_recorded_evals(config: RunConfig, header: dict[str, object] | None) -> RunConfig:
    """The configuration of a resumed run with the evaluations that its header records for the same limit on time, or
    for none."""
    budget = header.get("budget") if header else None
    if not isinstance(budget, dict) or budget.get("seconds") != config.max_time or budget.get("evals") is None:
        return config
    if any((config.max_steps, config.max_evals, config.max_score_calls)) or budget.get("steps") is not None:
        return config
    return replace(config, max_evals=budget.get("evals"))


def seconds_of(function: Callable[[], object], on_cpu: bool) -> float:
    """Seconds of a call, after a first one that prepares the device. On a CPU a first call that takes long is not
    repeated: there, preparing takes a small part of it."""
    started = time.perf_counter()
    function()
    first = time.perf_counter() - started
    if on_cpu and first >= LONG:
        return first
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


__all__ = ["batch_seconds", "evaluations", "seconds_of", "timed_seconds", "with_evals", "with_recorded_evals"]
