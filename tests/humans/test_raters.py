"""Several raters by name: nobody sees what another one rates, an undo is one's own, and their agreement is counted."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from raters import question, with_repeats, without_repeats

from zotune.humans import console
from zotune.humans.page import serve
from zotune.humans.progress_report import progress_report
from zotune.humans.raters import HELD, RaterCount, in_words, rater_counts
from zotune.humans.ratings import ALL_ASKED, Ratings
from zotune.humans.store import FILE_NAME


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Ratings]:
    with Ratings(tmp_path) as ratings:
        yield ratings


def test_two_raters_see_different_questions_and_share_what_one_leaves(
    store: Ratings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ask(without_repeats(3))
    first, second = store.next_question("Anna"), store.next_question("Ben")
    assert first
    assert second
    assert first.prompt != second.prompt
    assert store.next_question("Anna") == first, "it stays the same"
    assert store.record(second.id, "1", "Ben")
    third = store.next_question("Ben")
    assert third
    assert third.prompt not in (first.prompt, second.prompt)
    assert store.record(third.id, "2", "Ben")
    assert store.next_question("Ben") is None, "the last one is before Anna's eyes"
    now = time.time()
    monkeypatch.setattr("zotune.humans.ratings.time.time", lambda: now + HELD + 1)
    assert store.next_question("Ben") == first, "Anna has gone"
    assert store.record(first.id, "1", "Ben")
    assert [(x.name, x.ratings) for x in rater_counts(store)] == [("Ben", 3)]


def test_an_undo_takes_back_ones_own_rating(store: Ratings) -> None:
    store.ask(without_repeats(3))
    prompts = []
    for name in ("Anna", "Ben"):
        shown = store.next_question(name)
        assert shown
        prompts.append(shown.prompt)
        assert store.record(shown.id, "1", name)
    assert store.undo("Anna") == "undone"
    again = store.next_question("Anna")
    assert again
    assert again.prompt == prompts[0]
    assert [(x.name, x.ratings) for x in rater_counts(store)] == [("Ben", 1)]
    assert store.undo("Anna") == "nothing"
    assert store.undo() == "undone", "a rater without a name takes back the last of all"


def test_their_agreement_is_counted_from_repeats(store: Ratings) -> None:
    store.ask([*without_repeats(4), *with_repeats(1)])
    for _ in range(4):
        shown = store.next_question("Anna")
        assert shown
        assert store.record(shown.id, "1", "Anna")
    repeat = store.next_question("Ben")
    assert repeat
    assert repeat.prompt.startswith("prompt of p"), "a question of Anna's comes again"
    assert store.record(repeat.id, "tie", "Ben")
    anna, ben = rater_counts(store)
    assert anna == RaterCount("Anna", 4, 0, 1)
    assert ben == RaterCount("Ben", 1, 0, 1)
    assert in_words([anna, ben])[1] == "Ben: 1 ratings; the same as another rater on 0 of 1 shared questions"
    assert in_words([anna]) == []
    assert progress_report(store, ["p"], [("a", "b")], 0, 0)["raters"] == in_words([anna, ben])
    assert progress_report(store, ["p"], [("a", "b")], 0, 0)["raters"] == in_words([anna, ben])


def test_a_file_of_an_earlier_version_gets_the_table(tmp_path: Path) -> None:
    with Ratings(tmp_path) as ratings:
        ratings.ask([question("k")])
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        db.execute("DROP TABLE raters")
        db.commit()
    with Ratings(tmp_path) as ratings:
        shown = ratings.next_question("Anna")
        assert shown
        assert ratings.record(shown.id, "1", "Anna")
        assert rater_counts(ratings) == [RaterCount("Anna", 1, 0, 0)]


def test_page_and_terminal_rate_by_name(store: Ratings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zotune.humans.raters.HELD", 0.0)
    store.ask(without_repeats(2))
    with serve(tmp_path, rater="Anna") as page:
        reply = page._next({})
        page._answer({"id": reply["question"]["id"], "verdict": "1"})
    store.set_state(ALL_ASKED)
    console.rate(tmp_path, lambda prompt: "2", lambda text: None, "Ben")
    assert [(x.name, x.ratings) for x in rater_counts(store)] == [("Anna", 1), ("Ben", 1)]
