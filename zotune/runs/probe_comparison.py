"""Before a run: whether a linear probe does better on the validation set than the base model does.

Knows the validation set and the training rows; fits the probe and leaves the model as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zotune import seeds
from zotune.config import RunConfig
from zotune.errors import ObjectiveError
from zotune.runs.budget import RunBudget
from zotune.runs.validation import Validation
from zotune.search.oracle import Oracle
from zotune.search.work_clock import WorkClock
from zotune.tasks import build

BUDGET_SHARE: Final = 0.1
"""The share of the budget that embedding the training rows may cost at most."""


@dataclass(frozen=True)
class ProbeComparison:
    """Call it once before the first step. batch_size: training rows that count as one evaluation."""

    validation: Validation
    train: build.EncodedRows
    batch_size: int
    oracle: Oracle
    budget: RunBudget
    config: RunConfig
    clock: WorkClock

    def __call__(self) -> tuple[float, float] | None:
        """The validation scores of the probe and of the base model, where the probe is better by two standard errors.

        The evaluations that the probe costs are counted.
        """
        held_out, base = self.validation.held_out, self.validation.base
        task = held_out.task
        if (
            not isinstance(task, build.HeadClassification)
            or self.config.init == "linear-probe"
            or not held_out.resamples
        ):
            return None
        cost = -(-len(self.train) // self.batch_size)
        if task.spec.kind != "classification" or cost > BUDGET_SHARE * self.budget.expected_evals():
            return None
        try:
            with self.clock.measure("probe", len(self.train)):
                probe = held_out.linear_probe(self.train, seeds.derive(self.config.seed, "bootstrap"))
        except ObjectiveError:
            return None
        if probe is None or base is None:
            return None
        self.oracle.evaluations += cost
        self.oracle.queries += cost * self.batch_size
        sign = -1.0 if held_out.objective.direction == "maximize" else 1.0
        if sign * (base.value - probe.value) <= 2 * (probe.error or 0.0):
            return None
        return probe.value, base.value


__all__ = ["ProbeComparison"]
