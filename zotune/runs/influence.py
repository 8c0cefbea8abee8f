"""Whether the tuned weights influence the scores of a run at all.

Knows sessions; takes no step.
"""

from __future__ import annotations

from typing import Final

import torch

from zotune.core.recipe import Noise
from zotune.errors import UsageError
from zotune.runs.session import Session
from zotune.tasks.option_task import OptionTask

ROWS: Final = 4


def check_influence(session: Session) -> None:
    """Raise UsageError where a large perturbation of all tuned weights leaves the scores of the labels or options as
    they are, bit for bit, on a few training rows. Generated text is not checked, nor is an objective that runs the
    model itself."""
    task, space = session.task, session.space
    if not isinstance(task, OptionTask) or "model" in session.plan.objective.inputs:
        return
    rows = range(min(ROWS, len(session.train)))
    before = task.logits(session.train, rows)
    with space.at(space.theta + Noise("normal", -2, 0), task.forward_passes(len(rows))):
        after = task.logits(session.train, rows)
    if torch.equal(before, after):
        names = ", ".join(list(space.params)[:3]) + (" …" if len(space.params) > 3 else "")
        raise UsageError(f"these weights do not influence the score: {names}", hint="select others with --tune")


__all__ = ["check_influence"]
