"""What a page shows of a journal. A damaged journal is read as far as it goes; `zotune verify` says what is wrong.

Knows lines of a journal; reads no file.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from zotune.pages.run_record import Rollback

_STEP: Final = re.compile(rb'\{"body":\{"kind":"step","step":(\d+),"evals":(\d+),')


class JournalSummary:
    """Collects the lines of a journal. Lines of steps are not parsed whole: there may be a hundred thousand.

    header, evaluations, between, kept: bodies of these lines; dropped: (step, why); evals: (step, evaluations until
    then); seconds: (step, seconds) in runs with a limit on time; calibrated: the options that were chosen; ended: why
    the run ended; last: the checksum of the last line.
    """

    def __init__(self) -> None:
        self.header: dict[str, Any] = {}
        self.evaluations: list[dict[str, Any]] = []
        self.between: list[dict[str, Any]] = []
        self.rollbacks: list[Rollback] = []
        self.dropped: list[tuple[int, str]] = []
        self.evals: list[tuple[int, int]] = []
        self.seconds: list[tuple[float, float]] = []
        self.calibrated: dict[str, float] = {}
        self.kept: dict[str, Any] = {}
        self.ended, self.last = "", ""

    def take(self, text: bytes) -> None:
        """Read one line; a torn or foreign one is left out."""
        step = _STEP.match(text)
        if step:
            self.evals.append((int(step[1]) + 1, int(step[2])))
            if b'"dropped":' not in text and b'"seconds":' not in text:
                return
        try:
            line = json.loads(text)
            body, self.last = line["body"], str(line.get("sum", ""))
            self._take(str(body["kind"]), body)
        except (ValueError, KeyError, TypeError, RecursionError):
            return

    def _take(self, kind: str, body: dict[str, Any]) -> None:
        step = whole(body.get("step"))
        match kind:
            case "header" if isinstance(body.get("task"), dict):
                self.header = body
            case "step":
                if "dropped" in body:
                    self.dropped.append((step + 1, str(body["dropped"])))
                if isinstance(body.get("seconds"), int | float):
                    self.seconds.append((step + 1, body["seconds"]))
            case "eval":
                self.evaluations.append(body)
            case "between":
                self.between.append(body)
            case "rollback":
                self.rollbacks.append(
                    Rollback(step, whole(body.get("to", body.get("to_step"))), str(body.get("why", "")))
                )
            case "calibration":
                self.calibrated = dict(body.get("options") or {})
            case "kept":
                self.kept = body
            case "end":
                self.ended = str(body.get("reason", ""))


def whole(value: Any) -> int:
    """A whole number of a file; 0 where it is none."""
    return value if isinstance(value, int) else 0


__all__ = ["JournalSummary", "whole"]
