"""What a run tells the engine: its settings, and the hooks that the engine calls.

Holds records alone; calls nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zotune.events import Calibrated, Emit, PreflightDone, ignore
from zotune.search.progress import ValidationResult
from zotune.search.work_clock import WorkClock
from zotune.types import Optimizer


@dataclass
class Settings:
    """When the engine evaluates, saves and gives up.

    eval_steps: steps from one evaluation of the validation set to the next; save_steps: from one checkpoint to the
    next, by default eval_steps; max_failures: steps that may fail before the run does; patience: evaluations without a
    better one after which the run ends, None: never; interpolate: whether weights between the base model and the last
    step are evaluated too, at the end and before a rollback.
    """

    eval_steps: int = 100
    save_steps: int | None = None
    max_failures: int = 10
    patience: int | None = None
    interpolate: bool = False


@dataclass
class Hooks:
    """What a run does besides its steps. A journal that is replayed holds the results, so none is called then.

    validate: scores the present weights on the validation set; without it the last weights are the best. calibrate:
    chooses options of the optimizer before its first state. preflight: evaluates some steps that are not taken, before
    the first step; called with optimizer, state and planned steps. emit: receives the events of the run. stop: asked
    after each step whether the run is interrupted. asked_to_end: asked before each step whether the run ends as if its
    budget were used. scores_spent: asked before each step, with the evaluations that it makes, whether the budget of
    scores no longer pays for it. satisfied: asked before each step whether the objective asks for no further one.
    Instead of stopping after a step, an objective that waits for an answer may raise Stopped: the step did not happen
    then. clock: measures the parts of the loop; seconds_after: predicted seconds of the work after it. step_begins:
    called before a step is computed, with the journal's checksum; step_recorded: once the journal has it.
    """

    validate: Callable[[], ValidationResult] | None = None
    calibrate: Callable[[], Calibrated] | None = None
    preflight: Callable[[Optimizer, Any, int | None], PreflightDone | None] | None = None
    emit: Emit = ignore
    stop: Callable[[], bool] = field(default=lambda: False)
    asked_to_end: Callable[[], bool] = field(default=lambda: False)
    scores_spent: Callable[[int], bool] = field(default=lambda evaluations: False)
    satisfied: Callable[[], bool] = field(default=lambda: False)
    clock: WorkClock = field(default_factory=WorkClock)
    seconds_after: Callable[[], float] = field(default=lambda: 0.0)
    step_begins: Callable[[str], None] = field(default=lambda checksum: None)
    step_recorded: Callable[[], None] = field(default=lambda: None)


__all__ = ["Hooks", "Settings"]
