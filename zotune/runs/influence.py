"""Whether the tuned weights influence the scores of a run at all.

Knows sessions; takes no step.
"""

from __future__ import annotations

from zotune.errors import UsageError
from zotune.events import Note, Phase
from zotune.models.weight_check import names_of
from zotune.runs.session import Session
from zotune.tasks.unread_weights import unread_weights


def check_influence(session: Session) -> None:
    """Report tuned weights that no score reads: a large perturbation leaves the scores of a few training rows as they
    are, bit for bit. Raises UsageError where none is read. An objective that runs the model itself is not checked: it
    may read what the scores of the task do not."""
    if "model" in session.plan.objective.inputs:
        return
    session.emit(Phase("checking that the tuned weights influence the scores", brief=True))
    tuned = session.space.params
    unread = unread_weights(session.task, session.train, tuned)
    if len(unread) == len(tuned):
        raise UsageError(
            f"these weights do not influence the score: {names_of(unread)}", hint="select others with --tune"
        )
    if unread:
        session.emit(Note(f"tuned weights that do not influence the score: {names_of(unread)}"))


__all__ = ["check_influence"]
