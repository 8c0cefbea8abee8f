"""From points to floats: what an optimizer may ask in a step.

The oracle evaluates points of weight space with the objective; smaller is always better here, whatever direction the
objective has. A failed score is never a number: it is retried, and then ends the step with ObjectiveError. Everything
that a step learns goes through its tape, so that a replay reads the same numbers without a forward pass.

Knows spaces and journals; knows no model, no metric and no optimizer.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, overload

import torch

from zotune import seeds
from zotune.core.recipe import Factor, Noise, PerTensor, Recipe, TensorInfo
from zotune.core.space import Space
from zotune.errors import ObjectiveError, UsageError
from zotune.search.journal import Tape
from zotune.types import Direction, Score

T = TypeVar("T")
Evaluate = Callable[[Sequence[int]], Score]
"""Score the weights as they are now on these rows."""
Deal = Callable[[Sequence[Any], Callable[[Any], Any]], list[Any]]
"""Make a JSON value of each item: one by one, or several at the same time."""


@dataclass(frozen=True)
class Batch:
    """Row indices into the training data."""

    rows: tuple[int, ...]

    @property
    def each(self) -> tuple[Batch, ...]:
        """Every row as a batch of its own."""
        return tuple(Batch((row,)) for row in self.rows)


class Batches:
    """Batches as a pure function of (seed, step, draw): epochs are seeded permutations, no iterator state exists.

    rows: number of training rows; size: rows a batch, at most all of them; strata: the stratum of each row (its class),
    where every batch is to hold them in the proportions of all rows, but for rounding (proportional allocation, Neyman
    1934); what differs between classes is then no noise of a batch. None: simple random samples.
    """

    def __init__(self, rows: int, size: int, seed: int, strata: Sequence[Hashable] | None = None) -> None:
        if rows < 1 or size < 1:
            raise UsageError(f"batches need at least one row and a size of at least 1, got {rows} rows and size {size}")
        if strata is not None and len(strata) != rows:
            raise UsageError(f"batches need a stratum for each row, got {len(strata)} for {rows} rows")
        self.rows, self.size, self.seed, self.strata = rows, min(size, rows), seed, strata
        members: dict[Hashable, list[int]] = {}
        for row, stratum in enumerate(strata or ()):
            members.setdefault(stratum, []).append(row)
        self._members = tuple(members.values())
        self._epoch = functools.lru_cache(2)(self._permutation)

    @property
    def per_epoch(self) -> int:
        return self.rows // self.size

    def _permutation(self, epoch: int) -> list[int]:
        rng = random.Random(seeds.derive(self.seed, "epoch", epoch))
        if self._members:
            return self._spread(rng)
        order = list(range(self.rows))
        rng.shuffle(order)
        return order

    def _spread(self, rng: random.Random) -> list[int]:
        """All rows in an order in which each stratum is shuffled and lies at even distances, from a random place on."""
        places: list[tuple[float, int]] = []
        for members in self._members:
            shuffled, offset = rng.sample(members, len(members)), rng.random()
            places += [((k + offset) / len(members), row) for k, row in enumerate(shuffled)]
        return [row for _, row in sorted(places)]

    def _sample(self, rng: random.Random, count: int) -> Batch:
        return Batch(tuple(self._spread(rng)[:count] if self._members else rng.sample(range(self.rows), count)))

    def at(self, step: int, draw: int = 0) -> Batch:
        """Draw 0 walks through epochs without replacement; further draws of a step are independent samples."""
        if self.size == self.rows:
            return self.full
        if draw:
            return self._sample(random.Random(seeds.derive(self.seed, "draw", step, draw)), self.size)
        epoch, place = divmod(step, self.per_epoch)
        return Batch(tuple(self._epoch(epoch)[place * self.size : (place + 1) * self.size]))

    def sample(self, step: int, rows: int) -> Batch:
        """A seeded sample of max(rows, size) rows without replacement."""
        rng = random.Random(seeds.derive(self.seed, "sample", step))
        return self._sample(rng, min(max(rows, self.size), self.rows))

    @property
    def full(self) -> Batch:
        return Batch(tuple(range(self.rows)))

    def reseeded(self, by: int) -> Batches:
        """The same rows, drawn by another seed."""
        return Batches(self.rows, self.size, self.seed + by, self.strata)

    def cost(self, batch: Batch) -> int:
        """Evaluations that one point costs on this batch: ⌈rows / size⌉."""
        return math.ceil(len(batch.rows) / self.size)


class At:
    """When and where a step is: time, noise, batches and reductions.

    t: step, from 0 (-1 in init); total: planned steps, or None where only time limits the run; progress: share of the
    budget that is used, in [0, 1); own: the step's own batch, where it is another than its number says.
    """

    def __init__(
        self,
        space: Space,
        batches: Batches,
        tape: Tape,
        t: int,
        total: int | None,
        progress: float,
        own: Batch | None = None,
    ) -> None:
        self.t, self.total, self.progress = t, total, progress
        self._space, self._batches, self._tape = space, batches, tape
        self._own = own or batches.at(t)

    @property
    def epoch(self) -> int:
        """Whole passes over the training rows before this step."""
        return max(self.t, 0) // self._batches.per_epoch

    @property
    def per_epoch(self) -> int:
        """Steps that one pass over the training rows takes."""
        return self._batches.per_epoch

    def cost(self, batch: Batch) -> int:
        """Evaluations that one point costs on this batch."""
        return self._batches.cost(batch)

    def normal(self, draw: int = 0, step: int | None = None) -> Noise:
        """Noise of mean 0 and variance 1 for every element: explicit and repeatable, drawn when it is evaluated."""
        return Noise("normal", self.t if step is None else step, draw)

    def rademacher(self, draw: int = 0, step: int | None = None) -> Noise:
        """Noise of -1 and 1, one random bit an element."""
        return Noise("rademacher", self.t if step is None else step, draw)

    def sphere(self, draw: int = 0, step: int | None = None) -> Recipe:
        """Noise on the sphere of radius √d in d dimensions, so that E[zzᵀ] = I: `normal` divided by its length, which
        is summed in float64 and journaled."""
        z = self.normal(draw, step)
        length = math.sqrt(math.fsum(n * n for n in self.norm(z).values.values()))
        return math.sqrt(sum(t.numel for t in self._space.theta.tensors)) / length * z

    def factor(
        self, shape: Callable[[TensorInfo], tuple[int, int] | None], draw: int = 0, step: int | None = None
    ) -> Factor:
        """A small matrix of normal noise for each tensor: (rows, columns) as `shape` says, none where it says None.

        `outer(U, V)` makes a direction of two: U of (t.shape[0], rank), V of (t.numel // t.shape[0], rank).
        """
        shapes = {t.name: s for t in self._space.theta.tensors if (s := shape(t)) is not None}
        return Factor(shapes, self.t if step is None else step, draw)

    def vector(self, length: int, draw: int = 0) -> list[float]:
        """`length` standard normal numbers on the host, for small searches (DiZO's ratios)."""
        rng = random.Random(seeds.derive(self._space.seed, "vector", self.t, draw))
        return [rng.gauss(0.0, 1.0) for _ in range(length)]

    @property
    def full(self) -> Batch:
        """All training rows."""
        return self._batches.full

    def sample(self, draw: int) -> Batch:
        """Another batch of this step: draw 0 is the step's own, further draws are independent samples."""
        return self._batches.at(self.t, draw) if draw else self._own

    def large(self, rows: int) -> Batch:
        """A seeded sample of at least this many rows (all where there are fewer), for calibration."""
        return self._batches.sample(self.t, rows)

    def norm(self, recipe: Recipe) -> PerTensor:
        """Euclidean norm of the recipe, one float a tensor, summed in float64 and journaled."""
        return self._reduce("norm", recipe, _squares, lambda parts: math.sqrt(math.fsum(s for s, _ in parts)))

    def rms(self, recipe: Recipe) -> PerTensor:
        """Root mean square of each tensor's elements, journaled."""

        def join(parts: Sequence[tuple[float, int]]) -> float:
            return math.sqrt(math.fsum(s for s, _ in parts) / sum(n for _, n in parts))

        return self._reduce("rms", recipe, _squares, join)

    def quantile(self, recipe: Recipe, q: float) -> PerTensor:
        """The q-quantile of each tensor's elements (linear interpolation), journaled. Nothing is sorted: a few passes
        over the recipe count what is below, digit by digit (`Space.ordered`)."""
        if not 0.0 <= q <= 1.0:
            raise UsageError(f"quantile needs q in [0, 1], got {q}")

        def values() -> dict[str, float]:
            places = {n: q * (p.numel() - 1) for n, p in self._space.params.items()}
            low = self._space.ordered(recipe, {n: math.floor(x) for n, x in places.items()})
            high = self._space.ordered(recipe, {n: math.ceil(x) for n, x in places.items()})
            return {n: low[n] + (high[n] - low[n]) * (x - math.floor(x)) for n, x in places.items()}

        return self._journaled("quantile", values)

    def _reduce(
        self, kind: str, recipe: Recipe, fold: Callable[[torch.Tensor], Any], join: Callable[[Sequence[Any]], float]
    ) -> PerTensor:
        return self._journaled(kind, lambda: self._space.reduce(recipe, fold, join))

    def _journaled(self, kind: str, compute: Callable[[], Mapping[str, float]]) -> PerTensor:
        values = self._tape.take(kind, lambda: list(compute().values()))
        return PerTensor(dict(zip(self._space.params, (float(v) for v in values), strict=True)))


def _squares(part: torch.Tensor) -> tuple[float, int]:
    """The sum of squares of a chunk in float64, and its length."""
    return float(part.double().square().sum()), part.numel()


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


__all__ = ["At", "Batch", "Batches", "Evaluate", "Oracle"]
