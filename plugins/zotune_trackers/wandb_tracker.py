"""Weights & Biases. Its variables, such as WANDB_MODE=offline, work as usual."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from zotune.types import TrackedRun, TrackedSample, Tracker
from zotune_trackers.library import checked_name, library
from zotune_trackers.run_log import RunLog


class WandB(Tracker):
    """Logs a run to Weights & Biases; a resumed run continues the run of the same id."""

    def __init__(self, project: str = "") -> None:
        self._library = library("wandb", "wandb", "wandb")
        self._project = project or os.environ.get("WANDB_PROJECT", "") or "zotune"
        checked_name(self._project, "the project of wandb")

    def on_run_start(self, run: TrackedRun) -> int | None:
        opened: Any = self._library.init(
            project=self._project, id=run.name, name=run.name, config=dict(run.config), resume="allow"
        )
        self._log = RunLog(opened, self._library)
        run.message(f"wandb: run {run.name} of project {self._project}")
        return int(opened.step) - 1 if opened.step else None

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        self._log.on_step_end(step, metrics)

    def on_evaluation(self, step: int, metrics: Mapping[str, float], samples: Sequence[TrackedSample]) -> None:
        self._log.on_evaluation(step, metrics, samples)

    def on_run_end(self, summary: Mapping[str, Any]) -> None:
        self._log.on_run_end(summary)


__all__ = ["WandB"]
