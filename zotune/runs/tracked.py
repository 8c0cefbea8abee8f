"""A run as its trackers see it: its name, its configuration, and what it has recorded so far.

Reads the files of a run directory; starts no tracker.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from zotune import files
from zotune.events import Emit, Example, Note, RunStarted
from zotune.runs.json_lines import read_lines
from zotune.runs.plan import Plan
from zotune.runs.run_directory import COMPLETIONS, METRICS, TRACKED
from zotune.search.journal import Journal
from zotune.search.tracking import NOTHING, TrackedStep
from zotune.types import TrackedRun, TrackedSample

_NAMES: Final = {"drift": "kl"}
"""Keys of metrics.jsonl that trackers know under another name."""


def tracked_run(plan: Plan, started: RunStarted, step: int, emit: Emit) -> TrackedRun:
    """The record with which trackers start. The run's name is drawn at its first start, and kept in its directory."""
    folder = Path(started.folder)
    path = folder / TRACKED
    try:
        name = str(json.loads(path.read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        name = f"{folder.resolve().name}-{secrets.token_hex(4)}"
        files.write(path, json.dumps({"name": name}))
    facts = {key: value for key, value in asdict(started).items() if value is not None}
    options = json.loads(json.dumps(asdict(plan.config)))
    return TrackedRun(name, folder, {**options, **facts}, step, lambda text: emit(Note(text)))


def recorded(journal: Journal) -> tuple[int, int]:
    """The last step and the last evaluation that the processes before this one have recorded."""
    steps = [line["step"] + 1 for line in journal.lines if line["kind"] == "step"]
    evaluated = [line["step"] for line in journal.lines if line["kind"] == "eval"]
    return max(steps, default=NOTHING[0]), max(evaluated, default=NOTHING[1])


def past(folder: Path) -> Iterator[TrackedStep]:
    """What the files of a run directory hold, in order."""
    samples: dict[int, list[TrackedSample]] = {}
    for row in read_lines(folder / COMPLETIONS):
        if row.get("set") != "test":
            samples.setdefault(row["step"], []).append(sample(row))
    for row in read_lines(folder / METRICS):
        yield tracked_step(row, samples.get(row["step"], ()))


def tracked_step(row: Mapping[str, Any], samples: Sequence[TrackedSample] = ()) -> TrackedStep:
    """A line of metrics.jsonl as trackers get it."""
    metrics = {_NAMES.get(k, k): float(v) for k, v in row.items() if k != "step" and isinstance(v, int | float)}
    metrics |= {name: float(value) for name, value in row.get("parts", {}).items() if name not in metrics}
    if "dropped" in row:
        metrics["dropped"] = 1.0
    evaluates = "score" in row or "failed" in row
    return TrackedStep(row["step"], metrics, evaluates, tuple(samples) if evaluates else ())


def sample(row: Mapping[str, Any]) -> TrackedSample:
    """A line of completions.jsonl as trackers get it."""
    prompt, completion, reference = (_text(row.get(name)) for name in ("prompt", "completion", "reference"))
    return TrackedSample(prompt, completion, reference, row.get("score"))


def of_example(example: Example) -> TrackedSample:
    """A row of an evaluation without a line in completions.jsonl."""
    return TrackedSample(example.prompt, example.completion, example.reference)


def _text(value: Any) -> str:
    """A prompt, a completion or a reference as text: messages by their contents, several references apart by |."""
    if isinstance(value, Mapping):
        return _text(value.get("content"))
    if isinstance(value, list | tuple):
        return (" | " if all(isinstance(x, str) for x in value) else "\n").join(map(_text, value))
    return "" if value is None else str(value)


__all__ = ["of_example", "past", "recorded", "sample", "tracked_run", "tracked_step"]
