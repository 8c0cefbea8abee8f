"""Several processes that tune one model: each holds the whole model, and only numbers are exchanged.

    torchrun --nproc-per-node 2 -m zotune fit …

Every process draws the same batches and the same noise, evaluates its share of a step, receives the values of the
others, and writes the same update. Process 0 decides: its journal lines, scores of held-out rows and stops hold for
all. Values are sent as JSON over torch.distributed (gloo, also beside a group of NCCL that a user has opened); their
size depends on their number, not on the model. On GPUs each process of a host has the device of its local rank.

    points   each process evaluates some of a step's points on all rows: bits equal those of a single process
    batch    each process evaluates some of the rows at every point: equal to a single process up to rounding
    passes   each process makes some of the forward passes of a population: bits equal those of a single process

A process that ends, does not answer in time or has other weights is named by its rank, host and process id.

Knows JSON values and errors; knows no model and no step.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import functools
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist

from zotune import errors
from zotune.attendance import Attendance
from zotune.errors import UsageError, ZotuneError

T = TypeVar("T")
U = TypeVar("U")
PATIENCE: Final = 7 * 24 * 3600.0
"""Seconds that a process waits for another: a scorer or a person may be slow. One that ends is noticed at once."""


class Processes:
    """The processes of a run, and which of them this is. A process that is alone exchanges nothing.

    rank, size: as torch.distributed counts them. attendance: who is there, for messages. split: "points", "batch" or
    "passes". sent: bytes that this process has sent.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None, attendance: Attendance | None = None) -> None:
        self.rank, self.size, self.split, self.sent = rank, size, "points", 0
        self._group, self._local = group, 0
        self._attendance = attendance or Attendance(None, rank, size, PATIENCE)

    @classmethod
    def join(cls, patience: float | None = None) -> Processes:
        """Join the processes that a launcher such as torchrun has started, by its environment variables; a process
        without a launcher is alone. patience: seconds that a process waits for another, by default a week. Raises
        UsageError where the others cannot be reached."""
        if launched() == 1:
            return cls()
        patience = patience or PATIENCE
        group = _connected(patience)
        rank, size = dist.get_rank(), dist.get_world_size()
        return cls(rank, size, group, Attendance.connect(rank, size, patience, next(_RUNS)))

    @property
    def alone(self) -> bool:
        """Whether nothing is exchanged at the moment."""
        return self.size == 1 or self._local > 0

    @contextlib.contextmanager
    def local(self) -> Iterator[None]:
        """Exchange nothing inside the block."""
        self._local += 1
        try:
            yield
        finally:
            self._local -= 1

    def on_first(self, compute: Callable[[], T]) -> T:
        """Call a function on process 0 alone; every process returns its JSON value, or raises its error."""
        if self.alone:
            return compute()
        outcome, value, error = self._outcome(compute) if self.rank == 0 else (b"", None, None)
        raw = self._broadcast(outcome)
        if error is not None:
            raise error
        return value if self.rank == 0 else self._values([raw])[0]  # type: ignore[return-value]

    def value_of_first(self, value: T) -> T:
        """The JSON value that process 0 passes here."""
        return self.on_first(lambda: value)

    def gather(self, compute: Callable[[], T]) -> list[T]:
        """Call a function on every process; all return the list of the JSON values in order of rank, or raise the error
        of the lowest rank that failed."""
        if self.alone:
            return [compute()]
        outcome, _, error = self._outcome(compute)
        outcomes = self._all_gather(outcome)
        failed = next((r for r, raw in enumerate(outcomes) if b'"error"' in raw[:8]), None)
        if error is not None and failed == self.rank:
            raise error
        return self._values(outcomes)

    def on_each(self, make: Callable[[], T]) -> T:
        """Call a function on every process; each returns its own value, of any type. An error of one is raised in
        all."""
        values: list[T] = []
        self.gather(lambda: values.append(make()))
        return values[0]

    def map_points(self, items: Sequence[U], compute: Callable[[U], T]) -> list[T]:
        """`compute` of each item, in order, as JSON values. Where points are split, each process computes some."""
        if self.alone or self.split != "points":
            return [compute(x) for x in items]
        parts = self.gather(lambda: [compute(x) for x in items[self.rank :: self.size]])
        return [parts[k % self.size][k // self.size] for k in range(len(items))]

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        return flag if self.alone else any(self.gather(lambda: flag))

    def check_equal(self, what: str, value: str) -> None:
        """Raises ZotuneError where processes have different values; it names those that differ from the others, of two
        the second. what: a name for the message, in the plural."""
        if self.alone:
            return
        values = self.gather(lambda: value)
        usual = max(values, key=Counter(values).__getitem__)  # the first of the most frequent
        odd = [rank for rank, other in enumerate(values) if other != usual]
        if odd:
            named = " and ".join(self._attendance.place(rank) for rank in odd)
            hint = "zotune resume continues from the files of process 0"
            if 0 in odd:
                hint = "zotune verify says whether the files of the run are those of its journal"
            error = ZotuneError(f"{what} of {named} differ from those of the other processes", hint=hint)
            error.told = self.rank > 0
            raise error

    def _outcome(self, compute: Callable[[], T]) -> tuple[bytes, T | None, Exception | None]:
        """A function's value or error: as the bytes to send, and as it is."""
        try:
            with self.local():
                value = compute()
            return json.dumps({"value": value}).encode(), value, None
        except Exception as error:  # of any kind: no process may wait for this one forever
            own = isinstance(error, ZotuneError)
            text = Exception.__str__(error) if own else f"process {self.rank}: {type(error).__name__}: {error}"
            kind = type(error).__name__ if own else ZotuneError.__name__
            hint = error.hint if isinstance(error, ZotuneError) else ""
            return json.dumps({"error": [kind, text, hint]}).encode(), None, error

    def _values(self, outcomes: Sequence[bytes]) -> list[Any]:
        """The values that were sent; the first error is raised as the class it had."""
        values = []
        for raw in outcomes:
            outcome = json.loads(raw)
            if "error" in outcome:
                kind, text, hint = outcome["error"]
                error: ZotuneError = vars(errors).get(kind, ZotuneError)(text, hint=hint)
                error.told = True
                raise error
            values.append(outcome["value"])
        return values

    def _broadcast(self, payload: bytes) -> bytes:
        """The payload of process 0; that of other processes is ignored."""
        with self._connection():
            size = torch.tensor([len(payload)])
            dist.broadcast(size, 0, group=self._group)
            data = _zeros(int(size)) if self.rank else torch.frombuffer(bytearray(payload), dtype=torch.uint8)
            dist.broadcast(data, 0, group=self._group)
        self.sent += 0 if self.rank else 8 + len(payload)
        return data.numpy().tobytes()

    def _all_gather(self, payload: bytes) -> list[bytes]:
        """The payload of each process, by rank."""
        with self._connection():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(sizes, torch.tensor([len(payload)]), group=self._group)
            width = max(int(s) for s in sizes)
            padded = _zeros(width)
            padded[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
            received = [_zeros(width) for _ in range(self.size)]
            dist.all_gather(received, padded, group=self._group)
        self.sent += 8 + width
        return [x.numpy()[: int(s)].tobytes() for x, s in zip(received, sizes, strict=True)]

    @contextlib.contextmanager
    def _connection(self) -> Iterator[None]:
        """One exchange. Raises ZotuneError where another process has ended or does not answer."""
        self._attendance.enter()
        try:
            yield
        except RuntimeError as error:
            text, first = self._attendance.missing("timed out" in str(error).lower())
            lost = ZotuneError(text, hint="zotune resume continues from the run directory")
            lost.told = not first
            raise lost from error


def _zeros(size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8)


_RUNS = itertools.count()
"""Numbers of the runs that this process has joined."""


@functools.cache
def _connected(patience: float) -> Any:
    """The group of all processes; it lives as long as this process. patience: seconds that an exchange may take."""
    limit = datetime.timedelta(seconds=patience)
    try:
        if not dist.is_initialized():
            dist.init_process_group("gloo")
            atexit.register(dist.destroy_process_group)
        group = dist.new_group(backend="gloo", timeout=limit)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"the other processes cannot be reached: {str(error).splitlines()[0]}",
            hint="torchrun --nproc-per-node N -m zotune fit …",
        ) from None
    if torch.cuda.is_available():
        torch.cuda.set_device(_environment("LOCAL_RANK", 0) % torch.cuda.device_count())
    return group


def _environment(name: str, default: int) -> int:
    """An environment variable as a whole number. Raises UsageError."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r:.40} in the environment, a launcher sets a whole number there")
    return int(text)


def launched() -> int:
    """The number of processes that the launcher has started."""
    return _environment("WORLD_SIZE", 1)


def follows() -> bool:
    """Whether this is a process other than the first, which writes and reports."""
    return launched() > 1 and _environment("RANK", 0) > 0


ALONE = Processes()
"""A single process."""

__all__ = ["ALONE", "Processes", "follows", "launched"]
