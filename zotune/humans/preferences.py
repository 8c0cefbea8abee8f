"""What the ratings amount to: verdict counts, agreement of repeats, win rates, and preference pairs for other trainers.

This module reads a store and changes nothing in it.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zotune import files
from zotune.humans.store import Store
from zotune.humans.verdicts import NOT_COMPARED, Verdict, preferred_pairs

_VERDICT = (
    "coalesce(verdict, 'skip'), chosen, place, coalesce(text, '') FROM showings JOIN questions ON number = question"
    " LEFT JOIN worst ON worst.showing = id LEFT JOIN written ON written.showing = id"
)
"""The fields of `Verdict` and the tables that they come from."""


@dataclass(frozen=True)
class WinRate:
    """Result of completion A against completion B.

    wins, losses, ties: numbers of questions. rate: share of wins, a tie counting as half. low, high: the 95 % interval
    of the rate.
    """

    wins: int
    losses: int
    ties: int
    rate: float
    low: float
    high: float

    @classmethod
    def from_counts(cls, wins: int, losses: int, ties: int) -> WinRate:
        """The win rate p = (w + t/2) / n with Wilson's interval; p = 0.5 and the interval 0 to 1 if n is 0.

        A tie as half a win has less variance than p (1 - p), so the interval is conservative if there are ties.
        """
        n = wins + losses + ties
        rate = (wins + ties / 2) / n if n else 0.5
        return cls(wins, losses, ties, rate, *wilson_interval(rate, n))


def wilson_interval(p: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share p of n trials; (0, 1) if n is 0.

        (p + z²/2n ± z √(p (1 - p)/n + z²/4n²)) / (1 + z²/n)

    z: the default is the two-sided 95 % point of the normal distribution. Source: Wilson 1927, "Probable inference, the
    law of succession, and statistical inference".
    """
    if not n:
        return 0.0, 1.0
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)


def win_rate(store: Store) -> WinRate:
    """The win rate of completion A, the first in the asker's order, over the questions with the purpose "compare".

    "bad" (none is good) and a written text count as a tie; skipped questions and repeats do not count.
    """
    return WinRate.from_counts(*count_wins(store, "compare"))


def count_wins(store: Store, purpose: str) -> tuple[int, int, int]:
    """How often completion A won, lost and tied in the questions with a purpose; as `win_rate` counts."""
    with store.reading() as db:
        wins, losses, ties = (
            int(count or 0)
            for count in db.execute(
                "SELECT sum(chosen = 0), sum(chosen > 0), sum(verdict IN ('tie', 'bad', 'written')) FROM showings"
                " JOIN questions ON number = question WHERE before IS NULL AND purpose = ?",
                (purpose,),
            ).fetchone()
        )
    return wins, losses, ties


def chosen_pairs(store: Store, purposes: Sequence[str]) -> list[tuple[str, str]]:
    """(better, worse text) of every answer that prefers one, in the order of asking."""
    pairs = []
    with store.reading() as db:
        for body, *verdict in db.execute(
            f"SELECT body, {_VERDICT} WHERE before IS NULL"
            " AND purpose IN (SELECT value FROM json_each(?)) ORDER BY number",
            (json.dumps([*purposes]),),
        ):
            pairs += preferred_pairs(json.loads(body)[1], Verdict(*verdict))
    return pairs


def verdict_counts(store: Store) -> dict[str, int]:
    """How often "chosen", "tie", "bad" and "skip" were given, and "written" where it was; repeats do not count."""
    with store.reading() as db:
        counts = db.execute(
            "SELECT verdict, count(*) FROM showings WHERE before IS NULL AND verdict IS NOT NULL GROUP BY verdict"
        ).fetchall()
    return dict.fromkeys(("chosen", "tie", "bad", "skip"), 0) | dict(counts)


def agreement(store: Store) -> tuple[int, int]:
    """(repeats with the same verdict as the first time, repeats rated); skipped ones and written texts do not count.

    "tie" and "bad" agree with each other: neither prefers a completion.
    """
    with store.reading() as db:
        return count_agreement(db)


def count_agreement(db: sqlite3.Connection) -> tuple[int, int]:
    """`agreement` inside a transaction that is open already."""
    agreed, repeated = db.execute(
        "SELECT coalesce(sum(r.chosen IS f.chosen), 0), count(*) FROM showings r JOIN showings f"
        " ON r.question = f.question AND r.before IS NOT NULL AND f.before IS NULL"
        f" WHERE r.verdict NOT IN {NOT_COMPARED} AND f.verdict NOT IN {NOT_COMPARED}"
    ).fetchone()
    return int(agreed), int(repeated)


def export_preferences(store: Store, path: str | Path) -> int:
    """Write preference pairs as JSON lines with `prompt`, `chosen` and `rejected`, atomically; returns their number.

    A question gives one line for the chosen completion, or for the one that the rater wrote, against each of the
    others, and one for each of these against the worst, where it is named. Ties, "bad", skipped questions, pairs of
    equal texts, and choices whose repeat got another verdict are left out.
    """
    lines = []
    with store.reading() as db:
        for body, *verdict in db.execute(
            f"SELECT body, {_VERDICT} WHERE verdict = 'written' OR (verdict = 'chosen' AND before IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM showings r WHERE r.question = number AND r.before IS NOT NULL"
            f" AND r.verdict NOT IN {NOT_COMPARED} AND r.chosen IS NOT showings.chosen)) ORDER BY number, id"
        ):
            prompt, completions = json.loads(body)
            lines += [
                json.dumps({"prompt": prompt, "chosen": better, "rejected": worse}, ensure_ascii=False)
                for better, worse in preferred_pairs(completions, Verdict(*verdict))
            ]
    files.write(Path(path), "".join(line + "\n" for line in lines), hint="")
    return len(lines)
