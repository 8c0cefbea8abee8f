"""Rating in the terminal, and `zotune rate` as a person starts and stops it."""

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
from zotune.humans.console import plain, rate, span, summary
from zotune.humans.store import DONE, FILE, Question, Ratings

Cli = Callable[..., Any]


def questions(count: int, answers: int = 2) -> list[Question]:
    texts = [tuple(f"answer {j} to {i}" for j in range(answers)) for i in range(count)]
    return [Question(f"k{i}", f"prompt {i}", text) for i, text in enumerate(texts)]


class Person:
    """Types these lines; an answer's text stands for its key. Hears what is told."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.heard = list(lines), ""

    def ask(self, prompt: str) -> str:
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if line.startswith("answer"):
            return self.heard[: self.heard.rindex(line) - 2].rpartition("[")[2]
        return line

    def tell(self, text: object) -> None:
        self.heard += f"{text}\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Ratings]:
    with Ratings(tmp_path) as ratings:
        yield ratings


def test_every_key(store: Ratings, tmp_path: Path) -> None:
    store.ask(questions(5, answers=3))
    store.plan(9)
    person = Person("u", "x", "4", "answer 2 to 0", " T ", "u", "b", "s", "q", "1")
    rate(tmp_path, person.ask, person.tell)
    assert person.lines == ["1"], "nothing is read after q"
    assert store.scores([f"k{i}" for i in range(5)]) == {"k0": (0, 0, 1), "k1": (0.5, 0.5, 0.5), "k2": None}
    assert store.verdicts() == {"chosen": 1, "tie": 0, "bad": 1, "skip": 1}
    for text in (
        "nothing to undo",
        "Taken back",
        "The keys are 1, 2, 3, t, b, s, u and q",
        "1 of 9",
        "all bad",
        "prompt 3",
    ):
        assert text in person.heard
    assert person.heard.count("The keys are") == 2


def test_quitting_and_starting_again_asks_nothing_twice(store: Ratings, tmp_path: Path) -> None:
    store.ask(questions(4))
    store.state(DONE)
    first, second = Person("1", "2"), Person("1", "t")
    rate(tmp_path, first.ask, first.tell)
    rate(tmp_path, second.ask, second.tell)
    assert "prompt 0" not in second.heard
    assert "prompt 1" not in second.heard
    assert store.progress().answered == 4


def test_used_and_late_answers(store: Ratings, tmp_path: Path) -> None:
    store.ask(questions(3))

    class Slow(Person):
        def ask(self, prompt: str) -> str:
            line = super().ask(prompt)
            if line == "late":  # somebody else answers, and the tuner takes it, while this person thinks
                shown = store.next()
                assert shown
                store.answer(shown.id, "tie")
                store.use(["k0"])
                return "1"
            return line

    person = Slow("late", "u", "q")
    rate(tmp_path, person.ask, person.tell)
    assert "answered already" in person.heard
    assert "used that answer already" in person.heard
    assert store.scores(["k0", "k1"]) == {"k0": (0.5, 0.5)}


def test_waits_and_ends_with_the_tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happening: list[Callable[[], object]] = []
    made: list[Ratings] = []

    def start() -> None:
        made.append(Ratings(tmp_path))
        made[0].state("generating\x1b[2J")

    happening += [lambda: None, start, lambda: None]
    happening += [lambda: made[0]._beat(0), lambda: made[0].ask(questions(1)), lambda: made[0].state(DONE)]
    monkeypatch.setattr(console.time, "sleep", lambda seconds: happening.pop(0)())
    person = Person("1")
    rate(tmp_path, person.ask, person.tell)
    made[0].close()
    lines = [line for line in person.heard.splitlines() if line]
    assert lines[0] == "Waiting for the tuner …"
    assert lines[1] == "Waiting for the next answers: generating\\x1b[2J …"
    assert lines[2].startswith("The tuner is not running")
    assert lines[-1] == "All done, thank you."
    assert person.heard.count("Waiting for the tuner") == 1
    assert not happening


def test_text_is_shown_and_not_obeyed(store: Ratings, tmp_path: Path) -> None:
    nasty = "\x1b]0;owned\x07\x1b[31mred\r\x08\x9b1m\u202eback\ud800"
    store.ask([Question("a", nasty, (nasty, ""))])
    person = Person("q")
    rate(tmp_path, person.ask, person.tell)
    assert not set("\x1b\x07\r\x08\x9b\u202e\ud800") & set(person.heard)
    assert r"\x1b[31mred" in person.heard
    assert "(empty)" in person.heard
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
def test_span(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_summary(store: Ratings) -> None:
    assert summary(None) == "no questions yet"
    assert summary(store.progress()) == "0 questions answered"
    store.ask(questions(1))
    shown = store.next()
    assert shown
    store.answer(shown.id, "1")
    store.plan(8)
    assert summary(store.progress()) == "1 question answered of 8"


def test_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from zotune.cli.app import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFolderError, match="does not exist"):
        rate("none")
    for flags, text in (
        (["none"], "none does not exist"),
        (["none", "--terminal"], "none does not exist"),
        (["none", "--export", "out.jsonl"], "none has no ratings"),
        ([".", "--export", "out.jsonl"], "has no ratings"),
        ([".", "--port", "70000"], "port 70000 cannot be used"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["rate", *flags])
        assert stopped.value.code == 2
        said = capsys.readouterr()
        assert text in said.err
        assert said.out == ""
    assert not list(tmp_path.iterdir())


def test_export(store: Ratings, tmp_path: Path, cli: Cli) -> None:
    store.ask(questions(2))
    store.state(DONE)
    done = cli("rate", ".", "--terminal", input="1\n1\n")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "2 questions answered"
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
        assert not (tmp_path / FILE).exists(), "the page makes no store"
        if number == signal.SIGINT:
            with Ratings(tmp_path) as store:
                store.ask(questions(1))
                shown = store.next()
                assert shown
                store.answer(shown.id, "1")
        began = time.monotonic()
        process.send_signal(number)
        said, errors = process.communicate(timeout=30)
        killer.cancel()
    assert process.returncode == 0
    assert said == ""
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == ("1 question answered" if number == signal.SIGINT else "no questions yet")
    assert time.monotonic() - began < 10


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, zotune.cli; sys.exit('http.server' in sys.modules or 'sqlite3' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
