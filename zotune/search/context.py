"""The context of a step (`At`): its number, noise, batches, learning-rate schedule and journaled reductions.

Knows spaces, batches and the journal's tape; knows no objective and no optimizer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from zotune import seeds, types
from zotune.core.population import matrix_shape
from zotune.core.recipe import Directions, Factor, Noise, PerTensor, Recipe, concrete
from zotune.core.space import Space
from zotune.errors import UsageError
from zotune.search import schedule
from zotune.search.batches import Batches
from zotune.search.journal import Tape
from zotune.types import Batch, Learning, PopulationSize, Schedule, TensorInfo


class At:
    """The moment of a step, with the noise, the batches and the reductions that the step may ask for.

    t: the step, from 0 (-1 in init); total: planned steps, None where only time limits the run; progress: share of the
    budget that is used, in [0, 1). batch: the step's batch, by default the one that `batches` draws for t. damping:
    factor on the step's update, below 1 after a rollback; interpolated: whether the weights were interpolated toward
    the base model since the last step, by a rollback.
    """

    def __init__(
        self,
        space: Space,
        batches: Batches,
        tape: Tape,
        t: int,
        total: int | None,
        progress: float,
        batch: Batch | None = None,
        damping: float = 1.0,
    ) -> None:
        self.t, self.total, self.progress, self.damping = t, total, progress, damping
        self.interpolated = False
        self._space, self._batches, self._tape = space, batches, tape
        self._batch = batch or batches.at(t)

    @property
    def epoch(self) -> int:
        """Whole passes over the training rows before this step."""
        return max(self.t, 0) // self._batches.per_epoch

    @property
    def per_epoch(self) -> int:
        """Steps that one pass over the training rows takes."""
        return self._batches.per_epoch

    def schedule(self, kind: Schedule) -> float:
        """The factor of the learning rate at this step: 1 at the start of the budget, and by its end 1 ("constant") or
        0 ("linear", "cosine"). Raises OptionError on an unknown schedule.

            lr = self.lr * at.schedule(self.schedule)
        """
        return schedule.factor(kind, self.progress)

    def cost(self, batch: Batch) -> int:
        """Evaluations that one point costs on this batch."""
        return self._batches.cost(batch)

    def normal(self, draw: int = 0, step: int | None = None) -> Noise:
        """Noise of mean 0 and variance 1 for every element. The handle is repeatable: nothing is drawn before use."""
        return Noise("normal", self.t if step is None else step, draw)

    def rademacher(self, draw: int = 0, step: int | None = None) -> Noise:
        """Noise of -1 and 1, one random bit for each element."""
        return Noise("rademacher", self.t if step is None else step, draw)

    def sphere(self, draw: int = 0, step: int | None = None) -> Recipe:
        """Noise on the sphere of radius √d in d dimensions, so that E[zzᵀ] = I.

        It is `normal` divided by its length, which is summed in float64 and journaled.
        """
        z = self.normal(draw, step)
        length = math.sqrt(math.fsum(n * n for n in self.norm(z).values.values()))
        return math.sqrt(sum(t.numel for t in self._space.theta.tensors)) / length * z

    def factor(
        self, shape: Callable[[TensorInfo], tuple[int, int] | None], draw: int = 0, step: int | None = None
    ) -> Factor:
        """A small matrix of normal noise for each tensor. shape: returns (rows, columns), or None for no matrix.

        `outer(U, V)` makes a direction of two factors: U of shape (t.shape[0], rank), V of (t.numel // t.shape[0],
        rank).
        """
        shapes = {t.name: s for t in self._space.theta.tensors if (s := shape(t)) is not None}
        return Factor(shapes, self.t if step is None else step, draw)

    def directions(self, count: int, draw: int = 0, step: int | None = None) -> Directions:
        """`count` directions u_p v_pᵀ for every tuned matrix: linear weights and embeddings, but those that read all
        rows alike. Elements have mean 0 and variance 1. Raises UsageError where no tuned tensor is a matrix."""
        without = self._batches.population.without
        tensors = self._space.theta.tensors
        shapes = {t.name: s for t in tensors if t.name not in without and (s := matrix_shape(t)) is not None}
        if not shapes:
            raise UsageError("a population needs a tuned matrix, and no tuned tensor is one", hint="a wider --tune")
        return Directions(shapes, count, self.t if step is None else step, draw)

    @property
    def population(self) -> PopulationSize:
        """Rows that a step's population scores, and rows a member; no rows where a member costs a pass of its own."""
        return self._batches.population.size

    @property
    def learning(self) -> Learning:
        """What the steps of a population learn from, where people compare completions."""
        return self._batches.population.learning

    @property
    def max_kl(self) -> float:
        """The KL divergence from the base model that kept weights may have, in nats a token; 0: no limit."""
        return self._batches.population.max_kl

    @property
    def logit_scales(self) -> frozenset[str]:
        """Names of the tuned tensors by which all logits are multiplied; empty where completions are greedy, or the
        model has none."""
        return self._batches.population.logit_scales

    def vector(self, length: int, draw: int = 0) -> list[float]:
        """`length` standard normal numbers on the host, for searches over few numbers (such as DiZO's ratios)."""
        rng = random.Random(seeds.derive(self._space.seed, "vector", self.t, draw))
        return [rng.gauss(0.0, 1.0) for _ in range(length)]

    @property
    def full(self) -> Batch:
        """All training rows."""
        return self._batches.full

    def sample(self, draw: int) -> Batch:
        """A batch of this step: draw 0 is the step's own batch, other draws are independent samples."""
        return self._batches.at(self.t, draw) if draw else self._batch

    def large(self, rows: int) -> Batch:
        """A seeded sample of at least so many rows, for calibration; all rows where there are fewer."""
        return self._batches.sample(self.t, rows)

    def norm(self, recipe: types.Recipe) -> PerTensor:
        """The Euclidean norm of the recipe on each tensor, summed in float64 and journaled."""
        return self._reduce("norm", recipe, _squares, lambda parts: math.sqrt(math.fsum(s for s, _ in parts)))

    def rms(self, recipe: types.Recipe) -> PerTensor:
        """The root mean square of the recipe on each tensor, journaled."""

        def join(parts: Sequence[tuple[float, int]]) -> float:
            return math.sqrt(math.fsum(s for s, _ in parts) / sum(n for _, n in parts))

        return self._reduce("rms", recipe, _squares, join)

    def quantile(self, recipe: types.Recipe, q: float) -> PerTensor:
        """The q-quantile of the recipe on each tensor, with linear interpolation, journaled.

        It takes a few passes over the recipe instead of sorting (`Space.ordered`). Raises UsageError for q outside
        [0, 1].
        """
        if not 0.0 <= q <= 1.0:
            raise UsageError(f"quantile needs q in [0, 1], got {q}")

        point = concrete(recipe)

        def values() -> dict[str, float]:
            places = {n: q * (p.numel() - 1) for n, p in self._space.params.items()}
            low = self._space.ordered(point, {n: math.floor(x) for n, x in places.items()})
            high = self._space.ordered(point, {n: math.ceil(x) for n, x in places.items()})
            return {n: low[n] + (high[n] - low[n]) * (x - math.floor(x)) for n, x in places.items()}

        return self._journaled("quantile", values)

    def _reduce(
        self,
        kind: str,
        recipe: types.Recipe,
        fold: Callable[[torch.Tensor], Any],
        join: Callable[[Sequence[Any]], float],
    ) -> PerTensor:
        return self._journaled(kind, lambda: self._space.reduce(concrete(recipe), fold, join))

    def _journaled(self, kind: str, compute: Callable[[], Mapping[str, float]]) -> PerTensor:
        values = self._tape.take(kind, lambda: list(compute().values()))
        return PerTensor(dict(zip(self._space.params, (float(v) for v in values), strict=True)))


def _squares(part: torch.Tensor) -> tuple[float, int]:
    """The sum of squares of a chunk in float64, and its length."""
    return float(part.double().square().sum()), part.numel()


__all__ = ["At"]
