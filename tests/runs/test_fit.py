"""Whole runs on tiny models: the command line, the run directory, bad input, interruption and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rows, write_jsonl
from safetensors.torch import load_file

import zotune
from zotune.errors import ObjectiveFailures, OptionError, RunFolderError, UsageError
from zotune.events import Event, Note
from zotune.runs.model_source import ModelSource
from zotune.search.journal import Journal

Cli = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("--max-steps", 6, "--eval-steps", 2, "--batch-size", 8)


@pytest.fixture
def flags(tiny_encoder: Path, toy: Path) -> tuple[object, ...]:
    return (
        "fit",
        "-m",
        tiny_encoder,
        "-d",
        toy,
        "--labels",
        "awful film,lovely film",
        *QUICK,
        "--no-preflight",
        "--init",
        "none",
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    x, y = weights(a), weights(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_transformers_loads_the_run_directory(cli: Cli, flags: Any, tmp_path: Path) -> None:
    done = cli(*flags, "-o", "f1", "--output-dir", "out", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    folder = tmp_path / "out"
    assert {"config.yaml", "env.json", "journal.jsonl", "metrics.jsonl", "README.md", "result.json"} <= {
        p.name for p in folder.iterdir()
    }
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    assert 6 * 2 + 3 <= result["forwards"] <= 6 * 2 + 20, "a run this short calibrates with few evaluations"
    assert result["before"]["rows"] == 20
    assert result["before"]["error"] > 0
    evals = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in evals if "score" in e] == [0, 2, 4, 6]
    assert "journal.jsonl" in (folder / "README.md").read_text()
    assert "base model" in done.stderr
    assert "linear probe" in done.stderr


def test_same_seed_same_run(cli: Cli, flags: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert cli(*flags, "-o", "accuracy", "--output-dir", name).returncode == 0
    assert (tmp_path / "a/journal.jsonl").read_text() == (tmp_path / "b/journal.jsonl").read_text()
    assert (tmp_path / "a/metrics.jsonl").read_text() == (tmp_path / "b/metrics.jsonl").read_text()
    assert same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("optimizer", ["auto", "zo-adamu"])
def test_a_killed_run_resumes_bit_for_bit(optimizer: str, flags: Any, tmp_path: Path, cli: Cli) -> None:
    """SIGKILL after a number of forward passes, from inside the run, then --resume-from-checkpoint last."""
    score = tmp_path / "score.py"
    score.write_text(
        "import os, signal, pathlib\n"
        "calls = 0\n"
        "def score(predictions, labels):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    at = os.environ.get('KILL_AT')\n"
        "    if at and calls == int(at): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return [float(p == y) for p, y in zip(predictions, labels)]\n"
    )
    run = (*flags, "-o", f"{score}:score", "--optimizer", optimizer, "--smooth", 0)
    if optimizer == "zo-adamu":
        run += ("--lr", 1e-2, "--eps", 1e-2)
    assert cli(*run, "--output-dir", "whole").returncode == 0
    for kill in (4,) if optimizer == "auto" else (9,):
        name = f"killed-{kill}"
        killed = cli(*run, "--output-dir", name, env={"KILL_AT": str(kill)})
        assert killed.returncode == -signal.SIGKILL
        resumed = cli(*run, "--output-dir", name, "--resume-from-checkpoint", "last")
        assert resumed.returncode == 0, resumed.stderr
        for file in ("journal.jsonl", "metrics.jsonl"):
            assert (tmp_path / name / file).read_text() == (tmp_path / "whole" / file).read_text()
        assert same(tmp_path / name, tmp_path / "whole")


def test_ctrl_c_writes_a_checkpoint_and_exits_130(flags: Any, tmp_path: Path, cli: Cli) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\n"
        "def score(predictions, labels):\n"
        "    time.sleep(0.15)\n"
        "    return [float(p == y) for p, y in zip(predictions, labels)]\n"
    )
    run = [str(x) for x in (*flags, "-o", f"{slow}:score", "--smooth", 0, "--eval-steps", 100)]
    assert cli(*run, "--output-dir", "whole").returncode == 0
    command = [sys.executable, "-m", "zotune", *run, "--output-dir", "cut"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ})
    journal = tmp_path / "cut/journal.jsonl"
    for _ in range(600):
        if journal.exists() and '"kind":"step"' in journal.read_text():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "interrupted" in output
    assert "Traceback" not in output
    assert list((tmp_path / "cut").glob("checkpoint-*"))
    resumed = cli(*run, "--output-dir", "cut", "--resume-from-checkpoint", "last")
    assert resumed.returncode == 0, resumed.stderr
    assert same(tmp_path / "cut", tmp_path / "whole")


BROKEN_OPTIMIZER = """
class Broken:
    def init(self, theta):
        return None

    def step(self, theta, oracle, state, at):
        raise ValueError("no such step")
"""
BAD_METRIC = """
import zotune
def raises(predictions): raise ValueError("no such gold")
def nan(predictions): return float("nan")
def text(predictions): return "high"
def short(predictions): return [1.0]
def needs(predictions, difficulty): return 1.0
value = 3
"""


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["-d", "none.jsonl"], 2, "none.jsonl: no such file or folder"),
        (["-d", "empty.jsonl"], 2, "empty.jsonl has no records"),
        (["-d", "broken.jsonl"], 2, "broken.jsonl, line 2: broken JSON"),
        (["-d", "nolabel.jsonl"], 2, "no column 'label'; columns found: text, gold"),
        (["--template", "{sentence}"], 2, "no column 'sentence'; columns found: text, label"),
        (["--labels", "a,b,c,d", "-d", "words.jsonl"], 2, "do not fit the 2 labels found"),
        (["-o", "f11"], 2, "unknown objective 'f11' (did you mean 'f1'?)"),
        (["-o", "bad.py:raises"], 3, "raised ValueError: no such gold"),
        (["-o", "bad.py:nan"], 3, "returned nan"),
        (["-o", "bad.py:text"], 3, "returned a str where a number belongs"),
        (["-o", "bad.py:short"], 3, "returned 1 scores for 20 rows"),
        (["-o", "bad.py:needs"], 2, "asks for difficulty"),
        (["-o", "bad.py:value"], 2, "is a int, not a function"),
        (["-o", "bad.py:missing"], 2, "has no 'missing'"),
        (["-o", "f1", "--objective-arg", "averag=macro"], 2, "did you mean 'average'"),
        (["--optimizer", "mezzo"], 2, "did you mean 'mezo'"),
        (["--optimizer", "mezo", "--optimizer-arg", "epss=1"], 2, "did you mean 'eps'"),
        (["--optimizer", "mezo", "--optimizer-arg", "n=0"], 2, "n must be at least 1, got 0"),
        (["--optimizer", "random-search", "--lr", "0.1"], 2, "no option 'lr'"),
        (
            ["--optimizer", "broken.py:Broken"],
            1,
            "optimizer Broken: step raised ValueError: no such step (broken.py:7)",
        ),
        (["--direction", "up"], 2, "maximize or minimize, got 'up'"),
        (["--max-steps", "-1"], 2, "must be positive, got -1"),
        (["--tune", "last:x"], 2, "must give a number of blocks"),
        (["--tune", "nothing.like.this"], 2, "matches no tensor of this model"),
        (["--tune", "("], 2, "not a regular expression"),
        (["-m", "no-weights"], 2, "has no weights that can be read"),
        (["-m", "pickled"], 2, "--allow-pickle reads them"),
        (["-m", "."], 2, "has no config.json"),
        (["-m", "someone/model"], 2, "no such folder"),
        (["--output-dir", "full"], 2, "full exists already"),
        (["--head", "causa"], 2, "--head must be one of"),
        (["--device", "cuda:7"], 2, "is not available"),
        (["--dtype", "int8"], 2, "--dtype must be one of"),
        (["--config", "bad.yaml"], 2, "unknown key 'objectiv' (did you mean 'objective'?)"),
        (["--column", "text"], 2, "--column takes FIELD=COLUMN"),
        (["--k-per-class", "99"], 2, "99"),
        (["--train-size", "9999"], 2, "9999"),
        (["--peft", "lorra"], 2, "--peft must be none, lora, prefix or lora-fa, got 'lorra'"),
        (["--peft", "lora", "--lora-r", "0"], 2, "--lora-r must be positive, got 0"),
        (["--peft", "prefix"], 2, "--peft prefix needs a model with the head"),
        (["--peft", "lora", "--lora-target-modules", "nope"], 2, "--lora-target-modules"),
        (["--init", "probe"], 2, "--init must be auto, none or linear-probe"),
        (["--task", "sst22"], 2, "did you mean 'sst2'?"),
        (["--task", "copa"], 2, "task copa needs a column premise; columns found: text, label"),
        (["--task", "generation"], 2, "generates no text"),
        (["--choices", "a,b"], 2, "multiple choice needs a template"),
        (["--temperature", "-1"], 2, "--temperature must be 0 (greedy) or more"),
        (["--top-p", "2"], 2, "--top-p must be in (0, 1]"),
        (["--quantize", "4bit"], 2, "--quantize 4bit needs a CUDA device"),
        (["--device-map", "auto", "--device", "cpu"], 2, "exclude each other"),
        (["--template", "{text|upper}"], 2, "no filter 'upper'"),
        (["--eval-split", "gone.jsonl"], 2, "gone.jsonl"),
        (["--resume-from-checkpoint", "last"], 2, "holds no run to resume"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    extra: list[str],
    code: int,
    message: str,
    flags: Any,
    tmp_path: Path,
    tiny_encoder: Path,
    capsys: Any,
    monkeypatch: Any,
) -> None:
    from zotune.cli.app import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text(BAD_METRIC)
    (tmp_path / "broken.py").write_text(BROKEN_OPTIMIZER)
    (tmp_path / "bad.yaml").write_text("objectiv: f1\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"text": "a", "label": 1}\n{"text": \n')
    write_jsonl(tmp_path / "nolabel.jsonl", [{"text": "a", "gold": 1}] * 9)
    write_jsonl(tmp_path / "words.jsonl", [{"text": "a", "label": x} for x in ("x", "y") * 9])
    for name in ("no-weights", "pickled", "full"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text((tiny_encoder / "config.json").read_text())
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"x")
    before = sorted(str(p) for p in tmp_path.rglob("*") if "__pycache__" not in str(p))
    arguments = [*map(str, flags), *([] if "--output-dir" in extra else ["--output-dir", "out"]), *extra]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    err = capsys.readouterr().err
    assert left.value.code == code, err
    (line,) = [x for x in err.splitlines() if x.startswith("zotune: ")]
    assert message in line
    assert "Traceback" not in err
    assert sorted(str(p) for p in tmp_path.rglob("*") if "__pycache__" not in str(p)) == before


def test_an_unknown_flag_is_refused(cli: Cli) -> None:
    done = cli("fit", "--objektive", "f1")
    assert done.returncode == 2
    assert "objektive" in done.stderr


def test_debug_shows_the_traceback(cli: Cli) -> None:
    done = cli("fit", "-d", "none.jsonl", "-m", "x", env={"ZOTUNE_DEBUG": "1"})
    assert "Traceback" in done.stderr


def fails_at(*calls: int) -> Callable[..., list[float]]:
    count = 0

    def score(predictions: Any, labels: Any) -> list[float]:
        nonlocal count
        count += 1
        if count in calls:
            raise RuntimeError("the scorer is down")
        later = 1e-3 * count  # each validation score is better than the one before: there is a best step to test
        return [float(p == y) + later for p, y in zip(predictions, labels, strict=True)]

    return score


UNCALIBRATED = {"optimizer": "mezo", "learning_rate": 1e-4}


def options(tiny_encoder: Path, toy: Path, tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": str(tiny_encoder),
        "dataset": str(toy),
        "labels": "awful film,lovely film",
        "max_steps": 6,
        "eval_steps": 100,
        "batch_size": 8,
        "smooth": 0,
        "preflight": False,
        "init": "none",
        "output_dir": str(tmp_path / "out"),
        **more,
    }


def test_failed_scores_are_retried_then_dropped(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    """Calls: 1 for the test set, 2 for the validation set, then two a step."""
    result = zotune.fit(objective=fails_at(3, 5, 6), **options(tiny_encoder, toy, tmp_path, **UNCALIBRATED))
    assert result.dropped == 1
    lines = Journal.open(tmp_path / "out/journal.jsonl", read_only=True).lines
    dropped = [x for x in lines if "dropped" in x]
    assert len(dropped) == 1
    assert "the scorer is down" in dropped[0]["dropped"]


def test_too_many_failures_stop_with_code_3(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    calls = range(3, 1000)
    with pytest.raises(
        ObjectiveFailures, match=r"3 steps failed, more than --max-failures 2.*the scorer is down"
    ) as error:
        zotune.fit(objective=fails_at(*calls), **options(tiny_encoder, toy, tmp_path, max_failures=2, **UNCALIBRATED))
    assert error.value.exit_code == 3


def test_failing_on_the_test_set_exits_with_code_3(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    """Calls: 1 for the test set, 2 for the validation set, 12 for six steps, 1 for the validation set; the next two
    are for the test set."""
    with pytest.raises(ObjectiveFailures, match=r"failed on the test set.*scores it again"):
        zotune.fit(objective=fails_at(16, 17), **options(tiny_encoder, toy, tmp_path, **UNCALIBRATED))
    assert (tmp_path / "out/checkpoint-6").is_dir()


def test_budgets(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    made = options(tiny_encoder, toy, tmp_path)
    del made["max_steps"]
    assert zotune.fit(objective="accuracy", **{**made, "max_evals": 20}).forwards <= 20
    made["output_dir"] = str(tmp_path / "timed")
    result = zotune.fit(objective="accuracy", **{**made, "max_time": 1.5})
    assert result.steps > 0
    seconds = [
        x["seconds"] for x in Journal.open(tmp_path / "timed/journal.jsonl", read_only=True).lines if "seconds" in x
    ]
    assert seconds == sorted(seconds)


def test_a_run_leaves_no_model_in_memory(
    tiny_encoder: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook fits several times in one process."""
    models: list[Any] = []
    load = ModelSource.load

    def watched(self: ModelSource) -> Any:
        loaded = load(self)
        models.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(ModelSource, "load", watched)
    zotune.fit(objective="accuracy", **options(tiny_encoder, toy, tmp_path))
    assert models
    assert [m() for m in models] == [None] * len(models)


def test_patience_stops_early(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    def constant(predictions: Any) -> float:
        return 0.5

    made = options(tiny_encoder, toy, tmp_path, max_steps=100, eval_steps=1, patience=3)
    result = zotune.fit(objective=constant, **made)
    assert (result.reason, result.steps, result.kept, result.zero_share) == ("patience", 3, "start", 1.0)
    assert same(tmp_path / "out", tiny_encoder)


def test_a_run_without_gain_keeps_the_base_model(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    made = options(tiny_encoder, toy, tmp_path)
    result = zotune.fit(objective="accuracy", direction="minimize", optimizer="random-search", guard=0.0, **made)
    after = weights(tmp_path / "out")
    base = weights(tiny_encoder)
    changed = any(not torch.equal(after[k], base[k]) for k in base)
    assert changed == (result.kept == "tuned")
    assert (result.difference.value < 0) == (result.kept == "tuned")


def test_resume_refuses_another_run(cli: Cli, flags: Any, tmp_path: Path) -> None:
    assert cli(*flags, "-o", "f1", "--output-dir", "out").returncode == 0
    other = cli(*flags, "-o", "f1", "--output-dir", "out", "--resume-from-checkpoint", "last", "--seed", 5)
    assert other.returncode == 2
    assert "was made with another" in other.stderr
    path = tmp_path / "out/journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace("0.", "0.1", 1)
    path.write_text("".join(lines))
    edited = cli(*flags, "-o", "f1", "--output-dir", "out", "--resume-from-checkpoint", "last")
    assert edited.returncode == 2
    assert "line 4: damaged, edited or not from this run" in edited.stderr


def test_journal_survives_a_torn_last_line_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal.create(path, {"seed": 1})
    for step in range(3):
        journal.append({"kind": "step", "step": step, "tape": [["values", [0.1 * step, 2.0]]]})
    journal.close()
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal.open(path)
        assert len(journal.lines) == 3
        journal.append({"kind": "step", "step": 2, "tape": [["values", [0.2, 2.0]]]})
        journal.close()
        assert path.read_bytes() == whole
    with pytest.raises(RunFolderError, match="exists already"):
        Journal.create(path, {})


def test_lines_equal_the_written_ones_and_take_little_memory(tmp_path: Path) -> None:
    """Text from the data may hold anything that JSON holds."""
    bodies = [{"kind": "step", "step": k, "tape": [["values", [0.1 * k, 2.0]]]} for k in range(2000)]
    bodies[7] |= {"said": "\ud800 \u2028 é", "none": None, "deep": [[{"a": 1e-300}]]}
    tracemalloc.start()
    journal = Journal.create(tmp_path / "j.jsonl", {"seed": 1})
    before = tracemalloc.get_traced_memory()[0]
    for body in bodies:
        assert journal.append(body) == body
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    journal.close()
    assert taken < 300 * len(bodies), "a step of 60 bytes"
    again = Journal.open(tmp_path / "j.jsonl", read_only=True)
    assert list(again.lines[1:]) == bodies
    assert again.lines == journal.lines == Journal.of(again.lines).lines == Journal.of([*again.lines]).lines
    assert again.lines != journal.lines[:-1]
    assert [again.checksum(k) for k in (0, 5, 2001)] == [Journal.of(journal.lines).checksum(k) for k in (0, 5, 2001)]
    assert again.checksum(0) == ""
    with pytest.raises(IndexError):
        again.lines[2001]


def test_damaged_checkpoints_are_refused(cli: Cli, flags: Any, tmp_path: Path) -> None:
    assert cli(*flags, "-o", "f1", "--output-dir", "out").returncode == 0
    saved = tmp_path / "out/checkpoint-6/tuned.safetensors"
    raw = saved.read_bytes()
    resume = (*flags, "-o", "f1", "--output-dir", "out", "--resume-from-checkpoint")
    for damaged in (raw[:-8], raw[:-1] + bytes([raw[-1] ^ 1])):
        saved.write_bytes(damaged)
        done = cli(*resume, tmp_path / "out/checkpoint-6")
        assert done.returncode == 2
        assert "checksum differs" in done.stderr
        assert "Traceback" not in done.stderr


def test_dry_run_writes_nothing(cli: Cli, flags: Any, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    done = cli(*flags, "-o", "f1", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    estimate = json.loads(done.stdout)
    assert estimate["steps"] == 6
    assert estimate["evaluations"] == 12
    assert estimate["seconds"] > 0
    assert "estimate: 6 steps" in done.stderr
    memory = estimate["memory_mb"]
    assert memory["peak"] > 100 > memory["model"] >= 0
    assert f"peak about {memory['peak']:,.0f} MB" in done.stderr
    assert set(tmp_path.iterdir()) == before


def test_eval_scores_models_and_run_folders(cli: Cli, flags: Any, toy: Path, tiny_encoder: Path) -> None:
    assert cli(*flags, "-o", "f1", "--output-dir", "out").returncode == 0
    command = ("eval", "-d", toy, "-o", "f1", "--labels", "awful film,lovely film", "--json")
    base, run = (json.loads(cli(*command, "-m", m).stdout) for m in (tiny_encoder, "out"))
    assert base["rows"] == run["rows"] == 20
    assert 0 <= base["value"] <= 1
    remembered = cli("eval", "-m", "out", "-o", "f1")
    assert remembered.returncode == 0, remembered.stderr
    assert f"{run['value']:.4f}" in remembered.stdout


def test_other_heads_run_end_to_end(
    cli: Cli, toy: Path, tiny_llama: Path, tiny_classifier: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    llama = cli(
        *("fit", "-m", tiny_llama, "-d", toy, "-o", "accuracy", "--template", "{text} it was {label}"),
        *("--labels", "bad,good", "--output-dir", "llama", *QUICK),
    )
    assert llama.returncode == 0, llama.stderr
    AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    head = cli("fit", "-m", tiny_classifier, "-d", toy, "-o", "f1", "--output-dir", "head", *QUICK)
    assert head.returncode == 0, head.stderr
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "head")


def test_csv_and_one_file(cli: Cli, tiny_encoder: Path, tmp_path: Path) -> None:
    text = "sentence,gold\n" + "".join(f'"{r["text"]}",{"up" if r["label"] else "down"}\n' for r in rows(60))
    (tmp_path / "all.csv").write_text(text)
    done = cli(
        *("fit", "-m", tiny_encoder, "-d", "all.csv", "-o", "accuracy", "--output-dir", "out", *QUICK),
        *("--column", "text=sentence", "--column", "label=gold", "--labels", "up=lovely film,down=awful film"),
    )
    assert done.returncode == 0, done.stderr
    assert "30 of 60 rows held out" in done.stderr


@pytest.mark.parametrize("head", ["tiny_encoder", "tiny_classifier", "tiny_llama"])
def test_perturb_mode_and_compiling_change_no_bit(
    head: str, request: pytest.FixtureRequest, toy: Path, tmp_path: Path
) -> None:
    made = options(request.getfixturevalue(head), toy, tmp_path, tune="all", optimizer="mezo", learning_rate=1e-3)
    if head == "tiny_llama":
        made |= {"template": "{text} was {label}", "labels": "awful,lovely"}
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    ways = [("copy", "off"), ("forward", "off")] + [("forward", "on")] * (head == "tiny_classifier")
    for probe, compile in ways:
        made["output_dir"] = str(tmp_path / f"{probe}-{compile}")
        zotune.fit(objective="cross-entropy", perturb=probe, compile=compile, emit=emit, **made)
    first, *others = [tmp_path / f"{probe}-{compile}" for probe, compile in ways]
    assert not any("by copy" in note for note in notes), notes
    for other in others:
        assert (first / "journal.jsonl").read_text() == (other / "journal.jsonl").read_text()
        assert (first / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


def test_python_refusals() -> None:
    with pytest.raises(OptionError, match="no --dataset"):
        zotune.fit(model=".", objective="f1")
    with pytest.raises(UsageError):
        zotune.fit(objective=3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"unknown option 'modle' \(did you mean 'model'\?\)"):
        zotune.fit(modle="x", objective="f1")


def test_shared_stories_on_sst2(cli: Cli, shared: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    (tmp_path / "own.py").write_text(
        "def margin(logits, labels):\n    return [float(s[y] - s[1 - y]) for s, y in zip(logits, labels)]\n"
    )
    done = cli(
        *("fit", "-m", shared / "models/stories260K/hf", "-d", shared / "data/sst2", "-o", "own.py:margin"),
        *("--template", "{text} It was {label}", "--labels", "terrible,great", "--max-steps", 3, "--limit", 64),
        *("--eval-steps", 3, "--output-dir", "out"),
    )
    assert done.returncode == 0, done.stderr
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_the_guard_keeps_the_base_model_unless_the_gain_is_two_standard_errors(
    tiny_encoder: Path, toy: Path, tmp_path: Path
) -> None:
    results = {}
    for guard in (0.0, 2.0, 1e6):
        made = options(tiny_encoder, toy, tmp_path / str(guard), max_steps=40, eval_steps=10, guard=guard)
        result = zotune.fit(objective="cross-entropy", **made)
        error = result.difference.error
        assert error is not None
        assert error > 0
        results[guard] = result
        assert (result.kept == "tuned") == (-result.difference.value >= guard * error and result.difference.value < 0)
        assert same(tmp_path / str(guard) / "out", tiny_encoder) == (result.kept == "start")
    assert results[0.0].kept == "tuned"
    assert results[1e6].kept == "start"
    assert results[0.0].difference == results[1e6].difference
    with pytest.raises(OptionError, match="--guard"):
        zotune.fit(**options(tiny_encoder, toy, tmp_path / "bad", guard=-1.0))
    with pytest.raises(OptionError, match="--max-kl"):
        zotune.fit(**options(tiny_encoder, toy, tmp_path / "bad", max_kl=0.1))


def test_stratified_batches(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    def drawn(name: str, **more: Any) -> set[tuple[int, int]]:
        """The numbers of rows of both classes in each batch of 8."""
        seen: set[tuple[int, int]] = set()

        def surest(labels: Any, logits: Any) -> float:
            if len(labels) == 8:
                seen.add((list(labels).count(0), list(labels).count(1)))
            return float(logits.softmax(-1).max(-1).values.mean())

        zotune.fit(objective=surest, **options(tiny_encoder, toy, tmp_path / name, **more))
        return seen

    simple = {"optimizer": "mezo", "learning_rate": 1e-4, "max_steps": 12}
    assert drawn("auto", max_steps=12) == {(4, 4)}
    assert len(drawn("auto, not", max_steps=12, stratify=False)) > 1
    assert len(drawn("mezo", **simple)) > 1
    assert drawn("mezo, too", **simple, stratify=True) == {(4, 4)}


def test_rows_without_classes_are_not_stratified(tiny_llama: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": f"one {k}", "completion": f"two {k}"} for k in range(20)])
    with pytest.raises(OptionError, match="--stratify draws batches by class, and this task has none"):
        zotune.fit(model=str(tiny_llama), dataset=str(tmp_path / "train.jsonl"), objective="rougeL", stratify=True)


def test_initial_weights_are_copied_if_few_and_loaded_again_if_not(
    tiny_encoder: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interpolation needs the initial weights. A probe is fitted once; weights are loaded again on the host."""
    from zotune.runs import model_source
    from zotune.tasks import linear_probe as probe

    loaded, fitted = [], []
    load, write = model_source.load_model, probe.write
    monkeypatch.setattr(model_source, "load_model", lambda cfg, *more: loaded.append(cfg.device) or load(cfg, *more))
    monkeypatch.setattr(probe, "write", lambda *args: fitted.append(1) or write(*args))
    lines = {}
    for name in ("copied", "read"):
        if name == "read":
            monkeypatch.setattr(model_source, "COPY_BYTES", 0)
            monkeypatch.setattr(model_source, "COPY_SHARE", 0)
        del loaded[:], fitted[:]
        result = zotune.fit(
            objective="accuracy", **options(tiny_encoder, toy, tmp_path / name, eval_steps=2, init="linear-probe")
        )
        lines[name] = list(Journal.open(Path(result.folder) / "journal.jsonl", read_only=True).lines)[1:]
        assert any(x["kind"] == "between" for x in lines[name])
        assert fitted == [1]
        assert loaded[1:] == [] if name == "copied" else loaded[1:] and set(loaded[1:]) == {"cpu"}
    assert lines["copied"] == lines["read"]


def test_occasional_failures_leave_the_interval(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    """A single failed resample must not remove the standard error that the guard needs."""
    calls = 0

    def share(predictions: Any, labels: Any) -> float:
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            raise RuntimeError("every fifth time")
        later = 1e-3 * calls  # the validation score rises, so there is a best step to compare
        return sum(p == y for p, y in zip(predictions, labels, strict=True)) / len(labels) + later

    result = zotune.fit(objective=share, **options(tiny_encoder, toy, tmp_path, optimizer="mezo", learning_rate=1e-2))
    assert result.before.error
    assert result.difference.error is not None
    assert result.difference.low is not None
