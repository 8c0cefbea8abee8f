"""A whole sitting at the page in Chromium: `zotune fit -o human` on a model of stories, reloaded, in two tabs, on a
phone, undone, with `zotune rate` and the tuner killed and started again. No answer is lost, nothing is asked twice, and
the run is the uninterrupted one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from test_human_runs import SEEN, Person, chromium, questions, same_weights, showings, verdict
from test_questions_ahead import lines

import zotune
from zotune.humans.preferences import export_preferences
from zotune.humans.ratings import Ratings
from zotune.humans.store import FILE_NAME

__all__ = ["chromium"]  # a fixture
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys

NAMES = ("Mia", "Tom", "Lily", "Ben", "Sue")
DOINGS = ("was looking for", "had a red", "went to the", "saw a big", "liked to play with", "found a small")
ARGS = {"questions": "28", "judged": "4"}
BATCH = 8
TOKENS = 12
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
KEYS = {"tie": "t", "1": "1", "2": "2"}
OWN = {"Mia had a red": "hat, and she was happy.", "Ben saw a big": "dog. The dog was his friend."}
"""Answers that the person writes, by prompt, in place of a choice."""
SETTLED = 0.2
"""Seconds after a new question before which the page ignores keys."""
SOON = 90.0
WIDE = "return document.documentElement.scrollWidth > innerWidth"
FULL = "const bar = document.getElementById('bar'); return bar.value === bar.max && bar.max > 0"


@pytest.fixture(scope="module")
def stories(shared: Path) -> Path:
    folder = shared / "models/stories260K/hf"
    if not folder.is_dir():
        pytest.skip("no stories260K")
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openings")
    rows = [{"prompt": f"{name} {doing}"} for doing in DOINGS for name in NAMES]
    for split, part in (("train", rows[:20]), ("validation", rows[20:25]), ("test", rows[25:])):
        write_jsonl(folder / f"{split}.jsonl", part)
    return folder


@pytest.fixture(scope="module")
def whole(stories: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, answered at once by a script."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with Person(folder, rate=lambda shown: rating(shown.prompt, shown.completions)):
        zotune.fit(
            model=str(stories),
            dataset=str(prompts),
            objective="human",
            objective_args=ARGS,
            max_new_tokens=TOKENS,
            output_dir=str(folder),
        )
    return folder


def rating(prompt: str, completions: tuple[str, ...]) -> tuple[str, str, str]:
    """The person's verdict, no worst one, and their own text."""
    return ("written", "", OWN[prompt]) if prompt in OWN else (verdict(completions), "", "")


class Processes:
    """The tuner and the page's server as commands, each started again after it was killed."""

    def __init__(self, model: Path, data: Path, place: Path) -> None:
        self.place, self.run = place, place / "run"
        self._fit = ["fit", "-m", str(model), "-d", str(data), "-o", "human", "--output-dir", str(self.run)]
        self._fit += ["--max-new-tokens", str(TOKENS)]
        self._fit += [x for k, v in ARGS.items() for x in ("--objective-arg", f"{k}={v}")]
        self._started: list[subprocess.Popen[str]] = []

    def tuner(self) -> subprocess.Popen[str]:
        again = ["--resume-from-checkpoint", "last"] if self.run.is_dir() else []
        return self._start([*self._fit, *again], subprocess.DEVNULL)

    def server(self) -> tuple[subprocess.Popen[str], str]:
        """The process and the address that it prints."""
        process = self._start(["rate", str(self.run)], subprocess.PIPE)
        assert process.stdout
        return process, process.stdout.readline().strip()

    def _start(self, arguments: Sequence[str], output: int) -> subprocess.Popen[str]:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with (self.place / "log").open("a") as log:
            command = [sys.executable, "-m", "zotune", *arguments]
            process = subprocess.Popen(command, cwd=self.place, env=env, stdout=output, stderr=log, text=True)
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


@pytest.fixture
def processes(stories: Path, prompts: Path, tmp_path: Path) -> Iterator[Processes]:
    started = Processes(stories, prompts, tmp_path)
    yield started
    started.close()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


class Sitting:
    """A person at the page. answered: the answers that count: those taken, less those undone."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder, self.answered = driver, folder, 0

    def look(self) -> tuple[str, ...] | None:
        """The texts of the question on the page; None where there is none."""
        seen = self.driver.execute_script(SEEN)
        return tuple(seen) if seen else None

    def says(self, text: str) -> bool:
        return text in self.driver.find_element("tag name", "body").text

    def press(self, key: str) -> None:
        self.driver.find_element("tag name", "body").send_keys(key)

    def until(self, true: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + SOON
        while not true():
            assert time.monotonic() < end, f"waiting for {what}: {(self.folder.parent / 'log').read_text()[-2000:]}"
            time.sleep(0.02)

    def answer(self, count: int, gone: Callable[[], bool] = lambda: False) -> None:
        """Rate so many questions as they come. gone: ends it where it becomes true."""
        goal = self.answered + count
        while self.answered < goal and not gone():
            self.until(lambda: self.look() or gone(), "a question")
            texts, before = self.look(), showings(self.folder)
            time.sleep(SETTLED)
            if texts is None or self.look() != texts:
                continue
            self._rate(self.driver.find_element("id", "prompt").text, texts)
            end = time.monotonic() + 3
            while time.monotonic() < end and (showings(self.folder) == before or self.look() == texts):
                time.sleep(0.02)
            self.answered += showings(self.folder) - before

    def _rate(self, prompt: str, texts: tuple[str, ...]) -> None:
        word, _, text = rating(prompt, texts)
        if not text:
            self.press(KEYS[word])
            return
        self.press("e")
        field = self.driver.find_element("id", "written")
        field.clear()
        field.send_keys(text)
        field.send_keys(Keys.CONTROL, Keys.ENTER)

    def undo(self) -> None:
        """Take the last answer back."""
        before = showings(self.folder)
        self.press("u")
        self.until(lambda: showings(self.folder) == before - 1, "the undo")
        self.until(lambda: self.says("Undone") or self.says("Rate this again"), "the message")
        self.answered -= 1

    def narrow(self) -> None:
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)


def rated(folder: Path) -> list[int]:
    """How many questions are rated and open, without repeats."""
    with Ratings(folder) as store:
        progress = store.progress()
    return [progress.answered, progress.open]


def used(folder: Path) -> int:
    """How many questions' ratings the tuner has used."""
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as db:
        return int(db.execute("SELECT coalesce(sum(used), 0) FROM questions").fetchone()[0])


def test_a_sitting_with_everything_that_goes_wrong(whole: Path, processes: Processes, chromium: Any) -> None:
    folder = processes.run
    chromium.set_window_size(1280, 860)
    server, address = processes.server()  # it waits for the run
    chromium.get(address)
    sitting = Sitting(chromium, folder)
    sitting.until(lambda: sitting.says("Waiting for the tuner"), "the page before the run")
    tuner = processes.tuner()
    sitting.answer(3)
    chromium.refresh()
    sitting.answer(1)

    desktop = chromium.current_window_handle
    sitting.until(sitting.look, "a question in the first tab")
    chromium.switch_to.new_window("tab")
    phone = chromium.current_window_handle
    sitting.narrow()
    chromium.get(address)
    sitting.answer(2)
    assert not chromium.execute_script(WIDE)
    chromium.switch_to.window(desktop)
    sitting.answer(1)  # a question that the other tab has rated is not rated again
    assert sitting.answered == showings(folder) == 7

    while used(folder) < BATCH:
        sitting.answer(1)
    sitting.answer(1)  # a question of the second batch
    for _ in range(3):
        sitting.undo()
        if sitting.says("The tuner has used the old rating"):
            break
    else:
        pytest.fail("no undo has reached the first batch")
    sitting.answer(1)

    kill(server)
    time.sleep(SETTLED)
    sitting.press("1")
    sitting.until(lambda: sitting.says("server is not running"), "the page to miss its server")
    assert sitting.says("zotune rate")
    server, again = processes.server()
    assert again == address, "the open page goes on"
    sitting.answer(2)

    kill(tuner)
    with Ratings(folder) as store:
        store._set_heartbeat(0.0)  # as after some seconds
    chromium.switch_to.window(phone)
    sitting.narrow()
    sitting.answer(100, lambda: sitting.says("The tuner is not running"))  # what is in the queue
    assert sitting.says(f"zotune resume {folder}"), "the page says what to type"
    assert sitting.answered == showings(folder)
    tuner = processes.tuner()
    sitting.answer(100, lambda: tuner.poll() is not None)
    assert tuner.wait() == 0
    for tab in (phone, desktop):
        chromium.switch_to.window(tab)
        sitting.until(lambda: sitting.says("All done"), "the end")
        assert sitting.says("was kept"), "what was kept stands on the page"
        assert chromium.execute_script(FULL), "progress ends at 100 %"
    assert sitting.answered == showings(folder)
    assert rated(folder) == rated(whole), "an undo may add a repeat, and no question"
    assert questions(folder) == questions(whole)
    assert lines(folder) == lines(whole)
    assert same_weights(folder, whole)
    with Ratings(folder) as store:
        written = store.written([key for key, _ in questions(folder)])
        assert export_preferences(store, processes.place / "pairs.jsonl") > len(written) > 0
    exported = [json.loads(line) for line in (processes.place / "pairs.jsonl").read_text().splitlines()]
    assert {pair["chosen"] for pair in exported if pair["prompt"] in OWN} == {*written.values()}
