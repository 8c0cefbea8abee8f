"""Held-out rows: an objective's value with its standard error, and paired differences.

Sample-level objectives have the standard error of a mean; set-level ones are computed again on bootstrap resamples
of the rows. Differences are paired: before and after on the same rows, resampled together.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from zotune import tasks
from zotune.errors import ObjectiveError
from zotune.objectives import Objective
from zotune.types import Score

RESAMPLES, SECONDS = 1000, 5.0


@dataclass(frozen=True)
class Scored:
    """An objective on some rows: its value, its standard error (None where it cannot be resampled), rows."""

    value: float
    error: float | None
    rows: int


@dataclass(frozen=True)
class Difference:
    """A paired difference, after minus before, on the same rows: value, standard error, 95 % bootstrap interval."""

    value: float
    error: float | None
    low: float | None
    high: float | None


class HeldOut:
    """Some rows with what the model gave for them, ready to be scored again on any resample."""

    def __init__(self, task: tasks.Classification, rows: tasks.Rows, objective: Objective) -> None:
        self.task, self.rows, self.objective = task, rows, objective

    def measure(self) -> tuple[torch.Tensor, Score]:
        """Run the model as it is now: logits and score."""
        everything = range(len(self.rows))
        outputs = self.task.outputs(self.rows, everything)
        return outputs["logits"], self.objective.score(len(self.rows), outputs)

    def on(self, logits: torch.Tensor, indices: Sequence[int]) -> float:
        described = self.task.described(self.rows, indices, logits[list(indices)])
        return self.objective.score(len(indices), described).value

    def resamples(self) -> bool:
        """Whether the objective can be computed again from logits alone."""
        return "model" not in self.objective.required

    def scored(self, logits: torch.Tensor, score: Score, seed: int) -> Scored:
        n = len(self.rows)
        if score.samples is not None:
            known = [s for s in score.samples if s is not None]
            return Scored(score.value, _spread(known) / math.sqrt(len(known)) if len(known) > 1 else None, n)
        if not self.resamples():
            return Scored(score.value, None, n)
        values = _tolerant(lambda i: self.on(logits, i), n, seed)
        return Scored(score.value, _spread(values) if values else None, n)

    def difference(
        self, before: tuple[torch.Tensor, Score], after: tuple[torch.Tensor, Score], seed: int
    ) -> Difference:
        """after - before, with the interval of a paired bootstrap over rows."""
        n, value = len(self.rows), after[1].value - before[1].value
        a, b = before[1].samples, after[1].samples
        if a is not None and b is not None and None not in a and None not in b:
            gaps = [y - x for x, y in zip(a, b, strict=True) if x is not None and y is not None]
            values = bootstrap(lambda i: math.fsum(gaps[k] for k in i) / len(i), n, seed)
        elif self.resamples():
            values = _tolerant(lambda i: self.on(after[0], i) - self.on(before[0], i), n, seed)
        else:
            values = []
        if not values:
            return Difference(value, None, None, None)
        values.sort()
        low, high = (values[min(int(q * len(values)), len(values) - 1)] for q in (0.025, 0.975))
        return Difference(value, _spread(values), low, high)


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
    """Values of `score(row indices)` on RESAMPLES resamples with replacement; SECONDS later it stops, not below 100."""
    rng, out, start = random.Random(seed), [], time.monotonic()
    for done in range(RESAMPLES):
        out.append(score([rng.randrange(rows) for _ in range(rows)]))
        if done >= 99 and time.monotonic() - start > SECONDS:
            break
    return out


def linear_probe(held: HeldOut, train: tasks.Rows, seed: int) -> Scored | None:
    """What logistic regression on the embeddings of the weights as they are scores on the held-out rows.

    Its strength is chosen by cross-validation on the training rows, with their labels. None where a class has fewer
    than two rows, or the objective cannot use it.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    rarest = min(train.gold.count(g) for g in set(train.gold))
    if len(set(train.gold)) < 2 or rarest < 2:
        return None
    task, rows = held.task, held.rows
    search = GridSearchCV(LogisticRegression(max_iter=2000), {"C": [1.0, 10.0, 100.0]}, cv=min(5, rarest))
    search.fit(task.features(train).numpy(), train.gold)
    logits = torch.full((len(rows), len(task.classes.words)), -30.0)
    found = torch.tensor(search.predict_log_proba(task.features(rows).numpy())).float()
    logits[:, [int(c) for c in search.classes_]] = found
    try:
        score = held.objective.score(len(rows), task.described(rows, range(len(rows)), logits))
    except ObjectiveError:
        return None
    return held.scored(logits, score, seed)
