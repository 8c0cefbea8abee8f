"""Which of several processes is missing: where each one runs, and how many exchanges it has entered.

The launcher's key-value store holds one record a process, written as it joins, and a counter that it raises before
every exchange. When an exchange fails, the counters and the process ids tell who has ended and who does not answer; the
first process that finds out leaves the answer in the store, so that all of them name the same one.

Knows ranks, hosts and process ids; knows no model, no step and no value.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Final

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, and not listed

ANSWER: Final = datetime.timedelta(seconds=10)
"""How long the store may take."""
LOOKS, PAUSE = 10, 0.1
"""Looks at the process ids of this host, and seconds between them: a process closes its connections before it ends."""
UNKNOWN: Final = "another process of this run has ended"
SILENT: Final = "another process of this run did not answer in time (--process-timeout)"


class Attendance:
    """The processes of one run in the launcher's store.

    store: a key-value store that all processes share, or None where there is none: then nobody is named. rank, size: of
    this process, and how many there are. seconds: how long an exchange waits, for messages.
    """

    def __init__(self, store: Any, rank: int, size: int, seconds: float) -> None:
        self._store, self._rank, self._size, self._seconds, self._count = store, rank, size, seconds, 0
        self._set(f"place {rank}", json.dumps([socket.gethostname(), os.getpid()]))

    @classmethod
    def connect(cls, rank: int, size: int, seconds: float, run: int) -> Attendance:
        """Attendance in the store of the launcher, by its environment variables. run: the number of this run among
        those of the process."""
        store = None
        with contextlib.suppress(KeyError, ValueError, RuntimeError):
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            own = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=ANSWER)
            store = PrefixStore(f"zotune {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} {run}", own)
        return cls(store, rank, size, seconds)

    def enter(self) -> None:
        """Note that this process enters its next exchange."""
        self._count += 1
        self._set(f"count {self._rank}", str(self._count))

    def place(self, rank: int) -> str:
        """A process in words: its rank, host and process id."""
        where = self._place(rank)
        return f"process {rank}" + (f" ({where[0]}, pid {where[1]})" if where else "")

    def missing(self, timed_out: bool) -> tuple[str, bool]:
        """Who is missing from the present exchange, in words, and whether this process is the first to say it.

        timed_out: whether the exchange failed because the time was over, else because a connection was lost.
        """
        text = self._diagnose(timed_out)
        try:
            said = self._store.compare_set("missing", "", text).decode()
        except (AttributeError, RuntimeError):  # no store, or its process has ended
            return text, True
        return said, self._claimed()

    def _diagnose(self, timed_out: bool) -> str:
        others = [r for r in range(self._size) if r != self._rank]
        behind = [r for r in others if self._entered(r) < self._count]
        for look in range(LOOKS):
            if gone := [r for r in others if self._gone(r)]:
                first = [r for r in gone if r in behind] or gone
                return f"{self._list(first)} {_have(first)} ended"
            if timed_out:
                break
            time.sleep(PAUSE if look < LOOKS - 1 else 0)
        if behind and timed_out:
            return f"{self._list(behind)} did not answer within {self._seconds:g} s (--process-timeout)"
        return f"{self._list(behind)} {_have(behind)} ended" if behind else SILENT if timed_out else UNKNOWN

    def _list(self, ranks: list[int]) -> str:
        return " and ".join(self.place(r) for r in ranks)

    def _claimed(self) -> bool:
        """Whether no other process has said it yet."""
        try:
            return int(self._store.add("said", 1)) == 1
        except RuntimeError:
            return True

    def _gone(self, rank: int) -> bool:
        """Whether a process of this host has ended; False for those of other hosts."""
        where = self._place(rank)
        if not where or where[0] != socket.gethostname():
            return False
        try:
            os.kill(where[1], 0)
            state = Path(f"/proc/{where[1]}/stat").read_text()  # an ended process stays until its launcher notices
        except ProcessLookupError:
            return True
        except OSError:  # of another user, or a system without /proc
            return False
        return state.rpartition(")")[2].split()[0] in "ZX"

    def _entered(self, rank: int) -> int:
        return int(self._get(f"count {rank}") or 0)

    def _place(self, rank: int) -> tuple[str, int] | None:
        text = self._get(f"place {rank}")
        return tuple(json.loads(text)) if text else None

    def _set(self, key: str, value: str) -> None:
        with contextlib.suppress(AttributeError, RuntimeError):
            self._store.set(key, value)

    def _get(self, key: str) -> str:
        try:
            return self._store.get(key).decode() if self._store.check([key]) else ""
        except (AttributeError, RuntimeError):
            return ""


def _have(ranks: list[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


__all__ = ["Attendance"]
