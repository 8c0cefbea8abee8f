"""What a rater says of a question: the words of verdicts, the scores and the preferences that follow from them, and the
tables of the store for a worst completion and for a text that the rater wrote.

This module knows the tables of the store; it knows no page and no tuner.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from zotune.errors import OptionError
from zotune.humans.questions import MAX_COMPLETIONS

NO_CHOICE: Final = ("tie", "bad", "skip")
"""The verdicts that choose no completion."""
WRITTEN: Final = "written"
"""The verdict of a rater who has written a better completion."""
NOT_COMPARED: Final = ("skip", WRITTEN)
"""The verdicts that a repeat cannot agree or disagree with."""
MAX_WRITTEN: Final = 4000
"""Characters of a written completion at most."""
FEWEST_WITH_WORST: Final = 3
"""Completions from which on a worst one says more than the best one."""


class Verdict(NamedTuple):
    """A verdict as the store keeps it. word: "chosen", "tie", "bad", "skip" or "written"; chosen, worst: indices in the
    asker's order, None where there is none; text: what the rater wrote, else ""."""

    word: str
    chosen: int | None = None
    worst: int | None = None
    text: str = ""


def read_verdict(
    verdict: str, worst: str, text: str, sides: Sequence[int] | None = None, completions: Sequence[str] = ()
) -> Verdict:
    """A verdict as a rater gives it: places in words. sides: the completion's index at each place, None where the
    question is unknown. A text that equals a completion is a choice of it. Raises OptionError for what is not
    possible."""
    count = MAX_COMPLETIONS if sides is None else len(sides)
    places = [*map(str, range(1, count + 1))]
    if verdict not in (*places, *NO_CHOICE, WRITTEN):
        raise OptionError(
            f"verdict {verdict!r} is not possible", hint="possible: " + ", ".join([*places, *NO_CHOICE, WRITTEN])
        )
    if bool(text.strip()) != (verdict == WRITTEN) or len(text) > MAX_WRITTEN:
        raise OptionError(
            f"a verdict has a text of its own where it is {WRITTEN!r}", hint=f"1 to {MAX_WRITTEN:,} characters"
        )
    if worst and (verdict not in places or worst not in places or worst == verdict or count < FEWEST_WITH_WORST):
        raise OptionError(
            f"worst {worst!r} is not possible beside {verdict!r}", hint="another place, of three completions or more"
        )
    if verdict == WRITTEN:
        same = [i for i, completion in enumerate(completions) if completion.strip() == text.strip()]
        return Verdict("chosen", same[0]) if same else Verdict(WRITTEN, text=storable(text))
    if verdict in NO_CHOICE or sides is None:
        return Verdict(verdict)
    return Verdict("chosen", sides[int(verdict) - 1], sides[int(worst) - 1] if worst else None)


def preferred_pairs(completions: Sequence[str], verdict: Verdict) -> list[tuple[str, str]]:
    """(better, worse) of all that a verdict prefers: the chosen completion, or the written one, to each of the others,
    and these to the worst. Pairs of equal texts are left out."""
    if verdict.word == WRITTEN:
        pairs = [(verdict.text, x) for x in completions]
    elif verdict.chosen is None:
        pairs = []
    else:
        others = [x for i, x in enumerate(completions) if i != verdict.chosen]
        pairs = [(completions[verdict.chosen], x) for x in others]
        if verdict.worst is not None:
            between = [x for i, x in enumerate(completions) if i not in (verdict.chosen, verdict.worst)]
            pairs += [(x, completions[verdict.worst]) for x in between]
    return [(better, worse) for better, worse in dict.fromkeys(pairs) if better != worse]


def strengths(verdict: Verdict, count: int) -> tuple[float, ...] | None:
    """A score for each of so many completions: 1 for the chosen one, 0 for the worst, or for all others where there is
    no worst, and ½ for what is neither; None after "skip". A written text says nothing of the completions' order."""
    if verdict.word == "skip":
        return None
    if verdict.chosen is None:
        return (0.5,) * count
    rest = 0.0 if verdict.worst is None else 0.5
    return tuple(1.0 if i == verdict.chosen else 0.0 if i == verdict.worst else rest for i in range(count))


def storable(text: str) -> str:
    """A text that a rater typed, without halves of characters, which no file takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def put_more(db: sqlite3.Connection, showing: int, verdict: Verdict) -> None:
    """Store what a verdict says beyond the table of showings."""
    if verdict.worst is not None:
        db.execute("INSERT INTO worst VALUES (?, ?)", (showing, verdict.worst))
    if verdict.text:
        db.execute("INSERT INTO written VALUES (?, ?)", (showing, verdict.text))


def drop_more(db: sqlite3.Connection, showing: int) -> None:
    """Forget it."""
    db.execute("DELETE FROM worst WHERE showing = ?", (showing,))
    db.execute("DELETE FROM written WHERE showing = ?", (showing,))


def first_verdicts(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, tuple[Verdict, int]]:
    """The verdict of each of these questions that has one, by key, and how many completions it compares. Verdicts of
    repeats do not count."""
    rows = db.execute(
        "SELECT key, json_array_length(sides), verdict, chosen, place, coalesce(text, '') FROM showings"
        " JOIN questions ON number = question LEFT JOIN worst ON worst.showing = id"
        " LEFT JOIN written ON written.showing = id WHERE before IS NULL AND verdict IS NOT NULL"
        " AND key IN (SELECT value FROM json_each(?)) ORDER BY number",
        (json.dumps([*keys]),),
    )
    return {key: (Verdict(*verdict), count) for key, count, *verdict in rows}


__all__ = [
    "FEWEST_WITH_WORST",
    "MAX_WRITTEN",
    "NOT_COMPARED",
    "NO_CHOICE",
    "WRITTEN",
    "Verdict",
    "drop_more",
    "first_verdicts",
    "preferred_pairs",
    "put_more",
    "read_verdict",
    "storable",
    "strengths",
]
