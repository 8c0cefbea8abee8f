"""How objectives are called: several rows at once or in parts, with a time limit, and never twice for the same row.

Async functions run part by part, several at a time; classes with options of the same names (`concurrency`,
`batch_size`, `timeout`) do that themselves. Knows nothing of objectives' results.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from zotune import declarations
from zotune.errors import ObjectiveError, OptionError
from zotune.types import CallOption

ROW = ("prompts", "completions", "references", "labels", "candidates", "batch")
"""What tells one row's score from another's: the record as a whole stands in `batch`."""


@dataclass(frozen=True)
class Calls:
    """What the user says about calling objectives. concurrency: calls at a time; batch_size: rows a call; timeout:
    seconds a call; cache: whether scores of rows are kept, None: where the objective scores each row by itself."""

    concurrency: int | None = None
    batch_size: int | None = None
    timeout: float | None = None
    cache: bool | None = None

    def __post_init__(self) -> None:
        for name, value in self.given():
            if value is not None and not value > 0:
                raise OptionError(f"--score-{name.replace('_', '-')} must be positive, got {value}")

    def given(self) -> Iterator[tuple[CallOption, float | None]]:
        """The limits of a call by name; None: not given."""
        yield from (("concurrency", self.concurrency), ("batch_size", self.batch_size), ("timeout", self.timeout))


class Meter:
    """What calling an objective has cost: rows scored, rows known already (hits), seconds."""

    def __init__(self) -> None:
        self.rows = self.hits = 0
        self.seconds = 0.0

    @contextlib.contextmanager
    def clock(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begun


class Cache:
    """The scores of the last `most` rows."""

    UNKNOWN: Final = object()

    def __init__(self, most: int = 1 << 17) -> None:
        self._most = most
        self._known: OrderedDict[str, Any] = OrderedDict()

    def get(self, names: Sequence[str]) -> list[Any]:
        return [self._known.get(n, self.UNKNOWN) for n in names]

    def clear(self) -> None:
        self._known.clear()

    def put(self, name: str, value: Any) -> None:
        self._known[name] = value
        while len(self._known) > self._most:
            self._known.popitem(last=False)


def row_key(row: Mapping[str, Any]) -> str:
    """A name for what is scored in one row: equal rows have equal names."""
    said = json.dumps({n: row[n] for n in ROW if n in row}, default=repr, sort_keys=True)
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def some(values: Any, chosen: Sequence[int], rows: int) -> Any:
    """The chosen rows of a value that has one item a row; anything else as it is."""
    if isinstance(values, list | tuple) and len(values) == rows:
        return [values[i] for i in chosen]
    if declarations.length(values) == rows:
        return values[list(chosen)]
    return values


def call(function: Callable[..., Any], given: Mapping[str, Any], rows: int, calls: Calls) -> Any:
    """`function(**given)`, awaited where it is async. Raises ObjectiveError past the time limit, and whatever the
    function raises."""
    if declarations.is_async(function):
        return _awaited(_parts(function, given, rows, calls))
    result = _within(function, given, calls.timeout) if calls.timeout and "model" not in given else function(**given)
    if inspect.isawaitable(result):
        return _awaited(_limited(result, calls.timeout))
    return result


async def _parts(function: Callable[..., Any], given: Mapping[str, Any], rows: int, calls: Calls) -> Any:
    """An async function called part by part; lists of scores are joined."""
    size = calls.batch_size or rows
    parts = [range(i, min(i + size, rows)) for i in range(0, rows, size)]
    if len(parts) == 1:
        return await _limited(function(**given), calls.timeout)
    free = asyncio.Semaphore(calls.concurrency or 1)

    async def one(part: Sequence[int]) -> Any:
        async with free:
            said = await _limited(function(**{k: some(v, part, rows) for k, v in given.items()}), calls.timeout)
        said = declarations.plain(said)
        if not isinstance(said, list | tuple) or len(said) != len(part):
            raise ObjectiveError(f"{len(part)} rows of a batch belong to as many scores, got {said!r:.60}")
        return said

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(part)) for part in parts]
    return [x for task in running for x in task.result()]


async def _limited(work: Awaitable[Any], seconds: float | None) -> Any:
    try:
        return await asyncio.wait_for(work, seconds)
    except TimeoutError:
        raise ObjectiveError(f"no score within {seconds:g} s") from None


def _awaited(work: Any) -> Any:
    """Run a coroutine to its end, also where a loop is running in this thread already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _unpacked(lambda: asyncio.run(work))
    return _within(lambda: _unpacked(lambda: asyncio.run(work)), {}, None)


def _unpacked(run: Callable[[], Any]) -> Any:
    """The first of the errors that a group of tasks raised, as itself."""
    try:
        return run()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def _within(function: Callable[..., Any], given: Mapping[str, Any], seconds: float | None) -> Any:
    """Call in another thread and wait so long. A call that takes longer cannot be stopped; its result is not used."""
    out: list[Any] = []

    def run() -> None:
        try:
            out.extend((True, function(**given)))
        except BaseException as error:  # whatever it is, it is raised again in the thread that waits
            out.extend((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if len(out) < 2:
        raise ObjectiveError(f"no score within {seconds:g} s")
    if not out[0]:
        raise out[1]
    return out[1]


__all__ = ["Cache", "Calls", "Meter", "call", "row_key", "some"]
