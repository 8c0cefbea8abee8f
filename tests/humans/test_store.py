"""The ratings file: opening it, and its transactions."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from raters import without_repeats

from zotune.errors import RunFolderError
from zotune.humans.ratings import Ratings
from zotune.humans.store import FILE_NAME


@pytest.fixture
def store(tmp_path: Path):
    with Ratings(tmp_path) as ratings:
        yield ratings


def test_a_failed_transaction_stores_nothing(store: Ratings) -> None:
    with pytest.raises(ZeroDivisionError), store.writing() as db:
        db.execute("INSERT INTO facts VALUES ('half', '1')")
        raise ZeroDivisionError
    store.ask(without_repeats(1))
    assert store.progress().open == 1
    with store.reading() as db:
        assert not db.execute("SELECT 1 FROM facts WHERE name = 'half'").fetchone()


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        Ratings(tmp_path / "none")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / FILE_NAME).write_text("not a database, but long enough to look at " * 40)
    with pytest.raises(RunFolderError, match="cannot be opened"):
        Ratings(tmp_path / "foreign")
    Ratings(tmp_path).close()
    db = sqlite3.connect(tmp_path / FILE_NAME)
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(RunFolderError, match="format 7"):
        Ratings(tmp_path)
