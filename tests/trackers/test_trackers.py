"""The stores of trackio and TensorBoard, read by their own readers: a run's numbers, its configuration and samples."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import zotune
from zotune.errors import ObjectiveFailures, OptionError, PluginError
from zotune.events import Event, Note
from zotune.types import TrackedRun, TrackedSample, Tracker

SETTINGS = {
    "objective": "accuracy",
    "optimizer": "mezo",
    "lr": "1e-3",
    "eps": "1e-2",
    "batch-size": 8,
    "eval-steps": 4,
    "save-steps": 5,
    "device": "cpu",
}


def flags(model: Path, toy: Path, run: Path, **more: object) -> list[str]:
    settings = {"model": model, "dataset": toy, "output-dir": run, **SETTINGS, **more}
    return ["fit", *(str(x) for key, value in settings.items() for x in (f"--{key}", value)), "--no-preflight"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def expected(run: Path) -> dict[tuple[str, int], float]:
    """(name, step) and value of everything that trackers get."""
    out = {}
    for row in lines(run / "metrics.jsonl"):
        evaluates = "score" in row
        for name in ("score", "evaluations", "zero_share") if evaluates else ("loss", "difference"):
            if name in row:
                out[f"{'validation' if evaluates else 'train'}/{name}", row["step"]] = float(row[name])
    return out


def of_tensorboard(folder: Path) -> dict[tuple[str, int], float]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), {"scalars": 0, "tensors": 0})
    events.Reload()
    out: dict[tuple[str, int], float] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            assert (tag, event.step) not in out, f"{tag} has step {event.step} twice"
            out[tag, event.step] = event.value
    texts = {t.partition("/")[0] for t in events.Tags()["tensors"]}
    assert texts == {"configuration", "samples"}
    (configuration,) = events.Tensors("configuration/text_summary")
    assert b'"optimizer": "mezo"' in configuration.tensor_proto.string_val[0]
    return out


READER = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
import trackio
(run,) = trackio.Api().runs(sys.argv[1])
rows = SQLiteStorage.get_logs(sys.argv[1], run.name)
print(json.dumps({"config": run.config, "rows": rows}, default=str))
"""


def of_trackio(store: Path, project: str) -> tuple[dict[tuple[str, int], float], dict[str, Any], list[Any]]:
    """The numbers, the configuration and the tables of the only run of a project."""
    environment = {**os.environ, "TRACKIO_DIR": str(store)}
    command = [sys.executable, "-c", READER, project]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    out: dict[tuple[str, int], float] = {}
    tables = []
    for row in found["rows"]:
        for name, value in row.items():
            if isinstance(value, dict):
                tables.append(value)
            elif "/" in name:
                assert (name, row["step"]) not in out, f"{name} has step {row['step']} twice"
                out[name, row["step"]] = value
    return out, found["config"], tables


def check(found: Mapping[tuple[str, int], float], run: Path) -> None:
    wanted, result = expected(run), json.loads((run / "result.json").read_text())
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-6), key
    tests = {name: value for (name, _), value in found.items() if name.startswith("test/")}
    assert tests["test/before"] == pytest.approx(result["before"]["value"])
    assert tests["test/after"] == pytest.approx(result["after"]["value"])
    assert {k for k in found if not k[0].startswith("test/")} == set(wanted)


@pytest.fixture
def trackio_store(tmp_path: Path) -> Path:
    pytest.importorskip("trackio")
    return tmp_path / "trackio"


def killed(command: Sequence[str], metrics: Path, steps: int, **kw: Any) -> None:
    """Run a command, and kill it once it has recorded so many steps."""
    process = subprocess.Popen([sys.executable, "-m", "zotune", *command], stderr=subprocess.DEVNULL, **kw)
    try:
        while process.poll() is None:
            if metrics.exists() and sum('"loss"' in x for x in metrics.read_text().splitlines()) >= steps:
                process.send_signal(signal.SIGKILL)
                break
    finally:
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"


def test_killed_and_resumed_runs_arrive_once(
    cli: Any, tiny_classifier: Path, toy: Path, tmp_path: Path, trackio_store: Path
) -> None:
    run = tmp_path / "run"
    command = flags(tiny_classifier, toy, run, **{"max-steps": 200})
    environment = {"TRACKIO_DIR": str(trackio_store)}
    reports = ["--report-to", "trackio:stories", "--report-to", "tensorboard"]
    full = {**os.environ, **environment, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    killed([*command, *reports], run / "metrics.jsonl", 33, cwd=tmp_path, env=full)
    assert len(lines(run / "metrics.jsonl")) > 33
    killed(["resume", str(run)], run / "metrics.jsonl", 90, cwd=tmp_path, env=full)
    done = cli("resume", run, "--json", env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reason"] == "done"  # what trackers print is not on standard output
    check(of_tensorboard(run / "tensorboard"), run)
    found, config, tables = of_trackio(trackio_store, "stories")
    check(found, run)
    assert config["optimizer"] == "mezo"
    assert config["tuned_weights"] > 0
    assert tables
    name = json.loads((run / "trackers.json").read_text())["name"]
    assert name.startswith("run-")
    assert name in done.stderr


class Recorder(Tracker):
    """Keeps what it gets. held: what `on_run_start` returns."""

    def __init__(self, held: int | None = None) -> None:
        self.held, self.steps, self.evaluations, self.runs = held, list[int](), list[int](), list[TrackedRun]()
        self.samples: list[TrackedSample] = []
        self.summaries: list[Mapping[str, Any]] = []

    def on_run_start(self, run: TrackedRun) -> int | None:
        self.runs.append(run)
        return self.held

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> str | None:
        assert metrics.keys() & {"loss", "dropped"}
        self.steps.append(step)
        return None

    def on_evaluation(self, step: int, metrics: Mapping[str, float], samples: Sequence[TrackedSample]) -> str | None:
        assert "evaluations" in metrics
        self.evaluations.append(step)
        self.samples += samples
        return None

    def on_run_end(self, summary: Mapping[str, Any]) -> None:
        self.summaries.append(summary)


OPTIONS: dict[str, Any] = {
    **{{"lr": "learning_rate"}.get(key, key.replace("-", "_")): value for key, value in SETTINGS.items()},
    "preflight": False,
}


def fit(model: Path, toy: Path, run: Path, *callbacks: Tracker, **more: Any) -> Any:
    options = {**OPTIONS, **more}
    return zotune.fit(model=str(model), dataset=str(toy), output_dir=str(run), callbacks=callbacks, **options)


def test_a_callback_gets_every_step_and_evaluation(tiny_llama: Path, toy: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    words = {"template": "{text} {label}", "labels": "bad,good"}
    result = fit(tiny_llama, toy, tmp_path / "run", recorder, max_steps=10, **words)
    assert recorder.steps == list(range(1, 11))
    assert recorder.evaluations == [0, 4, 8, 10]
    assert {s.reference for s in recorder.samples} <= {"bad", "good"}
    assert len(recorder.samples) == 16
    assert recorder.summaries == [result.json()]
    (run,) = recorder.runs
    assert (run.step, run.folder, run.config["max_steps"]) == (0, tmp_path / "run", 10)
    json.dumps(dict(run.config))


@pytest.mark.parametrize("objective", ["cross-entropy", "length"])
def test_samples_of_generated_text_are_completions(objective: str, tiny_llama: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": "the film", "completion": " was good"}) + "\n" for _ in range(40)))
    recorder, more = Recorder(), {"objective": objective, "max_new_tokens": 4, "optimizer": "mezo"}
    fit(tiny_llama, prompts, tmp_path / "run", recorder, max_steps=2, **more)
    assert recorder.evaluations == [0, 2]
    assert {s.reference for s in recorder.samples} == {" was good"}
    assert any(s.completion for s in recorder.samples)
    assert all((s.score is None) == (objective == "cross-entropy") for s in recorder.samples)


def test_a_resumed_run_is_complete_for_those_that_know_what_they_hold(
    tiny_classifier: Path, toy: Path, tmp_path: Path
) -> None:
    first, nothing, half = Recorder(), Recorder(-1), Recorder(5)
    stops = iter([False] * 6 + [True])
    run = tmp_path / "run"
    fit(tiny_classifier, toy, run, first, max_steps=12, stop=lambda: next(stops))
    assert first.summaries[0]["reason"] == "interrupted"
    assert first.steps == list(range(1, 8))
    fit(tiny_classifier, toy, run, first, nothing, half, max_steps=12, resume="last")
    assert first.steps == nothing.steps == list(range(1, 13))
    assert first.evaluations == nothing.evaluations == [0, 4, 8, 12]
    assert half.steps == list(range(6, 13))
    assert half.evaluations == [8, 12]
    assert [run.name for run in first.runs] == [nothing.runs[0].name] * 2


@pytest.mark.parametrize("method", ["on_run_start", "on_step_end", "on_evaluation", "on_run_end"])
def test_a_tracker_that_fails_is_reported_once_and_the_run_goes_on(
    method: str, tiny_classifier: Path, toy: Path, tmp_path: Path
) -> None:
    class Broken(Recorder):
        pass

    def fail(self: Any, *arguments: Any) -> None:
        raise ConnectionError("no route\nto host")

    setattr(Broken, method, fail)
    events: list[Event] = []
    other = Recorder()
    result = fit(tiny_classifier, toy, tmp_path / "run", Broken(), other, max_steps=6, emit=events.append)
    assert result.reason == "done"
    assert other.steps == list(range(1, 7))
    notes = [e.text for e in events if isinstance(e, Note) and "tracker" in e.text]
    assert len(notes) == 1
    assert f"tracker Broken failed in {method} and is switched off: ConnectionError: no route" in notes[0]
    assert "\n" not in notes[0]


def test_a_tracker_may_end_the_run(tiny_classifier: Path, toy: Path, tmp_path: Path) -> None:
    class Enough(Recorder):
        def on_step_end(self, step: int, metrics: Mapping[str, float]) -> str | None:
            super().on_step_end(step, metrics)
            return "the loss is low enough" if step == 3 else None

    events: list[Event] = []
    enough = Enough()
    result = fit(tiny_classifier, toy, tmp_path / "run", enough, max_steps=9, emit=events.append)
    assert (result.reason, result.steps) == ("tracker", 3)
    assert (tmp_path / "run" / "config.json").is_file()  # the model is written
    assert enough.evaluations == [0, 3]
    assert "Enough ends the run: the loss is low enough" in [e.text for e in events if isinstance(e, Note)]
    again = fit(tiny_classifier, toy, tmp_path / "run", max_steps=9, resume="last")
    assert (again.reason, again.steps) == ("tracker", 3)


def test_a_run_that_fails_ends_its_trackers(tiny_classifier: Path, toy: Path, tmp_path: Path) -> None:
    recorder = Recorder()

    def broken(predictions: Sequence[int | None], labels: Sequence[int]) -> float:
        if len(recorder.steps) > 2:
            raise RuntimeError("the scorer is gone")
        return 0.5

    with pytest.raises(ObjectiveFailures, match="the scorer is gone"):
        fit(tiny_classifier, toy, tmp_path / "run", recorder, max_steps=60, objective=broken, max_failures=1)
    assert recorder.summaries == [{"reason": "failed"}]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("tensorbord", "unknown tracker 'tensorbord'"),
        ("tracker.py:Missing", "does not exist"),
        ("tracker.py", "does not exist"),
    ],
)
def test_unknown_trackers_are_refused_before_the_model_is_loaded(
    spec: str, said: str, toy: Path, tmp_path: Path
) -> None:
    with pytest.raises(PluginError, match=said):
        zotune.fit(model=str(tmp_path / "nowhere"), dataset=str(toy), report_to=[spec])


def test_a_missing_library_names_the_extra(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(OptionError, match=r"zotune\[wandb\]"):
        zotune.fit(model=str(tmp_path / "nowhere"), dataset=str(toy), report_to=["wandb"])


@pytest.fixture
def as_wandb(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A module `wandb` with the interface that trackio shares; each item is a call."""
    calls: list[Any] = []

    class Run:
        step = 0

        def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
            calls.append((step, metrics))

    def init(**options: Any) -> Run:
        calls.append(options)
        return Run()

    module = types.ModuleType("wandb")
    members = {"init": init, "Table": lambda columns, data: [columns, data], "finish": lambda: calls.append("finish")}
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_gets_one_row_a_step(as_wandb: list[Any], tiny_classifier: Path, toy: Path, tmp_path: Path) -> None:
    fit(tiny_classifier, toy, tmp_path / "run", report_to=["wandb:mine"], max_steps=6)
    options, *rows, last = as_wandb
    name = json.loads((tmp_path / "run" / "trackers.json").read_text())["name"]
    assert (options["project"], options["id"], options["name"], options["resume"]) == ("mine", name, name, "allow")
    assert last == "finish"
    assert [step for step, _ in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert {"train/loss", "validation/score", "samples"} <= rows[4][1].keys()
    assert {"test/before", "test/after"} <= rows[6][1].keys()


def test_a_file_names_a_tracker(cli: Any, tiny_classifier: Path, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.py").write_text(
        "from zotune.types import Tracker\n\n\n"
        "class Lines(Tracker):\n"
        "    def on_run_start(self, run):\n        self.out = open('lines.txt', 'a')\n\n"
        "    def on_step_end(self, step, metrics):\n        print(step, file=self.out, flush=True)\n"
    )
    command = flags(tiny_classifier, toy, tmp_path / "run", **{"max-steps": 5, "report-to": "lines.py:Lines"})
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "lines.txt").read_text().split() == ["1", "2", "3", "4", "5"]
