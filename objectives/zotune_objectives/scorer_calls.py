"""Calls of scorers that run outside of this process: rows in parts, several parts at a time, and counts of calls.

This module knows neither programs nor connections.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from zotune.errors import OptionError
from zotune.scoring.partial_scores import reporter
from zotune.types import Level, ObjectiveInfo
from zotune_objectives.scorer_rows import Rows

T = TypeVar("T")


def check_positive(name: str, options: Mapping[str, float]) -> None:
    """Raises OptionError unless all options of the objective `name` are positive."""
    for option, value in options.items():
        if not value > 0:
            raise OptionError(f"{name}: {option} must be positive, got {value}")


def declaration(level: Level, tally: Tally, close: Callable[[], None] | None = None) -> ObjectiveInfo:
    """The declaration of an external scorer.

    Scores of rows are expensive, so they are cached. One score for the whole set cannot be cached by row; it may be
    called on resamples for a bootstrap interval.
    """
    per_row = level == "sample"
    return ObjectiveInfo(
        level=level,
        cacheable=per_row,
        fast=False if per_row else None,
        faults=lambda: dict(tally),
        close=close,
    )


class Tally(dict[str, int]):
    """Counts of `calls`, `retries`, `restarts` and others by name; several threads may add to them."""

    def __init__(self) -> None:
        super().__init__(calls=0, retries=0, restarts=0)
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self[name] = self.get(name, 0) + count


class Cancellation:
    """Ends the calls of one batch. `requested`: no further call starts; `aborted`: running calls end at once."""

    def __init__(self) -> None:
        self.requested, self.aborted = threading.Event(), threading.Event()
        self._handlers: set[Callable[[], None]] = set()

    @contextlib.contextmanager
    def on_abort(self, handler: Callable[[], None]) -> Iterator[None]:
        """Inside the block `abort` calls the handler, which ends the running call; at once after an earlier abort."""
        self._handlers.add(handler)
        try:
            if self.aborted.is_set():
                handler()
            yield
        finally:
            self._handlers.discard(handler)

    def abort(self) -> None:
        self.requested.set()
        self.aborted.set()
        for handler in list(self._handlers):
            handler()


def score_in_parts(
    rows: Rows,
    score: Callable[[Rows, Cancellation], list[float | None]],
    batch_size: int,
    concurrency: int,
) -> list[float | None]:
    """One score for each row, by calls of `score` with at most `batch_size` rows, `concurrency` calls at a time.

    After a failed call no further call starts, running calls finish, and the error is raised. An interrupt aborts
    running calls.
    """
    cancellation, report = Cancellation(), reporter()
    parts = split(len(rows), batch_size, concurrency)

    def scored(part: slice) -> list[float | None]:
        scores = score(rows[part], cancellation)
        report(part.start, scores)
        return scores

    scores = run(scored, parts, concurrency, cancellation)
    return [x for part in scores for x in part]


def split(rows: int, size: int, concurrency: int) -> list[slice]:
    """Parts of at most `size` rows, small enough that each concurrent call gets some."""
    step = max(1, min(size, -(-rows // concurrency)))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def run(call: Callable[[slice], T], parts: Sequence[slice], concurrency: int, cancellation: Cancellation) -> list[T]:
    """`call` of every part, several at a time; the results in order. See `score_in_parts`."""
    if min(concurrency, len(parts)) < 2:
        return [call(part) for part in parts]
    with ThreadPoolExecutor(min(concurrency, len(parts))) as pool:
        running = [pool.submit(call, part) for part in parts]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        except BaseException:  # Ctrl-C while waiting: running calls must end too
            cancellation.abort()
            raise
        finally:
            cancellation.requested.set()
            for future in running:
                future.cancel()
    for future in running:
        if not future.cancelled() and (error := future.exception()):
            raise error
    return [future.result() for future in running]
