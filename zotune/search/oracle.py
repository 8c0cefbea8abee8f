"""The oracle: evaluates points of weight space with the objective, for the steps of an optimizer.

Smaller is better in every value it returns, whatever the objective's direction. A failed evaluation is never a number:
the oracle retries it, and then the step ends with ObjectiveError. Every value goes through the step's tape, so that a
replay reads the same values without a forward pass.

Knows spaces and journals; knows no model, no metric and no optimizer.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar, overload

from zotune import types
from zotune.core.joint_forward import JointForward
from zotune.core.population import Population
from zotune.core.recipe import Directions, PerTensor, Recipe, concrete
from zotune.core.space import Space
from zotune.errors import NonFiniteScore, ObjectiveError, UsageError
from zotune.scales import deviation
from zotune.search.batches import Batches
from zotune.search.journal import Tape
from zotune.types import Batch, Direction, Score

T = TypeVar("T")
Evaluate = Callable[[Sequence[int]], Score]
"""Scores the present weights on the training rows with these indices."""
MemberValue = float | None
"""What a member scored in the objective's direction; None where its score failed."""
ScoreMembers = Callable[[Population, Sequence[int], int], Sequence[MemberValue]]
"""Scores all members of a population in shared forward passes. Called with the population, the training rows of its
pairs and the rows a pair; returns the values of the members with +, then of those with −."""
Distribute = Callable[[Sequence[Any], Callable[[Any], Any]], list[Any]]
"""Computes a JSON value for each item, in order: one after the other, or shared among processes."""


class Oracle:
    """Called by a step with points (recipes); returns one float a point, smaller is better.

    evaluate: the training signal. direction: the objective's. retries: further attempts of a failing evaluation before
    the step is dropped. passes: forward passes that an evaluation of so many rows makes, or None where unknown.
    collect, compare: for an objective that gives an order instead of values: `collect` returns the candidates of the
    present weights for these rows, `compare` the strength of each point's candidates (larger is better, None:
    unranked). unit: the difference of values that a wholly lost comparison stands for; 2ε keeps a two-point estimate
    within ±1. kl: measures the KL divergence of the present weights from the base model, in nats a token, without the
    objective; None where that is not possible. distribute: computes the values of several points.

    evaluations: evaluations so far (one batch at one point counts one). queries: the same in single rows: one row at
    one point counts one. joint: evaluates several points in one forward
    pass, where that is switched on. score_members: scores a population with a direction for each row, where that is
    switched on; without, each member is evaluated under written weights. rows_in_pass: rows of such a pass at most.
    score_preferences: scores a population on the answers that people have given so far, where these are reused.
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
        kl: Callable[[], float] | None = None,
        distribute: Distribute | None = None,
    ) -> None:
        self.evaluations = self.queries = 0
        self.seconds = 0.0
        self.unit = unit
        self.joint: JointForward | None = None
        self.score_members: ScoreMembers | None = None
        self.score_preferences: Callable[[Population], Sequence[float]] | None = None
        self.rows_in_pass: Callable[[], int] | None = None
        self._space, self._evaluate, self._batches = space, evaluate, batches
        self._sign = -1.0 if direction == "maximize" else 1.0
        self._retries, self._passes = retries, passes
        self._collect, self._compare = collect or evaluate, compare
        self._kl, self._distribute = kl, distribute or _one_by_one
        self._tape, self._batch = Tape(), batches.at(0)

    def begin(self, tape: Tape, step: int, batch: Batch | None = None) -> None:
        """Begin a step. batch: the step's batch, by default the one that `Batches` draws for it."""
        self._tape, self._batch = tape, batch or self._batches.at(step)
        self._space.step = step

    def _count(self, points: int, batch: Batch) -> None:
        self.evaluations += points * self._batches.cost(batch)
        self.queries += points * len(batch.rows)

    def resume(self, evaluations: int) -> None:
        """Take over a recorded number of evaluations; those that were not repeated count as whole batches."""
        self.queries += (evaluations - self.evaluations) * self._batches.size
        self.evaluations = evaluations

    @overload
    def __call__(self, *points: types.Recipe, batch: Batch | None = None) -> tuple[float, ...]: ...
    @overload
    def __call__(
        self, *points: types.Recipe, batch: Batch | None = None, per_sample: Literal[True]
    ) -> tuple[tuple[float | None, ...], ...]: ...
    def __call__(self, *points: types.Recipe, batch: Batch | None = None, per_sample: bool = False) -> Any:
        """The value of each point on `batch`, by default the step's batch.

        per_sample=True returns a tuple of one float a row (None: not applicable) for each point instead; the objective
        must be sample-level. An objective that gives an order has no value for a single point: for several points the
        value is the share of comparisons that a point lost among them, times `unit`. Raises ObjectiveError where an
        evaluation and its retries failed; the weights are unchanged.
        """
        if self._compare is not None and (per_sample or len(points) < 2):
            raise UsageError(
                "this objective compares points and has no value for a single one; pass at least two points"
            )
        batch, recipes = batch or self._batch, [concrete(p) for p in points]
        self._count(len(points), batch)
        if per_sample:
            rows = self._take("samples", lambda: self._each(recipes, batch, self._samples))
            return tuple(tuple(None if v is None else float(v) for v in row) for row in rows)
        values = self._take("values", lambda: self._values(recipes, batch))
        return tuple(float(v) for v in values)

    def spread(self, point: types.Recipe, batch: Batch | None = None) -> tuple[float, float | None]:
        """The value of a point, and the standard deviation of the values of its rows.

        The deviation is None where the objective scores the rows together, or fewer than two have a value. It counts as
        an evaluation of the point. Raises UsageError for an objective that gives an order, ObjectiveError.
        """
        if self._compare is not None:
            raise UsageError("this objective compares points and has no value for a single one")
        batch, recipe = batch or self._batch, concrete(point)
        self._count(1, batch)

        def compute(rows: Sequence[int]) -> list[float | None]:
            score = self._score(rows)
            valid = [s for s in score.samples or () if s is not None]
            return [self._sign * score.value, deviation(valid) if len(valid) > 1 else None]

        value, spread = self._take("spread", lambda: self._each([recipe], batch, compute))[0]
        return float(value), None if spread is None else float(spread)

    def rank(self, *points: types.Recipe, batch: Batch | None = None) -> tuple[int | None, ...]:
        """The rank of each point: 0 is the best, equal points share a rank, None where a point is unranked.

        An objective that gives values is sorted; one that gives an order is asked. Raises ObjectiveError.
        """
        batch, recipes = batch or self._batch, [concrete(p) for p in points]
        self._count(len(points), batch)

        def ranks() -> list[int | None]:
            if self._compare is None:
                values: Sequence[float | None] = self._values(recipes, batch)
            else:
                values = [None if x is None else -x for x in self._strengths(recipes, batch)]
            ranked = [v for v in values if v is not None]
            return [None if v is None else sum(other < v for other in ranked) for v in values]

        return tuple(self._take("ranks", ranks))

    def population(
        self,
        directions: types.Directions,
        sizes: types.PerTensor,
        *,
        scales: Sequence[float] = (),
        each: int | None = None,
        batch: Batch | None = None,
    ) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
        """The values of the members θ + S u_p v_pᵀ, and of their partners θ − S u_p v_pᵀ.

        scales: a further factor of S for each pair, by default 1. Partners score the same rows, with the same
        randomness where text is sampled. each: rows a member, by default those of the run's population. batch: the rows
        of the pairs in order, repeated where there are fewer; by default the step's next rows of the epoch. None: a
        member whose score failed or does not apply. An objective that gives an order compares partners: the better one
        has the smaller value. Raises ObjectiveError where fewer than half of the pairs have two values, and UsageError
        where `sizes` leaves no tensor.
        """
        each = self._batches.population.each if each is None else each
        if not isinstance(directions, Directions) or not isinstance(sizes, PerTensor) or each < 1:
            raise UsageError(
                "a population takes at.directions(…), one size a tensor (theta.per) and each of at least 1"
            )
        if scales and len(scales) != directions.count:
            raise UsageError(f"a population of {directions.count} pairs takes as many scales, got {len(scales)}")
        used = {n: size for n in directions.shapes if (size := sizes.values.get(n, 0.0))}
        if not used:
            raise UsageError("a population needs a size other than 0 for one of its tensors")
        count = directions.count * each
        drawn = (batch or self._batches.members(self._space.step, count)).rows
        rows = [drawn[i % len(drawn)] for i in range(count)]
        self.evaluations += -(-2 * count // self._batches.size)
        self.queries += 2 * count
        population = Population(directions, used, tuple(map(float, scales)))
        values = self._take("members", lambda: self._members(population, rows, each))
        both = tuple(None if v is None else float(v) for v in values)
        return both[: directions.count], both[directions.count :]

    def preferences(
        self, directions: types.Directions, sizes: types.PerTensor
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The preference loss of the members θ + S u_p v_pᵀ, and of their partners, on the answers so far.

        Each pair of members has one answer, in a drawn order. Two empty tuples where nothing was preferred yet. Costs
        forward passes and no score, and counts as no evaluation.
        """
        if not isinstance(directions, Directions) or not isinstance(sizes, PerTensor):
            raise UsageError("preferences take at.directions(…) and one size a tensor (theta.per)")
        used = {n: size for n in directions.shapes if (size := sizes.values.get(n, 0.0))}
        score = self.score_preferences
        values = self._take("preferences", lambda: [*score(Population(directions, used))] if score and used else [])
        both = tuple(map(float, values))
        return both[: len(both) // 2], both[len(both) // 2 :]

    @property
    def measures_kl(self) -> bool:
        """Whether `kl` can be called."""
        return self._kl is not None

    def kl(self, *points: types.Recipe, counted: bool = True) -> tuple[float, ...]:
        """KL divergence of the model at each point from the base model, in nats a token.

        It is estimated on texts sampled from the base model, as the mean log-likelihood that they lose; the estimate is
        unbiased. The objective is not called. counted: whether a point counts as an evaluation; it takes one forward
        pass and generates nothing. Raises UsageError where `measures_kl` is false.
        """
        measure = self._kl
        if measure is None:
            raise UsageError("the KL divergence of this model is not measured; check oracle.measures_kl first")
        recipes = [concrete(p) for p in points]
        self.evaluations += len(recipes) if counted else 0
        self.queries += len(recipes) * self._batches.size if counted else 0

        def at(point: Recipe) -> float:
            with self._space.at(point, self._passes(self._batches.size)):
                return measure()

        return tuple(float(v) for v in self._take("drift", lambda: self._distribute(recipes, at)))

    def _take(self, kind: str, compute: Callable[[], Any]) -> Any:
        """The next value of the step's tape; its time counts."""
        started = time.monotonic()
        try:
            return self._tape.take(kind, compute)
        finally:
            self.seconds += time.monotonic() - started

    def _members(self, population: Population, rows: Sequence[int], each: int) -> list[float | None]:
        """The value of each member with + and then of each with −; smaller is better."""
        pairs = population.pairs
        if self.score_members is not None:
            score = self.score_members
            values = self._retried(lambda: [*score(population, rows, each)])
            if self._compare is not None:  # the share that a member wins against its partner
                out = [None if v is None else self.unit * (1.0 - v) for v in values]
            else:
                out = [None if v is None else self._sign * v for v in values]
        else:
            out = self._written_members(population, rows, each)
        scored = len(partners(out))
        if 2 * scored < pairs:
            raise ObjectiveError(f"{pairs - scored} of {pairs} pairs of a population were not scored")
        return out

    def _written_members(self, population: Population, rows: Sequence[int], each: int) -> list[float | None]:
        """As `_members`, each member under written weights: for any model and objective."""

        def value(member: tuple[int, int]) -> float | None:
            pair, sign = member
            batch = Batch(tuple(rows[pair * each : (pair + 1) * each]))
            try:
                return self._at(population.member(self._space.theta, pair, sign), batch, self._value)
            except ObjectiveError as error:
                failures.append(error)
                if len(failures) > population.pairs:  # more than half: the step is lost
                    raise
                return None

        failures: list[ObjectiveError] = []
        if self._compare is None:
            members = [(pair, sign) for sign in (1, -1) for pair in range(population.pairs)]
            return list(self._distribute(members, value))
        theta, won = self._space.theta, list[float]()
        for pair in range(population.pairs):
            batch = Batch(tuple(rows[pair * each : (pair + 1) * each]))
            up, down = self._values([population.member(theta, pair, sign) for sign in (1, -1)], batch)
            won += [up, down]
        return [*won[0::2], *won[1::2]]

    def _values(self, points: Sequence[Recipe], batch: Batch) -> list[float]:
        if self._compare is None:
            return self._each(points, batch, self._value)
        return [self.unit * (0.5 if x is None else 1.0 - x) for x in self._strengths(points, batch)]

    def _strengths(self, points: Sequence[Recipe], batch: Batch) -> list[float | None]:
        """The strength of each point by comparison; a failing comparison is retried with the same candidates."""
        assert self._compare is not None
        compare = self._compare
        candidates = self._each(points, batch, self._collect, distributed=False)
        return self._retried(lambda: _checked_strengths(compare(candidates), len(points)))

    def _each(
        self,
        points: Sequence[Recipe],
        batch: Batch,
        compute: Callable[[Sequence[int]], T],
        distributed: bool = True,
    ) -> list[T]:
        """What `compute` returns for the batch's rows at each point. distributed: whether that is a JSON value, which
        processes can exchange."""
        groups = self.joint.groups(points, len(batch.rows)) if self.joint else []
        if groups and self.joint:
            return [value for group in groups for value in self._jointly(self.joint, group, batch, compute)]
        distribute = self._distribute if distributed else _one_by_one
        return distribute(points, lambda point: self._at(point, batch, compute))

    def _at(self, point: Recipe, batch: Batch, compute: Callable[[Sequence[int]], T]) -> T:
        """What `compute` returns for the batch's rows at one point, with retries."""

        def attempt() -> T:
            with self._space.at(point, self._passes(len(batch.rows))):
                return compute(batch.rows)

        return self._retried(attempt)

    def _jointly(
        self, joint: JointForward, points: Sequence[Recipe], batch: Batch, compute: Callable[[Sequence[int]], T]
    ) -> Iterator[T]:
        """What `compute` returns at each of several points that share their forward passes, with retries."""
        with joint.at(points) as select:
            for k in range(len(points)):
                select(k)
                yield self._retried(lambda: compute(batch.rows))

    def _retried(self, compute: Callable[[], T]) -> T:
        """What `compute` returns; while the objective fails, it is called again, at most `retries` times."""
        for _ in range(self._retries):
            with contextlib.suppress(ObjectiveError):
                return compute()
        return compute()

    def _score(self, rows: Sequence[int]) -> Score:
        score = self._evaluate(rows)
        if not math.isfinite(score.value):
            raise NonFiniteScore(f"the objective returned {score.value}")
        return score

    def _value(self, rows: Sequence[int]) -> float:
        return self._sign * self._score(rows).value

    def _samples(self, rows: Sequence[int]) -> list[float | None]:
        samples = self._score(rows).samples
        if samples is None:
            raise UsageError("this optimizer needs one score a row, but the objective returns one for the whole batch")
        return [None if s is None else self._sign * s for s in samples]


def partners(values: Sequence[float | None]) -> list[tuple[float, float]]:
    """The values of a population's pairs that have both: of each member with + and its partner."""
    half = len(values) // 2
    pairs = zip(values[:half], values[half:], strict=True)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def _one_by_one(items: Sequence[Any], compute: Callable[[Any], Any]) -> list[Any]:
    return [compute(x) for x in items]


def _checked_strengths(strengths: Sequence[Any], points: int) -> list[float | None]:
    """Strengths as a comparison returned them. Raises ObjectiveError unless each point has a finite number or None."""
    valid = all(x is None or (isinstance(x, int | float) and math.isfinite(x)) for x in strengths)
    if len(strengths) != points or not valid:
        raise ObjectiveError(
            f"a comparison of {points} points must return {points} finite strengths, got {strengths!r}"
        )
    return [None if x is None else float(x) for x in strengths]


__all__ = ["Evaluate", "Oracle", "partners"]
