"""Time saved by reading the common prefix of a batch's prompts once.

    python -m benchmarks.prompt_prefix                   # stories260K; a table
    python -m benchmarks.prompt_prefix --threads 2 --rounds 9

Each round generates from 16 prompts that begin with the same text and end with some words of their own: once with every
prompt read in full, once with the prefix read once. The table shows medians over the rounds, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.joint_points import BEGINNINGS, STORIES
from zotune import config
from zotune.events import ignore
from zotune.runs.plan import plan
from zotune.runs.session import Session
from zotune.tasks.prompt_cache import common_prefix_length

STORY = "Once upon a time there was a little girl who liked to play in the park with her dog and her friends. "
ROWS = 16


def measure(words: int, new: int, rounds: int, threads: int, home: Path) -> tuple[int, float, float]:
    """Tokens of the common prefix; seconds of a batch read in full, and with its prefix read once."""
    begin = " ".join((STORY * 20).split()[:words])
    data, goal = home / f"{words}.jsonl", home / "goal.py"
    data.write_text("".join(json.dumps({"prompt": f"{begin} {BEGINNINGS[i % 7]}"}) + "\n" for i in range(300)))
    goal.write_text("def goal(completions, **_):\n    return [float(len(c)) for c in completions]\n")
    options = {"model": str(STORIES), "dataset": str(data), "objective": f"{goal}:goal", "max_new_tokens": new}
    session = Session(plan(config.resolve({**options, "threads": threads}, None)), ignore)
    prompts = [session.train.tokens[i][0] for i in range(ROWS)]
    times: dict[bool, list[float]] = {False: [], True: []}
    for k in range(-1, rounds):
        for once in times:
            session.task.prompts.supported = once
            began = time.perf_counter()
            session.task.generate(prompts)
            if k >= 0:
                times[once].append(time.perf_counter() - began)
    return common_prefix_length(prompts), statistics.median(times[False]), statistics.median(times[True])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    print("| common tokens | new tokens | read in full | prefix read once | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        for words in (10, 40, 100):
            for new in (8, 32):
                length, in_full, once = measure(words, new, args.rounds, args.threads, Path(home))
                cells = f"{1000 * in_full:.0f} ms | {1000 * once:.0f} ms | {once / in_full:.2f}"
                print(f"| {length} | {new} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
