"""Several processes that tune one model: each holds the whole model, and only numbers are exchanged.

    torchrun --nproc-per-node 2 -m zotune fit …

Every process draws the same batches and the same noise, evaluates its share of a step, receives the values of the
others, and writes the same update. Process 0 decides: its journal lines, scores of held-out rows and stops hold for
all. Values are sent as JSON over torch.distributed (gloo); their size depends on their number, not on the model.

    points   each process evaluates some of a step's points on all rows: bits equal those of a single process
    batch    each process evaluates some of the rows at every point: equal to a single process up to rounding

Knows JSON values and errors; knows no model and no step.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from zotune import errors
from zotune.errors import UsageError, ZotuneError

T = TypeVar("T")
U = TypeVar("U")
PATIENCE = datetime.timedelta(days=7)
"""How long a process waits for another: a scorer or a person may be slow. A process that ends is noticed at once."""
ENDED = "another process of this run has ended"


class Processes:
    """The processes of a run, and which of them this is. A process that is alone exchanges nothing.

    rank, size: as torch.distributed counts them. split: "points" or "batch". sent: bytes that this process has sent.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size, self.split, self.sent = rank, size, "points", 0
        self._group, self._local = group, 0

    @classmethod
    def join(cls) -> Processes:
        """Join the processes that a launcher such as torchrun has started, by its environment variables; a process
        without a launcher is alone. Raises UsageError where the others cannot be reached."""
        if launched() == 1:
            return cls()
        group = _connected()
        return cls(dist.get_rank(), dist.get_world_size(), group)

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
        """Raises ZotuneError where another process has another value. what: a name for the message."""
        if self.alone:
            return
        values = self.gather(lambda: value)
        for rank, other in enumerate(values):
            if other != values[0]:
                hint = "zotune resume continues from the files of process 0"
                raise ZotuneError(f"{what} of process {rank} differ from those of process 0", hint=hint)

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
        with _connection():
            size = torch.tensor([len(payload)])
            dist.broadcast(size, 0, group=self._group)
            data = _zeros(int(size)) if self.rank else torch.frombuffer(bytearray(payload), dtype=torch.uint8)
            dist.broadcast(data, 0, group=self._group)
        self.sent += 0 if self.rank else 8 + len(payload)
        return data.numpy().tobytes()

    def _all_gather(self, payload: bytes) -> list[bytes]:
        """The payload of each process, by rank."""
        with _connection():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(sizes, torch.tensor([len(payload)]), group=self._group)
            width = max(int(s) for s in sizes)
            padded = _zeros(width)
            padded[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
            received = [_zeros(width) for _ in range(self.size)]
            dist.all_gather(received, padded, group=self._group)
        self.sent += 8 + width
        return [x.numpy()[: int(s)].tobytes() for x, s in zip(received, sizes, strict=True)]


def _zeros(size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8)


@contextlib.contextmanager
def _connection() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        lost = ZotuneError(ENDED, hint="zotune resume continues from the run directory")
        raise lost from error


@functools.lru_cache(1)
def _connected() -> Any:
    """The group of all processes; it lives as long as this process."""
    try:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
            atexit.register(dist.destroy_process_group)
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
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
