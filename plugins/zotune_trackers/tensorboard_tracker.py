"""TensorBoard: event files in the run directory, or in a folder of your own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zotune.types import TrackedRun, TrackedSample, Tracker
from zotune_trackers.library import library
from zotune_trackers.run_log import final_scores

FOLDER = "tensorboard"
"""The folder of event files in a run directory."""


class TensorBoard(Tracker):
    """Writes event files. A resumed run reads the last step that they hold whole, and writes a new file after it."""

    def __init__(self, folder: str = "") -> None:
        library("tensorboard", "tensorboard", "track")
        self._parent = folder
        self._step = 0

    def on_run_start(self, run: TrackedRun) -> int | None:
        from torch.utils.tensorboard import SummaryWriter

        inside = (run.folder or Path()) / FOLDER
        folder = Path(self._parent) / run.name if self._parent else inside
        last = _last_step(folder)
        self._writer: Any = SummaryWriter(str(folder), purge_step=last)  # type: ignore[no-untyped-call]
        if last is None:
            text = json.dumps(dict(run.config), indent=1, default=str)
            self._writer.add_text("configuration", "    " + text.replace("\n", "\n    "), 0)
        run.message(f"tensorboard --logdir {folder} shows the run")
        return -1 if last is None else last - 1

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        self._step = step
        for name, value in metrics.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def on_evaluation(self, step: int, metrics: Mapping[str, float], samples: Sequence[TrackedSample]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"validation/{name}", value, step)
        if samples:
            self._writer.add_text("samples", "\n\n---\n\n".join(map(_markdown, samples)), step)
        self._writer.flush()

    def on_run_end(self, summary: Mapping[str, Any]) -> None:
        for name, value in final_scores(summary).items():
            self._writer.add_scalar(name, value, self._step)
        self._writer.close()


def _last_step(folder: Path) -> int | None:
    """The last step in event files, None where there is none. What a kill has cut off is skipped."""
    if not any(folder.glob("events.out.tfevents.*")):
        return None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"scalars": 1, "tensors": 1})
    with contextlib.suppress(Exception):  # a torn file: all events before the tear are read
        events.Reload()
    steps = [event.step for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    return max(steps, default=0)


def _markdown(sample: TrackedSample) -> str:
    """A sample as blocks of code: text of models and data has no effect as markup."""
    parts = [("prompt", sample.prompt), ("completion", sample.completion), ("reference", sample.reference)]
    blocks = [f"{name}\n\n    " + text.replace("\n", "\n    ") for name, text in parts if text]
    score = [] if sample.score is None else [f"score {sample.score:g}"]
    return "\n\n".join([*blocks, *score])


__all__ = ["TensorBoard"]
