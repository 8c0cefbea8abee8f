"""Scores of the step that is under way, in a file beside the journal until the journal has the step.

A run that is killed finds them again, so that they are not paid twice. One JSON object a line:

    {"after": checksum of the journal before the step, "objective": name, "row": hash of its inputs, "score": …}

Lines that follow another journal are not used. Knows files and hashes; knows no objective and no step.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

MISSING: Final = object()


class PendingScores:
    """The pending scores of a run, for all its objectives. path: the file, which exists during a step alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._after: str | None = None
        self._found: dict[tuple[str, str], deque[Any]] = {}
        self._lock = threading.Lock()
        self._file: int | None = None

    def begin(self, after: str) -> None:
        """A step begins. after: checksum of the journal."""
        self._after, self._found = after, {}
        with contextlib.suppress(OSError):
            for text in self.path.read_bytes().split(b"\n"):
                with contextlib.suppress(ValueError, KeyError, TypeError):  # the last line may be torn
                    line = json.loads(text)
                    if line["after"] == after:
                        self._found.setdefault((line["objective"], line["row"]), deque()).append(line["score"])

    def end(self) -> None:
        """The journal has the step."""
        self._after, self._found = None, {}
        if self._file is not None:
            os.close(self._file)
            self._file = None
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def take(self, objective: str, rows: Sequence[str], whole: bool) -> list[Any]:
        """The score of each row that an earlier process kept, MISSING where there is none; each is given once.

        rows: hashes. whole: whether a score is of use only where all rows have one.
        """
        if not self._found:
            return [MISSING] * len(rows)
        lists = [self._found.get((objective, row)) for row in rows]
        taken = [scores.popleft() if scores else MISSING for scores in lists]
        return [MISSING] * len(rows) if whole and any(x is MISSING for x in taken) else taken

    def keep(self, objective: str, rows: Sequence[str], scores: Sequence[Any]) -> None:
        """Keep scores, in one write. A full disk costs nothing but their safety."""
        if self._after is None or not rows:
            return
        lines = [
            {"after": self._after, "objective": objective, "row": row, "score": score}
            for row, score in zip(rows, scores, strict=True)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with self._lock, contextlib.suppress(OSError):
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
                text = b"\n" + text  # a line before may be torn
            os.write(self._file, text)


class PendingSlot:
    """Where an objective finds the pending scores of its run; None outside of a run."""

    scores: PendingScores | None = None


__all__ = ["MISSING", "PendingScores", "PendingSlot"]
