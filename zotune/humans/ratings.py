"""The queue of questions between a tuner and its raters: pairs of completions in, verdicts out.

The tuner asks and reads scores; the page or the terminal shows questions and records verdicts. The two share only the
file `ratings.sqlite` in the run directory, so each may be stopped, killed and started again at any time. A question is
on disk before anybody sees it and a verdict is on disk before it is acknowledged, so nothing is lost or asked twice.

Rating is blind: completions are shuffled by a hash of the seed and the question's key. Before about one question in ten
an earlier question is shown again with its sides swapped, which measures how consistent a rater is.

This module knows nothing of models, pages or terminals.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from zotune.errors import OptionError, RunFolderError, ZotuneError
from zotune.humans import raters
from zotune.humans import verdicts as verdicts_of
from zotune.humans.preferences import count_agreement
from zotune.humans.questions import MAX_COMPLETIONS, PURPOSES, BlindQuestion, Progress, Question
from zotune.humans.store import Store
from zotune.humans.verdicts import NO_CHOICE, WRITTEN
from zotune.seeds import derive

REPEATED_PURPOSES: Final = ("tune", "compare")
DONE: Final = "done"
"""The tuner's state after its last question."""
ALL_ASKED: Final = "comparing"
"""The state if all questions are asked at once: no tuner is waited for, and rating ends when none is open."""

REPEAT_EVERY: Final = 10
"""One question in so many is preceded by a repeat."""
HEARTBEAT_TIMEOUT: Final = 15.0
"""Seconds without a heartbeat after which the tuner counts as stopped."""
HEARTBEAT_PERIOD: Final = 2.0
MAX_WISH: Final = 400
"""Characters of a wish in words at most."""
TIMED_VERDICTS: Final = 50
"""Number of the latest verdicts whose median time predicts the time left."""


class Ratings(Store):
    """The questions and verdicts of one run directory; a context manager.

    seed: shuffles the sides of the questions that this object asks. Raises RunFolderError as `Store` does.
    """

    def __init__(self, folder: str | Path, seed: int = 0) -> None:
        super().__init__(folder)
        self.seed = seed

    def __enter__(self) -> Ratings:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, questions: Sequence[Question]) -> None:
        """Tuner: add questions to the queue in this order, all or none. A question that was added before stays.

        Raises RunFolderError if the key of a question belongs to another text.
        """
        with self.writing() as db:
            for question in questions:
                body = json.dumps([question.prompt, list(question.completions)])
                stored = db.execute("SELECT purpose, body FROM questions WHERE key = ?", (question.key,)).fetchone()
                if stored is None:
                    cursor = db.execute(
                        "INSERT INTO questions (key, purpose, body) VALUES (?, ?, ?)",
                        (question.key, question.purpose, body),
                    )
                    sides = json.dumps(_shuffled(self.seed, question.key, len(question.completions)))
                    _add_showing(db, cursor.lastrowid, None, sides)
                elif stored != (question.purpose, body):
                    raise RunFolderError(
                        f"{self.path}: question {question.key!r} was asked before with another text",
                        hint="use a new run directory",
                    )
            _set_facts(db, beat=time.time())

    def scores(self, keys: Sequence[str]) -> dict[str, tuple[float, ...] | None]:
        """Tuner: the scores of those of these questions that have a verdict, one float a completion in asking order.

        The chosen completion scores 1 and the others 0, or those between it and the worst 0.5; after "tie", "bad" and a
        written text each scores 0.5; None after "skip". Verdicts of repeats do not count.
        """
        with self.reading() as db:
            return _scores(db, keys)

    def written(self, keys: Sequence[str]) -> dict[str, str]:
        """Tuner: what raters have written as better completions of those of these questions where they did."""
        with self.reading() as db:
            return {key: v.text for key, (v, _) in verdicts_of.first_verdicts(db, keys).items() if v.text}

    def take_scores(self, keys: Sequence[str]) -> dict[str, tuple[float, ...] | None]:
        """Tuner: `scores`, and mark these ratings as used in the same transaction: they cannot be undone afterwards."""
        with self.writing() as db:
            scores = _scores(db, keys)
            db.execute(
                "UPDATE questions SET used = 1 WHERE key IN (SELECT value FROM json_each(?))",
                (json.dumps([*scores]),),
            )
            return scores

    def count_open(self, keys: Sequence[str]) -> int:
        """Tuner: the number of these questions that have no verdict yet."""
        return len(set(keys)) - len(self.scores(keys))

    def set_planned(self, total: int) -> None:
        """Tuner: set the number of questions expected in total, including those asked already."""
        with self.writing() as db:
            _set_facts(db, planned=total)

    def set_state(self, text: str) -> None:
        """Tuner: set the text that raters see while they wait, such as "generating". `DONE` ends the rating."""
        with self.writing() as db:
            _set_facts(db, state=text, beat=time.time())

    @contextlib.contextmanager
    def heartbeat(self, period: float = HEARTBEAT_PERIOD) -> Iterator[None]:
        """Tuner: count as running inside the block, whatever is computed there, and as stopped after it."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(period):
                with contextlib.suppress(ZotuneError):
                    self._set_heartbeat(time.time())

        self._set_heartbeat(time.time())
        thread = threading.Thread(target=beat, name="zotune-ratings", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._set_heartbeat(0.0)

    def _set_heartbeat(self, moment: float) -> None:
        with self.writing() as db:
            _set_facts(db, beat=moment)

    def next_question(self, rater: str = "") -> BlindQuestion | None:
        """Rater: the question to show, the oldest open one or a repeat that is due before it; None if none is open.

        It stays the same until it is rated. The time of a verdict is measured from the last call. rater: a name; what
        another named rater sees at the moment is left to them.
        """
        with self.writing() as db:
            row = raters.open_showing(db, rater, time.time())
            if row is None:
                return None
            id, number, before = row
            if before is None:
                id = _add_repeat(db, number) or id
            db.execute("UPDATE showings SET shown = ? WHERE id = ?", (time.time(), id))
            raters.set_rater(db, id, rater)
            body, sides = db.execute(
                "SELECT body, sides FROM showings JOIN questions ON number = question WHERE id = ?", (id,)
            ).fetchone()
            prompt, completions = json.loads(body)
            return BlindQuestion(id, prompt, tuple(completions[i] for i in json.loads(sides)))

    def record(self, id: int, verdict: str, rater: str = "", worst: str = "", text: str = "") -> bool:
        """Rater: store a verdict: the place of the chosen completion ("1", "2", …), "tie", "bad" (all), "skip", or
        "written" with a better completion as the text.

        worst: the place of the worst completion of three or more, beside a chosen one. Returns False, and stores
        nothing, if this showing is rated already, undone or unknown; `next_question` then gives the question to show.
        Raises OptionError for any other verdict.
        """
        with self.writing() as db:
            row = db.execute(
                "SELECT sides, shown, body FROM showings JOIN questions ON number = question"
                " WHERE id = ? AND verdict IS NULL",
                (id,),
            ).fetchone()
            if row is None:
                verdicts_of.read_verdict(verdict, worst, text)
                return False
            sides, shown, (_, completions) = json.loads(row[0]), row[1], json.loads(row[2])
            given = verdicts_of.read_verdict(verdict, worst, text, sides, completions)
            raters.set_rater(db, id, rater)
            seconds = None if shown is None else max(time.time() - shown, 0.0)
            db.execute(
                "UPDATE showings SET verdict = ?, chosen = ?, seconds = ?,"
                " turn = (SELECT coalesce(max(turn), 0) + 1 FROM showings) WHERE id = ?",
                (given.word, given.chosen, seconds, id),
            )
            verdicts_of.put_more(db, id, given)
            return True

    def set_report(self, report: Any) -> None:
        """Tuner: set what the raters see of its progress, a JSON value."""
        with self.writing() as db:
            _set_facts(db, report=json.dumps(report))

    def stop_tuning(self) -> None:
        """Rater: the model is good enough. Open questions of training steps are skipped, and the tuner ends."""
        with self.writing() as db:
            _set_facts(db, stop=1)
            self._skip_open(db)

    def skip_if_stopping(self, keys: Sequence[str]) -> bool:
        """Tuner: whether the rater has asked to end the tuning and these are questions of a training step; if so, its
        open questions are skipped."""
        if not self.progress().stopping or "judge" in self.purposes(keys).values():
            return False
        with self.writing() as db:
            self._skip_open(db)
        return True

    def purposes(self, keys: Sequence[str]) -> dict[str, str]:
        """Tuner: the purposes of those of these questions that were asked, by key."""
        with self.reading() as db:
            asked = "SELECT key, purpose FROM questions WHERE key IN (SELECT value FROM json_each(?))"
            return dict(db.execute(asked, (json.dumps([*keys]),)).fetchall())

    def set_wish(self, text: str) -> None:
        """Rater: state in words what the answers should be like; "" takes it back. Raises OptionError where it is too
        long."""
        if len(text) > MAX_WISH:
            raise OptionError(f"a wish has at most {MAX_WISH} characters, got {len(text)}")
        with self.writing() as db:
            _set_facts(db, wish=verdicts_of.storable(" ".join(text.split())))

    def wish(self) -> str:
        """Tuner: the wish that the rater has stated in words; "" where there is none."""
        with self.reading() as db:
            row = db.execute("SELECT value FROM facts WHERE name = 'wish'").fetchone()
            return str(row[0]) if row else ""

    def used_verdicts(self, last: int) -> list[str]:
        """Tuner: the verdicts that the tuner has used for training steps, the `last` of them in the order of asking."""
        with self.reading() as db:
            rows = db.execute(
                "SELECT verdict FROM showings JOIN questions ON number = question WHERE before IS NULL AND used = 1"
                " AND purpose = 'tune' AND verdict IS NOT NULL ORDER BY number DESC LIMIT ?",
                (last,),
            ).fetchall()
            return [verdict for (verdict,) in reversed(rows)]

    def set_writing(self) -> None:
        """Tuner: offer raters to write a completion, for it is learnt from."""
        with self.writing() as db:
            _set_facts(db, writing=1)

    def set_asked_ahead(self) -> None:
        """Tuner: remember that the questions of training steps are asked a step ahead."""
        with self.writing() as db:
            _set_facts(db, ahead=1)

    def asked_ahead(self) -> bool:
        """Tuner: whether `set_asked_ahead` was called in this run, in an earlier process too."""
        with self.reading() as db:
            return db.execute("SELECT 1 FROM facts WHERE name = 'ahead'").fetchone() is not None

    def clear_stop(self) -> None:
        """Tuner: forget that the rater has asked to end the tuning: it has ended."""
        with self.writing() as db:
            _set_facts(db, stop=0)

    @staticmethod
    def _skip_open(db: sqlite3.Connection) -> None:
        db.execute(
            "UPDATE showings SET verdict = 'skip' WHERE verdict IS NULL AND question IN"
            " (SELECT number FROM questions WHERE purpose IN ('tune', 'progress'))"
        )

    def undo(self, rater: str = "") -> Literal["undone", "used", "nothing"]:
        """Rater: delete the last verdict, of a named rater their own, so that its question is the next one again.

        "used": the tuner has used the verdict and does not take another; a new one counts for everything else, such as
        the exported preferences. "nothing": there is no verdict.
        """
        with self.writing() as db:
            row = db.execute(
                "SELECT id, question, before, sides, used FROM showings JOIN questions ON number = question"
                " LEFT JOIN raters ON showing = id WHERE turn IS NOT NULL AND (? = '' OR name = ?) ORDER BY turn DESC",
                (rater, rater),
            ).fetchone()
            if row is None:
                return "nothing"
            id, number, before, sides, used = row
            # A repeat that is not rated yet is deleted and drawn again later: the next undo may concern its question.
            db.execute("DELETE FROM raters WHERE showing = ?", (id,))
            verdicts_of.drop_more(db, id)
            db.execute("DELETE FROM showings WHERE id = ? OR (before IS NOT NULL AND verdict IS NULL)", (id,))
            _add_showing(db, number, before, sides)
            return "used" if used and before is None else "undone"

    def progress(self) -> Progress:
        """Counts, times, and what the tuner does."""
        with self.reading() as db:
            facts = dict(db.execute("SELECT name, value FROM facts").fetchall())
            answered, open = db.execute(
                "SELECT count(verdict), count(*) - count(verdict) FROM showings WHERE before IS NULL"
            ).fetchone()
            times = [
                seconds
                for (seconds,) in db.execute(
                    "SELECT seconds FROM showings WHERE seconds IS NOT NULL ORDER BY turn DESC LIMIT ?",
                    (TIMED_VERDICTS,),
                )
            ]
            agreed, repeated = count_agreement(db)
        state = facts.get("state", "")
        done = state in (DONE, ALL_ASKED) and not open
        planned = max(int(facts["planned"]), answered + open) if "planned" in facts else None
        if planned is not None and state in (DONE, ALL_ASKED):
            planned = answered + open  # no further question comes: equal texts were not asked
        seconds = statistics.median(times) if times else None
        remaining = open if planned is None or state in (DONE, ALL_ASKED) else planned - answered
        left = None if seconds is None else seconds * remaining * (1 + 1 / REPEAT_EVERY)
        alive = time.time() - float(facts.get("beat", 0)) < HEARTBEAT_TIMEOUT
        running = state == ALL_ASKED or (state != DONE and alive)
        report, stopping = json.loads(facts.get("report", "null")), facts.get("stop") == "1"
        wish, writing = facts.get("wish", ""), facts.get("writing") == "1"
        counts = (answered, open, planned, seconds, left, agreed, repeated)
        return Progress(*counts, state, running, done, report, stopping, wish, writing)


def _set_facts(db: sqlite3.Connection, **facts: Any) -> None:
    db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", [(k, str(v)) for k, v in facts.items()])


def _shuffled(seed: int, key: str, count: int) -> list[int]:
    """The completion's index at each place: a random order, all orders equally likely."""
    return sorted(range(count), key=lambda i: derive(seed, "sides", key, i))


def _add_showing(db: sqlite3.Connection, number: int | None, before: int | None, sides: str) -> int | None:
    """Store that a question is to be shown; returns the id of the showing."""
    return db.execute(
        "INSERT INTO showings (question, before, sides) VALUES (?, ?, ?)", (number, before, sides)
    ).lastrowid


def _add_repeat(db: sqlite3.Connection, before: int) -> int | None:
    """Store a repeat to show before the question with this number; None if none is due or no question can be repeated.

    Repeated are questions of two completions that were not skipped, each once at most, except the one rated last.
    """
    (key,) = db.execute("SELECT key FROM questions WHERE number = ?", (before,)).fetchone()
    if derive(0, "repeat", key) % REPEAT_EVERY:
        return None
    if db.execute("SELECT 1 FROM showings WHERE before = ?", (before,)).fetchone():
        return None
    candidates = db.execute(
        "SELECT question, sides FROM showings JOIN questions ON number = question"
        " WHERE before IS NULL AND verdict IN ('chosen', 'tie', 'bad') AND json_array_length(sides) = 2"
        " AND purpose IN (SELECT value FROM json_each(?))"
        " AND question NOT IN (SELECT question FROM showings WHERE before IS NOT NULL)"
        " AND turn < (SELECT max(turn) FROM showings) ORDER BY question",
        (json.dumps(REPEATED_PURPOSES),),
    ).fetchall()
    if not candidates:
        return None
    number, sides = candidates[derive(0, "repeated", key) % len(candidates)]
    return _add_showing(db, number, before, json.dumps(json.loads(sides)[::-1]))


def _scores(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, tuple[float, ...] | None]:
    verdicts = verdicts_of.first_verdicts(db, keys)
    return {key: verdicts_of.strengths(verdict, count) for key, (verdict, count) in verdicts.items()}


__all__ = [
    "ALL_ASKED",
    "DONE",
    "HEARTBEAT_PERIOD",
    "HEARTBEAT_TIMEOUT",
    "MAX_COMPLETIONS",
    "NO_CHOICE",
    "PURPOSES",
    "REPEAT_EVERY",
    "WRITTEN",
    "BlindQuestion",
    "Progress",
    "Question",
    "Ratings",
]
