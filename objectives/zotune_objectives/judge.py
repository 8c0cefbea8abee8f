"""A judge as the objective: a function that compares two completions of the same prompt.

    def judge(prompts, completions, **columns) -> list[int]      # 0: the first is better, 1: the second, -1: a tie

`completions` holds one pair for each row. Judges of TRL's shape, classes with a method `judge(prompts, completions)`,
work as well, and so do async functions. The order in each pair is drawn by a hash of both texts, so a judge who prefers
one position gains nothing. With more than two candidates each is compared with each; the strength of a candidate is the
share of comparisons that it wins, a tie counting as half.

Named `judge:file.py:function` or `judge:package.module:function`. Validation and test rows are scored by the share of
rows on which the tuned model's completion wins against the base model's.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import zotune
from zotune.errors import ObjectiveError, OptionError
from zotune.scoring.functions import UserFunction, find, select_rows
from zotune.scoring.partial_scores import Report, reporter
from zotune.text import texts

FIRST, SECOND, TIE = 0, 1, -1
"""The verdicts of a judge."""


@runtime_checkable
class PairJudge(Protocol):
    """A judge of TRL's shape."""

    def judge(self, prompts: Any, completions: Any) -> Any: ...


@zotune.objective(gives="order", cacheable=True, fast=False, call_options=("concurrency", "batch_size", "timeout"))
@dataclass(frozen=True)
class Judge:
    function: str  # file.py:function or package.module:function
    concurrency: int = 1  # calls of an async judge at a time
    batch_size: int | None = None  # pairs in a call of an async judge
    timeout: float | None = None  # seconds a call may take
    _judge: UserFunction = field(init=False, repr=False)

    def __post_init__(self) -> None:
        target = find(self.function, "judge")
        target = target() if inspect.isclass(target) else target
        if isinstance(target, PairJudge):
            target = target.judge
        if not callable(target):
            raise OptionError(
                f"judge: {self.function!r} is a {type(target).__name__}, not a function",
                hint="name a function, or a class with a method judge(prompts, completions)",
            )
        name = f"judge:{self.function}"
        judge = UserFunction(target, name, self.concurrency, self.batch_size, self.timeout)
        object.__setattr__(self, "_judge", judge)

    def __call__(
        self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]], **columns: Any
    ) -> list[list[float] | None]:
        """For each row one strength for each candidate, in [0, 1]. Raises ObjectiveError."""
        games = [(row, a, b) for row, several in enumerate(candidates) for a, b in combinations(range(len(several)), 2)]
        pairs = [(candidates[row][a], candidates[row][b]) for row, a, b in games]
        swapped = [_is_swapped(prompts[row], *pair) for (row, _, _), pair in zip(games, pairs, strict=True)]
        shown = [[b, a] if swap else [a, b] for (a, b), swap in zip(pairs, swapped, strict=True)]
        report = reporter()

        def on_part(first: int, verdicts: Sequence[Any]) -> None:
            if all(len(row) == 2 for row in candidates) and all(v in (FIRST, SECOND, TIE) for v in verdicts):
                won = [_won(v, swapped[first + k]) for k, v in enumerate(verdicts)]
                report(first, [[w, 1 - w] for w in won])  # one game a row

        rows = [row for row, _, _ in games]
        verdicts = self._verdicts(rows, shown, {"prompts": prompts, **columns}, on_part)
        strengths = [[0.0] * len(row) for row in candidates]
        for (row, a, b), verdict, swap in zip(games, verdicts, swapped, strict=True):
            won = _won(verdict, swap)
            strengths[row][a] += won
            strengths[row][b] += 1 - won
        return [[s / (len(row) - 1) for s in row] for row in strengths]

    def _verdicts(
        self, rows: Sequence[int], pairs: Sequence[Any], inputs: Mapping[str, Any], report: Report
    ) -> list[float]:
        """The judge's verdict on each pair. rows: the row of each pair."""
        count = len(inputs["prompts"])
        inputs = {name: select_rows(values, rows, count) for name, values in inputs.items()}
        verdicts = self._judge.scores({**inputs, "completions": pairs}, len(pairs), report)
        wrong = [v for v in verdicts if v not in (FIRST, SECOND, TIE)]
        if wrong:
            raise ObjectiveError(
                f"judge {self.function!r} must return 0, 1 or -1 for each pair, got {wrong[0]!r}",
                hint="0: the first is better, 1: the second, -1: a tie",
            )
        return [float(v) for v in verdicts if v is not None]


def _won(verdict: float, swapped: bool) -> float:
    """What the first candidate of a pair won."""
    return 0.5 if verdict == TIE else float((verdict == FIRST) != swapped)


def _is_swapped(prompt: Any, first: Any, second: Any) -> bool:
    """Whether the judge sees the second completion of a pair first."""
    key = "\0".join([str(prompt), *texts([first, second])])
    return bool(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0] & 1)
