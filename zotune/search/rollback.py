"""Rollback: a run that diverged continues from its best weights, with smaller steps.

Knows spaces, journals and stores; knows no algorithm. Why a run counts as diverged is decided by whoever evaluates the
validation set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zotune.core import state_codec
from zotune.core.space import Space
from zotune.events import RolledBack
from zotune.search.checkpoint import Store
from zotune.search.journal import Journal, Tape
from zotune.search.progress import Progress
from zotune.search.selection import best_weights
from zotune.types import Optimizer

DAMPING = 0.25
"""Factor on the size of steps at each rollback."""


def roll_back(
    space: Space,
    optimizer: Optimizer,
    journal: Journal,
    store: Store,
    progress: Progress,
    initial_state: Callable[[Tape], Any],
) -> tuple[Any, RolledBack]:
    """Load the best weights and return the optimizer's state there, and the event.

    initial_state: computes the optimizer's state before the first step from the tape of init. It serves where the best
    weights are the base model's, which has no checkpoint.
    """
    p = progress
    line = journal.take_or_append(
        "rollback",
        lambda: {
            "step": p.step,
            "to": p.best_step,
            "share": p.best_share,
            "damping": p.damping * DAMPING,
            "why": p.diverged,
        },
    )
    meta = store.restore(p.best_step, space)
    if p.best_share != 1.0:
        space.load(best_weights(store, p))
    if meta is None:
        state = initial_state(Tape(journal.first("init")["tape"]))
    else:
        state = state_codec.decode(meta["state"], type(optimizer).__module__)
    p.damping, p.diverged = line["damping"], ""
    return state, RolledBack(line["step"], line["to"], line["share"], line["damping"], line["why"])


__all__ = ["roll_back"]
