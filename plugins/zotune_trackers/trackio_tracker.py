"""trackio: local experiments, shown by `trackio show`. Its variables, such as TRACKIO_SPACE_ID, work as usual."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from zotune.types import TrackedRun, TrackedSample, Tracker
from zotune_trackers.library import checked_name, library
from zotune_trackers.run_log import RunLog


class Trackio(Tracker):
    """Logs a run to trackio; a resumed run continues the run of the same name."""

    def __init__(self, project: str = "") -> None:
        self._library = library("trackio", "trackio", "track")
        self._project = project or os.environ.get("TRACKIO_PROJECT", "") or "zotune"
        checked_name(self._project, "the project of trackio")

    def on_run_start(self, run: TrackedRun) -> int | None:
        with _silent():
            opened: Any = self._library.init(
                project=self._project, name=run.name, config=dict(run.config), resume="allow", embed=False
            )
        self._log = RunLog(opened, self._library)
        run.message(f"trackio: run {run.name}; trackio show --project {self._project} shows it")
        try:
            return int(opened._next_step) - 1
        except AttributeError:  # another version of trackio: it gets what no process has recorded
            return None

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        self._log.on_step_end(step, metrics)

    def on_evaluation(self, step: int, metrics: Mapping[str, float], samples: Sequence[TrackedSample]) -> None:
        self._log.on_evaluation(step, metrics, samples)

    def on_run_end(self, summary: Mapping[str, Any]) -> None:
        with _silent():
            self._log.on_run_end(summary)


def _silent() -> contextlib.AbstractContextManager[Any]:
    """trackio prints to standard output, which belongs to `--json`."""
    return contextlib.redirect_stdout(io.StringIO())


__all__ = ["Trackio"]
