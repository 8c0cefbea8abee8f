"""Several processes that tune as one: each holds the whole model, and only numbers cross the wire.

    torchrun --nproc-per-node 2 -m zotune fit …

Every process draws the same batches and the same noise, evaluates a share of what a step asks for, learns what the
others have found, and writes the same update. What decides (lines of the journal, scores of held-out rows, when to
stop) is what process 0 says. Values go as JSON over torch.distributed (gloo): as many bytes as there are values,
whatever the size of the model.

    points   each process evaluates some of a step's points, on all rows: the bits of a single process
    batch    each process evaluates some of the rows at every point: the same to rounding

Knows values and errors; knows no model and no step.
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
"""How long a process waits for another: a scorer, or a person, may be slow. One that ends is noticed at once."""
ENDED = "another process of this run has ended"


class Processes:
    """The processes of a run, and which of them this is. One that is alone exchanges nothing.

    split: "points" or "batch". sent: bytes that this process has handed over until now.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size, self.split, self.sent = rank, size, "points", 0
        self._group, self._apart = group, 0

    @classmethod
    def join(cls) -> Processes:
        """The processes that a launcher such as torchrun started together, by its environment variables; alone where
        there are none. Raises UsageError where the others cannot be reached."""
        if launched() == 1:
            return cls()
        group = _connected()
        return cls(dist.get_rank(), dist.get_world_size(), group)

    @property
    def alone(self) -> bool:
        """Whether nothing is shared at the moment."""
        return self.size == 1 or self._apart > 0

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, this process works by itself."""
        self._apart += 1
        try:
            yield
        finally:
            self._apart -= 1

    # -- sharing -------------------------------------------------------------------------------------------------------

    def first(self, compute: Callable[[], T]) -> T:
        """What process 0 computes, in every process: a JSON value. Its error is raised in all."""
        if self.alone:
            return compute()
        outcome, value, error = self._outcome(compute) if self.rank == 0 else (b"", None, None)
        raw = self._broadcast(outcome)
        if error is not None:
            raise error
        return value if self.rank == 0 else self._read([raw])[0]  # type: ignore[return-value]

    def line(self, value: T) -> T:
        """A JSON value as process 0 has it."""
        return self.first(lambda: value)

    def all(self, compute: Callable[[], T]) -> list[T]:
        """What each process computes by itself, in order: JSON values. The first one's error is raised in all."""
        if self.alone:
            return [compute()]
        outcome, _, error = self._outcome(compute)
        found = self._gather(outcome)
        failing = next((r for r, raw in enumerate(found) if b'"error"' in raw[:8]), None)
        if error is not None and failing == self.rank:
            raise error
        return self._read(found)

    def own(self, make: Callable[[], T]) -> T:
        """What this process makes for itself, of any type. The first one's error is raised in all."""
        made: list[T] = []
        self.all(lambda: made.append(make()))
        return made[0]

    def deal(self, items: Sequence[U], compute: Callable[[U], T]) -> list[T]:
        """`compute` of each item, where points are split each process some of them: JSON values, in order."""
        if self.alone or self.split != "points":
            return [compute(x) for x in items]
        parts = self.all(lambda: [compute(x) for x in items[self.rank :: self.size]])
        return [parts[k % self.size][k // self.size] for k in range(len(items))]

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag if self.alone else any(self.all(lambda: flag))

    def same(self, what: str, value: str) -> None:
        """Raises ZotuneError where another process has another value."""
        if self.alone:
            return
        for rank, other in enumerate(found := self.all(lambda: value)):
            if other != found[0]:
                hint = "zotune resume goes on from what process 0 has kept"
                raise ZotuneError(f"{what} of process {rank} differ from those of process 0", hint=hint)

    # -- the wire ------------------------------------------------------------------------------------------------------

    def _outcome(self, compute: Callable[[], T]) -> tuple[bytes, T | None, Exception | None]:
        """What comes of it, ready to be sent: a value, or an error that the others raise too."""
        try:
            with self.apart():
                value = compute()
            return json.dumps({"value": value}).encode(), value, None
        except Exception as error:  # whatever it is: nobody is to wait for it
            known = isinstance(error, ZotuneError)
            said = Exception.__str__(error) if known else f"process {self.rank}: {type(error).__name__}: {error}"
            kind = type(error).__name__ if known else "ZotuneError"
            told = {"error": [kind, said, getattr(error, "hint", "")]}
            return json.dumps(told).encode(), None, error

    def _read(self, outcomes: Sequence[bytes]) -> list[Any]:
        values = []
        for raw in outcomes:
            outcome = json.loads(raw)
            if "error" in outcome:
                kind, said, hint = outcome["error"]
                error: ZotuneError = getattr(errors, kind, ZotuneError)(said, hint=hint)
                error.told = True
                raise error
            values.append(outcome["value"])
        return values

    def _broadcast(self, payload: bytes) -> bytes:
        """What process 0 hands over; the payload of others does not count."""
        with _reachable():
            size = torch.tensor([len(payload)])
            dist.broadcast(size, 0, group=self._group)
            data = _empty(int(size)) if self.rank else torch.frombuffer(bytearray(payload), dtype=torch.uint8)
            dist.broadcast(data, 0, group=self._group)
        self.sent += 0 if self.rank else 8 + len(payload)
        return data.numpy().tobytes()

    def _gather(self, payload: bytes) -> list[bytes]:
        """What each process hands over, in order."""
        with _reachable():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(sizes, torch.tensor([len(payload)]), group=self._group)
            width = max(int(s) for s in sizes)
            padded = _empty(width)
            padded[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
            found = [_empty(width) for _ in range(self.size)]
            dist.all_gather(found, padded, group=self._group)
        self.sent += 8 + width
        return [x.numpy()[: int(s)].tobytes() for x, s in zip(found, sizes, strict=True)]


def _empty(size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8)


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        lost = ZotuneError(ENDED, hint="zotune resume goes on with what is in the run folder")
        raise lost from error


@functools.lru_cache(1)
def _connected() -> Any:
    """The group of all processes, for the values of every run until this process ends."""
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
        torch.cuda.set_device(_said("LOCAL_RANK", 0) % torch.cuda.device_count())
    return group


def _said(name: str, default: int) -> int:
    """A whole number of the environment. Raises UsageError where it is none."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r:.40} in the environment, where a launcher sets a number")
    return int(text)


def launched() -> int:
    """How many processes were started together."""
    return _said("WORLD_SIZE", 1)


def follows() -> bool:
    """Whether this process was started beside a first one, which does the talking."""
    return launched() > 1 and _said("RANK", 0) > 0


ALONE = Processes()
"""For whoever works by himself."""

__all__ = ["ALONE", "Processes", "follows", "launched"]
