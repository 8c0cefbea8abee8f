"""What a person sees of the tuning while they answer: completions of the base model and of the present weights for some
prompts of the validation set, handed to the objective.

Knows held-out rows and objectives; takes no step, and changes nothing of the run.
"""

from __future__ import annotations

from typing import Final

from zotune.distributed import Processes
from zotune.runs.heldout import HeldOutSet
from zotune.scoring.objective import Objective
from zotune.tasks import build

ROWS: Final = 12
"""Prompts at most: their completions are generated at every step."""


class Observation:
    """Called after the questions of a step are asked, with the step."""

    def __init__(self, held_out: HeldOutSet, processes: Processes) -> None:
        self._held_out, self._processes = held_out, processes

    def __call__(self, step: int) -> None:
        """Hand over the completions of the base model and of the present weights."""
        held_out, task = self._held_out, self._held_out.task
        observe, before = held_out.objective.info.observe, held_out.baseline
        places = range(min(ROWS, len(held_out.rows)))
        if observe is None or before is None or not places or not isinstance(task, build.GenerationTask):
            return
        with self._processes.local():  # the first process alone has an objective that people see
            now = task.outputs(held_out.rows, places, frozenset({"completions"}))
        observe(prompts=now["prompts"], before=[before[i] for i in places], now=now["completions"])


def satisfied(objective: Objective, processes: Processes) -> bool:
    """Whether an objective asks for no further step."""
    asks = [part.info.satisfied for part in objective.each if part.info.satisfied is not None]
    return bool(asks) and bool(processes.on_first(lambda: any(ask() for ask in asks)))


__all__ = ["Observation", "satisfied"]
