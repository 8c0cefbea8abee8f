"""What `zotune fit` with default settings does for SmolLM2-135M-Instruct: seven tasks, each run a process of its own.

    python benchmarks/language_model.py                               # restartable: finished runs are not repeated
    python benchmarks/language_model.py --task json --task tone --seeds 3
    python benchmarks/language_model.py --task tone --completions 1600
    python benchmarks/language_model.py --only-report                 # print the table

The model is build/SmolLM2-135M-Instruct.Q4_1.gguf, de-quantised from 4 bits, which `make smollm2` fetches. json: the
form of examples/json_reward.py on bio_json (its 40 test rows and 160 more of its form); tone: VADER of answers to
questions about everyday things; sst2: macro-F1 by label words with the chat template; squad: token F1 on contexts of at
most 100 words; scitldr: ROUGE-L on the first two sentences of abstracts; concise: the task of that name; orders: a JSON
schema with other keys and types. sst2, squad, scitldr and bio_json are read from ../shared/data.

Flags beside the task's own: --max-evals (completions / 16), --eval-steps, --validation-rows and --test-rows, which set
sizes alone. A line holds the test scores before and after, the paired difference (standard error, 95 % interval), the
KL divergence of the best weights on validation prompts in nats a token, the completions that steps scored and those of
held-out rows, CPU seconds of one thread without imports, seconds of the clock for the whole run, its steps and its
held-out scores, the peak memory in MiB, and for steps from the tenth on the seconds left as shown and as they were.
`after` is the best weights' score, kept or not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from head_to_head_parts.processes import ROOT, Lines, cost_of, run_worker
from language_model_parts.report import table, time_left
from language_model_parts.tasks import TASKS, Task

RESULTS = Path(__file__).with_name("results") / "language_model.jsonl"
BUILD = ROOT / "build" / "language_model"
MODEL = ROOT / "build" / "SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH, FIRST = 16, 10
"""Rows of an evaluation; the step from which on the time left is looked at."""
EVALS_A_VALIDATION, STEPS_A_VALIDATION = 8, 3
"""One step between validations for so many evaluations, and so many steps at least."""


def settings_of(task: Task, seed: int, completions: int) -> dict[str, Any]:
    """The job of a run for head_to_head_parts/fit_process.py."""
    folder = BUILD / "runs" / task.name / str(completions) / str(seed)
    evals = completions // BATCH
    flags = ["-m", str(MODEL), *task.prepare(BUILD / "data" / task.name), "--max-evals", str(evals)]
    every = max(STEPS_A_VALIDATION, evals // EVALS_A_VALIDATION)
    flags += ["--eval-steps", str(every), "--validation-rows", str(task.validation)]
    flags += ["--test-rows", str(task.test), "--seed", str(seed)]
    return {"folder": str(folder), "flags": flags, "held_out": []}


def measured(task: Task, folder: Path) -> dict[str, Any]:
    """What a finished run says of itself."""
    run = folder / "run"
    result = json.loads((run / "result.json").read_text())
    progress = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    spent = next(line["spent"] for line in reversed(progress) if "spent" in line)
    cost = cost_of(folder)
    values: dict[str, Any] = {
        "before": result["before"]["value"],
        "after": result["tuned"]["value"],
        "difference": result["difference"],
        "kept": result["kept"],
        "test_rows": result["before"]["rows"],
        "best_step": result["best_step"],
        "best_share": result["best_share"],
        "steps": result["steps"],
        "zero_share": result["zero_share"],
        "completions": result["queries"],
        "held_out": result["scoring"]["rows"] - result["queries"],
        "kl": divergence(run, result["best_step"], result["best_share"]),
        "cpu_seconds": cost["cpu_seconds"],
        "clock": {
            "all": result["seconds"],
            "steps": spent["model"] + spent["scoring"] + spent["update"],
            "held-out": spent["validation"] + spent["test"],
        },
        "peak_mib": cost["peak_mib"],
        "left": [
            [line["step"], line["left"], round(result["seconds"] - line["seconds"], 2)]
            for line in progress
            if line.get("step", 0) >= FIRST and "left" in line
        ],
    }
    return values | (right(task, run) if task.right else {})


def divergence(run: Path, step: int, share: float) -> float | None:
    """The KL divergence that was recorded with the best weights; None for a task without one."""
    bodies = [json.loads(line)["body"] for line in (run / "journal.jsonl").read_text().splitlines()]
    kind = "eval" if share == 1 else "between"
    of_best = [b for b in bodies if b["kind"] == kind and b["step"] == step and b.get("share", 1.0) == share]
    drift = of_best[-1].get("drift") if of_best else None
    return float(drift) if drift is not None else None


def right(task: Task, run: Path) -> dict[str, Any]:
    """The share of answers to test rows that are right before and after, and its paired difference."""
    assert task.right is not None
    assert task.rows is not None
    rows = task.rows()["test"]
    lines = [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]
    shares: Mapping[str, dict[int, float]] = {
        phase: {
            line["row"]: task.right(line["completion"], rows[line["row"]])
            for line in lines
            if line["set"] == "test" and line["phase"] == phase
        }
        for phase in ("before", "after")
    }
    gaps = [after - shares["before"][row] for row, after in shares["after"].items()]
    value, error = statistics.mean(gaps), statistics.stdev(gaps) / len(gaps) ** 0.5
    return {
        "right_before": statistics.mean(shares["before"].values()),
        "right_after": statistics.mean(shares["after"].values()),
        "right": {"value": value, "error": error, "low": value - 1.96 * error, "high": value + 1.96 * error},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", choices=list(TASKS), help="repeatable; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to SEEDS - 1, one after the other [3]")
    parser.add_argument("--completions", type=int, help="budget; default: the task's own")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run [1]")
    parser.add_argument("--only-report", action="store_true", help="print the table of the finished runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results, one JSON line a run")
    args = parser.parse_args()
    lines = Lines(args.out)
    tasks = [TASKS[name] for name in args.task or TASKS]
    if not args.only_report:
        fetch = {**os.environ, "PYTHON": sys.executable}
        subprocess.run(["bash", str(ROOT / "scripts" / "smollm2.sh")], check=True, env=fetch)
        for seed in range(args.seeds):
            for task in tasks:
                budget = args.completions or task.completions
                if lines.find([task.name, seed, budget]):
                    continue
                job = settings_of(task, seed, budget)
                run_worker("fit_process.py", [job], threads=args.threads)
                lines.add([task.name, seed, budget], measured(task, Path(job["folder"])))
    print(table(lines.all(), [(t.name, t.metric) for t in tasks]))
    print(time_left(lines.all()))


if __name__ == "__main__":
    main()
