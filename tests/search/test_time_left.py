"""The time left of a loop, by a clock that the test moves: every kind of work that is still to come counts."""

from __future__ import annotations

import pytest

from zotune.search.hooks import Settings
from zotune.search.limits import Budget
from zotune.search.progress import Progress
from zotune.search.time_left import LoopWork
from zotune.search.work_clock import LATEST, WorkClock


class Simulated:
    """A run whose work takes given seconds on a clock of its own; `predicted` and `times` are taken after each step."""

    def __init__(self, step: float, validation: float, save: float, limits: Budget, settings: Settings) -> None:
        self.now, self.limits, self.settings = 0.0, limits, settings
        self.clock = WorkClock(lambda: self.now)
        self.step_seconds, self.validation, self.save = step, validation, save
        self.progress = Progress()
        self.predicted: list[float] = []
        self.times: list[float] = []

    def work(self, kind: str, seconds: float, units: float = 1.0) -> None:
        with self.clock.measure(kind, units):  # type: ignore[arg-type]
            self.now += seconds

    def run(self, steps: int, evaluations: int, cost: int, warm_up: float = 0.0) -> list[float]:
        """Predicted seconds over true ones after every step."""
        p, every = self.progress, self.settings.eval_steps
        self.work("validation", self.validation)
        self.work("checkpoint", self.save)
        for k in range(steps):
            self.work("evaluation", self.step_seconds + (warm_up if k == 0 else 0.0), cost)
            p.step, p.evaluations, p.seconds = p.step + 1, p.evaluations + cost, self.now
            work = LoopWork.of(p, self.limits, (steps, evaluations), self.settings, True)
            self.predicted.append(work.seconds_left(self.clock))
            self.times.append(self.now)
            if p.step % every == 0 or p.step == steps:
                self.work("validation", self.validation)
                self.work("checkpoint", self.save)
        for _ in range(2 if self.settings.interpolate else 0):
            self.work("validation", self.validation)
        self.now += self.save if self.settings.interpolate else 0.0
        return [seconds / (self.now - then) for seconds, then in zip(self.predicted, self.times, strict=True)]


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize(
    ("limits", "cost"), [(Budget(steps=45), 2), (Budget(evals=90), 2), (Budget(steps=45, evals=900), 20)]
)
def test_steps_validations_and_checkpoints_are_counted(limits: Budget, cost: int, interpolate: bool) -> None:
    run = Simulated(0.5, 20.0, 3.0, limits, Settings(eval_steps=10, interpolate=interpolate))
    ratios = run.run(45, 45 * cost, cost)
    assert ratios == pytest.approx([1.0] * 45)


def test_a_slow_first_step_is_forgotten() -> None:
    run = Simulated(0.5, 2.0, 0.1, Budget(steps=200), Settings(eval_steps=20))
    ratios = run.run(200, 400, 2, warm_up=60.0)
    assert ratios[0] > 10
    assert all(1 / 1.5 < ratio < 1.5 for ratio in ratios[9:])


def test_evaluations_of_a_calibration_shorten_the_run_and_not_its_steps() -> None:
    run = Simulated(0.5, 4.0, 0.1, Budget(evals=200), Settings(eval_steps=10))
    run.now, run.progress.evaluations = 300.0, 100  # spent before the first step
    ratios = run.run(50, 100, 2)
    assert ratios == pytest.approx([1.0] * 50)


def test_a_limit_on_time_ends_the_loop() -> None:
    work = LoopWork(10, None, None, 30.0, 10, 10)
    clock = WorkClock()
    clock.record("evaluation", 1.0, 2)
    clock.record("validation", 5.0)
    assert work.seconds_left(clock) == 35.0
    assert LoopWork(10, 1000.0, 2000.0, 30.0, 10, 10).seconds_left(clock) == 35.0
    assert LoopWork(11, 9.0, 18.0, 300.0, 10, 10).seconds_left(clock) == 14.0


def test_a_run_that_gets_slower_is_followed() -> None:
    clock = WorkClock()
    for _ in range(500):
        clock.record("evaluation", 1.0)
    for _ in range(LATEST):
        clock.record("evaluation", 3.0)
    assert clock.seconds("evaluation") == 3.0
    assert clock.seconds("probe", otherwise=7.0) == 7.0


def test_work_that_fails_is_not_measured() -> None:
    clock = WorkClock()
    with pytest.raises(ValueError, match="no"), clock.measure("test"):
        raise ValueError("no")
    assert clock.seconds("test") == 0.0


@pytest.mark.parametrize(
    ("interpolates", "copied", "seconds"), [(True, False, 30.0), (True, True, 0.0), (False, False, 0.0)]
)
def test_loading_the_base_model_again_counts(interpolates: bool, copied: bool, seconds: float) -> None:
    """Weights between the base model and the last step need the base model's, which are read again."""
    from types import SimpleNamespace
    from typing import Any

    from zotune.runs.end_time import EndTime
    from zotune.types import Score

    clock = WorkClock()
    clock.record("loading", 30.0)
    rows: list[int] = [0] * 4
    session: Any = SimpleNamespace(
        interpolates=interpolates,
        initial_weights=SimpleNamespace(copied=copied),
        test=SimpleNamespace(rows=rows, resamples=False, scores_counted=True),
        plan=SimpleNamespace(head="causal"),
        budget=SimpleNamespace(used=lambda evaluations: 1.0),
    )
    progress: Any = SimpleNamespace(best_step=0, evaluations=4)
    assert EndTime(session, clock, progress, Score(0.5, None))() == seconds
