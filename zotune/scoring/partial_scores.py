"""Scores that an objective has before its call ends.

Public: an objective that scores in parts, or waits long for each row, reports what it has, and a run that is killed
does not ask for it again. Knows nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

Report = Callable[[int, Sequence[Any]], None]
"""Called with the index of a row of the present call and the scores of the rows from there on; from any thread."""


def ignore(first: int, scores: Sequence[Any]) -> None:
    """A report that nobody reads."""


_report: ContextVar[Report] = ContextVar("report", default=ignore)


def reporter() -> Report:
    """What takes the scores of some rows of the call under way. To be asked for in the thread of the call itself."""
    return _report.get()


@contextlib.contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Inside the block, `reporter` gives this report."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


__all__ = ["Report", "ignore", "reporter", "reporting"]
