"""Feeds trackers with the steps and evaluations of a run, and switches those off that fail.

Knows trackers by their protocol; knows no run directory and no events.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from zotune import plugins
from zotune.types import TrackedRun, TrackedSample, Tracker

NOTHING: Final = (0, -1)
"""The last step and evaluation of a run that has neither."""
FAILED: Final = {"reason": "failed"}
"""The summary of a run that ends by an error."""


@dataclass(frozen=True)
class TrackedStep:
    """The numbers of a step, or of the evaluation after it, as trackers get them."""

    step: int
    metrics: Mapping[str, float]
    evaluates: bool = False
    samples: tuple[TrackedSample, ...] = ()


@dataclass
class _Feed:
    """A tracker with the last step and the last evaluation that it holds."""

    name: str
    tracker: Tracker
    step: int
    evaluation: int


class Tracking:
    """The trackers of a run.

    trackers: (name, tracker). note: shows one line to the user. reason: why a tracker wants the run to end, or "".
    """

    def __init__(self, trackers: Sequence[tuple[str, Tracker]] = (), note: Callable[[str], None] = lambda text: None):
        self.reason = ""
        self._note = note
        self._feeds = [_Feed(name, tracker, *NOTHING) for name, tracker in trackers]

    def __bool__(self) -> bool:
        return bool(self._feeds)

    def start(
        self, run: TrackedRun, past: Callable[[], Iterable[TrackedStep]], recorded: tuple[int, int] = NOTHING
    ) -> None:
        """Start all trackers. past: what earlier processes have recorded, for trackers that lack a part of it.
        recorded: the last step and evaluation of earlier processes, which other trackers have got."""
        for feed in list(self._feeds):
            held = self._call(feed, "on_run_start", run)
            if isinstance(held, bool) or not isinstance(held, int | None):
                self._switch_off(feed, "on_run_start", f"it returned {held!r:.40}, not a step")
                continue
            feed.step, feed.evaluation = recorded if held is None else (max(held, 0), held)
            if held is not None:
                for line in past():
                    self._send(feed, line)

    def send(self, line: TrackedStep) -> None:
        """Give a step or an evaluation to all trackers that lack it."""
        for feed in list(self._feeds):
            self._send(feed, line)

    def end(self, summary: Mapping[str, Any] = FAILED) -> None:
        """End all trackers; a second call does nothing."""
        for feed in list(self._feeds):
            self._call(feed, "on_run_end", summary)
        self._feeds.clear()

    def _send(self, feed: _Feed, line: TrackedStep) -> None:
        if line.step <= (feed.evaluation if line.evaluates else feed.step):
            return
        if line.evaluates:
            feed.evaluation = line.step
            reason = self._call(feed, "on_evaluation", line.step, line.metrics, line.samples)
        else:
            feed.step = line.step
            reason = self._call(feed, "on_step_end", line.step, line.metrics)
        if reason and not self.reason:
            self.reason = str(reason)
            self._note(f"{feed.name} ends the run: {self.reason}")

    def _call(self, feed: _Feed, method: str, *arguments: Any) -> Any:
        """Call a tracker's method; one that raises is reported and switched off."""
        if feed not in self._feeds:
            return None
        result, error = plugins.attempt(functools.partial(getattr(feed.tracker, method), *arguments))
        if error:
            self._switch_off(feed, method, error)
        return result

    def _switch_off(self, feed: _Feed, method: str, error: str) -> None:
        self._feeds.remove(feed)
        self._note(f"tracker {feed.name} failed in {method} and is switched off: {error}")


__all__ = ["FAILED", "NOTHING", "TrackedStep", "Tracking"]
