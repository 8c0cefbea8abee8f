"""Time saved by evaluating all points of a step in one pass, where few weights are tuned.

    python -m benchmarks.joint_points                  # stories260K and MiniLM; a table
    python -m benchmarks.joint_points --threads 2 --rounds 9

Each round evaluates some points of 16 rows one by one (`--perturb copy`) and in joint passes (`--perturb joint`). The
table shows medians over the rounds, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zotune import config
from zotune.core.recipe import Noise
from zotune.events import ignore
from zotune.runs.plan import plan
from zotune.runs.session import Session
from zotune.search.journal import Tape

STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K" / "hf"
MODES = ("copy", "joint")
BEGINNINGS = ("Once upon a time", "One day", "Lily and Tom", "The dog", "A girl named Sue", "Tim was", "The sun")


def session(mode: str, **options: Any) -> Session:
    loaded = Session(plan(config.resolve({"perturb": mode, **options}, None)), ignore)
    loaded.choose_perturbation()
    return loaded


def measure(points: int, rounds: int, **options: Any) -> dict[str, float]:
    """Seconds of an evaluation of `points` points, by mode."""
    sessions = {mode: session(mode, **options) for mode in MODES}
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    for k in range(-1, rounds):
        for mode, loaded in sessions.items():
            loaded.oracle.begin(Tape(), k)
            perturbed = [loaded.space.theta + 1e-2 * Noise("normal", k, draw) for draw in range(points)]
            began = time.perf_counter()
            loaded.oracle(*perturbed)
            if k >= 0:
                times[mode].append(time.perf_counter() - began)
    return {mode: statistics.median(seconds) for mode, seconds in times.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as home:
        prompts, goal = Path(home, "prompts.jsonl"), Path(home, "goal.py")
        prompts.write_text("".join(json.dumps({"prompt": BEGINNINGS[i % 7]}) + "\n" for i in range(300)))
        goal.write_text("def happy(completions, **_):\n    return [float('happy' in c) for c in completions]\n")
        stories = {"model": str(STORIES), "dataset": str(prompts), "objective": f"{goal}:happy", "max_new_tokens": 48}
        cases: dict[str, dict[str, Any]] = {"MiniLM, biases": {"tune": "bias"}, "MiniLM, LoRA": {"peft": "lora"}}
        if STORIES.is_dir():
            cases |= {"stories260K, 48 tokens": stories, "stories260K, 48 tokens, LoRA": {**stories, "peft": "lora"}}
        print("| model | points | one by one | one pass | ratio |\n|---|---|---|---|---|")
        for name, options in cases.items():
            for points in (2, 4, 8):
                t = measure(points, args.rounds, threads=args.threads, **options)
                cells = f"{t['copy']:.2f} s | {t['joint']:.2f} s | {t['joint'] / t['copy']:.2f}"
                print(f"| {name} | {points} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
