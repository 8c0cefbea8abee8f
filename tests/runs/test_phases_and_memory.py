"""What a run and a check say while they work, and the highest memory that a dry run predicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import zotune
from zotune import config
from zotune.events import Event, Phase, StepDone
from zotune.runs.check import check


@pytest.fixture
def options(tiny_encoder: Path, toy: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_encoder),
        "dataset": str(toy),
        "labels": ("awful film", "lovely film"),
        "batch_size": 4,
        "threads": 1,
    }


def phases(events: list[Event]) -> list[str]:
    return [e.text for e in events if isinstance(e, Phase)]


def test_a_check_says_what_it_does(options: dict[str, Any]) -> None:
    events: list[Event] = []
    check(config.resolve({**options, "objective": "f1"}, None), rows=8, emit=events.append)
    shown = [e.text for e in events if isinstance(e, Phase) and not e.brief]
    assert shown[0].startswith("loading ")
    assert shown[1:] == [
        "scoring 8 rows, twice",
        "computing 6 steps of auto, none of which is taken",
        "perturbing the weights at 6 scales",
    ]
    assert "scale 6 of 6: 1 times the weights' RMS" in phases(events)


def test_every_part_of_a_run_has_a_phase_and_every_step_the_time_left(options: dict[str, Any], tmp_path: Path) -> None:
    events: list[Event] = []
    run = {**options, "max_steps": 4, "eval_steps": 2, "output_dir": str(tmp_path / "run"), "interpolate": True}
    run |= {"optimizer": "mezo", "learning_rate": "auto"}
    zotune.fit(**run, emit=events.append)
    for text in (
        "reading the data",
        "tokenising the rows",
        "hashing the weights",
        "scoring the base model on the test set",
        "calibrating the learning rate and the perturbation scale",
        "computing the optimizer's first state",
        "preflight: evaluating steps that are not taken",
        "scoring the validation set",
        "writing a checkpoint",
        "computing step 3",
        "scoring weights between the base model and the last step",
        "computing standard errors",
        "writing the model",
        "fitting a linear probe as the initial head",
        "scoring the linear probe on the test set",
    ):
        assert text in phases(events), text
    left = [e.seconds_left for e in events if isinstance(e, StepDone)]
    assert len(left) == 4
    assert all(seconds is not None and seconds > 0 for seconds in left)
    events.clear()
    zotune.fit(**{**run, "max_steps": 5}, resume="last", emit=events.append)
    assert "replaying the recorded steps" in phases(events) or "computing step 5" in phases(events)
    assert "calibrating the learning rate and the perturbation scale" not in phases(events)


def peak_of(*arguments: str) -> tuple[str, float]:
    """(standard output, highest resident set in MiB) of `zotune fit` in a process of its own."""
    command = [sys.executable, "-m", "zotune", "fit", "--quiet", "--json", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    with process.stdout:
        out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return out, usage.ru_maxrss / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_a_dry_run_predicts_the_highest_memory(options: dict[str, Any], tmp_path: Path) -> None:
    flags = ["-m", options["model"], "-d", options["dataset"], "--labels", "awful film,lovely film", "--threads", "1"]
    flags += ["--max-steps", "3", "--batch-size", "4", "--tune", "all", "--optimizer", "mezo-adam"]
    out, _ = peak_of(*flags, "--dry-run")
    _, peak = peak_of(*flags, "--output-dir", str(tmp_path / "run"))
    assert 1 / 1.3 < json.loads(out)["memory_mb"]["peak"] / peak < 1.3
