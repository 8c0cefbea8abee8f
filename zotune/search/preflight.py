"""Preflight: what can be expected of a run, from a few dozen evaluations before its first step.

The optimizer computes some steps that are not taken, each on two batches without a common row, with the same noise. For
the two-point differences a and b on the two batches:

    zero share: share of the steps whose points all have the same value
    r = Σ ab / √(Σ a² Σ b²): share of a difference's variance that is signal; n times the rows: n r / (1 + (n − 1) r)
    √T r: expected signal of T steps of one size, in units of their noise; below 2 it drowns

r is known to about 1/√directions. The preflight does not forecast the gain of the objective: slope and curvature at
the base model promise several times what runs then bring (docs/log.md).

Knows oracles, spaces and optimizers; knows no model and no file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zotune import declarations
from zotune.core.space import Space
from zotune.events import PreflightDone
from zotune.search.batches import Batches
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.search.optimizer_call import checked_step
from zotune.search.oracle import Oracle
from zotune.types import Batch

SHARE = 0.04
"""Share of the budget that the preflight costs, at most."""
DIRECTIONS = (4, 12)
"""Fewest steps that give a usable estimate, and most."""
WIDER = 4.0
"""Factor on ε that is tried where many steps see no difference."""
MAX_ZERO_SHARE = 0.25
"""Share of steps without a difference from which on a wider ε is tried."""
FIRST_STEP = -3
"""Number of the first step that is tried; the others count down. Steps of a run count up from 0."""
COMPARED = ("values", "ranks")
"""Kinds of tape entries that compare points."""


@dataclass
class Preflight:
    """evals: the run's budget of evaluations; cost: evaluations of a step; linear_probe: returns the validation scores
    of a linear probe and of the base model where the probe is the better one, else None."""

    space: Space
    oracle: Oracle
    batches: Batches
    evals: float
    cost: Callable[[], int]
    linear_probe: Callable[[], tuple[float, float] | None] = lambda: None

    def __call__(self, optimizer: Any, state: Any, steps: int | None) -> PreflightDone | None:
        """The report, or None where there is nothing to report. steps: planned, None where only time limits the run.

        Raises ObjectiveError.
        """
        size, step_cost = self.batches.size, max(self.cost(), 1)
        count = int(min(SHARE * self.evals / (2 * step_cost), DIRECTIONS[1]))
        probe_score, base_score = self.linear_probe() or (None, None)
        if count < DIRECTIONS[0] or 2 * size > self.batches.rows:
            return None if probe_score is None else PreflightDone(linear_probe=probe_score, base_score=base_score)
        report = self.measure(optimizer, state, steps, count)
        if report.zero_share is not None and report.zero_share > MAX_ZERO_SHARE:
            report = self.with_wider_eps(report, optimizer, state, steps, count)
        return dataclasses.replace(report, linear_probe=probe_score, base_score=base_score)

    def measure(self, optimizer: Any, state: Any, steps: int | None, count: int) -> PreflightDone:
        """Compute `count` steps, each on two batches."""
        report = PreflightDone(directions=count, batch_size=self.batches.size, steps=steps)
        pairs, flat = [], 0
        for k in range(count):
            rows = self.batches.sample(FIRST_STEP - k, 2 * self.batches.size).rows
            halves = [Batch(rows[: self.batches.size]), Batch(rows[self.batches.size :])]
            values = [self._values(optimizer, state, steps, FIRST_STEP - k, half, i) for i, half in enumerate(halves)]
            if any(len(v) < 2 for v in values):
                return dataclasses.replace(report, zero_share=0.0)
            flat += sum(max(v) == min(v) for v in values)
            pairs += list(zip(*([x - math.fsum(v) / len(v) for x in v] for v in values), strict=True))
        a2, b2 = (math.fsum(pair[i] ** 2 for pair in pairs) for i in (0, 1))
        r = math.fsum(a * b for a, b in pairs) / math.sqrt(a2 * b2) if a2 and b2 else None
        return dataclasses.replace(
            report,
            zero_share=flat / (2 * count),
            signal_share=r,
            signal=None if r is None or not steps else math.sqrt(steps) * r,
        )

    def _values(
        self, optimizer: Any, state: Any, steps: int | None, t: int, batch: Batch, seed_offset: int
    ) -> list[float]:
        """The values, or ranks, of the points that a step on this batch compares first, [] where it compares none.

        seed_offset: added to the seed of further batches that the step draws.
        """
        tape, batches = Tape(), self.batches.reseeded(seed_offset)
        self.oracle.begin(tape, t, batch)
        at = At(self.space, batches, tape, t, steps, 0.0, batch)
        checked_step(optimizer, self.space.theta, self.oracle, state, at)
        calls = [[float(v) for v in values if v is not None] for kind, values in tape.entries if kind in COMPARED]
        return next((values for values in calls if len(values) > 1), [])

    def with_wider_eps(
        self, report: PreflightDone, optimizer: Any, state: Any, steps: int | None, count: int
    ) -> PreflightDone:
        """The report with the zero share of a wider ε, where the optimizer has one that can be changed."""
        eps = declarations.eps(optimizer)
        if not isinstance(eps, float) or not dataclasses.is_dataclass(optimizer) or isinstance(optimizer, type):
            return report
        wider: Any = dataclasses.replace(optimizer, eps=WIDER * eps)  # type: ignore[type-var]
        flat = 0
        for k in range(count):
            batch = self.batches.sample(FIRST_STEP - k, self.batches.size)
            values = self._values(wider, state, steps, FIRST_STEP - k, batch, 0)
            flat += not values or max(values) == min(values)
        return dataclasses.replace(report, eps=eps, wider_eps=WIDER * eps, wider_zero_share=flat / count)


LINE = {
    "directions": "directions",
    "zero": "zero_share",
    "r": "signal_share",
    "signal": "signal",
    "batch_size": "batch_size",
    "steps": "steps",
    "eps": "eps",
    "wider_eps": "wider_eps",
    "wider_zero": "wider_zero_share",
    "linear_probe": "linear_probe",
    "base_score": "base_score",
    "failed": "failed",
}
"""The fields of a report by their names in journal lines."""


def to_line(report: PreflightDone) -> dict[str, Any]:
    """The report as a journal line holds it: the fields that have a value, and null for an unknown signal."""
    values = dataclasses.asdict(report)
    unknown = {"r", "signal"} if report.directions is not None else set()
    return {key: values[name] for key, name in LINE.items() if key in unknown or values[name] not in (None, "")}


def from_line(line: Mapping[str, Any]) -> PreflightDone:
    """The report that a journal line holds."""
    return PreflightDone(**{name: line[key] for key, name in LINE.items() if line.get(key) is not None})


__all__ = ["Preflight", "from_line", "to_line"]
