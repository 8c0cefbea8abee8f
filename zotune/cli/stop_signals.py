"""Ctrl-C and SIGTERM during a run: stop after the step, or at once. Knows no optimizer and no run directory."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from zotune.cli.terminal import Terminal

SAME_SIGNAL_SECONDS: Final = 3.0
"""Seconds within which signals to a launched process count as one."""


class StopSignals:
    """A context in which the first Ctrl-C or SIGTERM asks the run to stop after the step and the second quits at once.

    Entering returns a function that says whether the run should stop. `code` is the exit code of a shell for the
    signal, 130 or 143, and 0 without one. launched: a launcher of several processes passes Ctrl-C on and sends SIGTERM
    after it; what comes within `SAME_SIGNAL_SECONDS` is one signal.
    """

    def __init__(self, terminal: Terminal, launched: bool) -> None:
        self.terminal, self.launched, self.code, self._received = terminal, launched, 0, -math.inf

    def __enter__(self) -> Callable[[], bool]:
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return lambda: self.code != 0

    def _handle(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.code and self.launched and now - self._received < SAME_SIGNAL_SECONDS:
            return
        again, self._received = self.code != 0, now
        self.code = 128 + number
        if again:
            raise KeyboardInterrupt
        self.terminal.say("stopping after this step (press Ctrl-C again to quit now)", "yellow")

    def __exit__(self, kind: Any, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if kind is KeyboardInterrupt and self.code:
            self.terminal.close()
            print("zotune: quit at once; zotune resume continues from what the run directory holds", file=sys.stderr)
            raise SystemExit(self.code)


__all__ = ["StopSignals"]
