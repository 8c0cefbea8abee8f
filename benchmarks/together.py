"""What it saves to evaluate a step's points in one pass, where few weights are tuned.

    python -m benchmarks.together                  # stories260K and MiniLM; a table
    python -m benchmarks.together --threads 2 --rounds 9

In every round, in turn: some points one by one (`--perturb copy`) and in passes that they share (`--perturb joint`), 16
rows each. Medians over the rounds, and their ratio.
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
    made = Session(plan(config.resolve({"perturb": mode, **options}, None)), ignore)
    made.choose_perturbation()
    return made


def measure(points: int, rounds: int, **options: Any) -> dict[str, float]:
    """Seconds of an evaluation of `points` points, by mode."""
    sessions = {mode: session(mode, **options) for mode in MODES}
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    for k in range(-1, rounds):
        for mode, it in sessions.items():
            it.oracle.begin(Tape(), k)
            asked = [it.space.theta + 1e-2 * Noise("normal", k, draw) for draw in range(points)]
            began = time.perf_counter()
            it.oracle(*asked)
            if k >= 0:
                times[mode].append(time.perf_counter() - began)
    return {mode: statistics.median(found) for mode, found in times.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as home:
        prompts, goal = Path(home, "prompts.jsonl"), Path(home, "goal.py")
        prompts.write_text("".join(json.dumps({"prompt": BEGINNINGS[i % 7]}) + "\n" for i in range(300)))
        goal.write_text("def happy(completions, **_):\n    return [float('happy' in c) for c in completions]\n")
        told = {"model": str(STORIES), "dataset": str(prompts), "objective": f"{goal}:happy", "max_new_tokens": 48}
        cases: dict[str, dict[str, Any]] = {"MiniLM, biases": {"tune": "bias"}, "MiniLM, LoRA": {"peft": "lora"}}
        if STORIES.is_dir():
            cases |= {"stories260K, 48 tokens": told, "stories260K, 48 tokens, LoRA": {**told, "peft": "lora"}}
        print("| model | points | one by one | together | ratio |\n|---|---|---|---|---|")
        for name, options in cases.items():
            for points in (2, 4, 8):
                t = measure(points, args.rounds, threads=args.threads, **options)
                cells = f"{t['copy']:.2f} s | {t['joint']:.2f} s | {t['joint'] / t['copy']:.2f}"
                print(f"| {name} | {points} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
