"""Events of a run as text: a progress bar and tables on a terminal, plain lines elsewhere, all on standard error.

Knows events; knows neither who emits them nor how a result is shown.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from zotune.cli.reports import calibration_lines, preflight_lines
from zotune.cli.samples import sample_lines, sample_table
from zotune.events import (
    Calibrated,
    Evaluated,
    Event,
    Example,
    Examples,
    Finished,
    Initialized,
    Interpolated,
    Note,
    Phase,
    PreflightDone,
    RolledBack,
    RunStarted,
    StepDone,
)
from zotune.text import duration, number, plain, short_name

PROGRESS_SECONDS: Final = 10.0
"""Seconds between two plain progress lines of steps."""
PHASE_SECONDS: Final = 2.0
"""A phase that takes longer is shown, and its time after five times as long and each time that this doubles."""
TUNED: Final = "tuned"
DEFAULT_STEPS: Final = 1000
"""Largest step for which there is room in a line, where the budget does not tell."""


class Terminal:
    """Receives the events of a run. As a context it is closed on leaving: nothing more is shown."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self.quiet, self._live = quiet, self.console.is_terminal
        self._progress: Progress | None = None
        self._task: Any = None
        self._run: RunStarted | None = None
        self._base: tuple[Example, ...] = ()
        self._best: Examples | None = None
        self._improved = False
        self._first_completions: int | None = None
        self._counted_from = self._clock = self._last = time.monotonic()
        self._first_step = 0
        self._width = len(str(DEFAULT_STEPS))
        self._total: float | None = None
        self._start = "the base model"  # where tuning starts
        self._watch: _PhaseWatch | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        if self.quiet:
            return
        self._end_phase()
        match event:
            case Phase():
                if not event.brief:
                    self.say(f"· {event.text}", "dim")
                self._watch = _PhaseWatch(event.text, event.brief, lambda text: self.say(text, "dim"))
            case Note():
                self.say(f"· {event.text}")
            case RunStarted():
                self._started(event)
            case Calibrated():
                for line in calibration_lines(event):
                    self.say(f"  {line}")
                self._begin()
            case PreflightDone():
                for line in preflight_lines(event):
                    self.say(f"  {line}")
            case Initialized():
                if event.numbers:
                    values = ", ".join(f"{name} {value:.4g}" for name, value in event.numbers)
                    self.say(f"  optimizer: {values}")
                self._begin()
            case StepDone():
                self._step(event)
            case Evaluated():
                self._evaluated(event)
            case Examples():
                self._examples(event)
            case Interpolated():
                self._interpolated(event)
            case RolledBack():
                self._rolled_back(event)
            case Finished():
                self._finished(event)
                self.close()

    def say(self, text: str, style: str = "") -> None:
        if not self.quiet:
            self.console.print(Text(plain(text), style=style))

    def close(self) -> None:
        self._end_phase()
        if self._progress:
            self._progress.stop()
            self._progress = None

    def _end_phase(self) -> None:
        if self._watch is not None:
            self._watch.end()
            self._watch = None

    def _started(self, event: RunStarted) -> None:
        self._run = event
        self._width = len(str(event.max_steps or event.max_evals or DEFAULT_STEPS))
        self.say(
            f"{event.optimizer} tunes {event.tuned_weights:,} weights ({event.tensors} tensors) of {event.model}, "
            f"{event.head} head, on {event.device}"
        )
        if event.tensor_names:
            self.say(f"tuned: {event.tensor_names}")
        self.say(
            f"rows: {event.training_rows} training (batch size {event.batch_size}), "
            f"{event.validation_rows} validation, {event.test_rows} test"
        )
        self.say(f"base model: test {short_name(event.objective)} {number(event.test_score)} ({event.better})")
        if event.probe_score is not None:
            self._start = "the linear probe"
            self.say(
                f"linear probe: test {short_name(event.objective)} {number(event.probe_score)}, where tuning starts"
            )
        self.say(f"run directory: {event.folder}")
        self._begin()

    def _begin(self) -> None:
        """Start the clock and, on a terminal, the progress bar."""
        self._clock = self._last = time.monotonic()
        run = self._run
        self._total = (run.max_steps or run.max_evals or run.max_time) if run else None
        if self._live and self._progress is None:
            self._progress = Progress(
                TextColumn("{task.percentage:>3.0f} %"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}", markup=False),
                TextColumn("{task.fields[left]}", markup=False),
                console=self.console,
            )
            self._task = self._progress.add_task("", total=self._total, text="", left="")
            self._progress.start()

    def _step(self, event: StepDone) -> None:
        now, run = time.monotonic(), self._run
        used: float = now - self._clock
        if run and run.max_steps:
            used = event.step
        elif run and run.max_evals:
            used = event.evaluations
        if not self._first_step:
            self._first_step = event.step
        if event.dropped:
            self.say(f"step {event.step:>{self._width}}  dropped, weights unchanged: {event.dropped}", "yellow")
        parts = [f"step {event.step:>{self._width}}"]
        if event.loss is not None and run and run.direction != "order":  # a comparison has no value of its own
            parts.append(self._score("batch", event.loss if run.direction == "minimize" else -event.loss))
        if event.difference is not None:
            parts.append(f"|difference| {event.difference:.1e}")
        if event.zero_share is not None:
            parts.append(f"no signal {100 * event.zero_share:.0f} %")
        if event.scoring_share is not None and event.scoring_share > 0.2:
            parts.append(f"scoring {100 * min(event.scoring_share, 1):.0f} %")
        parts.append(self._rate(event, max(now - self._clock, 1e-9)))
        left = "" if event.seconds_left is None else f"{duration(event.seconds_left)} left"
        if self._progress:
            completed = min(used, self._total or used)
            self._progress.update(self._task, completed=completed, text="  ".join(parts), left=left)
        elif now - self._last >= PROGRESS_SECONDS:
            self._last = now
            if self._total and used:
                parts.append(f"{100 * min(used / self._total, 1):.0f} %")
            self.say("  ".join([*parts, *([left] if left else [])]))

    def _rate(self, event: StepDone, seconds: float) -> str:
        """Steps a second; where text is generated, and from the second step on, completions a second."""
        if event.completions is not None:
            if self._first_completions is None:
                self._first_completions, self._counted_from = event.completions, time.monotonic()
            count, since = event.completions - self._first_completions, time.monotonic() - self._counted_from
            if count:
                return f"{count / max(since, 1e-9):.1f} completions/s"
        return f"{(event.step - self._first_step + 1) / seconds:.1f} steps/s"

    def _evaluated(self, event: Evaluated) -> None:
        step = f"step {event.step:>{self._width}}"
        self._improved = event.best
        if event.failed or event.score is None:
            self.say(f"{step}  validation failed: {event.failed}", "yellow")
            return
        best = "  best so far" if event.best and event.step else ""
        kl = f"  KL {number(event.kl)}" if event.step and event.kl is not None else ""
        self.say(f"{step}  {self._score('validation', event.score)}{_parts(event.parts)}{kl}{best}")

    def _examples(self, event: Examples) -> None:
        if not self._base:
            self._base = event.items
            if event.generated and not self._live:
                self.say("answers to validation prompts:")
                self._say_lines(sample_lines(event.items, None, TUNED))
        elif self._improved:
            self._best = event
        if self._live:
            self.console.print(sample_table(self._base, event.items, TUNED, self.console.width))

    def _finished(self, event: Finished) -> None:
        """On plain terminals, the answers to the same prompts before and after."""
        best = self._best
        if best is not None and best.generated and not self._live:
            self.say(f"answers to the same prompts at step {best.step}:")
            self._say_lines(sample_lines(self._base, best.items, TUNED))

    def _say_lines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.say(line)

    def _interpolated(self, event: Interpolated) -> None:
        if event.score is not None:
            best = "  best so far" if event.best else ""
            where = f"  interpolated, {event.share:g} of the distance from {self._start}"
            self.say(f"step {event.step:>{self._width}}  {self._score('validation', event.score)}{where}{best}")

    def _rolled_back(self, event: RolledBack) -> None:
        weights = f"step {event.to_step}" if event.to_step else self._start
        if event.share != 1.0:
            weights += f", {event.share:g} of its distance from {self._start}"
        self.say(
            f"step {event.step:>{self._width}}  diverged: {event.why}; restored the best checkpoint ({weights}), "
            f"step size x {event.damping:.2g}",
            "yellow",
        )

    def _score(self, source: str, value: float) -> str:
        """A score of the objective, so that scores of every source stand in one column."""
        return f"{source:>{len('validation')}} {self._name} {number(value):>7}"

    @property
    def _name(self) -> str:
        return short_name(self._run.objective) if self._run else "score"


class _PhaseWatch:
    """Shows a phase that takes long, from a thread of its own: work that takes long calls nobody."""

    def __init__(self, text: str, hidden: bool, show: Callable[[str], None]) -> None:
        self._text, self._show, self._started = text, show, time.monotonic()
        self._ended = threading.Event()
        first = PHASE_SECONDS if hidden else 5 * PHASE_SECONDS
        self._thread = threading.Thread(target=self._run, args=(first, hidden), name="zotune-phase", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The phase is over; nothing is shown from here on."""
        self._ended.set()
        self._thread.join()

    def _run(self, due: float, hidden: bool) -> None:
        while not self._ended.wait(max(self._started + due - time.monotonic(), 0.0)):
            seconds = "" if hidden else f", {duration(due)} so far"
            with contextlib.suppress(OSError, ValueError):  # the stream is closed
                self._show(f"· {self._text}{seconds}")
            due, hidden = (5 * due, False) if hidden else (2 * due, False)


def _parts(parts: Sequence[tuple[str, float]]) -> str:
    """The values of the objectives in a sum."""
    return f" ({', '.join(f'{name} {number(value)}' for name, value in parts)})" if parts else ""


__all__ = ["Terminal"]
