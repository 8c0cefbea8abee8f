"""The budget of a run: when the run ends, and how many steps and evaluations the budget pays for.

Knows what an optimizer declares a step to cost; knows no journal, no objective and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

from zotune import declarations
from zotune.core.space import Space
from zotune.errors import UsageError
from zotune.search.batches import Batches
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.types import Optimizer

PLANNED = 10_000
"""Steps whose costs are added up one by one; further steps count with the average cost of these."""


@dataclass(frozen=True)
class Budget:
    """A run ends at whichever limit comes first. evals: evaluations of one batch at one point; seconds: of the loop.

    Raises UsageError where there is no limit, or one that is not positive.
    """

    steps: int | None = None
    evals: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.evals is None and self.seconds is None:
            raise UsageError("a run needs a budget", hint="--max-steps, --max-evals or --max-time")
        for name, value in asdict(self).items():
            if value is not None and value <= 0:
                raise UsageError(f"the budget in {name} must be positive, got {value}")

    def used(self, steps: int, evals: int, seconds: float) -> float:
        """The share of the budget that is used, in [0, 1]: of the limit that is nearest."""
        counts = ((steps, self.steps), (evals, self.evals), (seconds, self.seconds))
        return min(max(count / limit for count, limit in counts if limit is not None), 1.0)

    def exhausted(self, steps: int, evals: int, seconds: float, step_cost: Callable[[], int]) -> bool:
        """Whether no further step fits. step_cost: evaluations of that step, computed where evaluations are limited."""
        return (
            (self.steps is not None and steps >= self.steps)
            or (self.evals is not None and evals + step_cost() > self.evals)
            or (self.seconds is not None and seconds >= self.seconds)
        )


def cost_of(optimizer: Optimizer, space: Space, batches: Batches, step: int, progress: float) -> int:
    """Evaluations that a step makes, as the optimizer declares; 1 where it declares nothing."""
    cost = declarations.step_cost(optimizer, space.theta, lambda: At(space, batches, Tape(), step, None, progress))
    return 1 if cost is None else cost


def planned(budget: Budget, cost: Callable[[int, float], int]) -> tuple[int | None, int | None]:
    """Steps and evaluations that a budget pays for; (None, None) where time is the only limit.

    cost: evaluations of a step, by its number and the share of the budget that is used before it.
    """
    step = used = 0
    while step < PLANNED:
        shares = [x / limit for x, limit in ((step, budget.steps), (used, budget.evals)) if limit is not None]
        if not shares:
            return None, None
        if max(shares) >= 1:
            return step, used
        used += max(cost(step, max(shares)), 1)
        step += 1
    ends = [budget.steps or math.inf, step * budget.evals / used if budget.evals else math.inf]
    steps = math.ceil(min(ends))
    return steps, math.ceil(used * steps / step)


__all__ = ["Budget", "cost_of", "planned"]
