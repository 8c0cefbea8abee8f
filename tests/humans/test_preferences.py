"""Agreement, win rates, and the export of preference pairs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from raters import question, rate_all, with_repeats, without_repeats

from zotune.errors import ZotuneError
from zotune.humans.preferences import agreement, export_preferences, wilson_interval, win_rate
from zotune.humans.ratings import Question, Ratings


@pytest.fixture
def store(tmp_path: Path):
    with Ratings(tmp_path) as ratings:
        yield ratings


def test_agreement_counts_the_same_preference(store: Ratings) -> None:
    first, second, third = without_repeats(3)
    preceded = with_repeats(4)
    store.ask([first, second, third, *preceded])
    for word in ("tie", "1", "skip"):
        rate_all(store, word, limit=1)
    shown = store.next_question()
    assert shown
    assert shown.prompt in (first.prompt, second.prompt)
    scores = store.scores([q.key for q in (first, second)])
    key = shown.prompt.split()[-1]
    preferred = scores[key]
    assert preferred
    place = "bad" if 0.5 in preferred else str(shown.completions.index(f"{key}/{preferred.index(1.0)}") + 1)
    store.record(shown.id, place)
    assert agreement(store) == (1, 1)
    assert store.scores([q.key for q in (first, second)]) == scores, "a repeat does not change the scores"
    rate_all(store, "skip", limit=1)
    shown = store.next_question()
    assert shown
    assert shown.prompt in (first.prompt, second.prompt), "the other question: each is repeated once"
    store.record(shown.id, "skip")
    assert agreement(store) == (1, 1), "a skipped repeat does not count"


def test_export(store: Ratings, tmp_path: Path) -> None:
    verdicts = {"p0": "1", "p1": "tie", "p2": "bad", "p3": "skip", "three": "2", "same": "x"}
    asked = [*without_repeats(4), question("three", 3), Question("same", "same", ("x", "x", "y\ud800"))]
    store.ask(asked)
    while now := store.next_question():
        verdict = verdicts[now.prompt.split()[-1]]
        store.record(now.id, str(now.completions.index("x") + 1) if verdict == "x" else verdict)
    path = tmp_path / "pairs.jsonl"
    count = export_preferences(store, path)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert count == len(lines) == 4
    for line in lines:
        assert set(line) == {"prompt", "chosen", "rejected"}
    assert [line["prompt"].split()[-1] for line in lines] == ["p0", "three", "three", "same"]
    scores = store.scores(["p0", "three"])
    for line in lines[:3]:
        key = line["prompt"].split()[-1]
        completion_scores = scores[key]
        assert completion_scores
        assert completion_scores[int(line["chosen"][-1])] == 1
        assert completion_scores[int(line["rejected"][-1])] == 0
    assert lines[1]["rejected"] != lines[2]["rejected"]
    assert (lines[3]["chosen"], lines[3]["rejected"]) == ("x", "y?"), "pairs of equal texts are left out"


def test_export_omits_questions_whose_repeat_disagrees(store: Ratings, tmp_path: Path) -> None:
    asked = [*without_repeats(2), *with_repeats(1)]
    for verdict, count in (("2", 2), ("1", 1), ("skip", 2), ("tie", 1)):
        store.ask(asked)
        rate_all(store, "1", limit=2)
        repeat = store.next_question()
        assert repeat
        assert repeat.prompt == asked[0].prompt
        store.record(repeat.id, verdict)
        assert export_preferences(store, tmp_path / "out.jsonl") == count
        assert [store.undo() for _ in range(3)] == ["undone"] * 3
    assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name) == ["out.jsonl"]


def test_export_is_atomic(store: Ratings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("older\n")
    store.ask(without_repeats(1))
    rate_all(store)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ZotuneError, match=r"out\.jsonl cannot be written: No space"):
        export_preferences(store, path)
    assert path.read_text() == "older\n"
    assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name) == ["out.jsonl"]


# Newcombe 1998, table I, method 3 (score, no continuity correction).
@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_numbers(wins: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(wins / n, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(1 - wins / n, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_win_rate(store: Ratings) -> None:
    assert win_rate(store).rate == 0.5
    assert (win_rate(store).low, win_rate(store).high) == (0, 1)
    store.ask([*without_repeats(29, "compare"), question("other")])
    wanted = iter(["A"] * 12 + ["B"] * 6 + ["tie"] * 4 + ["bad"] * 2 + ["skip"] * 5 + ["B"])
    while now := store.next_question():
        word = next(wanted)
        key = now.prompt.split()[-1]
        store.record(now.id, word if len(word) > 1 else str(now.completions.index(f"{key}/{'AB'.index(word)}") + 1))
    result = win_rate(store)
    assert (result.wins, result.losses, result.ties) == (12, 6, 6)
    assert result.rate == 15 / 24
    # by hand: p = .625, z² = 3.841459; (.625 + .080030 ± 1.959964 √(.009765625 + .001667300)) / 1.160061
    assert (result.low, result.high) == pytest.approx((0.427106, 0.788398), abs=1e-5)
