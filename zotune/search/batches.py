"""Batches of training rows: which rows each step evaluates, as a pure function of the seed and the step.

Knows row indices and seeds; knows no data, no model and no optimizer.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Hashable, Sequence
from typing import Final

from zotune import seeds
from zotune.errors import UsageError
from zotune.search.population_plan import PopulationPlan
from zotune.types import Batch

MANY_ROWS: Final = 50_000
"""From here on a stratified sample is drawn without an order of all rows."""


class Batches:
    """Batches as a pure function of (seed, step, draw). Epochs are seeded permutations; there is no iterator state.

    rows: number of training rows; size: rows a batch, at most all of them; strata: the stratum of each row, such as its
    class. With strata, every batch holds them in the proportions of the whole data, up to rounding (proportional
    allocation, Neyman 1934), so that differences between strata add no noise to a batch. Without, batches are simple
    random samples. Raises UsageError.

    population: the plan of the run's populations.
    """

    population = PopulationPlan()

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
        """Whole batches in an epoch."""
        return self.rows // self.size

    def _permutation(self, epoch: int) -> list[int]:
        rng = random.Random(seeds.derive(self.seed, "epoch", epoch))
        if self._members:
            return self._spread(rng)
        order = list(range(self.rows))
        rng.shuffle(order)
        return order

    def _spread(self, rng: random.Random) -> list[int]:
        """All rows, so ordered that the rows of each stratum are shuffled and evenly spaced, with a random offset."""
        places: list[tuple[float, int]] = []
        for members in self._members:
            shuffled, offset = rng.sample(members, len(members)), rng.random()
            places += [((k + offset) / len(members), row) for k, row in enumerate(shuffled)]
        return [row for _, row in sorted(places)]

    def _sample(self, rng: random.Random, count: int) -> Batch:
        if self._members and self.rows > MANY_ROWS:
            return Batch(tuple(self._first(rng, count)))
        return Batch(tuple(self._spread(rng)[:count] if self._members else rng.sample(range(self.rows), count)))

    def _first(self, rng: random.Random, count: int) -> list[int]:
        """The first rows of an order such as `_spread` returns, without the rest of it."""
        places: list[tuple[float, int]] = []
        for members in self._members:
            drawn, offset = rng.sample(members, min(count, len(members))), rng.random()
            places += [((k + offset) / len(members), row) for k, row in enumerate(drawn)]
        return [row for _, row in sorted(places)[:count]]

    def at(self, step: int, draw: int = 0) -> Batch:
        """The batch of a step. Draw 0 runs through epochs without replacement; other draws are independent samples."""
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

    def members(self, step: int, count: int) -> Batch:
        """The `count` rows of a population's members at a step. Such batches run through epochs without replacement;
        where they are larger than the data, rows come again."""
        start = max(step, 0) * count
        epochs = range(start // self.rows, (start + count - 1) // self.rows + 1)
        rows = [row for epoch in epochs for row in self._epoch(epoch)]
        return Batch(tuple(rows[start % self.rows :][:count]))

    @property
    def full(self) -> Batch:
        """All training rows."""
        return Batch(tuple(range(self.rows)))

    def reseeded(self, by: int) -> Batches:
        """The same batches with `by` added to the seed."""
        batches = copy.copy(self)  # keeps the rows of each stratum
        batches.seed = self.seed + by
        batches._epoch = functools.lru_cache(2)(batches._permutation)
        return batches

    def cost(self, batch: Batch) -> int:
        """Evaluations that one point costs on this batch: ⌈rows / size⌉."""
        return math.ceil(len(batch.rows) / self.size)


__all__ = ["Batch", "Batches"]
