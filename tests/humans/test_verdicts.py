"""What a verdict says beyond one choice: the worst of several completions, and a completion that the rater wrote. In
the store, the export, the terminal, and in a run that is interrupted, resumed and replayed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from families import Families
from raters import question
from test_human_runs import Person, data, journal_lines, questions, same_weights
from test_questions_ahead import fit, lines

from zotune.errors import OptionError
from zotune.humans.console import rate
from zotune.humans.preferences import agreement, chosen_pairs, export_preferences, verdict_counts, win_rate
from zotune.humans.ratings import Question, Ratings
from zotune.humans.verdicts import MAX_WRITTEN, Verdict, preferred_pairs, read_verdict, strengths
from zotune.runs import reused_answers
from zotune.runs.replay import replay

__all__ = ["data"]  # a fixture

FOUR = ("a", "b", "c", "d")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Ratings]:
    with Ratings(tmp_path) as ratings:
        yield ratings


def test_what_verdicts_prefer() -> None:
    both = read_verdict("2", "1", "", [3, 0, 1, 2], FOUR)
    assert both == Verdict("chosen", 0, 3)
    assert strengths(both, 4) == (1.0, 0.5, 0.5, 0.0)
    assert preferred_pairs(FOUR, both) == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")]
    best = read_verdict("2", "", "", [3, 0, 1, 2], FOUR)
    assert strengths(best, 4) == (1.0, 0.0, 0.0, 0.0)
    assert preferred_pairs(FOUR, best) == [("a", "b"), ("a", "c"), ("a", "d")]
    own = read_verdict("written", "", "my own", [0, 1], FOUR[:2])
    assert strengths(own, 2) == (0.5, 0.5), "no member has won"
    assert preferred_pairs(("a", "b"), own) == [("my own", "a"), ("my own", "b")]
    assert read_verdict("written", "", " b ", [1, 0], FOUR[:2]) == Verdict("chosen", 1), "an unchanged text is a choice"
    assert preferred_pairs(("a", "a", "b"), Verdict("chosen", 0, 2)) == [("a", "b")]
    for word in ("tie", "bad"):
        assert preferred_pairs(FOUR, read_verdict(word, "", "", [0, 1, 2, 3], FOUR)) == []
    assert strengths(Verdict("skip"), 2) is None


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (("1", "2", ""), 2),  # of two the other one is the worst
        (("1", "1", ""), 4),
        (("1", "5", ""), 4),
        (("tie", "1", ""), 4),
        (("written", "1", "text"), 4),
        (("written", "", ""), 2),
        (("written", "", " \n"), 2),
        (("written", "", "x" * (MAX_WRITTEN + 1)), 2),
        (("1", "", "text"), 2),
        (("best", "", ""), 2),
    ],
)
def test_impossible_verdicts_store_nothing(store: Ratings, given: tuple[str, str, str], count: int) -> None:
    store.ask([question("k", count)])
    shown = store.next_question()
    assert shown
    with pytest.raises(OptionError):
        store.record(shown.id, given[0], worst=given[1], text=given[2])
    assert store.count_open(["k"]) == 1


def test_the_store_keeps_them_and_undo_takes_them_back(store: Ratings, tmp_path: Path) -> None:
    store.ask([Question("k", "p", FOUR), Question("two", "q", FOUR[:2])])
    for _ in range(2):
        shown = store.next_question()
        assert shown
        places = {text: str(i + 1) for i, text in enumerate(shown.completions)}
        assert store.record(shown.id, places["c"], worst=places["a"])
        assert store.scores(["k"]) == {"k": (0.0, 0.5, 1.0, 0.5)}
        assert store.undo() == "undone"
    assert store.count_open(["k"]) == 1
    assert chosen_pairs(store, ("tune",)) == []
    shown = store.next_question()
    assert shown
    assert store.record(shown.id, places["c"], worst=places["a"])
    shown = store.next_question()
    assert shown
    assert store.record(shown.id, "written", text="mine \ud800")
    assert store.scores(["two"]) == {"two": (0.5, 0.5)}
    assert store.written(["k", "two"]) == {"two": "mine ?"}
    assert verdict_counts(store) == {"chosen": 1, "tie": 0, "bad": 0, "skip": 0, "written": 1}
    assert len(chosen_pairs(store, ("tune",))) == 5 + 2
    assert export_preferences(store, tmp_path / "out") == 7
    exported = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert exported[-1] == {"prompt": "q", "chosen": "mine ?", "rejected": "b"}
    assert {(x["chosen"], x["rejected"]) for x in exported[:5]} == {
        ("c", "a"), ("c", "b"), ("c", "d"), ("b", "a"), ("d", "a"),
    }  # fmt: skip


def test_a_written_text_is_no_vote_in_a_comparison_and_no_repeat(store: Ratings) -> None:
    store.ask([question("k", purpose="compare")])
    shown = store.next_question()
    assert shown
    store.record(shown.id, "written", text="better")
    rate_of = win_rate(store)
    assert (rate_of.wins, rate_of.losses, rate_of.ties) == (0, 0, 1)
    assert agreement(store) == (0, 0)


def test_the_terminal_takes_the_worst_and_a_text(store: Ratings, tmp_path: Path) -> None:
    store.ask([Question("k", "p", FOUR), Question("two", "q", FOUR[:2]), Question("last", "r", FOUR[:2])])
    typed, shown = iter(["2 2", "1 2 3", "e", "2 4", "1 2"]), list[str]()
    rate(tmp_path, lambda prompt: next(typed, "q"), shown.append)
    scores = store.scores(["k", "two"])
    assert scores["k"] is not None
    assert sorted(scores["k"]) == [0.0, 0.5, 0.5, 1.0]
    assert "two" not in scores, "of two there is no worst"
    assert sum("Type one of" in text for text in shown) == 4
    store.set_writing()
    typed = iter(["e", "", "e", "  my own  ", "e"])

    def read(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    rate(tmp_path, read, shown.append)
    assert store.written(["two"]) == {"two": "my own"}
    assert any("e write a better one" in text for text in shown)


PLACES, STEPS = 8, 5
ARGS = {"questions": str(PLACES * STEPS + 4), "judged": "4", "learn": "both"}
OWN = "the cat saw"


def critic(shown: Any) -> Any:
    """Of two answers, writes a better one for some prompts and likes none for the others; of four, names the longest
    and the shortest."""
    sizes = [len(x) for x in shown.completions]
    if len(sizes) == 2:
        return ("written", "", OWN) if hash_of(shown.prompt) else "bad"
    best = sizes.index(max(sizes))
    worst = sizes.index(min(sizes))
    return (str(best + 1), str(worst + 1) if best != worst else "", "")


def hash_of(prompt: str) -> int:
    return sum(map(ord, prompt)) % 2


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
    folder = tmp_path_factory.mktemp("critic") / "run"
    with Person(folder, rate=critic):
        fit(model, data, folder, objective_args=ARGS)
    return folder


def test_steps_learn_from_them(whole: Path, model: Path) -> None:
    from transformers import AutoTokenizer

    answers = [json.loads(x)["pairs"] for x in (whole / "answered_pairs.jsonl").read_text().splitlines()]
    steps = [dict(line["tape"]) for line in journal_lines(whole) if line["kind"] == "step"]
    assert len(answers) == len(steps) == STEPS
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert {tokenizer.decode(x["chosen"]).strip() for x in answers[0]} == {OWN}
    assert len({tuple(x["rejected"]) for x in answers[0]}) > 1
    assert len(steps[0]["preferences"]) > 0, "the first step learns from what was written"
    assert {*steps[0]["members"]} == {steps[0]["members"][0]}, "and from no comparison of members"
    asked = [json.loads(body)[1] for _, body in questions(whole)]
    assert 4 in map(len, asked), "most answers are not liked: questions become wider"
    with_worst = [x for x in asked if len({*x}) == 4 == len({len(y) for y in x})]
    chosen = [tuple(x["chosen"]) for x in answers[-1]]
    rejected = [tuple(x["rejected"]) for x in answers[-1]]
    assert {*chosen} & {*rejected}, "the middle ones are better than the worst"
    assert with_worst or len(chosen) > PLACES


def test_it_is_the_same_run_interrupted_and_replayed(whole: Path, model: Path, data: Path, tmp_path: Path) -> None:
    folder, stopped = tmp_path / "run", PLACES + 3
    with Person(folder, stopped, rate=critic) as person:
        first = fit(model, data, folder, lambda: person.answered >= stopped, objective_args=ARGS)
    assert first.reason == "interrupted"
    with Person(folder, rate=critic):
        fit(model, data, folder, resume="last", objective_args=ARGS)
    assert questions(folder) == questions(whole)
    assert lines(folder) == lines(whole)
    assert same_weights(folder, whole)
    assert replay(whole, tmp_path / "again", step=STEPS).confirmed
    with Ratings(folder) as store:
        assert export_preferences(store, tmp_path / "pairs.jsonl") > PLACES
    exported = [json.loads(x) for x in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert any(x["chosen"] == OWN for x in exported)
    assert "wrote a better one" in (whole / "report.html").read_text()
