"""Held-out rows scored with the weights as they are: values with standard errors, and paired differences.

Objectives that score each row have the standard error of a mean, without further calls. A set-level objective is scored
again on resamples of the rows: on a bootstrap's where it declares that it is fast, else on a jackknife's few.
Differences are paired: both models are scored on the same rows and the same resamples. Knows tasks and objectives; does
not know which rows select the best weights and which decide whether they are kept.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any, Final

import torch

from zotune.distributed import ALONE, Processes
from zotune.errors import ObjectiveError
from zotune.runs.result import Difference, ScoreEstimate
from zotune.scoring.objective import Objective
from zotune.scoring.results import read
from zotune.tasks import build, linear_probe
from zotune.types import Score

Outputs = Mapping[str, Any]
"""A task's outputs for some rows, by name: one item a row each, except the model."""

RESAMPLES: Final = 1000
FEWEST_RESAMPLES: Final = 100
SECONDS: Final = 5.0
"""A bootstrap ends after this time, but not below FEWEST_RESAMPLES."""
SLOW_SECONDS: Final = 1.8
"""There is no bootstrap where three resamples take longer: a hundred would take a minute."""
GROUPS: Final = 20
"""Groups of rows that a jackknife leaves out, one at a time: its calls, where there are as many rows."""
SLOW_GROUP_SECONDS: Final = 9.0
"""There is no jackknife where three calls take longer: twenty would take a minute."""
DIVERGENCE_RESAMPLES: Final = 100
"""Resamples that decide whether a run has diverged: always as many, so that runs repeat bit for bit."""


class HeldOutSet:
    """Held-out rows that can be scored at any time, and again on resamples of their outputs.

    An objective that compares (`gives="order"`) is scored against a baseline: the share of rows on which the present
    completion beats the one that the model gave when `set_baseline` was called; a tie counts as half.

    scores_counted: whether the number of scores is limited, so that nothing is scored twice: neither after a failure
    nor on resamples. processes: each runs the model on some of the rows; the first one scores.

    score_seconds: of the objective's latest call, without the model.
    """

    def __init__(
        self,
        task: build.Task,
        rows: build.EncodedRows,
        objective: Objective,
        scores_counted: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        self.task, self.rows, self.objective, self.scores_counted = task, rows, objective, scores_counted
        self._processes = processes
        self.score_seconds = 0.0
        self._baseline: Sequence[Any] | None = None
        self._jackknifed: list[tuple[Outputs, list[float]]] = []  # the latest two, the base model's among them

    def outputs(self) -> Outputs:
        """The outputs of the present weights."""
        return self.task.outputs(self.rows, range(len(self.rows)), self.objective.inputs)

    def set_baseline(self, outputs: Outputs | None = None) -> None:
        """Compare with these outputs (or with those of the present weights) from here on. Of no effect a second time,
        and where the objective has values."""
        if self.objective.ordered and self._baseline is None:
            self._baseline = (self.outputs() if outputs is None else outputs)["completions"]

    @property
    def baseline(self) -> Sequence[Any] | None:
        """The completions that an objective that compares scores against; None before `set_baseline`."""
        return self._baseline

    def score(self) -> tuple[Outputs, Score]:
        """The outputs of the present weights and their score. Raises ObjectiveError where scoring fails twice."""
        outputs = self.outputs()
        self.set_baseline(outputs)
        try:
            return outputs, self._score(outputs)
        except ObjectiveError:
            if self.scores_counted:
                raise
            return outputs, self._score(outputs)

    def score_resample(self, outputs: Outputs, indices: Sequence[int]) -> float:
        """The objective on some of the rows; a failed score is retried once. Raises ObjectiveError."""
        some = {k: _rows_of(v, indices) for k, v in outputs.items() if k != "model"}
        try:
            return self.objective.score(len(indices), some).value
        except ObjectiveError:
            return self.objective.score(len(indices), some).value

    @property
    def bootstraps(self) -> bool:
        """Whether the objective can be called a thousand times on resamples: all of it declares that it is fast."""
        return self.resamples and all(part.info.fast for part in self.objective.each)

    @property
    def resamples(self) -> bool:
        """Whether the objective can be scored on resamples: without the model, and not slow or paid by the call."""
        slow = self.scores_counted or any(part.info.fast is False for part in self.objective.each)
        return "model" not in self.objective.inputs and not slow and not self.objective.ordered

    def estimate(self, outputs: Outputs, score: Score, seed: int) -> ScoreEstimate:
        """A score with its standard error."""
        n = len(self.rows)
        if score.samples is not None:
            valid = [s for s in score.samples if s is not None]
            error = _deviation(valid) / math.sqrt(len(valid)) if len(valid) > 1 else None
            return ScoreEstimate(score.value, error, len(valid), score.parts)
        if not self.resamples:
            return ScoreEstimate(score.value, None, n, score.parts)
        if not self.bootstraps:
            left_out = self._leave_out(outputs)
            return ScoreEstimate(score.value, _jackknife_error(left_out) if left_out else None, n, score.parts)
        values = self._bootstrap(lambda i: self.score_resample(outputs, i), seed)
        return ScoreEstimate(score.value, _deviation(values) if values else None, n, score.parts)

    def comparable_value(self, before: Score, after: Score) -> float:
        """The value of `after` as it stands beside that of `before`. Where some rows have a score in one of the two
        alone, the rows with both count: the value of `before` plus their mean difference, none where there are none."""
        a, b = before.samples, after.samples
        if self.objective.ordered or a is None or b is None:
            return after.value
        if all((x is None) == (y is None) for x, y in zip(a, b, strict=True)):
            return after.value
        gaps = [y - x for x, y in zip(a, b, strict=True) if x is not None and y is not None]
        return before.value + (math.fsum(gaps) / len(gaps) if gaps else 0.0)

    def difference(self, before: tuple[Outputs, Score], after: tuple[Outputs, Score], seed: int) -> Difference:
        """after - before, with the interval of a paired bootstrap over the rows, or of a paired jackknife."""
        value = self.comparable_value(before[1], after[1]) - before[1].value
        a, b = before[1].samples, after[1].samples
        if a is not None and b is not None:
            gaps = [y - x for x, y in zip(a, b, strict=True) if x is not None and y is not None]
            values = bootstrap(lambda i: math.fsum(gaps[k] for k in i) / len(i), len(gaps), seed) if gaps else []
        elif self.bootstraps:
            values = self._bootstrap(
                lambda i: self.score_resample(after[0], i) - self.score_resample(before[0], i), seed
            )
        elif self.resamples:
            first, second = self._leave_out(before[0]), self._leave_out(after[0])
            if not first or not second:
                return Difference(value, None, None, None)
            error = _jackknife_error([y - x for x, y in zip(first, second, strict=True)])
            reach = _t_quantile(len(first) - 1) * error
            return Difference(value, error, value - reach, value + reach)
        else:
            values = []
        if not values:
            return Difference(value, None, None, None)
        values.sort()
        low, high = (values[min(int(q * len(values)), len(values) - 1)] for q in (0.025, 0.975))
        return Difference(value, _deviation(values), low, high)

    def standard_errors_below(
        self, before: tuple[Outputs, Score], after: tuple[Outputs, Score], error: float | None
    ) -> float | None:
        """Paired standard errors by which `after` is worse than `before`, negative where it is better; None where that
        is unknown, or no row's score changed. error: what `paired_error` returned. The baseline of an objective that
        compares has half of each row."""
        sign = -1.0 if self.objective.direction == "maximize" else 1.0
        start = 0.5 if self.objective.ordered else before[1].value
        gap = sign * (self.comparable_value(before[1], after[1]) - start)
        return gap / error if error else None

    def paired_error(self, before: tuple[Outputs, Score], after: tuple[Outputs, Score], seed: int) -> float | None:
        """The standard error of the difference of two scores of the same rows; None where that is unknown."""
        a, b = before[1].samples, after[1].samples
        if b is not None and (a is not None or self.objective.ordered):
            pairs = zip([0.5] * len(b) if self.objective.ordered or a is None else a, b, strict=True)
            gaps = [y - x for x, y in pairs if x is not None and y is not None]
            return _deviation(gaps) / math.sqrt(len(gaps)) if gaps else 0.0
        elif a is None and b is None and self.resamples and not self.bootstraps and before[0]:
            first, second = (self._leave_out(outputs, timed=False) for outputs in (before[0], after[0]))
            if not first or not second:
                return None
            return _jackknife_error([y - x for x, y in zip(first, second, strict=True)])
        elif a is None and b is None and self.resamples and before[0]:
            rng, n = random.Random(seed), len(self.rows)
            drawn = [[rng.randrange(n) for _ in range(n)] for _ in range(DIVERGENCE_RESAMPLES)]
            try:
                return _deviation([self.score_resample(after[0], i) - self.score_resample(before[0], i) for i in drawn])
            except ObjectiveError:
                return None
        return None

    def linear_probe(self, train: build.EncodedRows, seed: int) -> ScoreEstimate | None:
        """The score of a logistic regression on the embeddings of the present weights, fitted on training rows. None
        where a class has fewer than two rows, or the objective cannot score it."""
        task, rows = self.task, self.rows
        if not isinstance(task, build.HeadClassification) or (fitted := linear_probe.fit(task, train)) is None:
            return None
        outputs = task.outputs_from_logits(rows, range(len(rows)), linear_probe.log_probabilities(task, fitted, rows))
        try:
            score = self.objective.score(len(rows), outputs)
        except ObjectiveError:
            return None
        return self.estimate(outputs, score, seed)

    def _bootstrap(self, score: Callable[[Sequence[int]], float], seed: int) -> list[float]:
        """Bootstrap values, none where the objective fails on a resample. They do not count as scored rows."""
        meters = [(part.meter, part.meter.rows, part.meter.hits) for part in self.objective.each]
        try:
            return bootstrap(score, len(self.rows), seed)
        except ObjectiveError:
            return []
        finally:
            for meter, rows, hits in meters:
                meter.rows, meter.hits = rows, hits

    def _leave_out(self, outputs: Outputs, timed: bool = True) -> list[float]:
        """The objective without each of GROUPS random groups of rows, always the same groups; the values of the latest
        outputs are kept. Empty where it fails, or where it is slow and the time counts."""
        for k, (known, values) in enumerate(self._jackknifed):
            if known is outputs:
                self._jackknifed.insert(0, self._jackknifed.pop(k))
                return values
        n, started = len(self.rows), time.monotonic()
        order = random.Random(n).sample(range(n), n)
        values = []
        for group in range(min(GROUPS, n) if n > 1 else 0):
            try:
                values.append(self.score_resample(outputs, sorted(set(order) - set(order[group::GROUPS]))))
            except ObjectiveError:
                return []
            if timed and group == 2 and time.monotonic() - started > SLOW_GROUP_SECONDS:
                return []
        self._jackknifed = [(outputs, values), *self._jackknifed[:1]]
        return values

    def _score(self, outputs: Outputs) -> Score:
        started = time.monotonic()
        score = score_once(self._processes, lambda: self._score_here(outputs))
        self.score_seconds = time.monotonic() - started
        return score

    def _score_here(self, outputs: Outputs) -> Score:
        if self._baseline is None:
            return self.objective.score(len(self.rows), outputs)
        pairs = list(zip(self._baseline, outputs["completions"], strict=True))
        strengths = self.objective.compare(outputs, pairs)
        shares = [None if x is None else win_shares(x)[1] for x in strengths]
        if all(x is None for x in shares):  # undecided everywhere: neither model is better
            return Score(0.5, tuple(shares))
        return read(self.objective.name, shares, len(self.rows))


def score_once(processes: Processes, compute: Callable[[], Score]) -> Score:
    """A score that the first of several processes computes for all."""
    if processes.alone:
        return compute()
    value, samples, parts = processes.on_first(lambda: astuple(compute()))
    return Score(value, None if samples is None else tuple(samples), tuple((name, x) for name, x in parts))


def win_shares(strengths: Sequence[float]) -> list[float]:
    """For each of at least two candidates the share of the others that it beats; a tie counts as half."""
    beaten = [math.fsum((x > y) + 0.5 * (x == y) for y in strengths) - 0.5 for x in strengths]
    return [b / (len(strengths) - 1) for b in beaten]


def bootstrap(score: Callable[[Sequence[int]], float], rows: int, seed: int) -> list[float]:
    """Values of `score(row indices)` on RESAMPLES resamples with replacement, fewer where that takes too long, none
    where the score is slow."""
    rng, values, started = random.Random(seed), list[float](), time.monotonic()
    for done in range(RESAMPLES):
        values.append(score([rng.randrange(rows) for _ in range(rows)]))
        if done == 2 and time.monotonic() - started > SLOW_SECONDS:
            return []
        if done >= FEWEST_RESAMPLES - 1 and time.monotonic() - started > SECONDS:
            break
    return values


def _jackknife_error(values: Sequence[float]) -> float:
    """The standard error of a statistic from its values without each of several groups of rows: with G groups
    √((G - 1) / G · Σ (value - mean)²). Source: Efron and Tibshirani 1993, section 11.2."""
    return _deviation(values) * (len(values) - 1) / math.sqrt(len(values))


def _t_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's t by its expansion in 1 / degrees of freedom (Abramowitz and Stegun 26.7.5)."""
    z, v = 1.959963984540054, max(freedom, 1)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; 0 for a single value."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1))


def _rows_of(values: Any, indices: Sequence[int]) -> Any:
    if isinstance(values, torch.Tensor):
        return values[list(indices)]
    return [values[i] for i in indices]


__all__ = ["HeldOutSet", "Outputs", "bootstrap", "score_once", "win_shares"]
