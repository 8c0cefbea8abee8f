"""metrics.jsonl: a line for each step and each evaluation of a run; its completions go to completions.jsonl.

Receives events, writes them down, calls the hook `on_step_end`, feeds trackers, and passes them on; knows no optimizer
and no model.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from zotune import plugins
from zotune.events import Emit, Evaluated, Event, Examples, Note, StepDone
from zotune.runs import tracked
from zotune.runs.completions_log import ROWS, CompletionsLog, Phase, completion_rows
from zotune.runs.json_lines import append_lines, keep_lines
from zotune.runs.run_directory import METRICS
from zotune.runs.scoring_cost import scoring_cost
from zotune.runs.validation import Validation
from zotune.scoring.objective import Objective
from zotune.search.journal import Journal
from zotune.search.progress import Progress
from zotune.search.tracking import Tracking


class MetricsLog:
    """The `Emit` of a run's engine.

    On resume it drops the lines after the checkpoint that the run continues from, so that the files equal those of an
    uninterrupted run.
    """

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        progress: Progress,
        validation: Validation,
        objective: Objective,
        emit: Emit,
        tracking: Tracking | None = None,
    ) -> None:
        self._progress, self._validation, self._objective, self._emit = progress, validation, objective, emit
        self._tracking = tracking or Tracking()
        self._metrics, self._completions = folder / METRICS, CompletionsLog(folder)
        self._started = time.monotonic()
        past = journal.lines[: journal.cursor]
        steps = {line["step"] + 1 for line in past if line["kind"] == "step"}
        evaluated = {line["step"] for line in past if line["kind"] == "eval"}
        keep_lines(
            self._metrics, lambda row: row.get("step") in (evaluated if "score" in row or "failed" in row else steps)
        )
        self._completions.resume(line["step"] for line in journal.lines if line["kind"] == "eval")

    def __call__(self, event: Event) -> None:
        match event:
            case StepDone():
                self._step(event)
                share = scoring_cost(self._objective, time.monotonic() - self._started).share
                generated = self._validation.completions_generated
                self._emit(replace(event, scoring_share=share, completions=generated))
            case Evaluated():
                generates, latest = self._validation.completions_generated is not None, self._validation.latest
                if latest:
                    phase: Phase = "during" if event.step else "before"
                    self._completions.add(event.step, "validation", phase, *latest)
                evaluation = self._evaluation(event)
                append_lines(self._metrics, [evaluation])
                self._emit(event)
                if examples := self._validation.take_examples():
                    self._emit(Examples(event.step, examples, generates))
                samples = tuple(map(tracked.of_example, examples))
                if latest and "completion_ids" in latest[0]:
                    samples = tuple(map(tracked.sample, completion_rows(latest[0], latest[1].samples, ROWS)))
                self._tracking.send(tracked.tracked_step(evaluation, samples))
            case _:
                self._emit(event)

    def _step(self, event: StepDone) -> None:
        metrics = event.metrics()
        row = {k: v for k, v in metrics.items() if k not in ("evaluations", "zero_share")}
        short = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
        append_lines(self._metrics, [short])  # the journal has every digit
        plugins.default().notify("on_step_end", self._note, step=event.step, metrics=metrics)
        self._tracking.send(tracked.tracked_step(short))

    def _evaluation(self, event: Evaluated) -> dict[str, Any]:
        row: dict[str, Any] = {"step": event.step}
        row |= {} if event.score is None else {"score": event.score}
        row |= {"parts": dict(event.parts)} if event.parts else {}
        row |= {} if event.kl is None else {"drift": event.kl}
        row |= {"ruined": event.diverged} if event.diverged else {}
        row |= {"failed": event.failed} if event.failed else {}
        progress = self._progress
        return {**row, "evaluations": progress.evaluations, "zero_share": round(progress.zero_share, 4)}

    def _note(self, text: str) -> None:
        self._emit(Note(text))


__all__ = ["MetricsLog"]
