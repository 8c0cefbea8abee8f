"""Completions that people compare in the coming step, generated while they answer those of the present one.

The completions of step t + 1 come from the weights before step t, whatever the pace of the answers, so that a run is
the same at any pace and can be replayed. They are kept in a file until their step is over: a run that is killed finds
them again and asks nothing twice. Knows files and token ids; knows no model.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zotune import files


@dataclass(frozen=True)
class Asked:
    """The questions of a step. rows: the training row of each place; ids: completions of the members with +, then of
    those with −, one list of token ids a place; or several completions of the present weights in the same order."""

    rows: tuple[int, ...]
    ids: list[list[int]]

    @property
    def candidates(self) -> int:
        """Completions of a question; 2 are those of partners."""
        return len(self.ids) // len(self.rows)


def _nothing(step: int) -> None:
    pass


@dataclass
class QuestionsAhead:
    """The questions of the present step and of the next one.

    rows_at: the training rows of so many places of a step; None after the last step. while_waiting: called with the
    step after the questions of the next one are asked. path: their file; None: kept in memory alone.
    """

    rows_at: Callable[[int, int], Sequence[int] | None]
    while_waiting: Callable[[int], None] = _nothing
    path: Path | None = None
    _steps: dict[int, Asked] = field(default_factory=dict)

    def open(self, path: Path, while_waiting: Callable[[int], None] = _nothing) -> None:
        """Use this file from here on, with what an earlier process left in it."""
        self.path, self.while_waiting = path, while_waiting
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self._steps = {x["step"]: Asked(tuple(x["rows"]), x["ids"]) for x in json.loads(path.read_text())}

    def get(self, step: int, places: int) -> Asked | None:
        """The questions of a step with so many places; None where there are none."""
        asked = self._steps.get(step)
        return asked if asked is not None and len(asked.rows) == places else None

    def put(self, step: int, asked: Asked) -> None:
        """Keep the questions of a step, and let go of those before the step that is under way."""
        self._steps = {s: a for s, a in self._steps.items() if s >= step - 1} | {step: asked}
        if self.path is not None:
            lines: list[dict[str, Any]] = [{"step": s, "rows": a.rows, "ids": a.ids} for s, a in self._steps.items()]
            files.write(self.path, json.dumps(lines))


__all__ = ["Asked", "QuestionsAhead"]
