"""The store of questions and answers: two processes, kills, blind sides, repeats, undo, what is exported."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from zotune.errors import OptionError, RunFolderError
from zotune.humans.store import DONE, FILE, PATIENCE, Question, Ratings, Shown, wilson


def question(key: str, count: int = 2, purpose: str = "tune") -> Question:
    return Question(key, f"prompt of {key}", tuple(f"{key}/{i}" for i in range(count)), purpose)


def person(store: Ratings, verdict: str = "1", limit: int = 10**6) -> list[Shown]:
    """Answers everything that is open in the same way; returns what was shown."""
    shown = []
    while len(shown) < limit and (now := store.next()):
        shown.append(now)
        assert store.answer(now.id, verdict)
    return shown


def plain(count: int, purpose: str = "tune") -> list[Question]:
    """Questions before which no repeat is due, so that a test sees only what it asked."""
    from zotune.seeds import derive

    names = (f"p{i}" for i in itertools.count())
    return [
        question(k, purpose=purpose) for k in itertools.islice((k for k in names if derive(0, "repeat", k) % 10), count)
    ]


def due(count: int) -> list[Question]:
    """Questions before which a repeat is due."""
    from zotune.seeds import derive

    names = (f"d{i}" for i in itertools.count())
    return [question(k) for k in itertools.islice((k for k in names if not derive(0, "repeat", k) % 10), count)]


@pytest.fixture
def store(tmp_path: Path):
    with Ratings(tmp_path) as ratings:
        yield ratings


def test_scores_are_in_the_askers_order(store: Ratings) -> None:
    for key, count in (("a", 2), ("b", 3), ("c", 5)):
        store.ask([question(key, count)])
        for wanted in range(count):
            shown = store.next()
            assert shown
            assert sorted(shown.answers) == [f"{key}/{i}" for i in range(count)]
            place = shown.answers.index(f"{key}/{wanted}") + 1
            assert store.answer(shown.id, str(place))
            assert store.scores([key]) == {key: tuple(float(i == wanted) for i in range(count))}
            if wanted < count - 1:
                assert store.undo() == "undone"


@pytest.mark.parametrize(("verdict", "scores"), [("tie", (0.5, 0.5, 0.5)), ("bad", (0.5, 0.5, 0.5)), ("skip", None)])
def test_what_prefers_none(store: Ratings, verdict: str, scores: object) -> None:
    store.ask([question("a", 3), question("b", 3)])
    shown = store.next()
    assert shown
    store.answer(shown.id, verdict)
    assert store.scores(["a", "b", "never asked"]) == {"a": scores}
    assert store.waiting(["a", "b"]) == 1
    assert store.verdicts() == {"chosen": 0, "tie": 0, "bad": 0, "skip": 0} | {verdict: 1}


def test_asking_again_changes_nothing(store: Ratings, tmp_path: Path) -> None:
    asked = plain(5)
    store.ask(asked[:3])
    first = person(store, limit=2)
    with Ratings(tmp_path, seed=9) as other:
        other.ask(asked)
        rest = person(other)
    assert [s.prompt for s in first + rest] == [q.prompt for q in asked]
    assert len(store.scores([q.key for q in asked])) == 5


def test_a_key_with_another_text_is_refused_and_nothing_of_the_call_is_kept(store: Ratings) -> None:
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
        db = sqlite3.connect(tmp_path / FILE)
        found = Counter(sides for (sides,) in db.execute("SELECT sides FROM showings"))
        db.close()
    orders = [json.dumps(list(p)) for p in itertools.permutations(range(count))]
    assert set(found) == set(orders)
    share = 1 / len(orders)
    for order in orders:
        assert abs(found[order] - n * share) < 4 * (n * share * (1 - share)) ** 0.5


def test_sides_depend_on_seed_and_key_alone(tmp_path: Path) -> None:
    def shown(name: str, seed: int, keys: list[str]) -> dict[str, tuple[str, ...]]:
        (tmp_path / name).mkdir()
        with Ratings(tmp_path / name, seed) as store:
            store.ask([question(k, 3) for k in keys])
            return {s.prompt: s.answers for s in person(store, "skip")}

    keys = [f"k{i}" for i in range(20)]
    assert shown("a", 4, keys) == shown("b", 4, keys[::-1])
    assert shown("c", 5, keys) != shown("d", 4, keys)


def test_double_answers_and_late_ones_are_refused(store: Ratings) -> None:
    store.ask(plain(2))
    first = store.next()
    assert first
    assert store.answer(first.id, "1")
    before = store.scores(["p0", "p1", "p2"])
    assert not store.answer(first.id, "2")
    assert not store.answer(first.id + 1000, "1")
    assert store.scores(["p0", "p1", "p2"]) == before
    assert store.undo() == "undone"
    again = store.next()
    assert again
    assert again.prompt == first.prompt
    assert again.answers == first.answers
    assert not store.answer(first.id, "1"), "the click on the page from before the undo"
    assert store.answer(again.id, "2")


@pytest.mark.parametrize("verdict", ["0", "3", "-1", "", "good", "1.0", "١"])
def test_no_verdict(store: Ratings, verdict: str) -> None:
    store.ask([question("a")])
    shown = store.next()
    assert shown
    with pytest.raises(OptionError, match="no verdict"):
        store.answer(shown.id, verdict)
    assert store.waiting(["a"]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": ""}, "key"),
        ({"purpose": "tone"}, "tune"),
        ({"answers": ("a",)}, "2 to 9"),
        ({"answers": ("a",) * 10}, "2 to 9"),
    ],
)
def test_no_question(change: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Question(**{"key": "a", "prompt": "p", "answers": ("x", "y"), **change})  # type: ignore[arg-type]


def test_undo_goes_back_as_far_as_the_tuner_lets_it(store: Ratings) -> None:
    asked = plain(3)
    keys = [q.key for q in asked]
    assert store.undo() == "nothing"
    store.ask(asked)
    person(store, limit=2)
    taken = store.use(keys)
    assert list(taken) == keys[:2], "the third has no answer, so it is not used"
    assert store.undo() == "used"
    assert store.scores(keys) == taken
    person(store)
    assert store.undo() == "undone"
    assert store.undo() == "used"
    shown = store.next()
    assert shown
    assert shown.prompt == asked[2].prompt


def test_undo_is_last_in_first_out(store: Ratings) -> None:
    asked = plain(4)
    store.ask(asked)
    person(store, limit=3)
    assert [store.undo() for _ in range(4)] == ["undone"] * 3 + ["nothing"]
    assert [s.prompt for s in person(store)] == [q.prompt for q in asked]


def test_about_one_in_ten_is_a_repeat_with_swapped_sides(store: Ratings) -> None:
    n = 800
    store.ask([question(f"q{i}") for i in range(n)])
    seen: dict[str, Shown] = {}
    repeats, last = [], ""
    while now := store.next():
        if now.prompt in seen or now.prompt.endswith("0"):
            assert store.next() == now, "what is shown does not change until it is answered"
        if now.prompt in seen:
            assert now.answers == seen[now.prompt].answers[::-1]
            assert now.prompt != last
            repeats.append(now.prompt)
        seen.setdefault(now.prompt, now)
        last = now.prompt
        store.answer(now.id, "1")
    assert len(set(repeats)) == len(repeats), "each is repeated once at most"
    assert 0.07 < len(repeats) / (n + len(repeats)) < 0.13
    assert len(seen) == n
    assert store.agreement() == (0, len(repeats)), "always the first place is always the other answer"


def test_agreement_counts_the_same_preference(store: Ratings) -> None:
    first, second, third = plain(3)
    due_now = due(4)
    store.ask([first, second, third, *due_now])
    for word in ("tie", "1", "skip"):
        person(store, word, limit=1)
    shown = store.next()
    assert shown
    assert shown.prompt in (first.prompt, second.prompt)
    scores = store.scores([q.key for q in (first, second)])
    key = shown.prompt.split()[-1]
    preferred = scores[key]
    assert preferred
    place = "bad" if 0.5 in preferred else str(shown.answers.index(f"{key}/{preferred.index(1.0)}") + 1)
    store.answer(shown.id, place)
    assert store.agreement() == (1, 1)
    assert store.scores([q.key for q in (first, second)]) == scores, "a repeat scores nothing"
    person(store, "skip", limit=1)
    shown = store.next()
    assert shown
    assert shown.prompt in (first.prompt, second.prompt), "the other one, as each is repeated once"
    store.answer(shown.id, "skip")
    assert store.agreement() == (1, 1), "a skipped repeat says nothing"


def test_what_is_not_repeated(store: Ratings) -> None:
    """Three answers, selection, what was skipped, and the one just answered."""
    asked = [question("x", 3), question("y", purpose="judge"), *plain(1)]
    store.ask([*asked, *due(1)])
    for word in ("1", "1", "skip"):
        person(store, word, limit=1)
    assert [s.prompt for s in person(store)] == [due(1)[0].prompt]
    store.ask([due(2)[1]])
    assert [s.prompt for s in person(store)] == [due(2)[1].prompt], "only the one just answered could be repeated"


def test_undo_of_repeats_keeps_the_order(store: Ratings) -> None:
    asked = [*plain(2), *due(1)]
    store.ask(asked)
    person(store, limit=2)
    repeat = store.next()
    assert repeat
    assert repeat.prompt == asked[0].prompt
    assert store.undo() == "undone"
    again = store.next()
    assert again
    assert again.prompt == asked[1].prompt, "the undone one comes before the repeat that was waiting"
    shown = [s.prompt for s in person(store)]
    assert shown == [asked[1].prompt, asked[0].prompt, asked[2].prompt]
    assert store.undo() == "undone"
    assert store.undo() == "undone"
    assert store.agreement() == (0, 0)
    assert [s.prompt for s in person(store)] == [asked[0].prompt, asked[2].prompt]
    assert store.agreement() == (0, 1)


def test_a_repeat_can_be_undone_though_its_question_is_used(store: Ratings) -> None:
    asked = [*plain(2), *due(1)]
    store.ask(asked)
    person(store, limit=2)
    store.use([q.key for q in asked])
    person(store, limit=1)
    assert store.agreement() == (0, 1)
    assert store.undo() == "undone"
    assert store.undo() == "used"
    assert store.agreement() == (0, 0)


def test_progress_and_time_left(store: Ratings, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    assert store.progress().planned is None
    assert not store.progress().running, "nobody has asked yet"
    asked = plain(6)
    store.plan(10)
    store.ask(asked)
    for seconds in (3.0, 4.0, 500.0):
        shown = store.next()
        assert shown
        clock[0] += seconds
        store.answer(shown.id, "1")
    found = store.progress()
    assert (found.answered, found.open, found.planned) == (3, 3, 10)
    assert found.seconds == 4.0
    assert found.left == pytest.approx(7 * 4.0 * 1.1), "one in ten is shown again"
    assert not found.running, "no heartbeat for 507 seconds"
    store.state("generating…")
    assert (store.progress().running, store.progress().state) == (True, "generating…")
    clock[0] += PATIENCE + 1
    assert not store.progress().running
    store.plan(4)
    assert store.progress().planned == 6, "more were asked than planned"
    store.state(DONE)
    assert not store.progress().done, "three are still open"
    person(store)
    assert store.progress().done


def test_time_counts_from_the_last_look(store: Ratings, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    store.ask(plain(1))
    store.next()
    clock[0] += 9 * 3600  # the page was closed for the night
    shown = store.next()
    assert shown
    clock[0] += 5
    store.answer(shown.id, "1")
    assert store.progress().seconds == 5


def test_beating_says_that_the_tuner_runs(store: Ratings) -> None:
    with store.beating(0.01):
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


def test_export(store: Ratings, tmp_path: Path) -> None:
    verdicts = {"p0": "1", "p1": "tie", "p2": "bad", "p3": "skip", "three": "2", "same": "x"}
    asked = [*plain(4), question("three", 3), Question("same", "same", ("x", "x", "y\ud800"))]
    store.ask(asked)
    while now := store.next():
        verdict = verdicts[now.prompt.split()[-1]]
        store.answer(now.id, str(now.answers.index("x") + 1) if verdict == "x" else verdict)
    path = tmp_path / "pairs.jsonl"
    count = store.export(path)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert count == len(lines) == 4
    for line in lines:
        assert set(line) == {"prompt", "chosen", "rejected"}
    assert [line["prompt"].split()[-1] for line in lines] == ["p0", "three", "three", "same"]
    scores = store.scores(["p0", "three"])
    for line in lines[:3]:
        key = line["prompt"].split()[-1]
        found = scores[key]
        assert found
        assert found[int(line["chosen"][-1])] == 1
        assert found[int(line["rejected"][-1])] == 0
    assert lines[1]["rejected"] != lines[2]["rejected"]
    assert (lines[3]["chosen"], lines[3]["rejected"]) == ("x", "y?"), "x against x teaches nothing"


def test_export_leaves_out_what_a_repeat_contradicts(store: Ratings, tmp_path: Path) -> None:
    asked = [*plain(2), *due(1)]
    for verdict, count in (("2", 2), ("1", 1), ("skip", 2), ("tie", 1)):
        store.ask(asked)
        person(store, "1", limit=2)
        repeat = store.next()
        assert repeat
        assert repeat.prompt == asked[0].prompt
        store.answer(repeat.id, verdict)
        assert store.export(tmp_path / "out.jsonl") == count
        assert [store.undo() for _ in range(3)] == ["undone"] * 3
    assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name) == ["out.jsonl"]


def test_export_writes_all_or_nothing(store: Ratings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("older\n")
    store.ask(plain(1))
    person(store)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.export(path)
    assert path.read_text() == "older\n"
    assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name) == ["out.jsonl"]


# Newcombe 1998, table I, method 3 (score, no continuity correction).
@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_numbers(wins: int, n: int, low: float, high: float) -> None:
    assert wilson(wins / n, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1 - wins / n, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_win_rate(store: Ratings) -> None:
    assert store.win_rate().rate == 0.5
    assert (store.win_rate().low, store.win_rate().high) == (0, 1)
    store.ask([*plain(29, "compare"), question("other")])
    wanted = iter(["A"] * 12 + ["B"] * 6 + ["tie"] * 4 + ["bad"] * 2 + ["skip"] * 5 + ["B"])
    while now := store.next():
        word = next(wanted)
        key = now.prompt.split()[-1]
        store.answer(now.id, word if len(word) > 1 else str(now.answers.index(f"{key}/{'AB'.index(word)}") + 1))
    found = store.win_rate()
    assert (found.wins, found.losses, found.ties) == (12, 6, 6)
    assert found.rate == 15 / 24
    # by hand: p = .625, z² = 3.841459; (.625 + .080030 ± 1.959964 √(.009765625 + .001667300)) / 1.160061
    assert (found.low, found.high) == pytest.approx((0.427106, 0.788398), abs=1e-5)


ASKER = """
import sys, time
from zotune.humans.store import Question, Ratings
folder, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Ratings(folder) as store:
    for i in range(count):
        store.ask([Question(f"{name}-{i}", f"{name}-{i}", ("x", "y"))])
    print("asked", flush=True)
    keys = [f"{name}-{i}" for i in range(count)]
    while store.waiting(keys):
        time.sleep(0.02)
    print(sorted(store.use(keys).items()), flush=True)
"""
RATER = """
import sys, time
from zotune.humans.store import Ratings
taken = 0
with Ratings(sys.argv[1]) as store:
    while store.progress().answered < int(sys.argv[2]):
        now = store.next()
        if now is None: time.sleep(0.005); continue
        taken += store.answer(now.id, str(now.answers.index("x") + 1))
print(taken)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_askers_and_raters_at_once(tmp_path: Path) -> None:
    """Two processes ask, two answer, all on a file that none of them finds: each question has one answer."""
    askers = [start(ASKER, tmp_path, name, 40) for name in ("a", "b")]
    raters = [start(RATER, tmp_path, 80) for _ in range(2)]
    for name, process in zip(("a", "b"), askers, strict=True):
        said, errors = process.communicate(timeout=60)
        assert not errors
        assert said.splitlines()[1] == str(sorted((f"{name}-{i}", (1.0, 0.0)) for i in range(40)))
    taken = 0
    for process in raters:
        said, errors = process.communicate(timeout=60)
        assert not errors
        taken += int(said)
    with Ratings(tmp_path) as store:
        assert store.progress().answered == 80
        assert taken == 80 + store.progress().repeated
        assert store.agreement()[0] == store.progress().repeated


def test_an_asker_killed_before_the_answer_finds_it_later(tmp_path: Path) -> None:
    asker = start(ASKER, tmp_path, "a", 3)
    assert asker.stdout
    assert asker.stdout.readline() == "asked\n"
    asker.send_signal(signal.SIGKILL)
    asker.communicate(timeout=30)
    with Ratings(tmp_path) as store:
        shown = person(store, "tie")
    assert [s.prompt for s in shown] == ["a-0", "a-1", "a-2"]
    again = start(ASKER, tmp_path, "a", 3)
    said, errors = again.communicate(timeout=30)
    assert not errors
    assert said.splitlines()[1] == str([(f"a-{i}", (0.5, 0.5)) for i in range(3)])
    with Ratings(tmp_path) as store:
        assert store.next() is None, "nothing is asked twice"


def test_a_killed_rater_loses_no_answer(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom zotune.humans.store import Ratings\n"
        "store = Ratings(sys.argv[1])\n"
        "for _ in range(5):\n    assert store.answer(store.next().id, '1')\n"
        "store.next()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    asked = plain(8)
    with Ratings(tmp_path) as store:
        store.ask(asked)
        process = start(code, tmp_path)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        assert store.progress().answered == 5
        assert [s.prompt for s in person(store)] == [q.prompt for q in asked[5:]]


def test_a_write_that_fails_halfway_leaves_nothing(store: Ratings) -> None:
    with pytest.raises(ZeroDivisionError), store._write() as db:
        db.execute("INSERT INTO facts VALUES ('half', '1')")
        raise ZeroDivisionError
    store.ask(plain(1))
    assert store.progress().open == 1
    with store._read() as db:
        assert not db.execute("SELECT 1 FROM facts WHERE name = 'half'").fetchone()


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        Ratings(tmp_path / "none")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / FILE).write_text("not a database, but long enough to look at " * 40)
    with pytest.raises(RunFolderError, match="cannot be opened"):
        Ratings(tmp_path / "foreign")
    Ratings(tmp_path).close()
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(RunFolderError, match="format 7"):
        Ratings(tmp_path)
