"""Several raters of one run, by name: who sees which question, who has rated what, and how far they agree.

A question is shown to one named rater at a time; who leaves it open for HELD seconds lets go of it. A repeat may come
to another rater than the first showing, and that is what their agreement is counted from. This module knows the tables
of the store; it knows no page and no tuner.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from zotune.humans.store import Store
from zotune.humans.verdicts import NOT_COMPARED

HELD: Final = 120.0
"""Seconds for which an open question is kept for the rater who sees it."""
MOST: Final = 60
"""Characters of a name at most."""


@dataclass(frozen=True)
class RaterCount:
    """A rater's ratings, repeats included. agreed, repeated: of the questions that another rater has rated, too, how
    many got the same rating."""

    name: str
    ratings: int
    agreed: int
    repeated: int


def open_showing(db: sqlite3.Connection, rater: str, now: float) -> tuple[int, int, int | None] | None:
    """(id, question, before) of the showing that a rater sees next, which is theirs from here on; None where none is
    open. rater: "" for a run with one rater, who sees all. now: seconds of the clock."""
    row = db.execute(
        "SELECT id, question, before FROM showings LEFT JOIN raters ON showing = id WHERE verdict IS NULL"
        " AND (? = '' OR name IS NULL OR name = ? OR shown IS NULL OR shown < ?) ORDER BY before IS NULL, question",
        (rater, rater, now - HELD),
    ).fetchone()
    return None if row is None else (int(row[0]), int(row[1]), row[2])


def set_rater(db: sqlite3.Connection, showing: int, rater: str) -> None:
    """Note who sees or rates a showing; nothing for a rater without a name."""
    if rater:
        db.execute("INSERT OR REPLACE INTO raters VALUES (?, ?)", (showing, rater))


def rater_counts(store: Store) -> list[RaterCount]:
    """The ratings of each named rater, in the order of their names. "tie" and "bad" agree with each other."""
    with store.reading() as db:
        counts: Sequence[tuple[str, int]] = db.execute(
            "SELECT name, count(*) FROM raters JOIN showings ON id = showing WHERE turn IS NOT NULL GROUP BY name"
        ).fetchall()
        both: Sequence[tuple[str, str, int]] = db.execute(
            "SELECT a.name, b.name, f.chosen IS r.chosen FROM showings f JOIN showings r ON r.question = f.question"
            " JOIN raters a ON a.showing = f.id JOIN raters b ON b.showing = r.id WHERE f.before IS NULL"
            " AND r.before IS NOT NULL AND a.name != b.name"
            f" AND f.verdict NOT IN {NOT_COMPARED} AND r.verdict NOT IN {NOT_COMPARED}"
        ).fetchall()
    return [
        RaterCount(
            name,
            count,
            sum(same for *names, same in both if name in names),
            sum(name in names for *names, _ in both),
        )
        for name, count in sorted(counts)
    ]


def in_words(counts: Sequence[RaterCount]) -> list[str]:
    """One line a rater, where there are several."""
    return [
        f"{x.name}: {x.ratings} ratings"
        + (f"; the same as another rater on {x.agreed} of {x.repeated} shared questions" if x.repeated else "")
        for x in (counts if len(counts) > 1 else ())
    ]


__all__ = ["HELD", "MOST", "RaterCount", "in_words", "open_showing", "rater_counts", "set_rater"]
