"""Selection of the best weights: by the validation loss of steps, and of weights interpolated toward the base model.

Knows spaces, journals and stores; knows no optimizer and no objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zotune.core.space import Space
from zotune.errors import ObjectiveError, ObjectiveFailures
from zotune.events import Emit, Evaluated, Interpolated
from zotune.search.checkpoint import Store, interpolate
from zotune.search.journal import Journal
from zotune.search.progress import Progress, ValidationResult

MIDDLE = 0.5
"""The share between base model and last step that is evaluated first."""
FALLBACK_SHARES = 0.25, 0.75
"""The share that is evaluated next where the losses fit no parabola with a minimum."""
MARGIN = 0.05
"""Minima of the parabola nearer than this share to the base model or the last step are not evaluated."""


def best_weights(store: Store, progress: Progress) -> Mapping[str, Any]:
    """The weights of the smallest validation loss: those of a step, or between it and the base model."""
    weights = store.weights(progress.best_step)
    return weights if progress.best_share == 1.0 else interpolate(store.weights(0), weights, progress.best_share)


@dataclass(frozen=True)
class Selection:
    """Evaluates the present weights on the validation set and records the best ones in `progress`.

    validate: scores the present weights; called only where the journal does not hold the result already. before_line:
    called before the journal is read: a run that was killed and got a larger budget has a line of it anywhere.
    """

    space: Space
    journal: Journal
    store: Store
    progress: Progress
    validate: Callable[[], ValidationResult]
    emit: Emit
    before_line: Callable[[], object] = bool

    def evaluate(self) -> ValidationResult:
        """Evaluate the weights of the present step. Raises ObjectiveFailures where the base model cannot be scored."""
        p = self.progress

        def compute() -> Mapping[str, Any]:
            try:
                return {"step": p.step, **self.validate().to_line()}
            except ObjectiveError as error:
                if p.step == 0:
                    raise ObjectiveFailures(f"the objective failed on the validation set: {error}") from error
                return {"step": p.step, **ValidationResult(failed=str(error)).to_line()}

        result = ValidationResult.from_line(self.journal.take_or_append("eval", compute))
        loss = math.inf if result.loss is None else result.loss
        p.margin = max(p.margin, result.error or 0.0)
        if p.step == 0 or loss < p.best_loss:
            p.best_loss, p.best_step, p.best_share, p.stale = loss, p.step, 1.0, 0
        else:
            p.stale += 1
            if p.best_step and result.error is not None and loss <= p.best_loss + p.margin:
                p.best_step, p.best_share = p.step, 1.0  # the smallest of many losses of few rows is half luck
        best = p.best_step == p.step
        self.emit(
            Evaluated(p.step, result.score, result.parts, result.kl, best, result.diverged, result.failed)
        )  # before the checkpoint is written: a kill between the two loses nothing
        return result

    def interpolate(self) -> None:
        """Evaluate weights between the base model and the last step.

        First at half of the way, then where the parabola through the losses of base, half and last step is lowest (at
        a quarter or three quarters where there is none). What tuning learns grows with the distance from the base
        model, what random steps cost grows with its square (docs/log.md), so the minimum may lie between. After
        Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903.
        """
        evaluations = [line for line in self.journal.lines[: self.journal.cursor] if line["kind"] == "eval"]
        base, last = evaluations[0].get("loss"), evaluations[-1].get("loss")
        near, far = FALLBACK_SHARES
        last_weights: dict[str, Any] = {}
        try:
            middle, share = self._evaluate_at(MIDDLE, last_weights), near
            if base is not None and middle is not None and last is not None:
                slope, curvature = 4 * middle - 3 * base - last, 2 * (base - 2 * middle + last)
                share = -slope / (2 * curvature) if curvature > 0 else near if middle < last else far
            if MARGIN < share < 1 - MARGIN:
                self._evaluate_at(round(share, 2), last_weights)
        finally:
            if last_weights:
                self.space.load(last_weights)

    @property
    def is_interpolated(self) -> bool:
        """Whether `interpolate` is done for the present step, or was left out where the run ended."""
        before = self.journal.lines[: self.journal.cursor]
        done = any(line["kind"] == "between" and line["step"] == self.progress.step for line in before)
        return done or self.journal.next == "end"

    def _evaluate_at(self, share: float, last_weights: dict[str, Any]) -> float | None:
        """The validation loss at base + share · (last - base). The last weights are kept in `last_weights`, which is
        filled before they are overwritten."""
        p = self.progress

        def compute() -> Mapping[str, Any]:
            if not last_weights:
                last_weights.update(self.space.snapshot())
            self.space.load(interpolate(self.store.weights(0), last_weights, share))
            try:
                result = self.validate()
            except ObjectiveError as error:
                result = ValidationResult(failed=str(error))
            return {"step": p.step, "share": share, **result.to_line()}

        self.before_line()
        line = self.journal.take_or_append("between", compute)
        result = ValidationResult.from_line(line)
        best = result.loss is not None and result.loss < p.best_loss
        if result.loss is not None and best:
            p.best_loss, p.best_step, p.best_share = result.loss, p.step, line["share"]
        self.emit(Interpolated(line["step"], line["share"], result.score, best, result.failed))
        return result.loss


__all__ = ["Selection", "best_weights"]
