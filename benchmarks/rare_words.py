"""Words that a small language model never or rarely writes, as rewards for `zotune fit` without tuned options.

    python benchmarks/rare_words.py                              # ten words, seed 0
    python benchmarks/rare_words.py --words dog,star --seeds 3 --jobs 2
    python benchmarks/rare_words.py --shares fish,moon,tree      # how often the base model writes these words

stories260K continues openings of stories: 100 to train on, 20 for validation, 120 for the test, made from the lists in
benchmarks/head_to_head_parts/stories.py. The reward is 1 where a word of the story begins with the given word. 0 to 6 %
of the base model's greedy stories have the ten words, and none has the first four. Each word is one run of
`zotune fit -m MODEL -d DATA -o FILE:reward --max-score-calls 1700 --max-new-tokens 48 --seed SEED`. The saved weights
are evaluated on the test openings: greedy and sampled reward, and the KL divergence from the base model in nats a token
on 64 stories that the base model samples. CPU seconds are those of the whole command after its imports, one thread.
With --out, finished runs are read from that file and not repeated. Needs stories260K in ../shared.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from head_to_head_parts import stories
from head_to_head_parts.processes import Lines, cost_of, run_worker

NEVER, RARELY = ("dog", "sun", "water", "smile"), ("bird", "fish", "flower", "blue", "park", "help")
"""Words that no greedy story of the base model has, and words that 0.5 to 6 % of them have."""
SCORES = 1700
KL_STORIES = 64
ONE_EVALUATION = threading.Lock()
"""Loading models and seeding torch are no work for several threads at a time."""
REWARD = '''"""1 for a completion with a word that begins with {word!r}."""
import re

import zotune

PATTERN = re.compile(r"\\b{pattern}")


@zotune.objective(level="sample")
def reward(completions):
    return [float(PATTERN.search(text.lower()) is not None) for text in completions]
'''


def has_word(text: str, word: str) -> float:
    return float(re.search(rf"\b{re.escape(word)}", text.lower()) is not None)


def share(texts: Sequence[str], word: str) -> float:
    return statistics.mean(has_word(text, word) for text in texts)


def evaluate(model: Path, word: str, prompts: Sequence[str]) -> dict[str, float]:
    """Greedy and sampled reward on the prompts, and the KL divergence in nats a token."""
    from head_to_head_parts.evaluation import Generator, kl_divergence

    tuned, base = Generator(model, stories.MODEL), Generator(stories.MODEL, stories.MODEL)
    return {
        "greedy": share(tuned.complete(prompts, stories.TOKENS), word),
        "sampled": share(tuned.complete(prompts, stories.TOKENS, seed=1), word),
        "kl": kl_divergence(tuned, base, prompts[:KL_STORIES], stories.TOKENS),
    }


def run_one(word: str, seed: int, flags: Sequence[str]) -> dict[str, Any]:
    splits = stories.splits(stories.RARE_WORDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stories.write_splits({k: [{"prompt": p} for p in v] for k, v in splits.items()}, folder / "data")
        (folder / "word.py").write_text(REWARD.format(word=word, pattern=re.escape(word)))
        given = ["-m", str(stories.MODEL), "-d", str(folder / "data"), "-o", f"{folder / 'word.py'}:reward"]
        given += ["--max-score-calls", str(SCORES), "--max-new-tokens", str(stories.TOKENS), "--seed", str(seed)]
        held_out = splits["validation"] + splits["test"]
        job = {"folder": str(folder), "flags": [*given, *flags], "held_out": held_out}
        run_worker("fit_process.py", [job])
        result = json.loads((folder / "run" / "result.json").read_text())
        with ONE_EVALUATION:
            scores = evaluate(folder / "run", word, splits["test"])
        cost = cost_of(folder)
    parts = {k: result[k] for k in ("kept", "reason", "steps", "seconds")}
    scored = {"scored": result["scoring"]["rows"], "cached": result["scoring"]["known"]}
    return {**scores, **cost, **parts, **scored}


def base_completions() -> tuple[list[str], list[str]]:
    """Greedy and sampled stories of the base model for the test openings."""
    from head_to_head_parts.evaluation import Generator

    base, prompts = Generator(stories.MODEL, stories.MODEL), stories.splits(stories.RARE_WORDS)["test"]
    return base.complete(prompts, stories.TOKENS), base.complete(prompts, stories.TOKENS, seed=1)


def table(rows: Sequence[dict[str, Any]]) -> None:
    print("| word | seed | base greedy | base sampled | greedy | sampled | KL | CPU s | s | scored | kept |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    greedy, sampled = base_completions()
    for x in rows:
        word, seed = x["key"][:2]
        before = f"{share(greedy, word):.3f} | {share(sampled, word):.3f}"
        after = f"{x['greedy']:.3f} | {x['sampled']:.3f} | {x['kl']:.3f}"
        print(
            f"| {word} | {seed} | {before} | {after} | {x['cpu_seconds']:.1f} | {x['seconds']:.0f} | {x['scored']} "
            f"| {x['kept']} |",
            flush=True,
        )
    mean = {k: statistics.mean(x[k] for x in rows) for k in ("greedy", "sampled", "kl", "cpu_seconds", "seconds")}
    print(
        f"| mean | | | | {mean['greedy']:.3f} | {mean['sampled']:.3f} | {mean['kl']:.3f} | {mean['cpu_seconds']:.1f} "
        f"| {mean['seconds']:.0f} | | |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", default=",".join(NEVER + RARELY), help="words, separated by commas")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to SEEDS - 1 of each word")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--shares", metavar="WORDS", help="print how often the base model writes these words, and stop")
    parser.add_argument("--flag", action="append", default=[], help="one more argument of zotune fit, to compare with")
    parser.add_argument("--out", type=Path, help="file of results, one JSON line a run")
    args = parser.parse_args()
    if not stories.MODEL.is_dir():
        raise SystemExit(f"needs {stories.MODEL}")
    if args.shares:
        greedy, sampled = base_completions()
        for word in args.shares.split(","):
            print(f"{word}: greedy {share(greedy, word):.3f}, sampled {share(sampled, word):.3f}")
        return
    with tempfile.TemporaryDirectory() as folder:
        lines = Lines(args.out or Path(folder) / "lines.jsonl")
        keys = [[word, seed, *args.flag] for seed in range(args.seeds) for word in args.words.split(",")]

        def run(key: list[Any]) -> dict[str, Any]:
            return lines.find(key) or lines.add(key, run_one(key[0], key[1], args.flag))

        with ThreadPoolExecutor(args.jobs) as pool:
            table(list(pool.map(run, keys)))


if __name__ == "__main__":
    main()
