"""Rating in the terminal, and `zotune rate` started and stopped as a user does it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zotune.errors import RunFolderError
from zotune.humans import console
from zotune.humans.console import duration, plain, rate, summary
from zotune.humans.preferences import verdict_counts
from zotune.humans.progress_report import in_words
from zotune.humans.ratings import DONE, Question, Ratings
from zotune.humans.store import FILE_NAME

Cli = Callable[..., Any]


def questions(count: int, completions: int = 2) -> list[Question]:
    texts = [tuple(f"answer {j} to {i}" for j in range(completions)) for i in range(count)]
    return [Question(f"k{i}", f"prompt {i}", text) for i, text in enumerate(texts)]


class Person:
    """Types these lines, a completion's text in place of its key, and records everything that is printed."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.output = list(lines), ""

    def read(self, prompt: str) -> str:
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if line.startswith("answer"):
            return self.output[: self.output.rindex(line) - 2].rpartition("[")[2]
        return line

    def write(self, text: object) -> None:
        self.output += f"{text}\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Ratings]:
    with Ratings(tmp_path) as ratings:
        yield ratings


def test_every_key(store: Ratings, tmp_path: Path) -> None:
    store.ask(questions(5, completions=3))
    store.set_planned(9)
    person = Person("u", "x", "4", "answer 2 to 0", " T ", "u", "b", "s", "q", "1")
    rate(tmp_path, person.read, person.write)
    assert person.lines == ["1"], "nothing is read after q"
    assert store.scores([f"k{i}" for i in range(5)]) == {"k0": (0, 0, 1), "k1": (0.5, 0.5, 0.5), "k2": None}
    assert verdict_counts(store) == {"chosen": 1, "tie": 0, "bad": 1, "skip": 1}
    for text in (
        "nothing to undo",
        "Undone",
        "Type one of 1, 2, 3, t, b, s, u or q",
        "1 of 9",
        "all bad",
        "prompt 3",
    ):
        assert text in person.output
    assert person.output.count("Type one of") == 2


def test_quit_and_restart_ask_nothing_twice(store: Ratings, tmp_path: Path) -> None:
    store.ask(questions(4))
    store.set_state(DONE)
    first, second = Person("1", "2"), Person("1", "t")
    rate(tmp_path, first.read, first.write)
    rate(tmp_path, second.read, second.write)
    assert "prompt 0" not in second.output
    assert "prompt 1" not in second.output
    assert store.progress().answered == 4


def test_used_and_late_ratings(store: Ratings, tmp_path: Path) -> None:
    store.ask(questions(3))

    class Slow(Person):
        def read(self, prompt: str) -> str:
            line = super().read(prompt)
            if line == "late":  # another rater is faster, and the tuner uses that rating
                shown = store.next_question()
                assert shown
                store.record(shown.id, "tie")
                store.take_scores(["k0"])
                return "1"
            return line

    person = Slow("late", "u", "q")
    rate(tmp_path, person.read, person.write)
    assert "already rated" in person.output
    assert "The tuner has used the old rating" in person.output
    assert store.scores(["k0", "k1"]) == {}, "the question is open again"


def test_waits_for_the_tuner_and_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Callable[[], object]] = []
    opened: list[Ratings] = []

    def start() -> None:
        opened.append(Ratings(tmp_path))
        opened[0].set_state("generating\x1b[2J")

    events += [lambda: None, start, lambda: None]
    events += [
        lambda: opened[0]._set_heartbeat(0),
        lambda: opened[0].ask(questions(1)),
        lambda: opened[0].set_state(DONE),
    ]
    monkeypatch.setattr(console.time, "sleep", lambda seconds: events.pop(0)())
    person = Person("1")
    rate(tmp_path, person.read, person.write)
    opened[0].close()
    lines = [line for line in person.output.splitlines() if line]
    assert lines[0] == "Waiting for the tuner …"
    assert lines[1] == "Waiting for the next question: generating\\x1b[2J …"
    assert lines[2].startswith("The tuner is not running")
    assert lines[-1] == "All done, thank you."
    assert person.output.count("Waiting for the tuner") == 1
    assert not events


def test_control_characters_are_escaped(store: Ratings, tmp_path: Path) -> None:
    nasty = "\x1b]0;owned\x07\x1b[31mred\r\x08\x9b1m\u202eback\ud800"
    store.ask([Question("a", nasty, (nasty, ""))])
    person = Person("q")
    rate(tmp_path, person.read, person.write)
    assert not set("\x1b\x07\r\x08\x9b\u202e\ud800") & set(person.output)
    assert r"\x1b[31mred" in person.output
    assert "(empty)" in person.output
    assert plain("a\r\nb\tc\n👩‍👩‍👧 naïve, שלום, می‌خواهم") == "a\nb\tc\n👩‍👩‍👧 naïve, שלום, می‌خواهم"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "under a minute"),
        (29, "under a minute"),
        (31, "about 1 min"),
        (3599, "about 1 h"),
        (7860, "about 2 h 11 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_summary(store: Ratings) -> None:
    assert summary(None) == "no questions yet"
    assert summary(store.progress()) == "0 questions rated"
    store.ask(questions(1))
    shown = store.next_question()
    assert shown
    store.record(shown.id, "1")
    store.set_planned(8)
    assert summary(store.progress()) == "1 of 8 questions rated"


def test_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from zotune.cli.app import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFolderError, match="is no directory"):
        rate(__file__)
    for flags, text in (
        ([__file__], "is no directory"),
        ([__file__, "--terminal"], "is no directory"),
        (["none", "--export", "out.jsonl"], "none has no ratings"),
        ([".", "--export", "out.jsonl"], "has no ratings"),
        ([".", "--port", "70000"], "--port must be in [0, 65535], got 70000"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["rate", *flags])
        assert stopped.value.code == 2
        output = capsys.readouterr()
        assert text in output.err
        assert output.out == ""
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_starting_is_waited_for(tmp_path: Path) -> None:
    folder, lines = tmp_path / "run", list[str]()

    def write(text: str) -> None:
        lines.append(text)
        if len(lines) == 1:
            folder.mkdir()
            with Ratings(folder) as ratings:
                ratings.ask([*questions(1), Question("last", "last", ("x", "y"), "judge")])
                ratings.set_report({"predicted": None, "blind": None, "enough": False, "samples": []})

    keys = iter(["x", ""])
    with pytest.raises(StopIteration):
        rate(folder, lambda prompt: next(keys) or next(keys), write)
    assert lines[0] == f"Waiting for the run directory {folder} …"
    assert "The tuning ends here. The last questions compare the model before and after." in lines
    with Ratings(folder) as ratings:
        assert ratings.progress().stopping


def test_the_report_in_words() -> None:
    predicted = {"rate": 0.71, "low": 0.55, "high": 0.84, "answers": 32, "accuracy": 0.8}
    blind = {"wins": 3, "losses": 1, "ties": 0, "rate": 0.75, "low": 0.3, "high": 0.95}
    assert in_words(None) == []
    assert in_words({"predicted": predicted, "blind": blind, "enough": True}) == [
        "win rate of the model now against the base model, predicted from 32 answers: 0.71, 95 % interval 0.55 to 0.84",
        "by 4 blind answers: 0.75, 0.30 to 0.95",
        "the interval is above one half: x ends the tuning here",
    ]


def test_export(store: Ratings, tmp_path: Path, cli: Cli) -> None:
    store.ask(questions(2))
    store.set_state(DONE)
    done = cli("rate", ".", "--terminal", input="1\n1\n")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "2 questions rated"
    done = cli("rate", ".", "--export", "pairs.jsonl")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "2 preferences written to pairs.jsonl\n")
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["prompt 0", "prompt 1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_until_ctrl_c(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zotune", "rate", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(60, process.kill)
        killer.start()
        assert process.stdout
        address = process.stdout.readline().strip()
        with urllib.request.urlopen(address, timeout=10) as page:
            assert b"zotune" in page.read()
        assert not (tmp_path / FILE_NAME).exists(), "the page creates no ratings file"
        if number == signal.SIGINT:
            with Ratings(tmp_path) as store:
                store.ask(questions(1))
                shown = store.next_question()
                assert shown
                store.record(shown.id, "1")
        began = time.monotonic()
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
        killer.cancel()
    assert process.returncode == 0
    assert output == ""
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == ("1 question rated" if number == signal.SIGINT else "no questions yet")
    assert time.monotonic() - began < 10


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, zotune.cli; sys.exit('http.server' in sys.modules or 'sqlite3' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
