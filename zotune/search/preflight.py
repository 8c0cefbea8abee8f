"""Before the budget is spent: what can be expected of it, from a few dozen forwards that count.

The optimizer is asked for some steps that are not taken, each on two batches without a row in common, with the same
noise. For two-point differences a and b on the two:

    zero share: of steps whose points all have the same value
    r  = Σ ab / √(Σ a² Σ b²): share of a difference's variance that is signal; n times the rows: n r / (1 + (n − 1) r)
    √T r: what T steps of one size learn along the slope, in units of what chance moves them; below 2 it drowns

r is known to about 1/√directions. A gain in the objective's own value is not forecast: slope and curvature at the start
promise several times what runs then bring (docs/log.md).

Knows oracles, spaces and optimizers; no models and no files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zotune import declarations
from zotune.core.space import Space
from zotune.search.batches import Batches
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.search.optimizer_call import checked_step
from zotune.search.oracle import Oracle
from zotune.types import Batch

SHARE = 0.04
"""Of the budget, at most."""
DIRECTIONS = (4, 12)
"""Fewest that say anything, and most."""
WIDER = 4.0
"""Times ε, tried where most steps see no difference."""
ENOUGH = 2.0
"""Times what chance does, from which on a run can be expected to learn."""
MANY = 0.25
"""Share of zero differences that is too much."""


@dataclass(frozen=True)
class Seen:
    """What steps that are not taken have seen. zero: share without a difference; r: share of signal, None where not
    known; signal: √T r, or None."""

    directions: int
    zero: float
    r: float | None
    signal: float | None


@dataclass
class Preflight:
    """evals: the run's budget of evaluations; cost: of a step; rival: what else might do better, as sentences."""

    space: Space
    oracle: Oracle
    batches: Batches
    evals: float
    cost: Callable[[], int]
    rival: Callable[[], Sequence[str]] = tuple

    def __call__(self, optimizer: Any, state: Any, steps: int | None) -> dict[str, Any]:
        """What was found as JSON, `lines` of it for a person; {} where the budget is too small. Raises
        ObjectiveError."""
        size, each = self.batches.size, max(self.cost(), 1)
        count = int(min(SHARE * self.evals / (2 * each), DIRECTIONS[1]))
        lines = list(self.rival())
        if count < DIRECTIONS[0] or 2 * size > self.batches.rows:
            return {"lines": lines} if lines else {}
        seen = self.look(optimizer, state, steps, count)
        lines = [*self.told(seen, size, steps), *lines]
        if seen.zero > MANY and (wider := self.wider(optimizer, state, steps, count)):
            lines.insert(1, wider)
        return {**dataclasses.asdict(seen), "lines": lines}

    def look(self, optimizer: Any, state: Any, steps: int | None, count: int) -> Seen:
        """Ask for `count` steps, each on two batches."""
        pairs, flat = [], 0
        for k in range(count):
            rows = self.batches.sample(-3 - k, 2 * self.batches.size).rows
            halves = [Batch(rows[: self.batches.size]), Batch(rows[self.batches.size :])]
            found = [self._asked(optimizer, state, steps, -3 - k, half, i) for i, half in enumerate(halves)]
            if any(len(f) < 2 for f in found):
                return Seen(count, 0.0, None, None)
            flat += sum(max(f) == min(f) for f in found)
            pairs += list(zip(*([x - math.fsum(f) / len(f) for x in f] for f in found), strict=True))
        a2, b2 = (math.fsum(p[i] ** 2 for p in pairs) for i in (0, 1))
        r = math.fsum(a * b for a, b in pairs) / math.sqrt(a2 * b2) if a2 and b2 else None
        return Seen(count, flat / (2 * count), r, None if r is None or not steps else math.sqrt(steps) * r)

    def _asked(self, optimizer: Any, state: Any, steps: int | None, t: int, batch: Batch, other: int) -> list[float]:
        """The values, or places, that a step on this batch compares first; other: which further batches it draws."""
        tape, batches = Tape(), self.batches.reseeded(other)
        self.oracle.begin(tape, t, batch)
        at = At(self.space, batches, tape, t, steps, 0.0, batch)
        checked_step(optimizer, self.space.theta, self.oracle, state, at)
        asked = [[float(v) for v in values if v is not None] for kind, values in tape.entries if kind in ASKED]
        return next((values for values in asked if len(values) > 1), [])

    def wider(self, optimizer: Any, state: Any, steps: int | None, count: int) -> str:
        """What a wider ε would do about zero differences, where the optimizer has one."""
        eps = declarations.eps(optimizer)
        if not isinstance(eps, float) or not dataclasses.is_dataclass(optimizer):
            return ""
        rule: Any = dataclasses.replace(optimizer, eps=WIDER * eps)  # type: ignore[type-var]
        flat = 0
        for k in range(count):
            found = self._asked(rule, state, steps, -3 - k, self.batches.sample(-3 - k, self.batches.size), 0)
            flat += not found or max(found) == min(found)
        return f"with ε = {WIDER * eps:.2g} instead of {eps:.2g}: {100 * flat / count:.0f} % (or --eps auto)"

    def told(self, seen: Seen, size: int, steps: int | None) -> list[str]:
        """The same in words."""
        if seen.r is None and seen.zero == 0.0:
            return ["preflight: this optimizer compares nothing that could be repeated on other rows"]
        said = f"preflight: {100 * seen.zero:.0f} % of {2 * seen.directions} steps tried see no difference"
        if seen.r is None:
            return [f"{said}; there is nothing to learn from: a larger --batch-size, or a finer objective"]
        r = max(seen.r, 0.0)
        more = 4 * r / (1 + 3 * r)
        lines = [
            f"{said}; {100 * r:.0f} % (± {100 / math.sqrt(seen.directions):.0f}) of one is signal, "
            f"with {4 * size} rows instead of {size} {100 * more:.0f} %"
        ]
        if seen.signal is not None and steps:
            lines.append(f"over {steps} steps that adds up to {max(seen.signal, 0.0):.0f} times what chance does")
            if seen.signal + math.sqrt(steps / seen.directions) < ENOUGH:
                lines[-1] += ": hardly anything can be learned at this budget"
        return lines


ASKED = ("values", "ranks")

__all__ = ["Preflight", "Seen"]
