"""The methods of benchmarks/head_to_head.py: the settings that are chosen among, and the jobs of their runs.

Knows how a method is called; knows no result.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from head_to_head_parts import smollm2, stories
from head_to_head_parts.processes import ROOT, run_worker
from head_to_head_parts.tasks import Task

BUILD = ROOT / "build" / "head_to_head"
"""Folders of runs, and of what is made once."""
RIVALS = ROOT / "build" / "rivals"
"""The environment of TRL."""
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "rouge-score", "vaderSentiment")
VALIDATION_SHARE, STEP_ROWS, ROUNDED = 0.1, 128, 40
"""What `zotune fit` may spend of a score limit on validation, and rows of a step; limits are rounded up to ROUNDED."""

Choice = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """choices: settings of which validation rows choose one; the only one is taken as it is. worker: the script.
    rivals: whether it runs in the environment of TRL. whole: whether one run leaves the weights of every budget."""

    name: str
    worker: str
    choices: tuple[Choice, ...] = ({},)
    rivals: bool = False
    whole: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


GRPO_RATES = tuple(
    {"lr": lr, "group": group, "prompts_a_step": 32 // group}
    for group, rates in ((8, (3e-5, 1e-4, 3e-4, 1e-3)), (16, (1e-4,)))
    for lr in rates
)
LORA_RATES = tuple({"lr": lr, "group": 8, "prompts_a_step": 4} for lr in (1e-4, 3e-4, 1e-3, 3e-3))
SMOLLM2_RATES = tuple({"lr": lr, "group": 8, "prompts_a_step": 4} for lr in (1e-6, 3e-6, 1e-5, 3e-5))
SFT_RATES = tuple({"lr": lr} for lr in (3e-6, 1e-5, 3e-5, 1e-4))
ON_STORIES = {
    "zotune": Method("zotune", "fit_process.py"),
    "zotune-sampled": Method("zotune-sampled", "fit_process.py", options={"flags": ["--temperature", "1"]}),
    "grpo": Method("grpo", "grpo_process.py", GRPO_RATES, rivals=True, options={"beta": 0.0, "lora": False}),
    "es": Method(
        "es",
        "es_process.py",
        tuple({"sigma": sigma, "lr": lr} for sigma, lr in ((0.005, 0.02), (0.01, 0.01), (0.01, 0.02), (0.01, 0.04))),
        whole=True,
    ),
    "random-search": Method("random-search", "fit_process.py", tuple({"sigma": s} for s in (0.02, 0.05, 0.1, 0.2))),
}

ON_SMOLLM2 = {
    "zotune": ON_STORIES["zotune"],
    "grpo": Method("grpo", "grpo_process.py", SMOLLM2_RATES, rivals=True, options={"beta": 0.0, "lora": False}),
    "grpo-lora": Method("grpo-lora", "grpo_process.py", LORA_RATES, rivals=True, options={"beta": 0.0, "lora": True}),
    "sft": Method("sft", "sft_process.py", SFT_RATES),
}


def methods_of(task: Task) -> dict[str, Method]:
    """The methods that are compared on a task, by name."""
    return ON_STORIES if task.model == "stories" else ON_SMOLLM2


def model_folder(task: Task) -> Path:
    """The base model, which is downloaded where it is not at hand."""
    if task.model == "stories":
        return stories.MODEL
    smollm2.make_folder(BUILD / "smollm2")
    return BUILD / "smollm2"


def make_environment() -> Path:
    """The Python of the rivals' environment, which is made once with the versions of constraints.txt."""
    python = RIVALS / "bin" / "python"
    stamp = RIVALS / ".installed"
    if not stamp.exists():
        print(f"installing {', '.join(PACKAGES)} into {RIVALS} (once; a few minutes)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(RIVALS)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), *PACKAGES]
        subprocess.run(pip, check=True)
        stamp.touch()
    return python


OBJECTIVE = """import zotune
from head_to_head_parts.tasks import TASKS, text_of

TASK = TASKS[{name!r}]


@zotune.objective(level={level!r})
def reward(completions{columns}):
    texts = [text_of(c) for c in completions]
    rows = [dict(zip({names!r}, values)) for values in zip({zipped})] or [{{}}] * len(texts)
    return {value}
"""


def write_objective(task: Task, path: Path) -> None:
    """A file with the task's reward as `zotune fit` reads it."""
    path.write_text(
        OBJECTIVE.format(
            name=task.name,
            level="set" if task.rewards is None else "sample",
            columns="".join(f", {c}" for c in task.columns),
            names=task.columns,
            zipped=", ".join(task.columns),
            value="TASK.value(texts)" if task.rewards is None else "TASK.rewards(texts, rows)",
        )
    )


def score_limit(budget: int, test_rows: int) -> int:
    """--max-score-calls that leave `budget` completions for training and calibration: the test set is scored twice, and
    the rows of one step are kept back."""
    scores = (budget + 2 * test_rows + STEP_ROWS) / (1 - VALIDATION_SHARE)
    return ROUNDED * math.ceil(scores / ROUNDED)


def folder_of(task: Task, method: Method, choice: Choice, seed: int, budget: int) -> Path:
    chosen = "-".join(f"{k}={v:g}" for k, v in choice.items()) or "default"
    folder = BUILD / "runs" / task.name / method.name / chosen / str(seed)
    return folder / "all" if method.whole else folder / str(budget)


def weights_of(task: Task, method: Method, choice: Choice, seed: int, budget: int) -> Path:
    """The folder with cost.json and the tuned model in run/, after the run."""
    folder = folder_of(task, method, choice, seed, budget)
    return folder / str(budget) if method.whole else folder


def job_of(task: Task, method: Method, choice: Choice, seed: int, budgets: Sequence[int]) -> dict[str, Any]:
    """The settings of a run for its worker. budgets: completions; several where one run leaves the weights of each."""
    folder = folder_of(task, method, choice, seed, budgets[-1])
    records = task.records()
    settings = {"task": task.name, "model": str(model_folder(task)), "seed": seed, "folder": str(folder)}
    if method.worker != "fit_process.py":
        own = {"records": records["train"], "completions": budgets[-1], "budgets": list(budgets)}
        return {**settings, **own, **method.options, **choice}
    home = BUILD / "data" / task.name
    home.mkdir(parents=True, exist_ok=True)
    stories.write_splits(records, home / "data")
    write_objective(task, home / "objective.py")
    flags = ["-m", settings["model"], "-d", str(home / "data"), "-o", f"{home / 'objective.py'}:reward"]
    flags += ["--max-new-tokens", str(task.tokens), "--seed", str(seed)]
    if method.name == "random-search":
        flags += ["--optimizer", "random-search", "--optimizer-arg", f"sigma={choice['sigma']}"]
        flags += ["--max-evals", str(budgets[-1] // 16), "--batch-size", "16", "--no-preflight"]
    elif task.rewards is None:
        flags += ["--max-evals", str(budgets[-1] // 16), "--no-preflight", *method.options.get("flags", ())]
    else:
        flags += [
            "--max-score-calls",
            str(score_limit(budgets[-1], len(records["test"]))),
            *method.options.get("flags", ()),
        ]
    held_out = [r["prompt"] for split in ("validation", "test") for r in records[split]]
    return {**settings, "flags": flags, "held_out": held_out}


def run(method: Method, jobs: Sequence[dict[str, Any]]) -> None:
    run_worker(method.worker, jobs, str(make_environment()) if method.rivals else sys.executable)


def describe(choice: Choice) -> str:
    return json.dumps(choice)


__all__ = [
    "ON_SMOLLM2",
    "ON_STORIES",
    "Choice",
    "Method",
    "describe",
    "folder_of",
    "job_of",
    "methods_of",
    "model_folder",
    "run",
    "weights_of",
]
