"""`zotune compare`: completions, questions, verdicts, counts and refusals."""

from __future__ import annotations

import gc
import http.client
import io
import json
import os
import shutil
import signal
import sys
import threading
import time
import urllib.parse
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import write_jsonl
from score_server import ScoreServer

import zotune
from zotune.cli import compare_command
from zotune.cli.app import main
from zotune.errors import ObjectiveFailures, OptionError, RunFolderError
from zotune.humans import console
from zotune.humans.preferences import wilson_interval
from zotune.humans.ratings import Ratings
from zotune.humans.store import FILE_NAME
from zotune.runs import compare as comparing
from zotune.runs import comparison_folder, preference_source
from zotune.runs.compare import Comparison, compare

WORDS = ("cat", "dog", "film", "plot", "man", "cast")
PROMPTS = [f"question : who saw the {w} ? answer :" for w in WORDS]
JUDGE = """
from pathlib import Path
def better(prompts, completions, **columns):
    with open(Path(__file__).with_name("asked.txt"), "a") as file:
        for p, (a, b) in zip(prompts, completions):
            file.write(f"{p}\\n")
    return [int(b > a) for a, b in completions]      # the later one in the alphabet, in either position
def broken(completions):
    raise ValueError("no idea")
def half(completions):
    if len(Path(__file__).with_name("asked.txt").read_text()) > 1:
        raise ValueError("no credit")
    Path(__file__).with_name("asked.txt").write_text("xx")
    return [-1] * len(completions)
def chats(prompts, completions, references, topic):
    assert [p[-1]["role"] for p in prompts] == ["user"] * len(prompts), prompts
    assert all(m["role"] == "assistant" for pair in completions for (m,) in pair), completions
    assert references == [t.upper() for t in topic], references
    return [int(a[0]["content"] < b[0]["content"]) for a, b in completions]
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    path = tmp_path / "judge.py"
    path.write_text(JUDGE)
    return path


@pytest.fixture
def two(families: Any) -> tuple[str, str]:
    """Two models with different completions."""
    return str(families.folder("llama")), str(families.folder("opt"))


@pytest.fixture
def completions(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Fixed completions of each model, by the name of its folder, in place of generated ones."""
    completions: dict[str, list[str]] = {}
    monkeypatch.setattr(comparing, "_completions", lambda cfg, files, *more: completions[Path(files.source).name])
    monkeypatch.setattr(comparing, "gc", SimpleNamespace(collect=int))  # no model, nothing to free
    return completions


def run(*arguments: object) -> Any:
    """The exit code of the command."""
    with pytest.raises(SystemExit) as left:
        main([str(x) for x in ("compare", *arguments)])
    return left.value.code or 0


def person(taste: Callable[[str], Any], most: int = 1000) -> tuple[Callable[[Path], None], list[str]]:
    """Answer up to `most` questions with the completion of larger taste; returns the prompts that were shown."""
    shown: list[str] = []

    def ask(folder: Path) -> None:
        with Ratings(folder) as store:
            for _ in range(most):
                question = store.next_question()
                if question is None:
                    return
                shown.append(question.prompt)
                first, second = map(taste, question.completions)
                store.record(question.id, "tie" if first == second else "1" if first > second else "2")

    return ask, shown


def nobody(folder: Path) -> None:
    raise AssertionError("a person is asked")


def no_model(*more: Any) -> Any:
    raise AssertionError("a model is loaded")


def test_a_judge(two: Any, data: Path, judge: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    folder = tmp_path / "out"
    arguments = [*two, "-d", data, "--max-new-tokens", 5, "--judge", f"{judge}:better", "--json"]
    assert run(*arguments, "--output-dir", folder) == 0
    result = json.loads(capsys.readouterr().out)
    kept = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    assert [k["prompt"] for k in kept] == PROMPTS
    for model, side in zip(two, "ab", strict=True):
        heard: list[str] = []

        def hear(completions: list[str], heard: list[str] = heard) -> float:
            heard += completions
            return 0.0

        zotune.evaluate(model=model, dataset=str(data), max_new_tokens=5, objective=hear)
        assert [k[side] for k in kept] == heard[:6], "as the model is heard elsewhere"
    wins = sum(k["a"] > k["b"] for k in kept)
    losses = sum(k["b"] > k["a"] for k in kept)
    assert 0 < wins + losses <= 6
    assert [result[k] for k in ("wins", "losses", "ties", "rows", "left")] == [wins, losses, 6 - wins - losses, 6, 0]
    assert result["rate"] == (wins + result["ties"] / 2) / 6
    assert (result["low"], result["high"]) == wilson_interval(result["rate"], 6)
    assert json.loads((folder / "result.json").read_text()) == result
    asked = (tmp_path / "asked.txt").read_text()
    assert len(asked.splitlines()) == wins + losses

    assert run(*two[::-1], *arguments[2:], "--output-dir", tmp_path / "swapped") == 0
    swapped = json.loads(capsys.readouterr().out)
    assert swapped["rate"] == 1 - result["rate"]
    assert swapped["low"] == pytest.approx(1 - result["high"])

    before = (tmp_path / "asked.txt").read_text()
    monkeypatch.setattr(comparing, "load_model", no_model)
    assert run(*arguments, "--output-dir", folder) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert (tmp_path / "asked.txt").read_text() == before, "the judge is not asked again"


def test_a_judge_behind_a_server(two: Any, data: Path, tmp_path: Path, capsys: Any) -> None:
    server = ScoreServer()

    def answer(body: Any) -> Any:
        asked = body["messages"][1]["content"]
        first, second = (asked.split(f"<answer {x}>")[1].split("</answer")[0] for x in "AB")
        return {"choices": [{"message": {"content": "A" if first > second else "B"}}]}

    server.answer = answer
    arguments = [*two, "-d", data, "--max-new-tokens", 5, "--judge", f"http://127.0.0.1:{server.port}/v1", "--json"]
    arguments += ["--output-dir", tmp_path / "out", "--objective-arg", "rubric=Later in the alphabet."]
    try:
        assert run(*arguments) == 0
        result = json.loads(capsys.readouterr().out)
        kept = [json.loads(line) for line in (tmp_path / "out" / "completions.jsonl").read_text().splitlines()]
        assert result["wins"] == sum(k["a"] > k["b"] for k in kept)
        assert result["losses"] == sum(k["b"] > k["a"] for k in kept)
        different = sum(k["a"] != k["b"] for k in kept)
        assert len(server.requests) == 2 * different > 0
        assert all("Later in the alphabet." in x["messages"][0]["content"] for x in server.requests)
        assert run(*arguments) == 0
        assert len(server.requests) == 2 * different, "nothing is asked twice"
        arguments[-1] = "rubric=Another."
        assert run(*arguments) == 0
        assert len(server.requests) == 4 * different, "another rubric is another judge"
    finally:
        server.close()


def test_demonstrations_stand_before_every_prompt(two: Any, data: Path, judge: Path, tmp_path: Path) -> None:
    """Both models answer as `zotune.evaluate` with the same demonstrations lets them."""
    train = [{"prompt": f"question : was the {w} good ? answer :", "completion": " yes"} for w in WORDS]
    write_jsonl(tmp_path / "folder" / "train.jsonl", train)
    shutil.copyfile(data, tmp_path / "folder" / "test.jsonl")
    options: dict[str, Any] = {"dataset": str(tmp_path / "folder"), "max_new_tokens": 5}
    compared: dict[str, Any] = {**options, "judge": f"{judge}:better", "output_dir": str(tmp_path / "out")}
    compare(*map(str, two), shots=2, **compared)
    kept = [json.loads(line) for line in (tmp_path / "out" / "completions.jsonl").read_text().splitlines()]
    for model, side in zip(two, "ab", strict=True):
        heard: dict[int, list[str]] = {}
        for shots in (0, 2):

            def hear(completions: list[str], into: list[str] = heard.setdefault(shots, [])) -> list[float]:  # noqa: B008
                into += completions
                return [0.0 for _ in completions]

            zotune.evaluate(model=str(model), shots=shots, objective=hear, **options)
        assert [k[side] for k in kept] == heard[2]
        assert heard[0] != heard[2]
    with pytest.raises(RunFolderError, match="made with another demonstrations"):
        compare(*map(str, two), shots=3, **compared)


def test_a_model_and_its_copy(shared: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    model = shared / "models/stories260K/hf"
    if not model.is_dir():
        pytest.skip("no stories260K")
    write_jsonl(tmp_path / "p.jsonl", [{"text": "Once upon a time"}, {"text": "The dog said"}])
    (tmp_path / "j.py").write_text("def first(completions):\n    return [0] * len(completions)\n")
    (tmp_path / "copy").mkdir()
    for path in model.iterdir():
        shutil.copyfile(path, tmp_path / "copy" / path.name)
    monkeypatch.chdir(tmp_path)
    assert run(model, "copy", "-d", "p.jsonl", "--max-new-tokens", 6, "--judge", "j.py:first") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"A  {model}",
        "B  copy",
        "A wins 0, loses 0, ties 2, 2 of them equal completions",
        "win rate of A 0.500, 95 % interval 0.095 to 0.905 (2 rows)",
        "The interval contains 1/2: these rows do not show which model is better.",
    ]
    (folder,) = (tmp_path / "compare").iterdir()
    assert folder.name == "hf-vs-copy-1"
    assert {p.name for p in folder.iterdir()} == {"compare.json", "completions.jsonl", "result.json"}


def test_only_one_model_is_in_memory(two: Any, data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    alive: list[weakref.ref[Any]] = []
    real = comparing.load_model

    def load(*more: Any) -> Any:
        gc.collect(0)
        assert [r() for r in alive] == [None] * len(alive), "the first is still there"
        model = real(*more)
        alive.append(weakref.ref(model.model))
        return model

    monkeypatch.setattr(comparing, "load_model", load)
    compare(*two, dataset=str(data), max_new_tokens=2, output_dir=str(tmp_path / "out"), ask=lambda folder: None)
    assert len(alive) == 2


def test_sampling_is_the_same_for_both(two: Any, data: Path, tmp_path: Path) -> None:
    more = {"dataset": str(data), "max_new_tokens": 5, "temperature": 1.0, "ask": nobody}
    result = compare(two[0], two[0], output_dir=str(tmp_path / "out"), **more)
    assert (result.same, result.rate, result.left) == (6, 0.5, 0)
    other = compare(two[0], two[0], output_dir=str(tmp_path / "other"), seed=1, **more)
    assert other.same == 6
    first, second = ((tmp_path / name / "completions.jsonl").read_text() for name in ("out", "other"))
    assert first != second


def test_verdicts_of_a_failing_judge_are_kept(
    two: Any, data: Path, judge: Path, tmp_path: Path, completions: Any, monkeypatch: Any
) -> None:
    completions |= {"llama-words": [*"abcdef"], "opt-words": [*"ghijkl"]}
    monkeypatch.setattr(preference_source, "PAIRS_A_CALL", 4)
    (tmp_path / "asked.txt").write_text("")
    more: Any = {"dataset": str(data), "output_dir": str(tmp_path / "out"), "ask": nobody}
    with pytest.raises(ObjectiveFailures, match="no credit"):
        compare(*two, judge=f"{judge}:half", **more)
    assert len((tmp_path / "out/judged.jsonl").read_text().splitlines()) == 4
    (tmp_path / "asked.txt").write_text("")
    result = compare(*two, judge=f"{judge}:half", **more)
    assert (result.ties, result.same, result.left) == (6, 0, 0)
    with pytest.raises(ObjectiveFailures, match="no idea"):
        compare(*two, judge=f"{judge}:broken", **more)
    result = compare(*two, judge=f"{judge}:better", **more)
    assert (result.losses, result.rate) == (6, 0.0), "each judge has a say of its own"
    assert result.verdict == "The interval excludes 1/2: B is better."


def test_conversations(
    two: Any, judge: Path, tmp_path: Path, completions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zotune.tasks.chat.has_chat_template", lambda *_: True)  # completions are given
    completions |= {"llama-words": ["x", "y"], "opt-words": ["z", "a"]}
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    rows = [
        {"prompt": [turns[1]], "completion": [{"role": "assistant", "content": "TEA"}], "topic": "tea"},
        {"prompt": turns, "completion": [{"role": "assistant", "content": "RAIN"}], "topic": "rain"},
    ]
    data = write_jsonl(tmp_path / "chats.jsonl", rows)
    more: Any = {"dataset": str(data), "output_dir": str(tmp_path / "out")}
    result = compare(*two, judge=f"{judge}:chats", **more)
    assert (result.wins, result.losses) == (1, 1)
    ask, shown = person(ord)
    assert compare(*two, ask=ask, **more).rate == 0.5
    assert sorted(shown) == ["hello", "system: be kind\n\nuser: hello"]


def test_a_person(two: Any, data: Path, tmp_path: Path, completions: Any, monkeypatch: Any) -> None:
    """Three wins, one loss, one tie, and one pair of equal completions."""
    completions |= {"llama-words": ["4", "5", "6", "0", "1", "same"], "opt-words": ["1", "2", "3", "9", "1.0", "same"]}
    more: Any = {"dataset": str(data), "output_dir": str(tmp_path / "out")}
    ask, shown = person(float)
    result = compare(*two, ask=ask, **more)
    assert (result.wins, result.losses, result.ties, result.same, result.left) == (3, 1, 2, 1, 0)
    assert result.rate == pytest.approx(4 / 6)
    assert result.agreed == result.repeated == len(shown) - 5
    assert PROMPTS[-1] not in shown
    monkeypatch.setattr(comparing, "load_model", no_model)
    assert compare(*two, ask=nobody, **more) == result
    swapped = compare(*two[::-1], dataset=str(data), output_dir=str(tmp_path / "swapped"), ask=person(float)[0])
    assert swapped.rate == pytest.approx(1 - result.rate)


def test_a_comparison_continues_and_asks_nothing_twice(
    two: Any, tmp_path: Path, completions: Any, monkeypatch: Any
) -> None:
    count = 40
    data = write_jsonl(tmp_path / "many.jsonl", [{"prompt": f"p{i}"} for i in range(count)])
    completions |= {"llama-words": [str(i + 2) for i in range(count)], "opt-words": ["1"] * count}
    more: Any = {"dataset": str(data), "output_dir": str(tmp_path / "out")}
    ask, shown = person(int, most=15)
    result = compare(*two, ask=ask, **more)
    assert result.left == count - result.wins > count - 16
    assert result.rows == count
    monkeypatch.setattr(comparing, "_completions", no_model)

    def interrupted(folder: Path) -> None:
        person(int, most=1)[0](folder)
        raise KeyboardInterrupt

    assert compare(*two, ask=interrupted, **more).left in (result.left, result.left - 1)
    later, then = person(int)
    result = compare(*two, ask=later, **more)
    assert (result.wins, result.left, result.losses + result.ties) == (count, 0, 0)
    assert result.verdict == "The interval excludes 1/2: A is better."
    asked = len(shown) + 1 + len(then)
    assert asked == count + result.repeated, "each once, but for those shown again on purpose"
    assert result.agreed == result.repeated > 0


def test_equal_rows_are_asked_once(two: Any, tmp_path: Path, completions: Any) -> None:
    data = write_jsonl(tmp_path / "twice.jsonl", [{"prompt": "p"}] * 2)
    completions |= {"llama-words": ["2", "2"], "opt-words": ["1", "1"]}
    ask, shown = person(int)
    result = compare(*two, dataset=str(data), output_dir=str(tmp_path / "out"), ask=ask)
    assert shown == ["p"]
    assert (result.wins, result.rows) == (2, 2)


def test_skipped_rows_do_not_count(two: Any, data: Path, tmp_path: Path, completions: Any) -> None:
    completions |= {"llama-words": [*"234567"], "opt-words": [*"111111"]}

    def ask(folder: Path) -> None:
        with Ratings(folder) as store:
            first = store.next_question()
            assert first
            store.record(first.id, "skip")
        person(int)[0](folder)

    result = compare(*two, dataset=str(data), output_dir=str(tmp_path / "out"), ask=ask)
    assert (result.skipped, result.wins, result.left, result.rate) == (1, 5, 0, 1.0)
    assert (result.low, result.high) == wilson_interval(1.0, 5)


def test_the_terminal(two: Any, data: Path, tmp_path: Path, completions: Any, monkeypatch: Any, capsys: Any) -> None:
    completions |= {"llama-words": [*"234567"], "opt-words": [*"111111"]}
    lines = iter(["t", "b", "q"])
    monkeypatch.setattr("builtins.input", lambda *prompt: next(lines))
    arguments = [*two, "-d", data, "--terminal", "--json", "--output-dir", tmp_path / "out"]
    assert run(*arguments) == 130
    out, err = capsys.readouterr()
    assert json.loads(out)["ties"] == 2
    assert "1 of 6" in err
    assert "4 rows have no answer yet; resume with --output-dir" in err
    monkeypatch.setattr(console, "POLL", 0.01)
    monkeypatch.setattr("builtins.input", lambda *prompt: "t")
    assert run(*arguments[:-3], *arguments[-2:]) == 0
    out, err = capsys.readouterr()
    repeated = json.loads((tmp_path / "out/result.json").read_text())["repeated"]
    assert out.count("tie · b both bad") == 4 + repeated
    assert "All done" in out
    assert "A wins 0, loses 0, ties 6\n" in out


class Page:
    """A person at the page: answers over HTTP in a thread, preferring larger numbers, as soon as there is an address
    on the stream."""

    def __init__(self, stream: Callable[[], str]) -> None:
        self.stream, self.last = stream, {}  # type: tuple[Callable[[], str], dict[str, Any]]
        self.thread = threading.Thread(target=self.answer, daemon=True)

    def answer(self, most: int = 1000) -> None:
        deadline = time.monotonic() + 60
        while "http://" not in self.stream() and time.monotonic() < deadline:
            time.sleep(0.02)
        address = next(line for line in self.stream().splitlines() if line.startswith("http://"))
        place = urllib.parse.urlsplit(address)
        self.last = self.call(place, "GET", "next")
        for _ in range(most):
            question = self.last["question"]
            if question is None:
                return
            first, second = map(int, question["answers"])
            body = json.dumps({"id": question["id"], "verdict": "1" if first > second else "2"})
            self.last = self.call(place, "POST", "answer", body)

    def call(self, place: Any, method: str, name: str, body: str | None = None) -> Any:
        line = http.client.HTTPConnection(place.hostname, place.port, timeout=10)
        headers = {"Origin": f"http://{place.netloc}", "Content-Type": "application/json"} if body else {}
        line.request(method, place.path + name, body, headers)
        reply = line.getresponse()
        body = reply.read()
        line.close()
        assert reply.status == 200, body
        return json.loads(body)


def test_the_page_ends_with_the_last_answer(
    two: Any, data: Path, tmp_path: Path, completions: Any, monkeypatch: Any
) -> None:
    completions |= {"llama-words": [*"234567"], "opt-words": [*"111119"]}
    monkeypatch.setattr(compare_command, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(compare_command, "LINGER_SECONDS", 0.2)
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    page = Page(out.getvalue)
    page.thread.start()
    assert run(*two, "-d", data, "--output-dir", tmp_path / "out") == 0
    page.thread.join(10)
    assert page.last["progress"]["done"], "the page hears that it is done before it is closed"
    assert page.last["progress"]["running"], "and never that a tuner is missing"
    assert "A wins 5, loses 1, ties 0\nwin rate of A 0.833" in out.getvalue()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_prints_the_result_so_far(
    two: Any, data: Path, tmp_path: Path, completions: Any, monkeypatch: Any, capsys: Any, sign: signal.Signals
) -> None:
    completions |= {"llama-words": [*"234567"], "opt-words": [*"111111"]}
    folder, out = tmp_path / "out", io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    page = Page(out.getvalue)

    def one_and_stop() -> None:
        page.answer(most=1)
        os.kill(os.getpid(), sign)

    thread = threading.Thread(target=one_and_stop, daemon=True)
    thread.start()
    assert run(*two, "-d", data, "--output-dir", folder) == 130
    thread.join(10)
    assert "A wins 1, loses 0, ties 0\n" in out.getvalue()
    err = capsys.readouterr().err
    assert f"5 rows have no answer yet; resume with --output-dir {folder}" in err
    assert "Traceback" not in err
    assert json.loads((folder / "result.json").read_text())["left"] == 5
    result = compare(*two, dataset=str(data), output_dir=str(folder), ask=person(int)[0])
    assert (result.wins, result.left) == (6, 0)


@pytest.fixture
def begun(two: Any, data: Path, tmp_path: Path, completions: Any, families: Any) -> tuple[list[str], dict[str, Any]]:
    """A comparison of copies of two models, without answers yet."""
    models = []
    for name, source in zip(("one", "two"), two, strict=True):
        shutil.copytree(source, tmp_path / name)
        models.append(str(tmp_path / name))
    completions |= {"one": [*"234567"], "two": [*"111111"]}
    more = {"dataset": str(data), "output_dir": str(tmp_path / "out")}
    compare(*models, ask=lambda folder: None, **more)
    return models, more


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 3}, "another max new tokens: 64 then, 3 now"),
        ({"seed": 1}, "another seed"),
        ({"temperature": 0.5}, "another temperature"),
        ({"stop": ("x",)}, "another stop"),
        ({"limit": 5}, "another data: the same name, but it has changed"),
        ({"template": "{prompt} so"}, "another template"),
        ("swap", "another model A: .*one then, .*two now"),
        ("weights", "another model B: the same name, but it has changed"),
        ("data", "another data"),
    ],
)
def test_another_setting_is_refused(begun: Any, tmp_path: Path, change: Any, message: str) -> None:
    (a, b), more = begun
    if change == "swap":
        a, b = b, a
    elif change == "weights":
        path = Path(b) / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    elif change == "data":
        write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": p + " the"} for p in PROMPTS])
    else:
        more |= change
    before = (tmp_path / "out/completions.jsonl").read_text()
    with pytest.raises(RunFolderError, match=message):
        compare(a, b, ask=nobody, **more)
    assert (tmp_path / "out/completions.jsonl").read_text() == before


def test_a_model_may_have_moved(begun: Any, tmp_path: Path, monkeypatch: Any) -> None:
    (a, b), more = begun
    shutil.move(a, tmp_path / "moved")
    monkeypatch.setattr(comparing, "_completions", no_model)
    assert compare(str(tmp_path / "moved"), b, ask=person(int)[0], **more).wins == 6


def test_damaged_completions_are_generated_again(begun: Any, tmp_path: Path, completions: Any) -> None:
    models, more = begun
    path = tmp_path / "out/completions.jsonl"
    whole = path.read_text()
    compare(*models, ask=person(int, most=3)[0], **more)
    path.write_text(whole[:-9])
    ask, shown = person(int)
    assert compare(*models, ask=ask, **more).wins == 6
    assert path.read_text() == whole
    assert not {*shown[1:]} & {*PROMPTS[:2]}, "answers to the same stay"
    path.unlink()
    completions["one"] = [*"876543"]
    with pytest.raises(RunFolderError, match="questions about other completions"):
        compare(*models, ask=nobody, **more)


def test_completions_are_read_back_unchanged(begun: Any, tmp_path: Path, completions: Any) -> None:
    models, more = begun
    nasty = ["a\u2028b\r\nc", "\x00\x1b", "half \ud800", "中文", "", " "]
    completions["one"] = nasty
    more["output_dir"] = str(tmp_path / "nasty")
    results: list[Comparison] = [compare(*models, ask=person(len, most=n)[0], **more) for n in (2, 1000)]
    assert results[1].left == 0
    kept = (tmp_path / "nasty/completions.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["a"] for line in kept if line] == [t.replace("\ud800", "?") for t in nasty]


def test_a_failure_while_generating_leaves_no_folder(two: Any, data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "_completions", full)
    assert run(*two, "-d", data, "--output-dir", tmp_path / "out") == 130
    assert not (tmp_path / "out").exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparing, "_completions", lambda cfg, files, spec, rows, emit: ["x"] * len(rows))
    folders = [compare(f"{two[0]}/", two[1], dataset=str(data), ask=nobody).folder for _ in range(2)]
    assert folders == [Path("compare/llama-words-vs-opt-words-1"), Path("compare/llama-words-vs-opt-words-2")]


def test_run_directories_give_the_task(begun: Any, data: Path, tmp_path: Path, completions: Any) -> None:
    (a, b), _ = begun
    remembered = {"dataset": str(data), "template": "say {prompt}", "max_new_tokens": 7, "head": "causal"}
    (Path(a) / "config.yaml").write_text(yaml.safe_dump(remembered))
    ask, shown = person(int)
    result = compare(a, b, output_dir=str(tmp_path / "new"), ask=ask)
    assert result.wins == 6
    assert {*shown} == {f"say {p}" for p in PROMPTS}
    made_of = json.loads((tmp_path / "new/compare.json").read_text())
    assert made_of["max_new_tokens"] == 7
    (Path(b) / "config.yaml").write_text(yaml.safe_dump({**remembered, "max_new_tokens": 8}))
    with pytest.raises(OptionError, match=r"one was tuned with --max-new-tokens 7, .*two with 8 \(give --max-new"):
        compare(a, b, output_dir=str(tmp_path / "new"), ask=nobody)
    again = compare(a, b, output_dir=str(tmp_path / "new"), max_new_tokens=7, ask=nobody)
    assert again.wins == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("A", "B", "-d", "labelled.jsonl"), "compare is for generated text, and this is a classification task"),
        (("A", "B", "-d", "prompts.jsonl", "--task", "copa"), "this is a choice task"),
        (("A", "B"), "no --dataset is given"),
        (("A", "B", "-d", "none.jsonl"), "no such file"),
        (("A", "B", "-d", "empty.jsonl"), "empty.jsonl"),
        (("A", "./nothing", "-d", "prompts.jsonl"), "no such folder"),
        (("A", "owner/name", "-d", "prompts.jsonl"), "HF_HUB_OFFLINE"),
        (("A", "E", "-d", "prompts.jsonl"), "generates no text"),
        (("A", "B", "-d", "prompts.jsonl", "--split", "dev"), "no split 'dev'"),
        (("A", "B", "-d", "prompts.jsonl", "--judge", "judge.py:none"), "has no 'none'"),
        (("A", "B", "-d", "prompts.jsonl", "--judge", "none.py:f"), "does not exist"),
        (("A", "B", "-d", "prompts.jsonl", "--judge", "judge.py:better", "--terminal"), "exclude each other"),
        (("A", "B", "-d", "prompts.jsonl", "--temperature", "-1"), "--temperature must be 0"),
        (("A", "B", "-d", "prompts.jsonl", "--output-dir", "full"), "holds no comparison"),
        (("A", "B", "-d", "prompts.jsonl", "--output-dir", "prompts.jsonl"), "holds no comparison"),
        (("A", "B", "-d", "prompts.jsonl", "--output-dir", "torn"), "compare.json cannot be read"),
        (("A", "B", "-d", "prompts.jsonl", "--column", "prompt"), "--column takes FIELD=COLUMN"),
    ],
)
def test_refusals_are_one_line(
    two: Any,
    tiny_encoder: Path,
    data: Path,
    judge: Path,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: Any,
    arguments: Any,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(comparing, "load_model", no_model)
    write_jsonl(tmp_path / "labelled.jsonl", [{"text": "so good", "label": 1}])
    (tmp_path / "empty.jsonl").write_text("")
    write_jsonl(tmp_path / "full/notes.jsonl", [])
    write_jsonl(tmp_path / "torn/compare.json", [{}, {}])
    before = {p for p in tmp_path.rglob("*") if "__pycache__" not in p.parts}
    known = {"A": two[0], "B": two[1], "E": str(tiny_encoder)}
    assert run(*(known.get(x, x) for x in arguments)) == 2
    out, err = capsys.readouterr()
    assert not out
    (line,) = err.splitlines()
    assert message in line
    assert {p for p in tmp_path.rglob("*") if "__pycache__" not in p.parts} == before


def test_eval_of_an_order_points_to_compare(two: Any, data: Path, judge: Path) -> None:
    with pytest.raises(OptionError, match=r"compares two models and has no score of one \(zotune compare A B"):
        zotune.evaluate(model=two[0], dataset=str(data), objective=f"judge:{judge}:better")


def test_a_question_key_covers_all_of_its_text() -> None:
    def key(*texts: str) -> str:
        return comparison_folder.Pair(*texts).key

    different: Sequence[str] = [key("p", "a", "b"), key("p", "b", "a"), key("pa", "", "b"), key("p", "ab", "")]
    assert len({*different}) == 4
    assert FILE_NAME == "ratings.sqlite"
