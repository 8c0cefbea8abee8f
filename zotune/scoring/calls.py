"""Calls of an objective: in one piece or in parts, with a time limit, metered, and cached by row.

An async function is called in parts, several at a time. A class that declares `call_options` does this itself. Knows
functions and their inputs; does not read results.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import inspect
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any, Final

from zotune import declarations
from zotune.errors import ObjectiveError, OptionError
from zotune.scoring.isolation import grad_mode
from zotune.scoring.partial_scores import Report, ignore
from zotune.scoring.pending_scores import MISSING
from zotune.types import CallOption

ROW = ("prompts", "completions", "completion_ids", "references", "labels", "candidates", "batch")
"""The inputs that identify a row; `batch` holds its whole record."""

GRACE_SECONDS: Final = 1.0
"""Seconds to wait for the end of a call that is stopped after its time limit."""


@dataclass(frozen=True)
class Calls:
    """The user's limits of calls: the `--score-…` flags.

    concurrency: calls at a time; batch_size: rows in a call; timeout: seconds of a call; cache: whether scores of rows
    are cached, None: as the objective declares.
    """

    concurrency: int | None = None
    batch_size: int | None = None
    timeout: float | None = None
    cache: bool | None = None

    def __post_init__(self) -> None:
        for name, value in self.limits():
            if value is not None and not value > 0:
                raise OptionError(f"--score-{name.replace('_', '-')} must be positive, got {value}")

    def limits(self) -> Iterator[tuple[CallOption, float | None]]:
        """The limits by name; None: the user gave none."""
        yield from (("concurrency", self.concurrency), ("batch_size", self.batch_size), ("timeout", self.timeout))


class Meter:
    """The cost of an objective's calls: rows scored, rows found in the cache (hits), seconds."""

    def __init__(self) -> None:
        self.rows = self.hits = 0
        self.seconds = 0.0

    @contextlib.contextmanager
    def clock(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


class Cache:
    """The scores of the last `capacity` rows, by row key."""

    def __init__(self, capacity: int = 1 << 17) -> None:
        self._capacity = capacity
        self._scores: OrderedDict[str, Any] = OrderedDict()

    def get(self, keys: Sequence[str]) -> list[Any]:
        """The score of each key; MISSING where there is none."""
        return [self._scores.get(key, MISSING) for key in keys]

    def clear(self) -> None:
        self._scores.clear()

    def put(self, key: str, score: Any) -> None:
        self._scores[key] = score
        while len(self._scores) > self._capacity:
            self._scores.popitem(last=False)


def row_key(row: Mapping[str, Any]) -> str:
    """A hash of the inputs that identify a row: equal rows have equal keys."""
    text = json.dumps({n: row[n] for n in ROW if n in row}, default=repr, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def select_rows(values: Any, indices: Sequence[int], rows: int) -> Any:
    """The items at these indices of an input that has one item for each of `rows` rows; any other value as it is."""
    if isinstance(values, list | tuple) and len(values) == rows:
        return [values[i] for i in indices]
    if declarations.length(values) == rows:
        return values[list(indices)]
    return values


def call(
    function: Callable[..., Any], inputs: Mapping[str, Any], rows: int, calls: Calls, report: Report = ignore
) -> Any:
    """`function(**inputs)`, awaited if it is async. report: takes scores of rows before the call ends.

    The time limit of a plain function holds by a thread. Raises ObjectiveError after the time limit, and whatever the
    function raises.
    """
    if declarations.is_async(function):
        return _run_coroutine(_call_in_parts(function, inputs, rows, calls, report))
    if calls.timeout:
        result = _call_in_thread(lambda **named: _complete(function(**named), report), inputs, calls.timeout)
    else:
        result = _complete(function(**inputs), report)
    if inspect.isawaitable(result):
        return _run_coroutine(_limited(result, calls.timeout))
    return result


def _complete(result: Any, report: Report) -> Any:
    """The result, where it is a generator as a list: its code runs inside the call."""
    if not isinstance(result, GeneratorType):
        return result
    scores = []
    for k, score in enumerate(result):
        scores.append(score)
        report(k, [score])
    return scores


async def _call_in_parts(
    function: Callable[..., Any], inputs: Mapping[str, Any], rows: int, calls: Calls, report: Report
) -> Any:
    """The scores of an async function that is called with `batch_size` rows at a time."""
    size = calls.batch_size or rows
    parts = [range(i, min(i + size, rows)) for i in range(0, rows, size)]
    if len(parts) == 1:
        return await _limited(function(**inputs), calls.timeout)
    slots = asyncio.Semaphore(calls.concurrency or 1)

    async def scores_of(part: Sequence[int]) -> Any:
        async with slots:
            selected = {name: select_rows(values, part, rows) for name, values in inputs.items()}
            scores = declarations.plain(await _limited(function(**selected), calls.timeout))
        if not isinstance(scores, list | tuple) or len(scores) != len(part):
            raise ObjectiveError(f"a call with {len(part)} rows must return as many scores, got {scores!r:.60}")
        report(part[0], scores)
        return scores

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(scores_of(part)) for part in parts]
    return [score for task in tasks for score in task.result()]


async def _limited(work: Awaitable[Any], seconds: float | None) -> Any:
    try:
        return await asyncio.wait_for(work, seconds)
    except TimeoutError:
        raise ObjectiveError(f"no score within {seconds:g} s") from None


def _run_coroutine(work: Any) -> Any:
    """The result of a coroutine, also where an event loop runs in this thread (a notebook). Of the errors that several
    tasks raised, the first one is raised."""

    def run() -> Any:
        try:
            return asyncio.run(work)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    return _call_in_thread(run, {}, None)


def _call_in_thread(function: Callable[..., Any], inputs: Mapping[str, Any], seconds: float | None) -> Any:
    """Call in another thread and wait for so many seconds; None: until it returns.

    A call that takes longer goes on in its thread, and its result is not used. A call that has the model is ended
    where it next runs Python, for it would read weights that change under it.
    """
    outcome: list[tuple[bool, Any]] = []
    inherit = grad_mode()

    def run() -> None:
        try:
            with inherit():
                outcome.append((True, function(**inputs)))
        except BaseException as error:  # raised again in the thread that waits
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        if "model" in inputs and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
            thread.join(GRACE_SECONDS)
        raise ObjectiveError(f"no score within {seconds:g} s")
    succeeded, value = outcome[0]
    if not succeeded:
        raise value
    return value


__all__ = ["Cache", "Calls", "Meter", "call", "row_key", "select_rows"]
