"""The time that the loop of a run has left: its steps, validations and checkpoints by the seconds that each has taken.

Knows counters, limits and a clock; knows no engine, no model and no objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zotune.search.hooks import Settings
from zotune.search.limits import Budget
from zotune.search.progress import Progress
from zotune.search.work_clock import WorkClock

INTERPOLATED: Final = 2
"""Validations of weights between the base model and the last step."""


@dataclass(frozen=True)
class LoopWork:
    """What a loop has left to do.

    steps, evaluations: until the limits on them are reached; seconds: until the limit on time is, each None where there
    is no such limit. eval_steps, save_steps: steps between two validations and two checkpoints; step: steps so far, of
    which the last one's validation and checkpoint are still to come; validates: whether there is
    a validation set; ends: validations of interpolated weights after the last step.
    """

    step: int
    steps: float | None
    evaluations: float | None
    seconds: float | None
    eval_steps: int
    save_steps: int
    validates: bool = True
    ends: int = 0

    @classmethod
    def of(
        cls,
        progress: Progress,
        limits: Budget,
        planned: tuple[int | None, int | None],
        settings: Settings,
        validates: bool,
    ) -> LoopWork:
        """What is left of a loop. planned: steps and evaluations that the limits pay for, None without such a limit."""
        total, evaluations = planned
        ends: list[tuple[float, float]] = []  # (steps, evaluations) up to each limit
        if total and evaluations and limits.steps is not None:
            steps = limits.steps - progress.step
            ends.append((steps, steps * evaluations / total))
        if total and evaluations and limits.evals is not None:
            left = limits.evals - progress.evaluations
            ends.append((left * total // evaluations, left))
        every = max(settings.eval_steps, 1)
        nearest = min(ends, default=None)
        return cls(
            progress.step,
            nearest[0] if nearest else None,
            nearest[1] if nearest else None,
            None if limits.seconds is None else limits.seconds - progress.seconds,
            every,
            settings.save_steps or every,
            validates,
            INTERPOLATED if settings.interpolate and validates else 0,
        )

    def seconds_left(self, clock: WorkClock) -> float:
        """Predicted seconds until the loop has ended and its last validation and checkpoint are done."""
        validation = clock.seconds("validation") if self.validates else 0.0
        saving = clock.seconds("checkpoint")
        after = validation * self.ends + (saving if self.ends else 0.0)
        if self.steps is None or self.evaluations is None:
            return max(self.seconds or 0.0, 0.0) + validation + saving + after
        last = self.step + max(round(self.steps), 0)
        validations, saves = (_ends(self.step, last, every) for every in (self.eval_steps, self.save_steps))
        loop = clock.seconds("evaluation") * self.evaluations + validation * validations + saving * saves
        if self.seconds is not None and loop > self.seconds:
            loop = max(self.seconds, 0.0) + validation + saving
        return loop + after


def _ends(step: int, last: int, every: int) -> int:
    """How often something is due after every so many steps, from this step on, and after the last one."""
    return last // every - max(step - 1, 0) // every + (last % every > 0)


__all__ = ["INTERPOLATED", "LoopWork"]
