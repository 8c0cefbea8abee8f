"""progress.jsonl: where a run stood when, and what its time was spent on.

The first line holds `about`: what the run's options do not tell, such as the name of an objective that is a function.
Each other line holds step and seconds, counted from the start of the run over all its processes; spent, the seconds by
kind of work so far; for a step `left`, the seconds that the run was predicted to take from there; and for an evaluation
of the validation set `evaluated`, whether these are the `best` weights so far, and `error`, the standard error of the
score's difference from the base model's. Times differ from run to run, so
they stand apart from metrics.jsonl, which repeats bit for bit. Receives events and passes them on; computes no score.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from zotune import files, plugins
from zotune.events import Emit, Evaluated, Event, StepDone
from zotune.runs.run_directory import PROGRESS
from zotune.runs.session import Session
from zotune.search.engine import Engine
from zotune.search.journal import Journal

EVERY_SECONDS: Final = 1.0
"""Seconds between two lines of steps at least."""


class ProgressLog:
    """The `Emit` of a run that keeps its times.

    started: when this process began the run, by the monotonic clock. Lines of an earlier process are kept up to the
    last recorded step, and times count on from there.
    """

    def __init__(self, folder: Path, session: Session, engine: Engine, started: float, emit: Emit) -> None:
        self._path, self._session, self._oracle, self._emit = folder / PROGRESS, session, engine.oracle, emit
        self._started, self._written = started, -math.inf
        self._step_began = (0.0, 0.0)  # seconds of the oracle and of scoring when the step began
        self._model = self._scoring = 0.0
        self._recorded = sum(line["kind"] == "step" for line in engine.journal.lines)
        self._earlier_seconds, self._earlier_spent, self._evaluated = self._resume(engine.journal)
        begins = engine.hooks.step_begins

        def step_begins(checksum: str) -> None:
            self._step_began = self._clocks()
            begins(checksum)

        engine.hooks.step_begins = step_begins

    def __call__(self, event: Event) -> None:
        match event:
            case StepDone() if event.step > self._recorded:
                model, scoring = (now - before for now, before in zip(self._clocks(), self._step_began, strict=True))
                self._model += model
                self._scoring += min(scoring, model)
                if time.monotonic() - self._written >= EVERY_SECONDS:
                    left = event.seconds_left
                    self._write(event.step, **({} if left is None else {"left": round(left, 2)}))
            case Evaluated() if event.step not in self._evaluated:
                error = self._session.validation.paired_error
                marks = {"best": True} if event.best else {}
                self._write(event.step, evaluated=True, **marks, **({} if error is None else {"error": error}))
                self._evaluated.add(event.step)
        self._emit(event)

    def finish(self, step: int) -> None:
        """Write the last line of this process."""
        self._write(step)

    def _clocks(self) -> tuple[float, float]:
        """Seconds so far: of the oracle, scoring included, and of scoring alone."""
        parts = self._session.plan.objective.each
        return self._oracle.seconds, math.fsum(part.meter.seconds for part in parts)

    def _spent(self) -> dict[str, float]:
        """Seconds by kind of work, those of earlier processes included."""
        clock = self._session.clock
        now = {
            "model": self._model - self._scoring,
            "scoring": self._scoring,
            "preparation": max(self._oracle.seconds - self._model, 0.0),
            "update": max(clock.total("evaluation") - self._model, 0.0),
            **{kind: clock.total(kind) for kind in ("validation", "test", "checkpoint")},
        }
        return {kind: round(seconds + self._earlier_spent.get(kind, 0.0), 2) for kind, seconds in now.items()}

    def _write(self, step: int, **more: Any) -> None:
        self._written = time.monotonic()
        seconds = round(self._earlier_seconds + self._written - self._started, 2)
        line = {"step": step, "seconds": seconds, "spent": self._spent(), **more}
        files.append(self._path, _line(line))

    def _about(self) -> dict[str, Any]:
        plan, session = self._session.plan, self._session
        return {
            "objective": plan.objective.name,
            "better": plan.objective.better,
            "named": self._named(),
            "training_rows": len(session.train),
            "validation_rows": len(session.validation.held_out.rows),
            "test_rows": len(session.test.rows),
            "tuned_weights": session.space.numel,
            "tensors": len(session.space.params),
        }

    def _named(self) -> bool:
        """Whether the options name the objective, so that a command repeats the run; a function has no such name."""
        plan = self._session.plan
        names = plan.config.objective
        names = (names,) if isinstance(names, str) else names
        known = all(":" in name or plugins.default().has("objective", name) for name in names)
        return known and list(names) == [part.name for part in plan.objective.each]

    def _resume(self, journal: Journal) -> tuple[float, dict[str, float], set[int]]:
        """The seconds of earlier processes, in all and by kind, and the steps whose evaluation has a line. Lines beyond
        the journal are removed."""
        evals = {line["step"] for line in journal.lines if line["kind"] == "eval"}
        kept, seconds, spent, evaluated = list[str](), 0.0, dict[str, float](), set[int]()
        for text in self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []:
            try:
                line = json.loads(text)
                if "about" in line:
                    kept.append(text)
                    continue
                step, at, parts = line["step"], float(line["seconds"]), dict(line["spent"])
            except (ValueError, KeyError, TypeError):
                continue  # a torn line
            if step > self._recorded or (line.get("evaluated") and step not in evals):
                continue
            kept.append(text)
            seconds, spent = at, parts
            evaluated |= {step} if line.get("evaluated") else set()
        if not any(text.startswith('{"about"') for text in kept):
            kept.insert(0, _line({"about": self._about()}).rstrip())
        files.write(self._path, "".join(f"{text}\n" for text in kept))
        return seconds, spent, evaluated


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":")) + "\n"


__all__ = ["ProgressLog"]
