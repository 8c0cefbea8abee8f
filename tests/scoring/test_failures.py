"""Objectives in whole runs: scorers that die, hang, lie and come back, budgets of scores, sums, samples, reward
functions as TRL documents them, preference pairs, judges, and `zotune check`."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_jsonl
from families import WORDS, Families, option_scores
from safetensors.torch import load_file

import zotune
from zotune.cli.app import main
from zotune.errors import ObjectiveFailures, OptionError
from zotune.events import Emit, Event, Note, Phase, StepDone
from zotune.search.journal import Journal

THINGS = WORDS.split()[13:33]
"""film, plot, … yes, no"""
CHAT = "{% for m in messages %}<s> {{ m.role }} : {{ m.content }} </s> {% endfor %}"
CHAT += "{% if add_generation_prompt %}<s> answer : {% endif %}"


def prompts(count: int, begin: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"question : who saw the {THINGS[(begin + i) % 20]} ? answer :"} for i in range(count)]


def splits(folder: Path, make: Callable[[int, int], list[dict[str, Any]]]) -> Path:
    """12 training, 4 selecting and 4 judging rows."""
    for name, count, begin in (("train", 12, 0), ("validation", 4, 12), ("test", 4, 16)):
        write_jsonl(folder / f"{name}.jsonl", [{**r, "part": name} for r in make(count, begin)])
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return splits(tmp_path / "data", prompts)


@pytest.fixture
def model(families: Families) -> Path:
    return families.folder("llama")


@pytest.fixture
def chatty(model: Path, tmp_path: Path) -> Path:
    """The same model with a chat template."""
    from transformers import AutoTokenizer

    folder = tmp_path / "chatty"
    shutil.copytree(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


Fit = Callable[..., Any]


@pytest.fixture
def fit(model: Path, data: Path, tmp_path: Path) -> Fit:
    def run(objective: Any, out: str = "out", **more: Any) -> Any:
        options = {
            "model": str(model),
            "dataset": str(data),
            "optimizer": "mezo",
            "max_steps": 6,
            "eval_steps": 2,
            "batch_size": 4,
            "max_new_tokens": 5,
        }
        options |= {"output_dir": str(tmp_path / out)}
        if more.get("optimizer", "mezo") in ("mezo", "zo-sign"):
            options |= {"learning_rate": 3e-3, "eps": 0.1}
        return zotune.fit(objective=objective, **{**options, **more})

    return run


def words(completions: list[str], **rest: Any) -> list[float]:
    """Different words, and a little for their number."""
    return [len(set(c.split())) + 0.1 * len(c.split()) for c in completions]


def lines(folder: Path) -> list[dict[str, Any]]:
    return Journal.open(folder / "journal.jsonl", read_only=True).lines[1:]


def dropped(folder: Path) -> list[int]:
    return [line["step"] for line in lines(folder) if "dropped" in line]


def digest(folder: Path, step: int) -> str:
    said: str = json.loads((folder / f"checkpoint-{step}/trainer_state.json").read_text())["weights"]
    return said


def same(a: Path, b: Path) -> bool:
    x, y = (load_file(f / "model.safetensors") for f in (a, b))
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def at(moment: int | str, then: Callable[[], object]) -> Emit:
    """Call `then` after a step, or when a phase of this text begins."""

    def emit(event: Event) -> None:
        if moment == (event.step if isinstance(event, StepDone) else event.text if isinstance(event, Phase) else None):
            then()

    return emit


SCORER = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
control, seen = here / "control", here / "seen"
for line in sys.stdin:
    with seen.open("a") as file:
        file.write("x")
    mode, _, after = control.read_text().partition(" ") if control.exists() else ("", "", "")
    words = json.loads(line)["completion"].split()
    if mode and seen.stat().st_size > int(after or 0):
        if mode == "dies":
            control.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "hangs":
            time.sleep(60)
        print(mode)
    else:
        print(len(set(words)) + 0.1 * len(words))
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    (tmp_path / "scorer.py").write_text(SCORER)
    return f"exec:{sys.executable} -u -I -S {tmp_path / 'scorer.py'}"


def test_a_program_that_dies_once_changes_nothing(fit: Fit, program: str, tmp_path: Path) -> None:
    """Wherever it dies: while the start is scored, in a step, in an evaluation, while the best weights are judged."""
    whole = fit(program, "whole")
    assert whole.scoring.faults["restarts"] == 0
    control = tmp_path / "control"
    phases = [f"scoring the {weights} on the test set" for weights in ("base model", "best weights")]
    for k, moment in enumerate([phases[0], 3, 4, phases[1]]):
        died: list[str] = []

        def die(died: list[str] = died) -> None:
            died.append(control.write_text("dies") and "dies")

        result = fit(program, f"died{k}", emit=at(moment, die))
        assert died == ["dies"]
        assert control.read_text() == "", "it was asked, and died"
        assert result.scoring.faults["restarts"] == 1
        assert json.loads((tmp_path / f"died{k}/result.json").read_text())["scoring"]["faults"]["restarts"] == 1
        assert result.dropped == 0
        assert lines(tmp_path / f"died{k}") == lines(tmp_path / "whole")
        assert same(tmp_path / f"died{k}", tmp_path / "whole")


def test_a_program_that_hangs_costs_steps_and_then_the_run(
    fit: Fit, program: str, model: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    kept = {"eval_steps": 100, "save_steps": 1, "save_total_limit": 9}
    fit(program, "whole", **kept)
    before, step = 8, 8  # rows of judging and selection at the start, and of a step, where none is known already
    (tmp_path / "control").write_text(f"hangs {before + 2 * step}")
    (tmp_path / "seen").unlink()
    arguments = ["fit", "-m", model, "-d", data, "-o", program, "--optimizer", "mezo", "--lr", 3e-3, "--eps", 0.1]
    arguments += ["--max-steps", 6, "--eval-steps", 100, "--save-steps", 1, "--save-total-limit", 9]
    arguments += ["--batch-size", 4, "--max-new-tokens", 5, "--no-score-cache", "--output-dir", tmp_path / "out"]
    with pytest.raises(SystemExit) as left:
        main([*map(str, arguments), "--score-timeout", "0.8", "--max-failures", "1"])
    said = capsys.readouterr().err
    assert left.value.code == 3, said
    (line,) = [x for x in said.splitlines() if x.startswith("zotune: ")]
    assert "2 steps failed, more than --max-failures 1" in line
    assert "within 0.8 s" in line
    assert dropped(tmp_path / "out") == [2, 3]
    assert digest(tmp_path / "out", 4) == digest(tmp_path / "out", 2) == digest(tmp_path / "whole", 2)
    (tmp_path / "control").unlink()
    with pytest.raises(SystemExit) as left:
        main([*map(str, arguments), "--resume-from-checkpoint", "last", "--json"])
    out, said = capsys.readouterr()
    assert left.value.code == 0, said
    result = json.loads(out)
    assert (result["steps"], result["dropped"], result["reason"]) == (6, 2, "done")
    assert dropped(tmp_path / "out") == [2, 3]
    assert digest(tmp_path / "out", 6) != digest(tmp_path / "out", 4)
    assert "6 steps, 2 dropped" in said


@pytest.mark.parametrize("mode", ["lovely", "NaN", "1\n2", '{"points": 3}'])
def test_programs_that_print_no_scores(fit: Fit, program: str, tmp_path: Path, mode: str) -> None:
    def lie() -> None:
        (tmp_path / "control").write_text(mode)

    with pytest.raises(ObjectiveFailures, match="1 steps failed, more than --max-failures 0"):
        # a row a call: where a program begins to say too much in mid-run, a call of several may end before it shows
        fit(program, max_failures=0, score_batch_size=1, emit=at(3, lie))
    assert dropped(tmp_path / "out") == [3]
    (tmp_path / "control").unlink()
    assert fit(program, resume="last").reason == "done"
    assert dropped(tmp_path / "out") == [3]


class Moody:
    """Works until it is told to fail in some way."""

    def __init__(self) -> None:
        self.mood = ""

    def __call__(self, completions: list[str], part: list[str]) -> Any:
        if self.mood == "raises":
            raise ConnectionError("no route to the judge")
        if self.mood == "held-out" and part[0] != "train":
            raise ValueError("cannot read these rows")
        bad: dict[str, Any] = {"nan": [float("nan")] * len(part), "short": [1.0], "text": ["good"] * len(part)}
        return bad.get(self.mood, [None] * len(part) if self.mood == "none" else words(completions))


SAID = {"raises": "no route to the judge", "nan": "returned nan", "short": "returned 1 scores for 4 rows"}
SAID |= {"text": "returned a str where a number belongs", "none": "returned None for every row"}


@pytest.mark.parametrize("mood", SAID)
def test_failing_from_some_step_on(fit: Fit, tmp_path: Path, mood: str) -> None:
    """A run that stops with code 3 and goes on later is the run in which those steps failed and no more."""
    kept = {"save_steps": 1, "save_total_limit": 9}
    moody = Moody()

    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step in (3, 5):
            moody.mood = mood if event.step == 3 else ""

    survived = fit(moody, "survived", emit=emit, **kept)
    assert survived.dropped == 2
    failed_eval = [x for x in lines(tmp_path / "survived") if "failed" in x]
    assert [x["step"] for x in failed_eval] == [4]
    moody.mood = ""
    with pytest.raises(ObjectiveFailures, match=r"2 steps failed, more than --max-failures 1.*last good step") as error:
        fit(moody, max_failures=1, emit=emit, **kept)
    assert error.value.exit_code == 3
    assert SAID[mood] in str(error.value)
    assert digest(tmp_path / "out", 5) == digest(tmp_path / "out", 3) == digest(tmp_path / "survived", 3)
    moody.mood = ""
    resumed = fit(moody, resume="last", **kept)
    assert resumed.dropped == 2
    assert (resumed.steps, resumed.reason) == (6, "done")
    assert lines(tmp_path / "out") == lines(tmp_path / "survived")
    assert (tmp_path / "out/metrics.jsonl").read_text() == (tmp_path / "survived/metrics.jsonl").read_text()
    assert same(tmp_path / "out", tmp_path / "survived")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_failing_on_held_out_rows_at_the_start_leaves_nothing(fit: Fit, tmp_path: Path, part: str) -> None:
    def score(completions: list[str], **columns: Any) -> list[float]:
        if columns["part"][0] == part:
            raise ValueError("cannot read these rows")
        return words(completions)

    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(ObjectiveFailures, match=rf"failed on the {part} set.*cannot read these rows") as error:
        fit(score)
    assert error.value.exit_code == 3
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_async_functions_in_parts_and_rows_that_do_not_count(fit: Fit, tmp_path: Path) -> None:
    sizes: Counter[int] = Counter()
    running, most, mute = [0], [0], [False]

    async def score(completions: list[str], prompts: list[str], **rest: Any) -> list[float | None]:
        sizes[len(completions)] += 1
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0.001)
        running[0] -= 1
        found = words(completions)
        return [None if mute[0] or "dog" in p else x for p, x in zip(prompts, found, strict=True)]

    def emit(event: Event) -> None:
        if isinstance(event, StepDone):
            mute[0] = event.step == 2

    options = {"score_concurrency": 2, "score_batch_size": 3, "score_cache": False}
    result = fit(score, emit=emit, eval_steps=3, **options)
    assert (max(sizes), most[0]) == (3, 2)
    assert sizes[1] > 0, "four rows are three and one"
    assert (result.dropped, dropped(tmp_path / "out")) == (1, [2])
    assert "returned None for every row" in next(x for x in lines(tmp_path / "out") if "dropped" in x)["dropped"]

    def plain(completions: list[str], prompts: list[str], **rest: Any) -> list[float | None]:
        return [None if "dog" in p else x for p, x in zip(prompts, words(completions), strict=True)]

    mute[0] = False
    fit(score, "async", **options)
    fit(plain, "plain")
    assert lines(tmp_path / "async") == lines(tmp_path / "plain")


def test_a_resumed_run_with_known_scores_is_the_uninterrupted_one(fit: Fit, tmp_path: Path) -> None:
    @zotune.objective(level="sample")
    def score(completions: list[str], prompts: list[str]) -> list[float]:
        return words(completions)

    options = {"learning_rate": 1e-3, "eps": 1e-3, "max_steps": 9}  # so near that most completions come again
    whole = fit(score, "whole", **options)
    assert whole.scoring.known > whole.scoring.rows / 2
    for cut in (1, 5):
        steps: list[int] = []
        name = f"cut{cut}"
        halt = {"emit": at(cut, lambda s=steps: s.append(1)), "stop": lambda s=steps: bool(s)}
        first = fit(score, name, **options, **halt)
        assert (first.reason, first.steps) == ("interrupted", cut)
        again = fit(score, name, resume="last", **options)
        assert again.after == whole.after
        for file in ("journal.jsonl", "metrics.jsonl", "completions.jsonl"):
            assert (tmp_path / name / file).read_text() == (tmp_path / "whole" / file).read_text()
        assert same(tmp_path / name, tmp_path / "whole")
    said = [json.loads(x) for x in (tmp_path / "whole/completions.jsonl").read_text().splitlines()]
    evals = [x for x in lines(tmp_path / "whole") if x["kind"] == "eval"]
    assert {x["step"] for x in said} == {e["step"] for e in evals}
    for x in said:
        assert x["prompt"]
        assert [x["score"]] == words([x["completion"]])


class Scores(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"scores": words(said["completions"])}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Cut:
    """A server that is stopped, and started again at the same port."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Scores)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def cut() -> Iterator[Cut]:
    server = Cut()
    yield server
    server.stop()


def test_a_server_that_is_away_for_a_while(fit: Fit, cut: Cut, tmp_path: Path) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            cut.stop()
        if isinstance(event, StepDone) and event.step == 4:
            cut.start()

    args = {"retries": 1, "backoff": 0.01}
    options = {"eval_steps": 5, "objective_args": args, "max_failures": 50, "score_cache": False}
    result = fit(f"http://127.0.0.1:{cut.port}/score", emit=emit, **options)
    assert (result.reason, result.steps, result.dropped) == ("done", 6, 2)
    assert dropped(tmp_path / "out") == [2, 3]
    assert result.scoring.faults["retries"] == 4, "one further try in each of the two tries of two steps"


def counted(level: Any = None, fails: int = 0, whole: bool = False) -> tuple[Any, list[int]]:
    """A scorer that counts its rows, whose every `fails`-th call fails."""
    seen, calls = [0], [0]

    @zotune.objective(level=level)
    def score(completions: list[str], **rest: Any) -> Any:
        seen[0] += len(completions)
        calls[0] += 1
        if fails and calls[0] > 2 and calls[0] % fails == 0:
            raise RuntimeError("busy")
        found = words(completions)
        return sum(found) / len(found) if whole else found

    return score, seen


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "every row anew": ({}, {}),
    "known rows": ({"level": "sample"}, {}),
    "flaky": ({"fails": 3}, {}),
    "flaky, evaluated often": ({"fails": 2}, {"eval_steps": 1}),
    "evaluated often": ({}, {"eval_steps": 1}),
    "evaluated seldom": ({}, {"eval_steps": 50}),
    "one number a set": ({"whole": True}, {}),
    "three samples": ({}, {"samples_per_prompt": 3, "temperature": 1.0}),
    "auto": ({}, {"optimizer": "auto"}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_budget_of_scores_is_never_exceeded(fit: Fit, case: str) -> None:
    (kind, more), calls = CASES[case], 173
    score, seen = counted(**kind)
    result = fit(score, **{"max_steps": None, "eval_steps": None, "max_failures": 99, "max_score_calls": calls, **more})
    assert result.steps >= 1
    assert result.scoring.rows == seen[0] <= calls
    if not kind and "samples_per_prompt" not in more and "eval_steps" in more:
        assert seen[0] > 0.75 * calls, "and most of it is used"


def test_the_budget_counts_every_part_of_a_sum(fit: Fit) -> None:
    (one, first), (other, second) = counted(), counted()
    fit([one, other], weight=(1.0, 0.5), max_steps=None, eval_steps=20, max_score_calls=200)
    assert first[0] == second[0]
    assert 150 < first[0] + second[0] <= 200


def test_a_budget_that_is_spent_ends_a_resumed_run_too(fit: Fit, tmp_path: Path) -> None:
    score, seen = counted()
    options = {"max_steps": None, "eval_steps": 2, "max_score_calls": 173}
    whole = fit(score, "whole", **options)
    used, seen[0], steps = seen[0], 0, []
    fit(score, emit=at(4, lambda: steps.append(1)), stop=lambda: bool(steps), **options)
    again = fit(score, resume="last", **options)
    assert again.steps == whole.steps
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")
    assert seen[0] == used + 4, "the start is scored again"
    # a budget that retries have spent: the end is in the journal, and holds when the judging is made again
    flaky, _ = counted(fails=2)
    spent = fit(flaky, "spent", **options, max_failures=99)
    assert spent.reason == "score calls"
    assert fit(score_like(flaky), "spent", resume="last", **options).reason == "score calls"


def score_like(scorer: Any) -> Any:
    """Another function of the same source."""
    return counted()[0] if scorer else None


def test_a_budget_of_too_few_scores_is_refused(model: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["fit", "-m", model, "-d", data, "-o", "length", "--max-new-tokens", 5, "--batch-size", 4]
    with pytest.raises(SystemExit) as left:
        main([*map(str, arguments), "--max-score-calls", "90", "--output-dir", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert left.value.code == 2, said
    (line,) = [x for x in said.splitlines() if x.startswith("zotune: ")]
    assert "--max-score-calls 90 is too low: validation and test rows take 88 scores, a step takes 8" in line
    assert not (tmp_path / "out").exists()


def test_the_parts_of_a_sum_are_in_the_files(
    model: Path, data: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def words(completions):\n    return [len(set(c.split())) for c in completions]\n")
    arguments = ["fit", "-m", model, "-d", data, "-o", "own.py:words", "-o", "length", "--weight", "1,0.25"]
    arguments += ["--max-new-tokens", 5, "--max-steps", 4, "--eval-steps", 2, "--batch-size", 4, "--output-dir", "out"]
    with pytest.raises(SystemExit) as left:
        main(list(map(str, arguments)))
    assert left.value.code == 0, capsys.readouterr().err
    evals = [json.loads(x) for x in (tmp_path / "out/metrics.jsonl").read_text().splitlines() if "score" in x]
    assert [e["step"] for e in evals] == [0, 2, 4]
    result = json.loads((tmp_path / "out/result.json").read_text())
    parts = [(e["score"], e["parts"]) for e in evals]
    parts += [(result[when]["value"], dict(result[when]["parts"])) for when in ("before", "tuned", "after")]
    for value, part in parts:
        assert set(part) == {"own.py:words", "length"}
        assert value == pytest.approx(part["own.py:words"] - 0.25 * part["length"])


def test_samples_of_a_prompt(fit: Fit, tmp_path: Path) -> None:
    def run(out: str) -> list[list[str]]:
        said: list[list[str]] = []

        def score(completions: list[str], part: list[str]) -> list[float]:
            if part[0] == "train":
                said.append(completions)
            return words(completions)

        options = {"samples_per_prompt": 3, "temperature": 1.0, "max_steps": 3, "eval_steps": 9}
        fit(score, out, eps=1e-9, learning_rate=1e-9, **options)
        return said

    state = torch.get_rng_state()
    first = run("first")
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(7)
    assert run("second") == first
    assert (tmp_path / "first/journal.jsonl").read_text() == (tmp_path / "second/journal.jsonl").read_text()
    assert len(first) == 3 * 2 * 3, "steps, points, samples"
    for k in range(0, len(first), 6):
        up, down = first[k : k + 3], first[k + 3 : k + 6]
        assert up == down, "both points of a step have the same randomness"
        assert up[0] != up[1] != up[2] != up[0]
    assert first[0] != first[6]


def maths(count: int, begin: int) -> list[dict[str, Any]]:
    rows = prompts(count, begin)
    return [{**r, "ground_truth": THINGS[begin + i], "task": "ab"[i % 2]} for i, r in enumerate(rows)]


def talks(count: int, begin: int) -> list[dict[str, Any]]:
    return [{"prompt": [{"role": "user", "content": f"who saw the {w} ?"}]} for w in THINGS[begin : begin + count]]


def test_reward_functions_of_trl(fit: Fit, tmp_path: Path) -> None:
    dataset = str(splits(tmp_path / "maths", maths))
    seen: Counter[str] = Counter()

    def reward_len(completions: Any, **kwargs: Any) -> list[float]:
        assert {"prompts", "completion_ids", "ground_truth", "task"} <= set(kwargs)
        seen["len"] += 1
        return [float(len(completion)) for completion in completions]

    def reward_func(prompts: Any, completions: Any, ground_truth: Any, **kwargs: Any) -> list[float]:
        assert all(f"the {truth} ?" in p for p, truth in zip(prompts, ground_truth, strict=True))
        seen["truth"] += 1
        return [1.0 if truth in c else -0.1 * len(c) for c, truth in zip(completions, ground_truth, strict=True)]

    def math_reward_func(prompts: Any, completions: Any, task: Any, **kwargs: Any) -> list[float | None]:
        seen["task"] += 1
        return [float(len(c)) if t == "a" else None for c, t in zip(completions, task, strict=True)]

    async def async_reward(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        await asyncio.sleep(0.001)
        seen["async"] += 1
        return [float(len(set(c))) for c in completions]

    for k, reward in enumerate((reward_len, reward_func, math_reward_func, async_reward)):
        result = fit(reward, f"out{k}", dataset=dataset, max_steps=3, max_failures=0)
        assert (result.reason, result.dropped) == ("done", 0)
    assert min(seen.values()) >= 6
    assert len(seen) == 4


def test_conversations_reach_a_reward_function_as_messages(fit: Fit, chatty: Path, tmp_path: Path) -> None:
    said: list[Any] = []

    def reward(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        for prompt, completion in zip(prompts, completions, strict=True):
            ((role, content),) = [(m["role"], m["content"]) for m in completion]
            said.append((prompt[0]["role"], prompt[-1]["content"], role, type(content)))
        return [float(len(c[0]["content"])) for c in completions]

    dataset = str(splits(tmp_path / "talks", talks))
    result = fit(reward, model=str(chatty), dataset=dataset, max_failures=0)
    assert result.reason == "done"
    assert {(a, c, d) for a, _, c, d in said} == {("user", "assistant", str)}
    assert {b for _, b, _, _ in said} == {f"who saw the {w} ?" for w in THINGS}


def test_a_system_message_comes_first(
    fit: Fit, chatty: Path, model: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    said: list[str] = []

    def reward(prompts: Any, completions: Any) -> list[float]:
        said.extend(prompts if isinstance(prompts[0], str) else [p[0]["role"] for p in prompts])
        return words([c if isinstance(c, str) else c[0]["content"] for c in completions])

    fit(reward, model=str(chatty), system="so very good", max_steps=2)
    assert {*said} <= {r["prompt"].strip() for r in prompts(20)}, "the reward gets the prompt without the template"
    assert len({*said}) > 8
    with pytest.raises(SystemExit) as left:
        arguments = ["fit", "-m", model, "-d", data, "-o", "length", "--system", "so good", "--max-new-tokens", 5]
        main([*map(str, arguments), "--output-dir", str(tmp_path / "none")])
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("zotune: ")]
    assert left.value.code == 2
    assert "has no chat template for --system" in line
    assert not (tmp_path / "none").exists()


def pairs(count: int, begin: int) -> list[dict[str, Any]]:
    likes = [("the lovely dog", "a bad cat it was"), ("yes", "no maybe"), ("so good", "so awful")]
    found = zip(prompts(count, begin), (likes[i % 3] for i in range(count)), strict=True)
    return [{**r, "chosen": f" {a}", "rejected": f" {b}"} for r, (a, b) in found]


def told_pairs(count: int, begin: int) -> list[dict[str, Any]]:
    rows = zip(talks(count, begin), pairs(count, begin), strict=True)
    return [
        {**t, **{k: [{"role": "assistant", "content": p[k].strip()}] for k in ("chosen", "rejected")}} for t, p in rows
    ]


@pytest.mark.parametrize("form", ["plain", "conversation"])
def test_log_probabilities_of_pairs_equal_a_plain_loop(
    fit: Fit, families: Families, chatty: Path, tmp_path: Path, form: str
) -> None:
    make = pairs if form == "plain" else told_pairs
    found: list[dict[str, Any]] = []

    def look(chosen_logps: Any, rejected_logps: Any, chosen_tokens: Any, rejected_tokens: Any, batch: Any) -> float:
        found.append({"chosen": (chosen_logps, chosen_tokens), "rejected": (rejected_logps, rejected_tokens)})
        found[-1]["batch"] = batch
        return 1.0

    options = {"model": str(chatty)} if form == "conversation" else {}
    fit(look, dataset=str(splits(tmp_path / "pairs", make)), max_steps=1, **options)
    loaded = families.load("llama")
    before = found[0]  # the judging rows, with the weights as they were
    assert [r["part"] for r in before["batch"]] == ["test"] * 4
    for k, row in enumerate(before["batch"]):
        for side in ("chosen", "rejected"):
            if form == "plain":
                want = option_scores(loaded, row["prompt"], row[side])
            else:
                said = f"<s> user : {row['prompt'][0]['content']} </s> <s> answer : "
                coder = loaded.tokenizer
                first = coder(said, add_special_tokens=False)["input_ids"]
                ids = coder(said + row[side][0]["content"], add_special_tokens=False)["input_ids"]
                with torch.no_grad():
                    log_p = torch.log_softmax(loaded.model(input_ids=torch.tensor([ids])).logits[0], -1)
                want = [float(log_p[j - 1, ids[j]]) for j in range(len(first), len(ids))]
            logps, tokens = before[side]
            assert tokens[k] == len(want)
            assert logps[k] == pytest.approx(sum(want), abs=1e-5)


@pytest.mark.parametrize("make", [pairs, told_pairs])
def test_preferences_are_learned(fit: Fit, chatty: Path, tmp_path: Path, make: Any) -> None:
    dataset = splits(tmp_path / "pairs", make)
    for name in ("validation", "test"):  # what is learned is seen on the rows that were learned
        shutil.copy(dataset / "train.jsonl", dataset / f"{name}.jsonl")
    options = {"model": str(chatty), "dataset": str(dataset), "optimizer": "auto", "batch_size": 12, "eval_steps": 10}
    margin = fit("preference:margin", "margin", max_steps=40, **options)
    assert margin.kept == "tuned"
    assert margin.difference.low is not None
    assert margin.difference.low > 0
    assert margin.after.value > margin.before.value + 0.2
    share = fit("preference", "share", max_steps=5, **options)
    assert share.reason == "done"
    assert 0 <= share.before.value <= 1


JUDGES = """
def longer(prompts, completions):
    return [-1 if len(a) == len(b) else int(len(b) > len(a)) for a, b in completions]

def first(prompts, completions):
    return [0 for _ in completions]

def silent(prompts, completions):
    return [-1 for _ in completions]

def broken(prompts, completions):
    raise ConnectionError("the judge is out")
"""


@pytest.fixture
def judge(tmp_path: Path) -> str:
    (tmp_path / "judges.py").write_text(JUDGES)
    return f"judge:{tmp_path / 'judges.py'}"


@pytest.mark.parametrize("optimizer", ["mezo", "zo-sign", "rank-sgd", "auto"])
def test_optimizers_follow_a_judge(fit: Fit, judge: str, tmp_path: Path, optimizer: str) -> None:
    result = fit(f"{judge}:longer", optimizer=optimizer, save_total_limit=9)
    assert result.reason == "done"
    if optimizer != "auto":  # which scores populations
        assert result.forwards == 6 * (4 if optimizer == "rank-sgd" else 2)
    assert result.before.value == 0.5
    assert 0 <= result.after.value <= 1
    tapes = [kind for x in lines(tmp_path / "out") if x["kind"] == "step" for kind, _ in x["tape"]]
    assert set(tapes) - {"drift"} == {{"rank-sgd": "ranks", "auto": "members"}.get(optimizer, "values")}
    moved = digest(tmp_path / "out", 6) != digest(tmp_path / "out", 2)
    assert moved == (result.zero_share < 1)
    silent = fit(f"{judge}:silent", "silent", optimizer=optimizer, save_total_limit=9)
    assert (silent.zero_share, silent.kept) == (1.0, "start")
    assert digest(tmp_path / "silent", 6) == digest(tmp_path / "silent", 2)


def test_where_no_text_is_generated_a_judge_is_followed_by_rank_sgd(judge: str, tmp_path: Path) -> None:
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    result = zotune.fit(
        objective=f"{judge}:longer", max_steps=2, batch_size=4, output_dir=str(tmp_path / "out"), emit=emit
    )
    assert any("--optimizer rank-sgd is used" in n for n in notes)
    assert result.forwards == 2 * 4


def test_an_optimizer_of_values_is_refused_with_a_judge(
    judge: str, model: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    arguments = ["fit", "-m", model, "-d", data, "-o", f"{judge}:longer", "--optimizer", "hizoo"]
    with pytest.raises(SystemExit) as left:
        main([*map(str, arguments), "--output-dir", str(tmp_path / "out")])
    assert left.value.code == 2
    assert "compares and has no values" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


GOALS = """
import itertools, zotune
count = itertools.count()

def good(completions):
    return [len(set(c.split())) + 0.1 * len(c) for c in completions]

def constant(completions):
    return [1.0 for _ in completions]

def moody(completions):
    return [float(next(count)) for _ in completions]

def broken(completions):
    raise ValueError("no such gold")

@zotune.objective(gives="order")
def place(candidates):
    return [0 for _ in candidates]
"""


@pytest.fixture
def check(model: Path, data: Path, tmp_path: Path, capsys: Any) -> Callable[..., tuple[int, Any]]:
    (tmp_path / "goals.py").write_text(GOALS)

    def run(*goals: str, json_: bool = True, more: tuple[object, ...] = ()) -> tuple[int, Any]:
        named = [x for g in goals for x in ("-o", g.replace("goals:", f"{tmp_path}/goals.py:"))]
        arguments = ["check", "-m", model, "-d", data, *named, "--max-new-tokens", 3, "--batch-size", 4, *more]
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments), *(["--json"] if json_ else [])])
        out, err = capsys.readouterr()
        code = int(left.value.code or 0)
        return code, (json.loads(out) if json_ else out) if code == 0 else err

    return run


def test_check_values(check: Callable[..., tuple[int, Any]], data: Path) -> None:
    write_jsonl(data / "train.jsonl", prompts(8))
    code, good = check("goals:good")
    assert code == 0
    assert (good["level"], good["rows"], good["deterministic"]) == ("sample", 8, True)
    assert good["asks_for"] == ["completions"]
    assert good["lowest"] <= good["value"] <= good["highest"]
    assert good["steps"] == 6
    assert good["advice"]
    assert {m["batch"] for m in good["moved"]} == {4, 8}
    assert min(m["zero"] for m in good["moved"]) < 0.5, "far enough away the score changes"
    _, constant = check("goals:constant")
    assert (constant["spread"], constant["zero_steps"]) == (0, 6)
    assert all(m["zero"] == 1 for m in constant["moved"])
    assert "All rows have the same score" in constant["advice"][0]
    assert "No tried ε changes the objective" in constant["advice"][1]
    code, said = check("goals:moody", json_=False)
    assert code == 0
    assert "repeatable  NO" in said
    assert "the same rows got another score" in said
    _, both = check("goals:good", "length", more=("--weight", "1,0.5"))
    value = both["parts"][next(k for k in both["parts"] if k.endswith("good"))] - 0.5 * both["parts"]["length"]
    assert both["value"] == pytest.approx(value)
    assert set(both["parts"].values()) != {both["value"]}


def test_check_refusals(check: Callable[..., tuple[int, Any]]) -> None:
    code, said = check("goals:broken")
    assert code == 3
    assert "raised ValueError: no such gold" in said
    code, said = check("human")
    assert code == 2
    assert "asks a person" in said
    code, said = check("goals:missing")
    assert code == 2
    assert "Traceback" not in said


def test_check_judges(check: Callable[..., tuple[int, Any]], judge: str) -> None:
    code, fair = check(f"{judge}:longer")
    assert code == 0
    assert (fair["level"], fair["direction"], fair["optimizer"]) == ("order", "order", "auto")
    assert fair["deterministic"]
    assert fair["different"] > 4
    assert (fair["swayed"], fair["advice"]) == (0, [])
    _, biased = check("goals:place")
    assert biased["deterministic"]
    assert biased["swayed"] == biased["different"], "asked the other way round it contradicts itself"
    assert "Position bias" in biased["advice"][0]
    _, behind = check(f"{judge}:first")
    assert behind["deterministic"]
    assert 0 < behind["swayed"] <= behind["different"]
    _, silent = check(f"{judge}:silent")
    assert "prefers no completion" in silent["advice"][0]
    code, text = check(f"{judge}:first", json_=False)
    assert "reversed" in text
    code, said = check(f"{judge}:broken")
    assert code == 3
    assert "the judge is out" in said


def test_what_does_not_fit_together_is_refused(fit: Fit, judge: str) -> None:
    with pytest.raises(OptionError, match="2 numbers for 1"):
        fit("length", weight=(1.0, 2.0))
    with pytest.raises(OptionError, match="all the same"):
        fit("length", samples_per_prompt=2)
