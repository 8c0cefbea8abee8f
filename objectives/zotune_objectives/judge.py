"""A judge of pairs: a function that says which of two completions to the same prompt is better.

    def judge(prompts, completions, **columns) -> list[int]      # 0: the first, 1: the second, -1: it cannot tell

`completions` are pairs, one a row; a class of TRL's shape, whose `judge(prompts, completions)` is a method, and async
functions serve as well. Which of two comes first is drawn for each pair, by a hash of both, so that a judge who likes
the first place gains nothing by it. Of more than two candidates each meets each; a candidate's strength is the share of
its games that it wins, an undecided one counting a half.

Named `judge:file.py:function` or `judge:package.module:function`. Held-out rows are scored by the share of rows on
which the tuned model's completion wins against the start's.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import zotune
from zotune import plugins
from zotune.errors import ObjectiveError, OptionError
from zotune.scoring.calls import Calls, call, some
from zotune.scoring.results import read_list
from zotune.text import texts


@runtime_checkable
class PairJudge(Protocol):
    """A judge of TRL's shape."""

    def judge(self, prompts: Any, completions: Any) -> Any: ...


@zotune.objective(gives="order", cacheable=True, fast=False, call_options=("concurrency", "batch_size", "timeout"))
@dataclass(frozen=True)
class Judge:
    function: str  # file.py:function or package.module:function
    concurrency: int = 1  # calls of an async judge at a time
    batch_size: int | None = None  # pairs a call of an async judge
    timeout: float | None = None  # seconds a call
    _judge: Callable[..., Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = plugins.by_path(self.function, "judge")
        found = found() if inspect.isclass(found) else found
        if isinstance(found, PairJudge):
            found = found.judge
        if not callable(found):
            raise OptionError(f"judge: {self.function!r} is a {type(found).__name__}, not a function")
        object.__setattr__(self, "_judge", found)

    def __call__(
        self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]], **columns: Any
    ) -> list[list[float] | None]:
        """For each row one strength a candidate."""
        games = [(row, a, b) for row, said in enumerate(candidates) for a, b in combinations(range(len(said)), 2)]
        pairs = [(candidates[row][a], candidates[row][b]) for row, a, b in games]
        turned = [_turned(prompts[row], *pair) for (row, _, _), pair in zip(games, pairs, strict=True)]
        shown = [[b, a] if t else [a, b] for (a, b), t in zip(pairs, turned, strict=True)]
        said = self._ask([row for row, _, _ in games], prompts, shown, columns)
        strengths = [[0.0] * len(row) for row in candidates]
        for (row, a, b), answer, t in zip(games, said, turned, strict=True):
            won = 0.5 if answer < 0 else float((answer == 0) != t)
            strengths[row][a] += won
            strengths[row][b] += 1 - won
        return [[s / (len(row) - 1) for s in row] for row in strengths]

    def _ask(
        self, rows: Sequence[int], prompts: Sequence[Any], shown: Sequence[Any], columns: dict[str, Any]
    ) -> list[float]:
        given = {"prompts": prompts, **columns}
        given = {k: some(v, rows, len(prompts)) for k, v in given.items()} | {"completions": shown}
        parameters = inspect.signature(self._judge).parameters
        if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
            given = {k: v for k, v in given.items() if k in parameters}
        result = call(self._judge, given, len(rows), Calls(self.concurrency, self.batch_size, self.timeout))
        found = read_list(f"judge:{self.function}", result, len(rows))
        if found is None or any(x not in (0, 1, -1) for x in found):
            raise ObjectiveError(f"judge {self.function!r} answers 0, 1 or -1 for each pair, got {result!r:.60}")
        return [float(x) for x in found if x is not None]


def _turned(prompt: Any, first: Any, second: Any) -> bool:
    """Whether the second of a pair is shown first."""
    said = "\0".join([str(prompt), *texts([first, second])])
    return bool(hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0] & 1)
