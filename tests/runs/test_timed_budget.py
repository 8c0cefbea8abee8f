"""`--max-time`: evaluations are planned once, recorded, and repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import zotune
from zotune.config import RunConfig
from zotune.events import Event, Note, StepDone
from zotune.runs import timed_budget
from zotune.runs.check import check
from zotune.runs.estimate import estimate
from zotune.runs.replay import replay
from zotune.runs.timed_budget import evaluations


def test_evaluations_leave_time_for_validations() -> None:
    assert evaluations(600.0, 0.5, 0.0) == 1000
    assert evaluations(600.0, 0.5, 10.0) == 890  # 13 validations of 10 evaluations each
    assert evaluations(600.0, 0.5, 1000.0) == 410, "however many held-out rows there are"
    assert evaluations(1.0, 100.0, 0.0) == 1


@pytest.fixture
def options(tiny_encoder: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(timed_budget, "seconds_of", lambda function, on_cpu: 1.0)
    made = {"model": str(tiny_encoder), "dataset": str(toy), "labels": "bad,good", "objective": "accuracy"}
    return {**made, "optimizer": "mezo", "learning_rate": 1e-3, "eps": 1e-2, "preflight": False, "max_time": 60.0}


def header(folder: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((folder / "journal.jsonl").read_text().splitlines()[0])["body"]
    return body


def steps(folder: Path) -> list[Any]:
    lines = [json.loads(x)["body"] for x in (folder / "journal.jsonl").read_text().splitlines()]
    return [x["tape"] for x in lines if x["kind"] == "step"]


def test_the_plan_is_recorded_and_repeats(options: dict[str, Any], tmp_path: Path) -> None:
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    zotune.fit(**options, output_dir=str(tmp_path / "timed"), emit=emit)
    (note,) = (n for n in notes if n.startswith("--max-time"))
    assert note == (
        "--max-time: an evaluation of 16 rows takes 1 s, so 35 of them are planned in 60 s; "
        "--max-evals 35 repeats this run"
    )
    assert header(tmp_path / "timed")["budget"] == {"steps": None, "evals": 35, "seconds": 60.0}
    assert replay(tmp_path / "timed", tmp_path / "again").confirmed
    zotune.fit(**{**options, "max_time": None, "max_evals": 35}, output_dir=str(tmp_path / "counted"))
    assert steps(tmp_path / "timed") == steps(tmp_path / "counted")


def test_a_resumed_run_does_not_measure_again(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zotune.fit(**options, output_dir=str(tmp_path / "whole"))
    seen: list[int] = []

    def emit(event: Event) -> None:
        if isinstance(event, StepDone):
            seen.append(event.step)

    run = {**options, "output_dir": str(tmp_path / "cut")}
    assert zotune.fit(**run, emit=emit, stop=lambda: len(seen) >= 4).reason == "interrupted"
    monkeypatch.setattr(timed_budget, "seconds_of", lambda function, on_cpu: 0.01)  # as on another machine
    zotune.fit(**run, resume="last")
    assert steps(tmp_path / "cut") == steps(tmp_path / "whole")


def test_other_limits_are_kept_and_the_dry_run_knows_the_plan(options: dict[str, Any], tmp_path: Path) -> None:
    zotune.fit(**options, max_steps=3, output_dir=str(tmp_path / "both"))
    assert header(tmp_path / "both")["budget"] == {"steps": 3, "evals": None, "seconds": 60.0}
    assert estimate(RunConfig(**options), lambda event: None)["evaluations"] == 36


def test_generated_text_without_a_budget_is_planned_for_half_an_hour(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig(model=str(tiny_llama), dataset="synthetic:sentiment", objective="length", max_new_tokens=2)
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    monkeypatch.setattr(timed_budget, "seconds_of", lambda function, on_cpu: 3.0)
    assert estimate(config, emit)["evaluations"] <= 480
    assert any(n.startswith("no budget is given: an evaluation of 16 rows takes 3 s, so 480 of them") for n in notes)
    monkeypatch.setattr(timed_budget, "seconds_of", lambda function, on_cpu: 0.01)
    assert estimate(config, lambda event: None)["evaluations"] in (2399, 2400), "the default, where it takes less"
    stored = {"budget": {"steps": None, "evals": 480, "seconds": None}}
    assert timed_budget.with_recorded_evals(config, stored).max_evals == 480
    assert timed_budget.with_recorded_evals(RunConfig(max_steps=3), stored).max_evals is None


def test_a_check_plans_nothing(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed_budget, "seconds_of", lambda function, on_cpu: 3.0)
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    check(RunConfig(model=str(tiny_llama), task="sentiment", objective="length", max_new_tokens=2), rows=4, emit=emit)
    assert notes
    assert not [n for n in notes if "--max-evals" in n]


@pytest.mark.parametrize(("seconds", "on_cpu", "calls"), [(5.0, True, 1), (5.0, False, 2), (0.5, True, 2)])
def test_a_long_call_is_timed_once_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, seconds: float, on_cpu: bool, calls: int
) -> None:
    """A first call prepares the device, which takes seconds on a GPU."""
    clock, made = [0.0], []

    def work() -> None:
        made.append(1)
        clock[0] += seconds * (1.5 if len(made) == 1 else 1.0)

    monkeypatch.setattr(timed_budget.time, "perf_counter", lambda: clock[0])
    assert timed_budget.seconds_of(work, on_cpu) == seconds * (1.5 if calls == 1 else 1.0)
    assert len(made) == calls
