"""The queue of questions: order, blind sides, repeats, undo, heartbeats, several processes and kills."""

from __future__ import annotations

import itertools
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from raters import question, rate_all, with_repeats, without_repeats

from zotune.errors import OptionError, RunFolderError
from zotune.humans.preferences import agreement, verdict_counts
from zotune.humans.ratings import DONE, HEARTBEAT_TIMEOUT, BlindQuestion, Question, Ratings
from zotune.humans.store import FILE_NAME


@pytest.fixture
def store(tmp_path: Path):
    with Ratings(tmp_path) as ratings:
        yield ratings


def test_scores_are_in_asking_order(store: Ratings) -> None:
    for key, count in (("a", 2), ("b", 3), ("c", 5)):
        store.ask([question(key, count)])
        for wanted in range(count):
            shown = store.next_question()
            assert shown
            assert sorted(shown.completions) == [f"{key}/{i}" for i in range(count)]
            place = shown.completions.index(f"{key}/{wanted}") + 1
            assert store.record(shown.id, str(place))
            assert store.scores([key]) == {key: tuple(float(i == wanted) for i in range(count))}
            if wanted < count - 1:
                assert store.undo() == "undone"


@pytest.mark.parametrize(("verdict", "scores"), [("tie", (0.5, 0.5, 0.5)), ("bad", (0.5, 0.5, 0.5)), ("skip", None)])
def test_verdicts_without_a_choice(store: Ratings, verdict: str, scores: object) -> None:
    store.ask([question("a", 3), question("b", 3)])
    shown = store.next_question()
    assert shown
    store.record(shown.id, verdict)
    assert store.scores(["a", "b", "never asked"]) == {"a": scores}
    assert store.count_open(["a", "b"]) == 1
    assert verdict_counts(store) == {"chosen": 0, "tie": 0, "bad": 0, "skip": 0} | {verdict: 1}


def test_asking_again_changes_nothing(store: Ratings, tmp_path: Path) -> None:
    asked = without_repeats(5)
    store.ask(asked[:3])
    first = rate_all(store, limit=2)
    with Ratings(tmp_path, seed=9) as other:
        other.ask(asked)
        rest = rate_all(other)
    assert [s.prompt for s in first + rest] == [q.prompt for q in asked]
    assert len(store.scores([q.key for q in asked])) == 5


def test_a_key_with_another_text_is_refused_and_stores_nothing(store: Ratings) -> None:
    store.ask([Question("a", "p", ("x", "y"))])
    for other in (("p", ("x", "z"), "tune"), ("q", ("x", "y"), "tune"), ("p", ("x", "y"), "judge")):
        with pytest.raises(RunFolderError, match="'a' was asked before"):
            store.ask([question("new"), Question("a", *other)])
    assert store.progress().open == 1


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("count", [2, 3])
def test_sides_are_shuffled_evenly(tmp_path: Path, seed: int, count: int) -> None:
    n = 1200
    with Ratings(tmp_path, seed) as store:
        store.ask([question(f"step-{i}", count) for i in range(n)])
        db = sqlite3.connect(tmp_path / FILE_NAME)
        progress = Counter(sides for (sides,) in db.execute("SELECT sides FROM showings"))
        db.close()
    orders = [json.dumps(list(p)) for p in itertools.permutations(range(count))]
    assert set(progress) == set(orders)
    share = 1 / len(orders)
    for order in orders:
        assert abs(progress[order] - n * share) < 4 * (n * share * (1 - share)) ** 0.5


def test_sides_depend_on_seed_and_key_alone(tmp_path: Path) -> None:
    def shown(name: str, seed: int, keys: list[str]) -> dict[str, tuple[str, ...]]:
        (tmp_path / name).mkdir()
        with Ratings(tmp_path / name, seed) as store:
            store.ask([question(k, 3) for k in keys])
            return {s.prompt: s.completions for s in rate_all(store, "skip")}

    keys = [f"k{i}" for i in range(20)]
    assert shown("a", 4, keys) == shown("b", 4, keys[::-1])
    assert shown("c", 5, keys) != shown("d", 4, keys)


def test_second_and_late_verdicts_are_refused(store: Ratings) -> None:
    store.ask(without_repeats(2))
    first = store.next_question()
    assert first
    assert store.record(first.id, "1")
    before = store.scores(["p0", "p1", "p2"])
    assert not store.record(first.id, "2")
    assert not store.record(first.id + 1000, "1")
    assert store.scores(["p0", "p1", "p2"]) == before
    assert store.undo() == "undone"
    again = store.next_question()
    assert again
    assert again.prompt == first.prompt
    assert again.completions == first.completions
    assert not store.record(first.id, "1"), "a click from before the undo"
    assert store.record(again.id, "2")


@pytest.mark.parametrize("verdict", ["0", "3", "-1", "", "good", "1.0", "١"])
def test_impossible_verdicts(store: Ratings, verdict: str) -> None:
    store.ask([question("a")])
    shown = store.next_question()
    assert shown
    with pytest.raises(OptionError, match="is not possible"):
        store.record(shown.id, verdict)
    assert store.count_open(["a"]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": ""}, "key"),
        ({"purpose": "tone"}, "tune"),
        ({"completions": ("a",)}, "2 to 9"),
        ({"completions": ("a",) * 10}, "2 to 9"),
    ],
)
def test_impossible_questions(change: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Question(**{"key": "a", "prompt": "p", "completions": ("x", "y"), **change})  # type: ignore[arg-type]


def test_ratings_that_the_tuner_has_used_can_be_changed(store: Ratings) -> None:
    asked = without_repeats(3)
    keys = [q.key for q in asked]
    assert store.undo() == "nothing"
    store.ask(asked)
    rate_all(store, limit=2)
    taken = store.take_scores(keys)
    assert list(taken) == keys[:2], "the third has no verdict, so it is not used"
    assert store.undo() == "used", "the question comes again, and the tuner does not take the new verdict"
    assert store.scores(keys) == {keys[0]: taken[keys[0]]}
    shown = store.next_question()
    assert shown
    assert shown.prompt == asked[1].prompt
    rate_all(store, "2")
    assert store.scores(keys)[keys[1]] != taken[keys[1]]
    assert store.undo() == "undone"
    assert store.undo() == "used"


def test_undo_is_last_in_first_out(store: Ratings) -> None:
    asked = without_repeats(4)
    store.ask(asked)
    rate_all(store, limit=3)
    assert [store.undo() for _ in range(4)] == ["undone"] * 3 + ["nothing"]
    assert [s.prompt for s in rate_all(store)] == [q.prompt for q in asked]


def test_about_one_in_ten_is_a_repeat_with_swapped_sides(store: Ratings) -> None:
    n = 800
    store.ask([question(f"q{i}") for i in range(n)])
    seen: dict[str, BlindQuestion] = {}
    repeats, last = [], ""
    while now := store.next_question():
        if now.prompt in seen or now.prompt.endswith("0"):
            assert store.next_question() == now, "the question stays the same until it is rated"
        if now.prompt in seen:
            assert now.completions == seen[now.prompt].completions[::-1]
            assert now.prompt != last
            repeats.append(now.prompt)
        seen.setdefault(now.prompt, now)
        last = now.prompt
        store.record(now.id, "1")
    assert len(set(repeats)) == len(repeats), "each question is repeated at most once"
    assert 0.07 < len(repeats) / (n + len(repeats)) < 0.13
    assert len(seen) == n
    assert agreement(store) == (0, len(repeats)), "always the first place: every repeat disagrees"


def test_questions_that_are_not_repeated(store: Ratings) -> None:
    """Three completions, the purpose "judge", skipped questions, and the question rated last."""
    asked = [question("x", 3), question("y", purpose="judge"), *without_repeats(1)]
    store.ask([*asked, *with_repeats(1)])
    for word in ("1", "1", "skip"):
        rate_all(store, word, limit=1)
    assert [s.prompt for s in rate_all(store)] == [with_repeats(1)[0].prompt]
    store.ask([with_repeats(2)[1]])
    assert [s.prompt for s in rate_all(store)] == [with_repeats(2)[1].prompt], "the question rated last is not repeated"


def test_undo_of_repeats_keeps_the_order(store: Ratings) -> None:
    asked = [*without_repeats(2), *with_repeats(1)]
    store.ask(asked)
    rate_all(store, limit=2)
    repeat = store.next_question()
    assert repeat
    assert repeat.prompt == asked[0].prompt
    assert store.undo() == "undone"
    again = store.next_question()
    assert again
    assert again.prompt == asked[1].prompt, "the undone question comes before the repeat that was due"
    shown = [s.prompt for s in rate_all(store)]
    assert shown == [asked[1].prompt, asked[0].prompt, asked[2].prompt]
    assert store.undo() == "undone"
    assert store.undo() == "undone"
    assert agreement(store) == (0, 0)
    assert [s.prompt for s in rate_all(store)] == [asked[0].prompt, asked[2].prompt]
    assert agreement(store) == (0, 1)


def test_a_repeat_can_be_undone_after_its_question_is_used(store: Ratings) -> None:
    asked = [*without_repeats(2), *with_repeats(1)]
    store.ask(asked)
    rate_all(store, limit=2)
    store.take_scores([q.key for q in asked])
    rate_all(store, limit=1)
    assert agreement(store) == (0, 1)
    assert store.undo() == "undone"
    assert agreement(store) == (0, 0)
    assert store.undo() == "used"


def test_progress_and_time_left(store: Ratings, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    assert store.progress().planned is None
    assert not store.progress().running, "no tuner has started"
    asked = without_repeats(6)
    store.set_planned(10)
    store.ask(asked)
    for seconds in (3.0, 4.0, 500.0):
        shown = store.next_question()
        assert shown
        clock[0] += seconds
        store.record(shown.id, "1")
    progress = store.progress()
    assert (progress.answered, progress.open, progress.planned) == (3, 3, 10)
    assert progress.seconds == 4.0
    assert progress.left == pytest.approx(7 * 4.0 * 1.1), "one question in ten is repeated"
    assert not progress.running, "no heartbeat for 507 seconds"
    store.set_state("generating…")
    assert (store.progress().running, store.progress().state) == (True, "generating…")
    clock[0] += HEARTBEAT_TIMEOUT + 1
    assert not store.progress().running
    store.set_planned(4)
    assert store.progress().planned == 6, "more questions were asked than planned"
    store.set_state(DONE)
    assert not store.progress().done, "three are still open"
    rate_all(store)
    assert store.progress().done


def test_time_counts_from_the_last_showing(store: Ratings, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    store.ask(without_repeats(1))
    store.next_question()
    clock[0] += 9 * 3600  # the page was closed for the night
    shown = store.next_question()
    assert shown
    clock[0] += 5
    store.record(shown.id, "1")
    assert store.progress().seconds == 5


def test_the_heartbeat_shows_that_the_tuner_runs(store: Ratings) -> None:
    with store.heartbeat(0.01):
        first = store.progress()
        db = sqlite3.connect(store.path)
        read = "SELECT value FROM facts WHERE name = 'beat'"
        beat = db.execute(read).fetchone()
        for _ in range(500):
            if db.execute(read).fetchone() != beat:
                break
            time.sleep(0.01)
        assert db.execute(read).fetchone() != beat
        db.close()
    assert first.running
    assert not store.progress().running


ASKER = """
import sys, time
from zotune.humans.ratings import Question, Ratings
folder, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Ratings(folder) as store:
    for i in range(count):
        store.ask([Question(f"{name}-{i}", f"{name}-{i}", ("x", "y"))])
    print("asked", flush=True)
    keys = [f"{name}-{i}" for i in range(count)]
    while store.count_open(keys):
        time.sleep(0.02)
    print(sorted(store.take_scores(keys).items()), flush=True)
"""
RATER = """
import sys, time
from zotune.humans.ratings import Ratings
taken = 0
with Ratings(sys.argv[1]) as store:
    while store.progress().answered < int(sys.argv[2]):
        now = store.next_question()
        if now is None: time.sleep(0.005); continue
        taken += store.record(now.id, str(now.completions.index("x") + 1))
print(taken)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_tuners_and_two_raters_at_once(tmp_path: Path) -> None:
    """Two processes ask and two rate, and the file does not exist at first: each question gets one verdict."""
    askers = [start(ASKER, tmp_path, name, 40) for name in ("a", "b")]
    raters = [start(RATER, tmp_path, 80) for _ in range(2)]
    for name, process in zip(("a", "b"), askers, strict=True):
        output, errors = process.communicate(timeout=60)
        assert not errors
        assert output.splitlines()[1] == str(sorted((f"{name}-{i}", (1.0, 0.0)) for i in range(40)))
    taken = 0
    for process in raters:
        output, errors = process.communicate(timeout=60)
        assert not errors
        taken += int(output)
    with Ratings(tmp_path) as store:
        assert store.progress().answered == 80
        assert taken == 80 + store.progress().repeated
        assert agreement(store)[0] == store.progress().repeated


def test_a_killed_tuner_reads_the_ratings_later(tmp_path: Path) -> None:
    asker = start(ASKER, tmp_path, "a", 3)
    assert asker.stdout
    assert asker.stdout.readline() == "asked\n"
    asker.send_signal(signal.SIGKILL)
    asker.communicate(timeout=30)
    with Ratings(tmp_path) as store:
        shown = rate_all(store, "tie")
    assert [s.prompt for s in shown] == ["a-0", "a-1", "a-2"]
    again = start(ASKER, tmp_path, "a", 3)
    output, errors = again.communicate(timeout=30)
    assert not errors
    assert output.splitlines()[1] == str([(f"a-{i}", (0.5, 0.5)) for i in range(3)])
    with Ratings(tmp_path) as store:
        assert store.next_question() is None, "no question is asked twice"


def test_a_killed_rater_loses_no_verdict(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom zotune.humans.ratings import Ratings\n"
        "store = Ratings(sys.argv[1])\n"
        "for _ in range(5):\n    assert store.record(store.next_question().id, '1')\n"
        "store.next_question()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    asked = without_repeats(8)
    with Ratings(tmp_path) as store:
        store.ask(asked)
        process = start(code, tmp_path)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        assert store.progress().answered == 5
        assert [s.prompt for s in rate_all(store)] == [q.prompt for q in asked[5:]]
