"""The file `ratings.sqlite` of a run directory: its schema, how it is opened, and its transactions.

Several processes and threads share the file. Each write is a transaction that is on disk before it returns.
This module knows the tables, but not how questions are chosen or what verdicts mean.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from zotune.errors import RunFolderError, ZotuneError

FILE_NAME: Final = "ratings.sqlite"
FORMAT: Final = 1
"""Version of the schema, kept in the file's `user_version`."""

_LOCK_TIMEOUT = 30.0
"""Seconds to wait while another process writes."""
_LOCK_POLL = 0.02
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS questions (
        number  INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of asking
        key     TEXT NOT NULL UNIQUE,
        purpose TEXT NOT NULL,
        body    TEXT NOT NULL,                      -- JSON: [prompt, [completions, in the asker's order]]
        used    INTEGER NOT NULL DEFAULT 0          -- 1: the tuner has used the rating
    )""",
    """CREATE TABLE IF NOT EXISTS showings (
        id       INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused, so a late click changes nothing
        question INTEGER NOT NULL REFERENCES questions (number),
        before   INTEGER UNIQUE,                    -- NULL: first showing; else the question after the repeat
        sides    TEXT NOT NULL,                     -- JSON: the completion's index at each place
        shown    REAL,
        verdict  TEXT,                              -- NULL: open; chosen, tie, bad or skip
        chosen   INTEGER,                           -- index in the asker's order
        seconds  REAL,
        turn     INTEGER UNIQUE                     -- the order of rating
    )""",
    """CREATE UNIQUE INDEX IF NOT EXISTS one_of_each ON showings (question, before IS NULL)""",
    """CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)""",
)

_LATER_TABLES = (
    """CREATE TABLE IF NOT EXISTS raters (showing INTEGER PRIMARY KEY, name TEXT NOT NULL)""",  # who sees or rated it
    """CREATE TABLE IF NOT EXISTS worst (showing INTEGER PRIMARY KEY, place INTEGER NOT NULL)""",  # asker's order
    """CREATE TABLE IF NOT EXISTS written (showing INTEGER PRIMARY KEY, text TEXT NOT NULL)""",  # by the rater
)


def check_folder(folder: str | Path) -> Path:
    """The path of a run directory, which may not be there yet. Raises RunFolderError if something else is there."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is no directory", hint="give the run directory")
    return path


class Store:
    """The open ratings file of one run directory; creates the file if it does not exist.

    Several threads and processes may use it. read_only: whether nothing is created or written, also where the file is
    of an earlier version. Raises RunFolderError if the directory does not exist or the file is not a ratings file of
    this format.
    """

    def __init__(self, folder: str | Path, read_only: bool = False) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE_NAME
        if not self.folder.is_dir():
            raise RunFolderError(f"the run directory {self.folder} does not exist", hint="check the path")
        self._lock = threading.RLock()
        try:
            self._db = _open_to_read(self.path) if read_only else _open(self.path)
        except sqlite3.Error as error:
            raise RunFolderError(
                f"{self.path} cannot be opened: {error}", hint="move the file away, or use another run directory"
            ) from None

    def close(self) -> None:
        """Close the file. Ratings are on disk already."""
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: everything inside the block is stored, or nothing. Raises ZotuneError."""
        with self._lock, self._errors_named():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:  # on Ctrl-C too, the transaction must not stay half done
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read transaction: all queries inside the block see the same state. Raises ZotuneError."""
        with self._lock, self._errors_named():
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Errors of SQLite as ZotuneError with the file's path."""
        try:
            yield
        except sqlite3.Error as error:
            raise ZotuneError(f"{self.path}: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:  # locked: SQLite applies no timeout to this statement
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOCK_POLL)
        db.execute("PRAGMA synchronous = FULL")  # an acknowledged rating survives a power failure
        db.execute("BEGIN IMMEDIATE")
        if not _version(db, path):
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {FORMAT}")
        for statement in _LATER_TABLES:
            db.execute(statement)
        db.execute("COMMIT")
    except BaseException:  # on Ctrl-C too: nobody else has the connection to close it
        db.close()
        raise
    return db


def _open_to_read(path: Path) -> sqlite3.Connection:
    """The file as it is; tables of later versions are empty."""
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_LOCK_TIMEOUT, check_same_thread=False)
    try:
        db.isolation_level = None
        _version(db, path)
        known = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        for statement in _LATER_TABLES:
            if statement.split()[5] not in known:
                db.execute(statement.replace("CREATE TABLE", "CREATE TEMP TABLE"))
    except BaseException:  # on Ctrl-C too: nobody else has the connection to close it
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection, path: Path) -> int:
    """The format of the file, 0 for a new one. Raises RunFolderError for another format."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in (0, FORMAT):
        raise RunFolderError(
            f"{path} has format {version}; this version of zotune reads format {FORMAT}",
            hint="install the version of zotune that wrote it",
        )
    return int(version)
