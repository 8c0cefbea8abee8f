"""What scorers outside of this process share: rows as JSON, in parts, several at a time, and answers read as scores.

Knows neither processes nor connections.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from zotune.errors import OptionError
from zotune.types import PROVIDED, Level, ObjectiveInfo

T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """What is scored. columns: for each row the data's own columns, as far as JSON can hold them."""

    prompts: Sequence[Any]
    completions: Sequence[Any]
    references: Sequence[Any]
    columns: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.completions)

    def part(self, at: slice) -> Rows:
        return Rows(self.prompts[at], self.completions[at], self.references[at], self.columns[at])

    def each(self) -> list[dict[str, Any]]:
        """One object a row: its columns, and over them `prompt`, `completion` and `references`."""
        found = zip(self.columns, self.prompts, self.completions, self.references, strict=True)
        return [{**row, "prompt": p, "completion": c, "references": r} for row, p, c, r in found]

    def together(self) -> dict[str, Any]:
        """One object for all rows: lists `prompts`, `completions` and `references`, and `rows` with the columns."""
        return {
            "prompts": list(self.prompts),
            "completions": list(self.completions),
            "references": list(self.references),
            "rows": list(self.columns),
        }


def gather(
    completions: Sequence[Any], prompts: Sequence[Any], references: Sequence[Any] | None, others: Mapping[str, Any]
) -> Rows:
    """The rows of a call. others: everything else that an objective is given; what is no column of the data, or holds
    what JSON cannot say, is left out."""
    n = len(completions)
    columns = {
        name: values
        for name, values in others.items()
        if name not in PROVIDED and isinstance(values, list | tuple) and len(values) == n and _sayable(values)
    }
    return Rows(
        list(prompts),
        list(completions),
        [None] * n if references is None else list(references),
        [{name: values[i] for name, values in columns.items()} for i in range(n)],
    )


def _sayable(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


# -- options -----------------------------------------------------------------------------------------------------------


def check(name: str, options: Mapping[str, float]) -> None:
    """Refuse numbers that are not positive. Raises OptionError."""
    for option, value in options.items():
        if not value > 0:
            raise OptionError(f"{name}: {option} must be positive, got {value}")


def declaration(level: Level, tally: Tally, close: Callable[[], None] | None = None) -> ObjectiveInfo:
    """The declaration of a scorer. A number for a whole set cannot be cached by rows, and may be asked for again on
    resamples; a score of a row is expensive, and is kept."""
    expensive = level == "sample"
    return ObjectiveInfo(
        level=level,
        cacheable=expensive,
        fast=False if expensive else None,
        faults=lambda: dict(tally),
        close=close,
    )


# -- several at a time -------------------------------------------------------------------------------------------------


class Tally(dict[str, int]):
    """Counts of `calls`, `retries` and `restarts`, from several threads."""

    def __init__(self) -> None:
        super().__init__(calls=0, retries=0, restarts=0)
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        with self._lock:
            self[name] += 1


class Stop:
    """Says to the calls of one batch that no more of them are wanted (asked), and that those under way end (cut)."""

    def __init__(self) -> None:
        self.asked, self.cut = threading.Event(), threading.Event()
        self._cuts: set[Callable[[], None]] = set()

    @contextlib.contextmanager
    def watching(self, cut: Callable[[], None]) -> Iterator[None]:
        """Inside, `now` calls `cut`, which ends the call under way; at once where it has been said already."""
        self._cuts.add(cut)
        try:
            if self.cut.is_set():
                cut()
            yield
        finally:
            self._cuts.discard(cut)

    def now(self) -> None:
        self.asked.set()
        self.cut.set()
        for cut in list(self._cuts):
            cut()


def parts(rows: int, size: int, concurrency: int) -> list[slice]:
    """Rows in parts of at most `size`, small enough that each of the concurrent calls has some."""
    step = max(1, min(size, -(-rows // concurrency)))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def spread(ask: Callable[[slice], T], chosen: Sequence[slice], concurrency: int, stop: Stop) -> list[T]:
    """`ask` of every part, so many at a time, in order. After a failure no further part is begun and those under way
    may end; at an interrupt they are cut."""
    if min(concurrency, len(chosen)) < 2:
        return [ask(part) for part in chosen]
    with ThreadPoolExecutor(min(concurrency, len(chosen))) as pool:
        running = [pool.submit(ask, part) for part in chosen]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        except BaseException:  # Ctrl-C while waiting: calls under way end too
            stop.now()
            raise
        finally:
            stop.asked.set()
            for future in running:
                future.cancel()
    for future in running:
        if not future.cancelled() and (error := future.exception()):
            raise error
    return [future.result() for future in running]


# -- answers -----------------------------------------------------------------------------------------------------------


def parse(text: str) -> Any:
    """JSON without NaN and Infinity, which it does not have. Raises ValueError."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")


def number(answer: Any) -> float | None:
    """One score: a number, true or false, null, or an object that has one as `score` or `reward`. Raises ValueError."""
    if isinstance(answer, dict):
        name = next((n for n in ("score", "reward") if n in answer), None)
        if name is None:
            raise ValueError(f"an object without score: {shown(answer)}")
        answer = answer[name]
    if answer is None:
        return None
    if not isinstance(answer, int | float):
        raise ValueError(f"{shown(answer)} is no number")
    try:
        found = float(answer)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{shown(answer)} is out of range")
    return found


def shown(value: Any, most: int = 80) -> str:
    """A value in a message: one line, not too long."""
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    said = " ".join(said.split())
    return said if len(said) <= most else said[: most - 1] + "…"


def as_text(turns: Any) -> str:
    """A prompt or completion as one text: a string stays, of a list of messages what they say, line by line."""
    return turns if isinstance(turns, str) else "\n".join(str(turn["content"]) for turn in turns)


__all__ = [
    "Rows",
    "Stop",
    "Tally",
    "as_text",
    "check",
    "declaration",
    "gather",
    "number",
    "parse",
    "parts",
    "shown",
    "spread",
]
