"""Questions to people and their answers, kept in one file that two processes share.

The tuner asks and reads scores; a page or a terminal shows and answers. Neither knows the other: all they share is
`ratings.sqlite` in the run folder, so either may be closed, killed and started again at any moment. A question is
stored before it can be shown and an answer is on disk before it is acknowledged, so nothing is lost or asked twice.

Who rates is blind: the answers of a question are shuffled by a hash of the seed and its key, and about one question in
ten is preceded by an earlier one with its sides swapped, which measures how often a person agrees with themselves.

This module knows nothing of models, pages or terminals.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from zotune.errors import OptionError, RunFolderError, ZotuneError, nearest
from zotune.seeds import derive

FILE: Final = "ratings.sqlite"
FORMAT: Final = 1
PURPOSES: Final = ("tune", "judge", "compare")
REPEATABLE: Final = ("tune", "compare")
WORDS: Final = ("tie", "bad", "skip")
DONE: Final = "done"
ASKED: Final = "comparing"
"""The state where everything is asked at once: no tuner is waited for, and it is done when all has an answer."""

MOST_ANSWERS: Final = 9
"""Answers a question at most: one key each, 1 to 9."""

REPEAT_EVERY: Final = 10
PATIENCE: Final = 15.0
"""Seconds without a heartbeat after which the tuner counts as not running."""

RECENT: Final = 50
"""Answers whose median time is the rate."""

_BUSY = 30.0
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS questions (
        number  INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of asking
        key     TEXT NOT NULL UNIQUE,
        purpose TEXT NOT NULL,
        body    TEXT NOT NULL,                      -- JSON: [prompt, [answers, in the asker's order]]
        used    INTEGER NOT NULL DEFAULT 0          -- 1: the tuner has taken the answer
    )""",
    """CREATE TABLE IF NOT EXISTS showings (
        id       INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice, so a late click hits nothing
        question INTEGER NOT NULL REFERENCES questions (number),
        before   INTEGER UNIQUE,                    -- NULL: the first showing; else what the repeat precedes
        sides    TEXT NOT NULL,                     -- JSON: which answer is at each place
        shown    REAL,
        verdict  TEXT,                              -- NULL: open; chosen, tie, bad or skip
        chosen   INTEGER,                           -- in the asker's order
        seconds  REAL,
        turn     INTEGER UNIQUE                     -- the order of answering
    )""",
    """CREATE UNIQUE INDEX IF NOT EXISTS one_of_each ON showings (question, before IS NULL)""",
    """CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)""",
)


@dataclass(frozen=True)
class Question:
    """One prompt with two to nine answers to compare. Raises OptionError where it cannot be shown.

    key: stable and unique, given by the asker; it holds whatever tells two questions apart.
    purpose: "tune" (scores for training), "judge" (scores for selection) or "compare" (a win rate).
    """

    key: str
    prompt: str
    answers: tuple[str, ...]
    purpose: str = "tune"

    def __post_init__(self) -> None:
        if not self.key:
            raise OptionError("a question needs a key")
        if self.purpose not in PURPOSES:
            raise OptionError(
                f"{self.purpose!r} is no purpose of a question", hint=nearest(str(self.purpose), PURPOSES)
            )
        if not 2 <= len(self.answers) <= MOST_ANSWERS:
            raise OptionError(f"a question has 2 to {MOST_ANSWERS} answers, not {len(self.answers)}")


@dataclass(frozen=True)
class Shown:
    """What a person sees: `answers` in the order of the places, nothing that tells which is which.

    id: names this showing; after an undo the same question comes back under another one.
    """

    id: int
    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """How far the rating is. Repeats are in none of these numbers but the last two.

    planned: questions expected overall, or None where the tuner has not said.
    seconds: median of the last answers' times; left: seconds of answering left; None where unknown.
    """

    answered: int
    open: int
    planned: int | None
    seconds: float | None
    left: float | None
    agreed: int
    repeated: int
    state: str
    running: bool
    done: bool


@dataclass(frozen=True)
class WinRate:
    """Of answer A: counts, the share of wins with ties as half, and its 95 % interval."""

    wins: int
    losses: int
    ties: int
    rate: float
    low: float
    high: float


class Ratings:
    """The store of one run folder; makes its file where there is none. May be used by several threads and processes.

    seed: of the sides, used when a question is stored. Raises RunFolderError where the folder does not exist or the
    file is not a store of this format.
    """

    def __init__(self, folder: str | Path, seed: int = 0) -> None:
        self.folder, self.seed = Path(folder), seed
        self.path = self.folder / FILE
        if not self.folder.is_dir():
            raise RunFolderError(f"{self.folder} does not exist")
        self._lock = threading.RLock()
        try:
            self._db = _open(self.path)
        except sqlite3.Error as error:
            raise RunFolderError(f"{self.path} cannot be opened: {error}") from None

    def close(self) -> None:
        """Close the file. Answers are safe without it."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Ratings:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # The asker's side

    def ask(self, questions: Sequence[Question]) -> None:
        """Store questions to be shown in this order, all or none. A key that is there already is left as it is.

        Raises RunFolderError where a key is there with another text: its answer would be to something else.
        """
        with self._write() as db:
            for q in questions:
                body = json.dumps([q.prompt, list(q.answers)])
                found = db.execute("SELECT purpose, body FROM questions WHERE key = ?", (q.key,)).fetchone()
                if found is None:
                    cursor = db.execute(
                        "INSERT INTO questions (key, purpose, body) VALUES (?, ?, ?)", (q.key, q.purpose, body)
                    )
                    _show(db, cursor.lastrowid, None, json.dumps(_shuffled(self.seed, q.key, len(q.answers))))
                elif found != (q.purpose, body):
                    raise RunFolderError(
                        f"{self.path}: question {q.key!r} was asked before with another text",
                        hint="start a new run folder",
                    )
            _put(db, beat=time.time())

    def scores(self, keys: Sequence[str]) -> dict[str, tuple[float, ...] | None]:
        """Scores of the answered ones of these questions, one float an answer in the asker's order.

        The chosen answer has 1 and the others 0; a tie, and all of them bad, is 0.5 each; skipped is None. What is not
        answered yet is not in the dict. A repeat's answer changes nothing here.
        """
        with self._read() as db:
            return _scores(db, keys)

    def use(self, keys: Sequence[str]) -> dict[str, tuple[float, ...] | None]:
        """`scores`, and in the same moment mark what is returned as taken: from now on it cannot be undone."""
        with self._write() as db:
            found = _scores(db, keys)
            db.execute(
                "UPDATE questions SET used = 1 WHERE key IN (SELECT value FROM json_each(?))",
                (json.dumps([*found]),),
            )
            return found

    def waiting(self, keys: Sequence[str]) -> int:
        """How many of these questions have no answer yet."""
        return len(set(keys)) - len(self.scores(keys))

    def plan(self, total: int) -> None:
        """Say how many questions are expected overall, those already asked included."""
        with self._write() as db:
            _put(db, planned=total)

    def state(self, text: str) -> None:
        """Say what the tuner is doing, as the page shows it ("generating…"); `DONE` ends the rating. A heartbeat."""
        with self._write() as db:
            _put(db, state=text, beat=time.time())

    @contextlib.contextmanager
    def beating(self, period: float = 2.0) -> Iterator[None]:
        """Within this block the tuner counts as running, whatever it computes; after it, as not running."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(period):
                with contextlib.suppress(ZotuneError), self._write() as db:
                    _put(db, beat=time.time())

        self._beat(time.time())
        thread = threading.Thread(target=beat, name="zotune-ratings", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._beat(0.0)

    def _beat(self, moment: float) -> None:
        with self._write() as db:
            _put(db, beat=moment)

    # The person's side

    def next(self) -> Shown | None:
        """What to show now: the oldest open question, or a repeat that is due before it; None where none is open.

        The same until it is answered. The time of an answer counts from the last call.
        """
        with self._write() as db:
            found = db.execute(
                "SELECT id, question, before FROM showings WHERE verdict IS NULL ORDER BY before IS NULL, question"
            ).fetchone()
            if found is None:
                return None
            id, question, before = found
            if before is None:
                id = self._repeat(db, question) or id
            db.execute("UPDATE showings SET shown = ? WHERE id = ?", (time.time(), id))
            body, sides = db.execute(
                "SELECT body, sides FROM showings JOIN questions ON number = question WHERE id = ?", (id,)
            ).fetchone()
            prompt, answers = json.loads(body)
            return Shown(id, prompt, tuple(answers[i] for i in json.loads(sides)))

    def _repeat(self, db: sqlite3.Connection, before: int) -> int | None:
        """Store a repeat to show before this question, where one is due and there is something to repeat."""
        (key,) = db.execute("SELECT key FROM questions WHERE number = ?", (before,)).fetchone()
        if derive(0, "repeat", key) % REPEAT_EVERY:
            return None
        if db.execute("SELECT 1 FROM showings WHERE before = ?", (before,)).fetchone():
            return None
        earlier = db.execute(
            "SELECT question, sides FROM showings JOIN questions ON number = question"
            " WHERE before IS NULL AND verdict IN ('chosen', 'tie', 'bad') AND json_array_length(sides) = 2"
            " AND purpose IN (SELECT value FROM json_each(?))"
            " AND question NOT IN (SELECT question FROM showings WHERE before IS NOT NULL)"
            " AND turn < (SELECT max(turn) FROM showings) ORDER BY question",
            (json.dumps(REPEATABLE),),
        ).fetchall()
        if not earlier:
            return None
        question, sides = earlier[derive(0, "repeated", key) % len(earlier)]
        return _show(db, question, before, json.dumps(json.loads(sides)[::-1]))

    def answer(self, id: int, verdict: str) -> bool:
        """Store the answer to a showing: the place chosen ("1", "2", …), "tie", "bad" (all of them) or "skip".

        False where that showing is answered already, undone or unknown: nothing is changed, go on with `next`. Raises
        OptionError where the verdict is none of these.
        """
        with self._write() as db:
            found = db.execute("SELECT sides, shown FROM showings WHERE id = ? AND verdict IS NULL", (id,)).fetchone()
            if found is None:
                _check(verdict, MOST_ANSWERS)
                return False
            sides = json.loads(found[0])
            _check(verdict, len(sides))
            word, chosen = (verdict, None) if verdict in WORDS else ("chosen", sides[int(verdict) - 1])
            seconds = None if found[1] is None else max(time.time() - found[1], 0.0)
            db.execute(
                "UPDATE showings SET verdict = ?, chosen = ?, seconds = ?,"
                " turn = (SELECT coalesce(max(turn), 0) + 1 FROM showings) WHERE id = ?",
                (word, chosen, seconds, id),
            )
            return True

    def undo(self) -> Literal["undone", "used", "nothing"]:
        """Take the last answer back: its question is the next one again. "used": the tuner has taken it already."""
        with self._write() as db:
            found = db.execute(
                "SELECT id, question, before, sides, used FROM showings JOIN questions ON number = question"
                " WHERE turn IS NOT NULL ORDER BY turn DESC"
            ).fetchone()
            if found is None:
                return "nothing"
            id, question, before, sides, used = found
            if used and before is None:
                return "used"
            # A repeat that waits to be shown is chosen anew when its time comes: what it repeats may be undone next.
            db.execute("DELETE FROM showings WHERE id = ? OR (before IS NOT NULL AND verdict IS NULL)", (id,))
            _show(db, question, before, sides)
            return "undone"

    # What is known

    def agreement(self) -> tuple[int, int]:
        """(repeats with the same answer as before, repeats answered). Skipped ones do not count.

        A tie and all of them bad prefer none: between two answers they are the same.
        """
        with self._read() as db:
            return _agreement(db)

    def progress(self) -> Progress:
        """Counts, times and what the tuner is doing."""
        with self._read() as db:
            facts = dict(db.execute("SELECT name, value FROM facts").fetchall())
            answered, open = db.execute(
                "SELECT count(verdict), count(*) - count(verdict) FROM showings WHERE before IS NULL"
            ).fetchone()
            times = [
                seconds
                for (seconds,) in db.execute(
                    "SELECT seconds FROM showings WHERE seconds IS NOT NULL ORDER BY turn DESC LIMIT ?", (RECENT,)
                )
            ]
            agreed, repeated = _agreement(db)
        state = facts.get("state", "")
        done = state in (DONE, ASKED) and not open
        planned = max(int(facts["planned"]), answered + open) if "planned" in facts else None
        seconds = statistics.median(times) if times else None
        remaining = open if planned is None or state in (DONE, ASKED) else planned - answered
        left = None if seconds is None else seconds * remaining * (1 + 1 / REPEAT_EVERY)
        running = state == ASKED or (state != DONE and time.time() - float(facts.get("beat", 0)) < PATIENCE)
        return Progress(answered, open, planned, seconds, left, agreed, repeated, state, running, done)

    def verdicts(self) -> dict[str, int]:
        """How often each verdict was given, repeats left out: chosen, tie, bad, skip."""
        with self._read() as db:
            found = db.execute(
                "SELECT verdict, count(*) FROM showings WHERE before IS NULL AND verdict IS NOT NULL GROUP BY verdict"
            ).fetchall()
        return {"chosen": 0, **dict.fromkeys(WORDS, 0), **dict(found)}

    def export(self, path: str | Path) -> int:
        """Write preferences as JSON lines with `prompt`, `chosen` and `rejected`; returns how many.

        One line for the chosen answer against each of the others. Ties, all bad, skipped, equal texts, and what a
        repeat answered differently, are left out. The file is written whole or not at all.
        """
        lines = []
        with self._read() as db:
            for body, chosen in db.execute(
                "SELECT body, f.chosen FROM showings f JOIN questions ON number = f.question"
                " LEFT JOIN showings r ON r.question = f.question AND r.before IS NOT NULL AND r.verdict != 'skip'"
                " WHERE f.before IS NULL AND f.verdict = 'chosen' AND (r.verdict IS NULL OR r.chosen IS f.chosen)"
                " ORDER BY number"
            ):
                prompt, answers = json.loads(body)
                lines += [
                    json.dumps({"prompt": prompt, "chosen": answers[chosen], "rejected": other}, ensure_ascii=False)
                    for other in answers
                    if other != answers[chosen]
                ]
        write_whole(Path(path), "".join(line + "\n" for line in lines))
        return len(lines)

    def win_rate(self) -> WinRate:
        """How often answer A, the first in the asker's order, wins the questions asked to compare.

        With w wins and t ties (all bad is a tie; skipped ones do not count) of n, p = (w + t/2) / n, and the interval
        is Wilson's (1927) with z = 1.959964, the two-sided 95 % point of the normal distribution:

            (p + z²/2n ± z √(p (1 - p)/n + z²/4n²)) / (1 + z²/n)

        A tie as half a win has less variance than p (1 - p), so with ties the interval is on the wide side. Without any
        answer the rate is 0.5 and the interval 0 to 1.
        """
        with self._read() as db:
            wins, losses, ties = (
                int(n or 0)
                for n in db.execute(
                    "SELECT sum(chosen = 0), sum(chosen > 0), sum(verdict IN ('tie', 'bad')) FROM showings"
                    " JOIN questions ON number = question WHERE before IS NULL AND purpose = 'compare'"
                ).fetchone()
            )
        return rated(wins, losses, ties)

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._named():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:  # Ctrl-C too: all or nothing
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._named():
            self._db.execute("BEGIN")  # one moment for all that is read
            try:
                yield self._db
            finally:
                self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ZotuneError(f"{self.path}: {error}") from error


def rated(wins: int, losses: int, ties: int) -> WinRate:
    """The win rate of these counts, as `Ratings.win_rate` defines it."""
    n = wins + losses + ties
    rate = (wins + ties / 2) / n if n else 0.5
    return WinRate(wins, losses, ties, rate, *wilson(rate, n))


def wilson(p: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share p of n; 0 to 1 where n is 0."""
    if not n:
        return 0.0, 1.0
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
    try:
        deadline = time.monotonic() + _BUSY
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:  # busy: sqlite does not wait for this one statement
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        db.execute("PRAGMA synchronous = FULL")  # an acknowledged answer survives a power cut
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, FORMAT):
            raise RunFolderError(f"{path}: ratings of format {version}, this version reads {FORMAT}")
        if not version:
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {FORMAT}")
        db.execute("COMMIT")
    except BaseException:  # Ctrl-C too: nobody else closes it
        db.close()
        raise
    return db


def _put(db: sqlite3.Connection, **facts: Any) -> None:
    db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", [(k, str(v)) for k, v in facts.items()])


def _shuffled(seed: int, key: str, count: int) -> list[int]:
    """Which answer is at each place: every order is as likely as any other."""
    return sorted(range(count), key=lambda i: derive(seed, "sides", key, i))


def _show(db: sqlite3.Connection, question: int | None, before: int | None, sides: str) -> int | None:
    return db.execute(
        "INSERT INTO showings (question, before, sides) VALUES (?, ?, ?)", (question, before, sides)
    ).lastrowid


def _scores(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, tuple[float, ...] | None]:
    found = db.execute(
        "SELECT key, verdict, chosen, json_array_length(sides) FROM showings JOIN questions ON number = question"
        " WHERE before IS NULL AND verdict IS NOT NULL AND key IN (SELECT value FROM json_each(?)) ORDER BY number",
        (json.dumps([*keys]),),
    )
    out: dict[str, tuple[float, ...] | None] = {}
    for key, verdict, chosen, count in found:
        if verdict == "skip":
            out[key] = None
        elif verdict == "chosen":
            out[key] = tuple(float(i == chosen) for i in range(count))
        else:
            out[key] = (0.5,) * count
    return out


def _agreement(db: sqlite3.Connection) -> tuple[int, int]:
    agreed, repeated = db.execute(
        "SELECT coalesce(sum(r.chosen IS f.chosen), 0), count(*) FROM showings r JOIN showings f"
        " ON r.question = f.question AND r.before IS NOT NULL AND f.before IS NULL"
        " WHERE r.verdict != 'skip' AND f.verdict != 'skip'"
    ).fetchone()
    return int(agreed), int(repeated)


def _check(verdict: str, count: int) -> None:
    known = [*map(str, range(1, count + 1)), *WORDS]
    if verdict not in known:
        raise OptionError(f"{verdict!r} is no verdict", hint="known: " + ", ".join(known))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole, or as it was."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(text.encode("utf-8", "replace"))  # half a character, from a cut answer, is no UTF-8
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:  # Ctrl-C too: nothing half-written stays
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
