"""Held-out rows: an objective's value with its standard error, and paired differences.

Sample-level objectives have the standard error of a mean; set-level ones are computed again on bootstrap resamples
of the rows. Differences are paired: before and after on the same rows, resampled together.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch

from zotune.distributed import ALONE, Processes
from zotune.errors import ObjectiveError
from zotune.scoring.objective import Objective
from zotune.scoring.results import read
from zotune.tasks import build
from zotune.tasks import linear_probe as probe
from zotune.types import Score

Outputs = Mapping[str, Any]
"""What a task gave for some rows: each value has an item a row, but the model."""

RESAMPLES, SECONDS = 1000, 5.0
FEW = 100
"""Resamples that say whether weights are ruined; always as many, so that a run repeats to the bit."""


@dataclass(frozen=True)
class Scored:
    """An objective on some rows: its value, its standard error (None where it cannot be resampled), rows; parts: (name,
    value) of each objective in a sum."""

    value: float
    error: float | None
    rows: int
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Difference:
    """A paired difference, after minus before, on the same rows: value, standard error, 95 % bootstrap interval."""

    value: float
    error: float | None
    low: float | None
    high: float | None


class HeldOut:
    """Some rows with what the model gave for them, ready to be scored again on any resample.

    An objective that gives an order is scored against the start: the share of rows on which what the model says now is
    better than what it said when `remember` was called, an equal one counting a half.

    counted: whether scores are few, so that nothing is scored again: neither after a failure nor on resamples.
    processes: those that run the model on some of the rows each; one of them scores.
    """

    def __init__(
        self,
        task: build.Task,
        rows: build.Rows,
        objective: Objective,
        counted: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        self.task, self.rows, self.objective, self.counted = task, rows, objective, counted
        self.processes = processes
        self._start: Sequence[Any] | None = None

    def outputs(self) -> Outputs:
        """What the model gives as it is now."""
        return self.task.outputs(self.rows, range(len(self.rows)), self.objective.wants)

    def remember(self, outputs: Outputs | None = None) -> None:
        """Take what the model says now as what is to be beaten, where the objective compares."""
        if self.objective.ordered and self._start is None:
            self._start = (self.outputs() if outputs is None else outputs)["completions"]

    def measure(self) -> tuple[Outputs, Score]:
        """Run the model as it is now: what it gave, and the score. Raises ObjectiveError where it fails twice."""
        outputs = self.outputs()
        self.remember(outputs)
        try:
            return outputs, self._score(outputs)
        except ObjectiveError:
            if self.counted:
                raise
            return outputs, self._score(outputs)

    def _score(self, outputs: Outputs) -> Score:
        return scored_once(self.processes, lambda: self._scored_here(outputs))

    def _scored_here(self, outputs: Outputs) -> Score:
        if self._start is None:
            return self.objective.score(len(self.rows), outputs)
        pairs = list(zip(self._start, outputs["completions"], strict=True))
        found = self.objective.compare(outputs, pairs)
        won = [None if x is None else wins(x)[1] for x in found]
        if all(x is None for x in won):  # nobody could tell: that speaks for neither
            return Score(0.5, tuple(won))
        return read(self.objective.name, won, len(self.rows))

    def on(self, outputs: Outputs, indices: Sequence[int]) -> float:
        """The objective on some of the rows; a failing score is asked for again, once. Raises ObjectiveError."""
        some = {k: _some(v, indices) for k, v in outputs.items() if k != "model"}
        try:
            return self.objective.score(len(indices), some).value
        except ObjectiveError:
            return self.objective.score(len(indices), some).value

    def resamples(self) -> bool:
        """Whether the objective can be computed again without the model, and soon."""
        slow = self.counted or any(o.info.fast is False for o in self.objective.each)
        return "model" not in self.objective.required and not slow and not self.objective.ordered

    def scored(self, outputs: Outputs, score: Score, seed: int) -> Scored:
        n = len(self.rows)
        if score.samples is not None:
            known = [s for s in score.samples if s is not None]
            error = _spread(known) / math.sqrt(len(known)) if len(known) > 1 else None
            return Scored(score.value, error, n, score.parts)
        if not self.resamples():
            return Scored(score.value, None, n, score.parts)
        values = _tolerant(lambda i: self.on(outputs, i), n, seed)
        return Scored(score.value, _spread(values) if values else None, n, score.parts)

    def difference(self, before: tuple[Outputs, Score], after: tuple[Outputs, Score], seed: int) -> Difference:
        """after - before, with the interval of a paired bootstrap over rows."""
        n, value = len(self.rows), after[1].value - before[1].value
        a, b = before[1].samples, after[1].samples
        if a is not None and b is not None:
            gaps = [y - x for x, y in zip(a, b, strict=True) if x is not None and y is not None]
            values = bootstrap(lambda i: math.fsum(gaps[k] for k in i) / len(i), len(gaps), seed) if gaps else []
        elif self.resamples():
            values = _tolerant(lambda i: self.on(after[0], i) - self.on(before[0], i), n, seed)
        else:
            values = []
        if not values:
            return Difference(value, None, None, None)
        values.sort()
        low, high = (values[min(int(q * len(values)), len(values) - 1)] for q in (0.025, 0.975))
        return Difference(value, _spread(values), low, high)

    def deficit(self, before: tuple[Outputs, Score], after: tuple[Outputs, Score], seed: int) -> float | None:
        """Paired standard errors by which `after` is worse, negative where it is better; None where that is not known,
        or no row changed. The start of an objective that compares has won half of each row."""
        a, b, sign = before[1].samples, after[1].samples, -1.0 if self.objective.direction == "maximize" else 1.0
        if b is not None and (a is not None or self.objective.ordered):
            pairs = zip([0.5] * len(b) if self.objective.ordered or a is None else a, b, strict=True)
            gaps = [y - x for x, y in pairs if x is not None and y is not None]
            error = _spread(gaps) / math.sqrt(len(gaps)) if gaps else 0.0
        elif a is None and b is None and self.resamples() and before[0]:
            rng, n = random.Random(seed), len(self.rows)
            drawn = [[rng.randrange(n) for _ in range(n)] for _ in range(FEW)]
            try:
                error = _spread([self.on(after[0], i) - self.on(before[0], i) for i in drawn])
            except ObjectiveError:
                return None
        else:
            return None
        gap = sign * (after[1].value - (0.5 if self.objective.ordered else before[1].value))
        return gap / error if error else None


def scored_once(processes: Processes, compute: Callable[[], Score]) -> Score:
    """A score that one of several processes computes."""
    if processes.alone:
        return compute()
    value, samples, parts = processes.first(lambda: astuple(compute()))
    return Score(value, None if samples is None else tuple(samples), tuple((name, x) for name, x in parts))


def wins(strengths: Sequence[float]) -> list[float]:
    """The share of the others that each candidate beats, an equal one counting a half."""
    beaten = [math.fsum((x > y) + 0.5 * (x == y) for y in strengths) - 0.5 for x in strengths]
    return [b / (len(strengths) - 1) for b in beaten]


def _tolerant(score: Callable[[Sequence[int]], float], rows: int, seed: int) -> list[float]:
    """Bootstrap values, or none where the objective cannot score some resample."""
    try:
        return bootstrap(score, rows, seed)
    except ObjectiveError:
        return []


def _spread(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1))


def bootstrap(score: Callable[[Sequence[int]], float], rows: int, seed: int) -> list[float]:
    """Values of `score(row indices)` on RESAMPLES resamples with replacement; SECONDS later it stops, not below 100.
    None at all where a hundred would take a minute."""
    rng, out, start = random.Random(seed), [], time.monotonic()
    for done in range(RESAMPLES):
        out.append(score([rng.randrange(rows) for _ in range(rows)]))
        if done == 2 and time.monotonic() - start > 1.8:
            return []
        if done >= 99 and time.monotonic() - start > SECONDS:
            break
    return out


def _some(values: Any, indices: Sequence[int]) -> Any:
    if isinstance(values, torch.Tensor):
        return values[list(indices)]
    return [values[i] for i in indices]


def linear_probe(held: HeldOut, train: build.Rows, seed: int) -> Scored | None:
    """What logistic regression on the embeddings of the weights as they are scores on the held-out rows. None where a
    class has fewer than two rows, or the objective cannot use it."""
    task, rows = held.task, held.rows
    if not isinstance(task, build.Whole) or (search := probe.fit(task, train)) is None:
        return None
    outputs = task.described(rows, range(len(rows)), probe.scores(task, search, rows))
    try:
        score = held.objective.score(len(rows), outputs)
    except ObjectiveError:
        return None
    return held.scored(outputs, score, seed)
