"""How several processes share the work of a step.

Knows a plan, its budget and the processes; runs nothing.
"""

from __future__ import annotations

from zotune.distributed import Processes
from zotune.errors import OptionError
from zotune.runs.budget import RunBudget
from zotune.runs.plan import Plan


def split_of(plan: Plan, budget: RunBudget, processes: Processes) -> str:
    """How several processes split a step: "points", where there are enough and each process can score its own, else
    "batch". Raises OptionError where points cannot be split."""
    wanted, objective = plan.config.parallel, plan.objective
    one_scores = objective.ordered or budget.counts_scores or not objective.info.validates
    if wanted == "points" and one_scores and processes.size > 1:
        raise OptionError(
            "--parallel points: an objective that compares, a person and counted scores need a single process",
            hint="--parallel batch",
        )
    if wanted != "auto":
        return wanted
    return "batch" if one_scores or budget.cost() % processes.size else "points"


__all__ = ["split_of"]
