"""From points to floats: what an optimizer may ask in a step.

The oracle evaluates points of weight space with the objective; smaller is always better here, whatever direction the
objective has. A failed score is never a number: it is retried, and then ends the step with ObjectiveError. Everything
that a step learns goes through its tape, so that a replay reads the same numbers without a forward pass.

Knows spaces and journals; knows no model, no metric and no optimizer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar, overload

from zotune.core.recipe import Recipe
from zotune.core.space import Space
from zotune.errors import ObjectiveError, UsageError
from zotune.search.batches import Batch, Batches
from zotune.search.journal import Tape
from zotune.types import Direction, Score

T = TypeVar("T")
Evaluate = Callable[[Sequence[int]], Score]
"""Score the weights as they are now on these rows."""
Deal = Callable[[Sequence[Any], Callable[[Any], Any]], list[Any]]
"""Make a JSON value of each item: one by one, or several at the same time."""


class Together(Protocol):
    """What evaluates several points in one forward pass."""

    def groups(self, points: Sequence[Recipe], rows: int) -> list[Sequence[Recipe]]: ...

    def at(self, points: Sequence[Recipe]) -> contextlib.AbstractContextManager[Callable[[int], None]]: ...


class Oracle:
    """Called by a step with points (recipes); gives one float a point, smaller is better.

    evaluations: batches evaluated so far, all points counted; `forwards` of a run. retries: further tries of a failing
    evaluation before the step is given up. passes: how many forward passes of the model an evaluation of so many rows
    makes, or None where that is not known. compare: for an objective that gives an order and no values, the strength
    (larger is better; None: unranked) of what `collect` gave at each of several points; unit: what a whole lost
    comparison is worth as a difference of values, 2ε so that a two-point estimate is within ±1. moved: how far the
    model as it is now has moved from the start, where that can be measured without the objective. deal: how the
    values of several points are computed. together: what evaluates several points in one forward pass, if anything.
    """

    def __init__(
        self,
        space: Space,
        evaluate: Evaluate,
        batches: Batches,
        direction: Direction,
        retries: int = 1,
        passes: Callable[[int], int | None] = lambda rows: None,
        collect: Callable[[Sequence[int]], Any] | None = None,
        compare: Callable[[Sequence[Any]], Sequence[float | None]] | None = None,
        unit: float = 1.0,
        moved: Callable[[], float] | None = None,
        deal: Deal | None = None,
    ) -> None:
        self.evaluations, self._deal = 0, deal or _one_by_one
        self._space, self._evaluate, self._batches = space, evaluate, batches
        self._sign = -1.0 if direction == "maximize" else 1.0
        self._retries, self._passes = retries, passes
        self._collect, self._compare, self.unit = collect or evaluate, compare, unit
        self._moved = moved
        self.together: Together | None = None
        self._tape, self._own = Tape(), batches.at(0)

    def begin(self, tape: Tape, step: int, batch: Batch | None = None) -> None:
        """A step begins, with its own batch unless another is said."""
        self._tape, self._own = tape, batch or self._batches.at(step)
        self._space.step = step

    @overload
    def __call__(self, *points: Recipe, batch: Batch | None = None) -> tuple[float, ...]: ...
    @overload
    def __call__(
        self, *points: Recipe, batch: Batch | None = None, per_sample: Literal[True]
    ) -> tuple[tuple[float | None, ...], ...]: ...
    def __call__(self, *points: Recipe, batch: Batch | None = None, per_sample: bool = False) -> Any:
        """The value of each point on `batch` (the step's own unless said otherwise).

        per_sample=True gives a tuple of one float a row (None: not applicable) for each point instead; the objective
        must be sample-level. An objective that gives an order has values for several points alone: the share of
        comparisons that each lost among them, in units of `unit`. Raises ObjectiveError when an evaluation failed and
        its retries too; the weights are as they were.
        """
        if self._compare is not None and (per_sample or len(points) < 2):
            raise UsageError("this objective gives an order: it compares points, and has no values for one alone")
        batch = batch or self._own
        self.evaluations += len(points) * self._batches.cost(batch)
        if per_sample:
            taken = self._tape.take("samples", lambda: self._each(points, batch, self._samples))
            return tuple(tuple(None if v is None else float(v) for v in row) for row in taken)
        taken = self._tape.take("values", lambda: self._values(points, batch))
        return tuple(float(v) for v in taken)

    def rank(self, *points: Recipe, batch: Batch | None = None) -> tuple[int | None, ...]:
        """The place of each point, 0 the best, equal ones sharing a place; None where a point was left unranked.

        An objective of values serves it by sorting, an order by being asked. Raises ObjectiveError as a call does.
        """
        batch = batch or self._own
        self.evaluations += len(points) * self._batches.cost(batch)

        def order() -> list[int | None]:
            if self._compare is None:
                values: Sequence[float | None] = self._values(points, batch)
            else:
                values = [None if x is None else -x for x in self._strengths(points, batch)]
            known = [v for v in values if v is not None]
            return [None if v is None else sum(other < v for other in known) for v in values]

        return tuple(self._tape.take("ranks", order))

    @property
    def measures_drift(self) -> bool:
        """Whether `drift` can be asked for."""
        return self._moved is not None

    def drift(self, *points: Recipe) -> tuple[float, ...]:
        """How far the model at each point has moved from the start, in nats a token: the mean loss of likelihood of
        what the model said at the start, an unbiased estimate of the Kullback-Leibler divergence of both. Asks the
        objective nothing; each point counts as one evaluation."""
        moved = self._moved
        if moved is None:
            raise UsageError("how far this model moves is not measured; look at `measures_drift`")
        self.evaluations += len(points)

        def ask(point: Recipe) -> float:
            with self._space.at(point, self._passes(self._batches.size)):
                return moved()

        return tuple(float(v) for v in self._tape.take("drift", lambda: self._deal(points, ask)))

    def _values(self, points: Sequence[Recipe], batch: Batch) -> list[float]:
        if self._compare is None:
            return self._each(points, batch, self._value)
        return [self.unit * (0.5 if x is None else 1.0 - x) for x in self._strengths(points, batch)]

    def _strengths(self, points: Sequence[Recipe], batch: Batch) -> list[float | None]:
        """What comparing the points says of each; a failing comparison is made again, with the same candidates."""
        assert self._compare is not None
        compare, candidates = self._compare, self._each(points, batch, self._collect, dealt=False)
        return self._again(lambda: _checked(compare(candidates), len(points)))

    def _at(self, point: Recipe, batch: Batch, ask: Callable[[Sequence[int]], T]) -> T:
        """What `ask` says of these rows at a point; a failing one is asked again."""

        def there() -> T:
            with self._space.at(point, self._passes(len(batch.rows))):
                return ask(batch.rows)

        return self._again(there)

    def _again(self, compute: Callable[[], T]) -> T:
        """What `compute` gives; where the objective fails, again, `retries` times at most."""
        for _ in range(self._retries):
            with contextlib.suppress(ObjectiveError):
                return compute()
        return compute()

    def _each(
        self, points: Sequence[Recipe], batch: Batch, ask: Callable[[Sequence[int]], T], dealt: bool = True
    ) -> list[T]:
        """What `ask` says of the batch's rows at each point. dealt: whether it is a JSON value, which processes can
        share."""
        groups = self.together.groups(points, len(batch.rows)) if self.together else []
        if groups and self.together:
            return [found for group in groups for found in self._jointly(self.together, group, batch, ask)]
        deal = self._deal if dealt else _one_by_one
        return deal(points, lambda p: self._at(p, batch, ask))

    def _jointly(
        self, them: Together, points: Sequence[Recipe], batch: Batch, ask: Callable[[Sequence[int]], T]
    ) -> Iterator[T]:
        """`ask` at each of some points that share their forward passes; a failing one is asked again."""
        with them.at(points) as turn:
            for k in range(len(points)):
                turn(k)
                yield self._again(lambda: ask(batch.rows))

    def _score(self, rows: Sequence[int]) -> Score:
        score = self._evaluate(rows)
        if not math.isfinite(score.value):
            raise ObjectiveError(f"the objective returned {score.value}")
        return score

    def _value(self, rows: Sequence[int]) -> float:
        return self._sign * self._score(rows).value

    def _samples(self, rows: Sequence[int]) -> list[float | None]:
        samples = self._score(rows).samples
        if samples is None:
            raise UsageError("this optimizer needs one score a row, but the objective gives one for the whole set")
        return [None if s is None else self._sign * s for s in samples]


def _one_by_one(items: Sequence[Any], compute: Callable[[Any], Any]) -> list[Any]:
    return [compute(x) for x in items]


def _checked(found: Sequence[Any], points: int) -> list[float | None]:
    """Strengths as they were answered: a finite number, or None, for each point."""
    right = all(x is None or (isinstance(x, int | float) and math.isfinite(x)) for x in found)
    if len(found) != points or not right:
        raise ObjectiveError(f"comparing {points} points gives {points} finite strengths or Nones, got {found!r}")
    return [None if x is None else float(x) for x in found]


__all__ = ["Evaluate", "Oracle"]
