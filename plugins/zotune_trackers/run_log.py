"""Logs a run through the interface that trackio and wandb share: `init`, `log` and `finish`.

A store of theirs has rows of one step each. The numbers of a step and of the evaluation after it go into one row, which
is written when the next step comes; so the last step of the store is always whole, and a resumed run continues
after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from zotune.types import TrackedSample, Tracker

COLUMNS = ("prompt", "completion", "reference", "score")


class Run(Protocol):
    """A run of trackio or wandb."""

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None: ...


class RunLog(Tracker):
    """Rows of a run. library: has a class `Table`, called with `columns` and `data`, and a function `finish`."""

    def __init__(self, run: Run, library: Any) -> None:
        self._run, self._library = run, library
        self._step, self._row = 0, dict[str, Any]()

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add(step, {f"train/{name}": value for name, value in metrics.items()})

    def on_evaluation(self, step: int, metrics: Mapping[str, float], samples: Sequence[TrackedSample]) -> None:
        self._add(step, {f"validation/{name}": value for name, value in metrics.items()})
        if samples:
            data = [[s.prompt, s.completion, s.reference, s.score] for s in samples]
            self._add(step, {"samples": self._library.Table(columns=list(COLUMNS), data=data)})

    def on_run_end(self, summary: Mapping[str, Any]) -> None:
        self._add(self._step, final_scores(summary))
        self._write()
        self._library.finish()

    def _add(self, step: int, values: Mapping[str, Any]) -> None:
        if step != self._step:
            self._write()
            self._step = step
        self._row |= values

    def _write(self) -> None:
        row, self._row = self._row, {}
        if row:
            self._run.log(row, step=self._step)


def final_scores(summary: Mapping[str, Any]) -> dict[str, float]:
    """The test scores in the summary of a run; empty where it ended early."""
    if summary["reason"] in ("interrupted", "failed"):
        return {}
    scores = {f"test/{name}": summary[name]["value"] for name in ("before", "after")}
    return {**scores, "test/difference": summary["difference"]["value"], "test/best_step": summary["best_step"]}


__all__ = ["RunLog", "final_scores"]
