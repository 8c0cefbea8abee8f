"""How several processes share the work of a step.

Knows a plan, its budget and the processes; runs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from zotune.distributed import Processes
from zotune.errors import OptionError
from zotune.runs.budget import RunBudget
from zotune.runs.plan import Plan
from zotune.search.population_plan import PopulationPlan
from zotune.tasks import build

SHARED: Final[Mapping[str, str]] = {
    "points": "points of each step",
    "batch": "rows of each batch",
    "passes": "forward passes of each step's population",
}


def split_of(
    plan: Plan, budget: RunBudget, processes: Processes, generated: PopulationPlan | None, recorded: str | None
) -> str:
    """How several processes split a step: "passes" for populations of generated text; else "points", where there are
    enough and each process can score its own; else "batch". generated: as `generated_population` tells. recorded: what
    the header of the run that is resumed says. Raises OptionError where points cannot be split."""
    if generated and not recorded:
        return "passes"
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


def shared_work(processes: Processes, population: PopulationPlan | None) -> str:
    """What several processes share, as one line. population: of a run that generates the text of a population in whole
    passes, with rows = 0 where their number is not known; None for other runs."""
    size, passes = processes.size, passes_of(population) if population else 0
    if population is None or not passes:
        return f"{size} processes share the {SHARED[processes.split]}"
    text = f"{size} processes share the {passes} {SHARED['passes']}"
    if passes % size == 0:
        return text
    pair = 2 * population.each
    rows = pair * math.ceil(population.rows / (pair * size))
    busy = "one process is busy" if passes == 1 else f"{min(passes, size)} processes are busy at most"
    return f"{text.replace(' 1 forward passes', ' one forward pass')}: {busy} (--pass-rows {rows} uses all)"


def generated_population(plan: Plan, task: build.Task, population: PopulationPlan) -> PopulationPlan | None:
    """The plan of a population whose members generate text, with rows = 0 where the optimizer may score other numbers
    of rows than planned; None for other runs."""
    if not population.rows or not isinstance(task, build.GenerationTask):
        return None
    return population if plan.optimizer_name == "auto" else replace(population, rows=0)


def passes_of(population: PopulationPlan) -> int:
    """Forward passes of a step of a population: whole pairs, `in_pass` rows each at most."""
    pair = 2 * population.each
    return math.ceil(population.rows / (pair * max(population.in_pass // pair, 1)))


__all__ = ["generated_population", "passes_of", "shared_work", "split_of"]
