"""What people answered, in report.html: as the terminal says it, read from a file that stays as it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from zotune.humans.preferences import agreement
from zotune.humans.raters import in_words, rater_counts
from zotune.humans.ratings import Question, Ratings
from zotune.humans.store import FILE_NAME
from zotune.pages.html_page import html_page
from zotune.pages.ratings_panel import ratings_panel
from zotune.pages.run_record import RatingsRecord, RunRecord
from zotune.runs.ratings_reader import read_ratings

RUN = RunRecord("runs/taste", "taste", "tuned", {}, {}, {}, None)


def rated(folder: Path, count: int = 60) -> None:
    """Anna and Ben rate in turn; she likes the first completion, whatever its side, and he the second."""
    with Ratings(folder) as store:
        store.ask([Question(f"k{i}", f"p{i}", (f"a{i}", f"b{i}")) for i in range(count)])
        turn = 0
        while shown := store.next_question(rater := ("Anna", "Ben")[turn % 2]):
            wanted = {"Anna": "a", "Ben": "b"}[rater]
            place = next(i for i, text in enumerate(shown.completions) if text.startswith(wanted))
            store.record(shown.id, str(place + 1), rater)
            turn += 1


def test_the_page_says_what_the_terminal_says(tmp_path: Path) -> None:
    assert read_ratings(tmp_path, []) is None
    assert ratings_panel([RUN]) is None
    rated(tmp_path)
    ratings = read_ratings(tmp_path, problems := [])
    assert ratings is not None
    assert problems == []
    with Ratings(tmp_path) as store:
        assert (ratings.agreed, ratings.repeated) == agreement(store)
        counts = rater_counts(store)
    assert 0 < ratings.agreed < ratings.repeated
    assert ratings.interval[0] < ratings.agreed / ratings.repeated < ratings.interval[1]
    page = html_page([replace(RUN, ratings=ratings)])
    assert "Ratings by people" in page
    assert "60 questions rated: chose one 60." in page
    assert f"got the same rating: {ratings.agreed} of {ratings.repeated} (" in page
    for count, line in zip(counts, in_words(counts), strict=True):
        assert f"{count.agreed} of {count.repeated}" in line
        assert count.repeated > 0
        assert f"<td>{count.ratings}</td><td>{count.agreed} of {count.repeated} (" in page
    assert "<h3>" not in str(ratings_panel([replace(RUN, ratings=ratings)]))
    assert str(ratings_panel([replace(RUN, ratings=ratings), RUN])).count("<h3>") == 1


def test_a_run_without_repeats_and_with_a_hostile_name() -> None:
    ratings = RatingsRecord({"chosen": 1, "written": 0}, 0, 0, (0.0, 1.0), ())
    shown = str(ratings_panel([replace(RUN, ratings=ratings)]))
    assert "1 question rated: chose one 1." in shown
    assert "No question was shown again" in shown
    assert "<table" not in shown


def test_reading_changes_nothing_and_old_files_are_read(tmp_path: Path) -> None:
    rated(tmp_path, 4)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        for table in ("raters", "worst", "written"):
            db.execute(f"DROP TABLE {table}")
        db.commit()
        before = db.execute("SELECT name FROM sqlite_master").fetchall()
    ratings = read_ratings(tmp_path, [])
    assert ratings is not None
    assert ratings.verdicts["chosen"] == 4
    assert ratings.raters == []
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == before
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 100)
    assert read_ratings(tmp_path, problems := []) is None
    assert "cannot be read" in problems[0]
