"""The `human` objective from the first question to the kept weights: killed, interrupted, resumed, skipping, and
through the page in a real browser. The rater is a script that prefers the longer completion."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_jsonl
from families import WORDS, Families
from safetensors.torch import load_file

import zotune
from zotune.cli.app import main
from zotune.events import Event, Phase
from zotune.humans.page import serve
from zotune.humans.preferences import agreement
from zotune.humans.ratings import DONE, BlindQuestion, Ratings
from zotune.humans.store import FILE_NAME
from zotune.search.journal import Journal

WAITS = "waiting for ratings"
THINGS = WORDS.split()[13:33]
OPTIONS: dict[str, Any] = {"objective": "human", "max_steps": 4, "eval_steps": 4, "save_steps": 1, "max_new_tokens": 6}
ARGS: dict[str, Any] = {
    "objective_args": {"rows": "2", "judged": "4"},
    "optimizer": "rank-sgd",
    "optimizer_args": {"eps": "0.3", "lr": "0.3"},
}
TESTING = Phase("scoring the best weights on the test set")
SOON = 60.0
"""Seconds after which a test gives up waiting."""


def verdict(completions: tuple[str, ...]) -> str:
    """The rater's verdict on completions in the order of their places: the longest wins."""
    sizes = [len(c) for c in completions]
    return "tie" if sizes.count(max(sizes)) > 1 else str(sizes.index(max(sizes)) + 1)


class Person:
    """Rates the questions of a run directory in another thread, `most` of them at most, repeats included."""

    def __init__(self, folder: Path, most: int = 1000, rate: Callable[[BlindQuestion], Any] | None = None) -> None:
        self.folder, self.most = folder, most
        self.rate = rate or (lambda shown: verdict(shown.completions))  # a verdict, or verdict, worst and text
        self.answered = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Person:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        while not (self.folder / FILE_NAME).exists():
            if self._end.wait(0.02):
                return
        with Ratings(self.folder) as store:
            while self.answered < self.most and not self._end.is_set():
                question = store.next_question()
                if question is None:
                    time.sleep(0.02)
                    continue
                given = self.rate(question)
                word, worst, text = given if isinstance(given, tuple) else (given, "", "")
                self.answered += store.record(question.id, word, worst=worst, text=text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    for name, first, last in (("train", 0, 12), ("validation", 12, 15), ("test", 15, 20)):
        rows = [{"prompt": f"question : who saw the {w} ? answer :"} for w in THINGS[first:last]]
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def questions(folder: Path) -> list[tuple[str, str]]:
    """Every question in the order of asking."""
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as db:
        return db.execute("SELECT key, body FROM questions ORDER BY number").fetchall()


def showings(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as db:
        (count,) = db.execute("SELECT count(*) FROM showings WHERE verdict IS NOT NULL").fetchone()
        return int(count)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(a: Path, b: Path) -> bool:
    x, y = weights(a), weights(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def journal_lines(folder: Path) -> list[dict[str, Any]]:
    return Journal.open(folder / "journal.jsonl", read_only=True).lines


class Whole:
    """An uninterrupted run."""

    def __init__(self, model: Path, data: Path, folder: Path) -> None:
        self.folder, self.tuning = folder, -1
        with Person(folder) as person:
            self.result = fit(model, data, folder, emit=self._emit)
        self.answered = person.answered

    def _emit(self, event: Event) -> None:
        if event == TESTING:
            self.tuning = len(questions(self.folder))


def fit(model: Path, data: Path, folder: Path, **more: Any) -> Any:
    until = time.monotonic() + SOON
    options = {**OPTIONS, **ARGS, "model": str(model), "dataset": str(data), "output_dir": str(folder), **more}
    return zotune.fit(stop=lambda: time.monotonic() > until, **options)


@pytest.fixture(scope="module")
def model(families: Families) -> Path:
    return families.folder("llama")


@pytest.fixture(scope="module")
def whole(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(model, data, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def command(model: Path, data: Path) -> list[str]:
    """The arguments of `zotune`, without a run directory."""
    arguments = ["fit", "-m", str(model), "-d", str(data), "-o", "human", "--optimizer", "rank-sgd"]
    for name, value in OPTIONS.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)] if name != "objective" else []
    for flag in ("objective", "optimizer"):
        arguments += [x for k, v in ARGS[f"{flag}_args"].items() for x in (f"--{flag}-arg", f"{k}={v}")]
    return arguments


@pytest.fixture
def tuner(command: list[str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command as a process."""
    started: list[subprocess.Popen[str]] = []
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def start(folder: Path, *more: str) -> subprocess.Popen[str]:
        full = [sys.executable, "-m", "zotune", *command, "--output-dir", str(folder), *more]
        with (tmp_path / "log").open("a") as log:
            started.append(subprocess.Popen(full, cwd=tmp_path, env=env, stdout=log, stderr=log, text=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def until(true: Callable[[], bool], what: str, log: Path | None = None) -> None:
    end = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < end, f"waiting for {what}: {log.read_text() if log else ''}"
        time.sleep(0.02)


def tuner_waits(folder: Path, answered: int) -> bool:
    """Whether a tuner has asked questions and waits after so many ratings."""
    if not (folder / FILE_NAME).exists():
        return False
    with Ratings(folder) as store:
        progress = store.progress()
    return progress.state == WAITS and progress.answered == answered and progress.open > 0


RESUME = ("--resume-from-checkpoint", "last")


def test_a_killed_and_interrupted_run_asks_nothing_twice(
    whole: Whole, tuner: Any, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert whole.result.reason == "done"
    assert 4 < whole.tuning < len(questions(whole.folder)), "the rater was asked while tuning and at the end"
    folder, log, ratings_given = tmp_path / "out", tmp_path / "log", 0
    again = [*command, "--output-dir", str(folder), *RESUME]

    def rate_until(count: int) -> None:
        """Rate until there are so many ratings; the tuner then waits for the next."""
        nonlocal ratings_given
        while count_rated(folder) < count:
            rate_next(folder)
            ratings_given += 1
        until(lambda: tuner_waits(folder, count), f"question {count + 1}", log)

    def forget() -> None:
        """Overwrite the state that a killed tuner left."""
        with Ratings(folder) as store:
            store.set_state("killed")

    process = tuner(folder)
    rate_until(3)
    process.send_signal(signal.SIGKILL)
    assert process.wait(SOON) == -signal.SIGKILL
    forget()
    process = tuner(folder, *RESUME)
    until(lambda: tuner_waits(folder, 3) or process.poll() is not None, "the question that was open", log)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(SOON) == 130, log.read_text()
    assert time.monotonic() - began < 20, "takes two seconds on an idle machine"
    with Ratings(folder) as store:
        assert store.progress().state == DONE
    assert "Traceback" not in log.read_text()

    def interrupt() -> None:
        until(lambda: tuner_waits(folder, 3), "the question that was open")
        rate_until(whole.tuning)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SystemExit) as left:
        main(again)
    thread.join()
    assert left.value.code == 130, capsys.readouterr().err
    assert "interrupted" in capsys.readouterr().err
    assert not (folder / "result.json").exists()
    assert journal_lines(folder)[-1]["kind"] == "end", "all steps were taken; the final comparison was interrupted"
    with Person(folder) as person, pytest.raises(SystemExit) as left:
        main(again)
    assert left.value.code == 0, capsys.readouterr().err
    ratings_given += person.answered
    assert questions(folder) == questions(whole.folder)
    assert ratings_given == showings(folder), "every showing was rated once"
    assert journal_lines(folder) == journal_lines(whole.folder)
    assert same_weights(folder, whole.folder)
    result, before = (json.loads((f / "result.json").read_text()) for f in (folder, whole.folder))
    for name in ("kept", "after", "difference", "steps", "zero_share"):
        assert result[name] == before[name]
    with pytest.raises(SystemExit) as left:
        main(["rate", str(folder), "--export", str(tmp_path / "pairs.jsonl")])
    assert left.value.code == 0, capsys.readouterr().err
    exported = [json.loads(x) for x in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert exported
    assert all(len(pair["chosen"]) > len(pair["rejected"]) for pair in exported)


def count_rated(folder: Path) -> int:
    """The number of rated questions without repeats."""
    if not (folder / FILE_NAME).exists():
        return 0
    with Ratings(folder) as store:
        return store.progress().answered


def rate_next(folder: Path) -> None:
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        if (folder / FILE_NAME).exists():
            with Ratings(folder) as store:
                if (shown := store.next_question()) is not None:
                    assert store.record(shown.id, verdict(shown.completions))
                    return
        time.sleep(0.02)
    raise AssertionError("no question is open")


def test_the_rater_decides_the_journal(whole: Whole, model: Path) -> None:
    """The journal holds ranks only, and they come from the rater."""
    steps = [line["tape"] for line in journal_lines(whole.folder) if line["kind"] == "step"]
    assert {kind for tape in steps for kind, _ in tape} == {"ranks"}
    assert any(len({*places}) > 1 for tape in steps for _, places in tape)
    assert whole.result.before.value == 0.5
    assert whole.result.forwards == 4 * 2
    base = weights(model)
    kept = weights(whole.folder)
    assert any(not torch.equal(kept[k], base[k]) for k in base) == (whole.result.kept == "tuned")
    with Ratings(whole.folder) as store:
        progress = store.progress()
        assert (progress.open, progress.done) == (0, True)
        assert progress.planned is not None
        assert progress.answered <= progress.planned == 4 * 2 + 4
        agreed, repeated = agreement(store)
    assert agreed == repeated, "this rater is consistent"


def test_skipping_everything_keeps_the_base_model(model: Path, data: Path, tmp_path: Path) -> None:
    with Person(tmp_path / "out", rate=lambda shown: "skip") as person:
        result = fit(model, data, tmp_path / "out")
    assert person.answered > 0
    assert (result.reason, result.kept, result.zero_share) == ("done", "start", 1.0)
    assert (result.before.value, result.after.value) == (0.5, 0.5)
    assert same_weights(tmp_path / "out", model)


def test_skipping_the_final_questions_keeps_the_base_model(model: Path, data: Path, tmp_path: Path) -> None:
    judging: list[int] = []

    def emit(event: Event) -> None:
        if event == TESTING:
            judging.append(len(questions(tmp_path / "out")))

    with Person(tmp_path / "out", rate=lambda s: "skip" if judging else verdict(s.completions)):
        result = fit(model, data, tmp_path / "out", emit=emit)
    assert len(questions(tmp_path / "out")) > judging[0]
    assert (result.reason, result.kept, result.tuned.value) == ("done", "start", 0.5)
    assert result.zero_share < 1
    assert same_weights(tmp_path / "out", model)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")


@pytest.fixture
def chromium() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


SEEN = """
if (!document.getElementById('dock').checkVisibility()) return null;
return [...document.querySelectorAll('article .text')].map(e => e.textContent);
"""


def test_a_run_through_the_page(whole: Whole, model: Path, data: Path, chromium: Any, tmp_path: Path) -> None:
    folder, ended, keys = tmp_path / "out", threading.Event(), {"tie": "t", "1": "1", "2": "2"}
    pressed: list[str] = []

    def look() -> tuple[str, ...] | None:
        texts = chromium.execute_script(SEEN)
        return None if texts is None else tuple(texts)

    def rate() -> None:
        until((folder / FILE_NAME).exists, "the first question")
        with serve(folder) as server:
            chromium.get(server.address)
            while not ended.wait(0.02):
                texts, before = look(), showings(folder)
                if texts is None:
                    continue
                time.sleep(0.25)  # the page ignores keys for a moment after a new question
                if look() != texts:
                    continue
                chromium.find_element("tag name", "body").send_keys(keys[verdict(texts)])
                pause = time.monotonic() + 3  # until the rating is saved and the page has changed
                while time.monotonic() < pause and (showings(folder) == before or look() == texts):
                    time.sleep(0.02)
                pressed.extend(["key"] * (showings(folder) > before))

    person = threading.Thread(target=rate)
    person.start()
    try:
        result = fit(model, data, folder)
    finally:
        ended.set()
        person.join()
    assert result.reason == "done"
    assert len(pressed) == showings(folder) == whole.answered
    assert questions(folder) == questions(whole.folder)
    assert journal_lines(folder) == journal_lines(whole.folder)
    assert same_weights(folder, whole.folder)
