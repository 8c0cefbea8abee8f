"""A wish that the model hardly ever meets: questions of four answers by themselves, the wish in words, and the same run
when it is interrupted, resumed and replayed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from families import Families
from test_human_runs import Person, data, journal_lines, same_weights, verdict
from test_questions_ahead import fit, lines
from zotune_objectives.human import Human

from zotune.errors import OptionError
from zotune.humans.console import rate
from zotune.humans.progress_report import ENOUGH_ANSWERS, progress_report
from zotune.humans.ratings import Question, Ratings
from zotune.humans.store import FILE_NAME
from zotune.runs import reused_answers
from zotune.runs.replay import replay
from zotune.types import RunContext, WiderQuestions

__all__ = ["data"]  # a fixture

PLACES, STEPS = 8, 5
ARGS = {"questions": str(PLACES * STEPS + 4), "judged": "4", "learn": "both"}


def never_pleased(shown: Any) -> str:
    """Likes no answer of two, and the longest of four."""
    return "bad" if len(shown.completions) == 2 else verdict(shown.completions)


def asked(folder: Path) -> list[int]:
    """How many answers each question of the tuning showed."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as db:
        bodies = db.execute("SELECT body FROM questions WHERE purpose = 'tune' ORDER BY number").fetchall()
    return [len(json.loads(body)[1]) for (body,) in bodies]


@pytest.fixture(scope="module", autouse=True)
def few_pairs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reused_answers, "MOST_PAIRS", reused_answers.LEAST_PAIRS)
        yield


@pytest.fixture(scope="module")
def model(families: Families) -> Path:
    return families.folder("llama")


@pytest.fixture(scope="module")
def whole(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rare") / "run"
    with Person(folder, rate=never_pleased):
        fit(model, data, folder, objective_args=ARGS)
    return folder


def test_where_all_are_bad_questions_show_four_answers_that_are_learnt_from(whole: Path) -> None:
    counts = asked(whole)
    first = counts.index(max(counts))
    assert 2 * PLACES < first <= 3 * PLACES, "the fourth step is the first that knows the answers of two steps"
    assert {*counts[:first]} == {2}
    assert max(counts) == 4
    answers = [json.loads(line) for line in (whole / "answered_pairs.jsonl").read_text().splitlines()]
    assert [bool(line["pairs"]) for line in answers[:3]] == [False] * 3, "nothing was preferred"
    assert any(line["pairs"] for line in answers[3:])
    steps = [dict(line["tape"]) for line in journal_lines(whole) if line["kind"] == "step"]
    assert [len(tape["preferences"]) > 0 for tape in steps] == [bool(x["pairs"]) for x in answers]
    assert {*steps[3]["members"]} == {steps[3]["members"][0]}, "nobody has compared partners"


def test_it_is_the_same_run_when_it_is_interrupted_and_when_it_is_replayed(
    whole: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    folder, stopped = tmp_path / "run", 3 * PLACES + 3
    with Person(folder, stopped, rate=never_pleased) as person:
        first = fit(model, data, folder, lambda: person.answered >= stopped, objective_args=ARGS)
    assert first.reason == "interrupted"
    with Person(folder, rate=never_pleased):
        fit(model, data, folder, resume="last", objective_args=ARGS)
    assert asked(folder) == asked(whole)
    assert lines(folder) == lines(whole)
    assert same_weights(folder, whole)
    assert replay(whole, tmp_path / "again", step=STEPS).confirmed


def test_answers_that_are_not_used_yet_change_no_question(tmp_path: Path) -> None:
    human = Human(learn="both")
    human._start(RunContext(tmp_path, lambda text: None, lambda: False, 0, 60))
    with Ratings(tmp_path) as store:
        keys = [f"k{i}" for i in range(ENOUGH_ANSWERS)]
        store.ask([Question(key, key, ("x", "y")) for key in keys])
        while shown := store.next_question():
            store.record(shown.id, "bad")
        assert human._widen() is None
        store.take_scores(keys[:-1])
        assert human._widen() is None, "too few"
        store.take_scores(keys)
        assert human._widen() == WiderQuestions(4, 1.0, "")
        store.set_wish("  a story\n about a dog ")
        assert human._widen() == WiderQuestions(4, 1.0, "a story about a dog")
        assert store.progress().wish == "a story about a dog"
        with pytest.raises(OptionError, match="at most 400"):
            store.set_wish("x" * 401)
        report = progress_report(store, ["p"], [("a", "b")], 0, 0, wider=True)
        assert "four answers" in report["advice"]
    human.close()
    assert Human(learn="perturbed")._widen() is None


def test_the_terminal_takes_a_wish(tmp_path: Path) -> None:
    with Ratings(tmp_path) as store:
        store.ask([Question("k", "k", ("x", "y"))])
        typed, shown = iter(["w", "a dog"]), list[str]()
        rate(tmp_path, lambda prompt: next(typed, "q"), shown.append)  # type: ignore[arg-type]
        assert store.wish() == "a dog"
        assert any("with these words in mind" in text for text in shown)
