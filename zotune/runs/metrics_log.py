"""metrics.jsonl and completions.jsonl: a line for each step and each evaluation of a run.

Receives events, writes them down, calls the hook `on_step_end`, and passes them on; knows no optimizer and no model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zotune import files, plugins
from zotune.events import Emit, Evaluated, Event, Examples, Note, StepDone
from zotune.runs.run_directory import COMPLETIONS, METRICS
from zotune.runs.scoring_cost import scoring_cost
from zotune.runs.validation import Validation
from zotune.scoring.objective import Objective
from zotune.search.journal import Journal
from zotune.search.progress import Progress


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
    ) -> None:
        self._progress, self._validation, self._objective, self._emit = progress, validation, objective, emit
        self._metrics, self._completions = folder / METRICS, folder / COMPLETIONS
        self._started = time.monotonic()
        past = journal.lines[: journal.cursor]
        steps = {line["step"] + 1 for line in past if line["kind"] == "step"}
        evaluated = {line["step"] for line in past if line["kind"] == "eval"}
        _keep_lines(
            self._metrics, lambda row: row.get("step") in (evaluated if "score" in row or "failed" in row else steps)
        )
        if self._completions.exists():
            recorded = {line["step"] for line in journal.lines if line["kind"] == "eval"}
            _keep_lines(self._completions, lambda row: row.get("step") in recorded)

    def __call__(self, event: Event) -> None:
        match event:
            case StepDone():
                self._step(event)
                share = scoring_cost(self._objective, time.monotonic() - self._started).share
                self._emit(replace(event, scoring_share=share))
            case Evaluated():
                rows = self._validation.take_completions()
                _append_lines(self._completions, [{"step": event.step, **row} for row in rows])
                _append_lines(self._metrics, [self._evaluation(event)])
                self._emit(event)
                if examples := self._validation.take_examples():
                    self._emit(Examples(event.step, examples))
            case _:
                self._emit(event)

    def _step(self, event: StepDone) -> None:
        metrics = event.metrics()
        row = {k: v for k, v in metrics.items() if k not in ("evaluations", "zero_share")}
        short = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
        _append_lines(self._metrics, [short])  # the journal has every digit
        plugins.default().notify("on_step_end", self._note, step=event.step, metrics=metrics)

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


def _append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a file of JSON lines in one write; does nothing without rows."""
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    if text:
        files.append(path, text)


def _keep_lines(path: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Remove all other lines from a file of JSON lines, also torn ones; create the file where it is missing."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and wanted(row):
            kept.append(line)
    files.write(path, "".join(line + "\n" for line in kept))


__all__ = ["MetricsLog"]
