"""The seconds that each kind of work of a run takes, as measured so far.

Knows numbers and a clock; knows no engine, no model and no objective.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal

Work = Literal["evaluation", "validation", "checkpoint", "test", "weights", "probe", "loading"]
"""Kinds of work: an evaluation of a batch with its part of a step; the validation set; writing a checkpoint; the test
set; reading and hashing all weights once; a training row of a linear probe; loading the model."""
LATEST: Final = 64
"""Measurements of a kind that are kept: text grows longer and machines slower, so the latest count."""
WARM_UP: Final = 2
"""First measurements that are left out where there are more than twice as many: they compile and fill caches."""


class WorkClock:
    """Measures the seconds of work by its kind. clock: returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._measured: dict[Work, deque[tuple[float, float]]] = {}
        self._counts: dict[Work, int] = {}
        self._totals: dict[Work, float] = {}

    @contextlib.contextmanager
    def measure(self, kind: Work, units: float = 1.0) -> Iterator[None]:
        """Measure the block, which does so much work of a kind; a block that raises is not counted."""
        started = self.clock()
        yield
        self.record(kind, self.clock() - started, units)

    def record(self, kind: Work, seconds: float, units: float = 1.0) -> None:
        """Count seconds that so much work took."""
        measured = self._measured.setdefault(kind, deque(maxlen=LATEST))
        self._totals[kind] = self.total(kind) + seconds
        self._counts[kind] = count = self._counts.get(kind, 0) + 1
        if count == 2 * WARM_UP + 1:
            for _ in range(WARM_UP):
                measured.popleft()
        measured.append((seconds, units))

    def seconds(self, kind: Work, otherwise: float = 0.0) -> float:
        """Seconds of a unit of work of a kind; `otherwise` where none was measured."""
        measured = self._measured.get(kind)
        units = sum(u for _, u in measured) if measured else 0.0
        return sum(s for s, _ in measured) / units if measured and units else otherwise

    def total(self, kind: Work) -> float:
        """Seconds of all work of a kind so far."""
        return self._totals.get(kind, 0.0)

    def left(self, work: Mapping[Work, float]) -> float:
        """Seconds of so much work of each kind."""
        return sum(units * self.seconds(kind) for kind, units in work.items())


__all__ = ["Work", "WorkClock"]
