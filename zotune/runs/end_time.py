"""How long the end of a run takes: the test set, standard errors, the linear probe and the files of the model.

Knows a session and the seconds that its parts have taken so far.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Final

from zotune.runs.heldout import GROUPS, RESAMPLES, SECONDS, HeldOutSet
from zotune.runs.session import Session
from zotune.search.progress import Progress
from zotune.search.work_clock import WorkClock
from zotune.types import Score

FIT_SHARE: Final = 1.15
"""Seconds of a training row of a linear probe in those of its forward pass: scikit-learn's part was measured."""
SETTLED: Final = 0.5
"""Where no weights were better than the base model in this share of the budget, none will be."""


@dataclass
class EndTime:
    """Call it for the predicted seconds after the loop.

    score: of the base model on the test set. The seconds of a test score and of hashing the weights are measured before
    the loop.
    """

    session: Session
    clock: WorkClock
    progress: Progress
    score: Score

    def __post_init__(self) -> None:
        self._resample = _resample_seconds(len(self.session.test.rows)) if self.score.samples is not None else 0.0

    def __call__(self) -> float:
        tuned = self.progress.best_step > 0 or self.session.budget.used(self.progress.evaluations) < SETTLED
        test = self.clock.seconds("test") if tuned else 0.0
        ends = self._standard_errors(tuned) + self._probe() + self.clock.seconds("weights")
        return test + ends + self._reading()

    def _reading(self) -> float:
        """Seconds of loading the base model again, from which weights between it and the last step are computed."""
        reads = self.session.interpolates and not self.session.initial_weights.copied
        return self.clock.seconds("loading") if reads else 0.0

    def _standard_errors(self, tuned: bool) -> float:
        """Seconds of the bootstraps or jackknifes of both models, of their difference and of the probe."""
        held_out, rows = self.session.test, len(self.session.test.rows)
        if self.score.samples is not None:
            return min(RESAMPLES * self._resample, SECONDS) if tuned else 0.0
        if not held_out.resamples:
            return 0.0
        each = held_out.score_seconds
        if not held_out.bootstraps:
            return (1 + tuned) * min(GROUPS, rows) * each
        once = min(RESAMPLES * each, SECONDS)
        return once * (1 + self._probes) + (once + min(2 * RESAMPLES * each, SECONDS) if tuned else 0.0)

    @property
    def _probes(self) -> bool:
        session = self.session
        return session.plan.head == "embedding" and session.base is None and session.test.resamples

    def _probe(self) -> float:
        """Seconds of the linear probe; where none was fitted before the loop, by those of the test set."""
        if not self._probes:
            return 0.0
        validation: HeldOutSet = self.session.validation.held_out
        test = self.clock.seconds("test") / max(len(self.session.test.rows), 1)
        cached = self.session.caches_training_rows
        each = self.clock.seconds("validation") / max(len(validation.rows), 1) if cached else test
        train = self.session.probe_count * (self.clock.seconds("probe") or FIT_SHARE * each)
        return train + test * len(self.session.test.rows)


def _resample_seconds(rows: int) -> float:
    """Seconds of a resample of a mean, as a bootstrap computes it."""
    values, started = [0.5] * rows, time.perf_counter()
    for _ in range(5):
        math.fsum(values[k] for k in [(7919 * i) % rows for i in range(rows)])
    return 2 * (time.perf_counter() - started) / 5  # drawing the rows takes as long again


__all__ = ["EndTime"]
