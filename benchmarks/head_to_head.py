"""The default of `zotune fit` beside TRL's GRPOTrainer, plain evolution strategies and random search.

    python benchmarks/head_to_head.py                                 # restartable: finished runs are not repeated
    python benchmarks/head_to_head.py --only ours --again             # after a change of the default
    python benchmarks/head_to_head.py --task word --only grpo --seeds 1
    python benchmarks/head_to_head.py --task json --task tone         # SmolLM2: an hour and more on a CPU
    python benchmarks/head_to_head.py --only-report

Tasks on stories260K, 48 new tokens: a word occurs (word), ROUGE-L to a wished text (rougeL), VADER's sentiment
(sentiment), different first words of 20 stories (first-words: a reward of the set, which GRPO gets as leave-one-out
credit). Prompts are drawn by a seed: 100 for training, 40 for validation, 100 for the test. Tasks on
SmolLM2-135M-Instruct, which the script downloads (200 test prompts): JSON with the keys name and age (json), short
answers (conciseness), VADER's sentiment (tone); beside the tuned models stand two demonstrations, the best of eight
samples, and supervised tuning on the model's own rewarded samples.

Ours is `zotune fit` with an objective file, --max-score-calls and --max-new-tokens (ours), and the same for completions
sampled at temperature 1 (zotune-sampled). The rivals' settings are chosen on validation prompts with a seed of their
own, at 2,560 completions (768 on SmolLM2), among those with a KL divergence of at most 0.5: the best mean of the greedy
and the sampled reward. GRPO tunes all weights in float32 with AdamW, 32 completions a step; it runs in an environment
of its own in build/rivals, which this script makes. A budget counts the completions that are scored for training and
calibration; those of validation and test prompts are counted apart. Every run's weights are judged by the same code on
the test prompts: greedy reward, reward at temperature 1 (two samples a prompt), and KL(base ‖ tuned) in nats a token on
the base model's own samples. CPU seconds are those of one thread without imports.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from head_to_head_parts import methods, report, stories
from head_to_head_parts.judge import Judge
from head_to_head_parts.processes import Lines, cost_of
from head_to_head_parts.tasks import TASKS, Task
from head_to_head_parts.untuned import best_of_eight, demonstrated

BUDGETS = {"stories": (640, 1280, 2560), "smollm2": (768, 1536)}
"""Completions; settings are chosen at the largest budget of stories and the smallest of SmolLM2."""
SEEDS = {"stories": 3, "smollm2": 1}
CHOICE_SEED, MOST_KL = 100, 0.5
RESULTS = Path(__file__).with_name("results") / "head_to_head.jsonl"


def choose(task: Task, method: methods.Method, lines: Lines, judge: Judge) -> methods.Choice:
    """The settings with the best validation reward. Runs what is missing."""
    if len(method.choices) == 1:
        return method.choices[0]
    budget = max(BUDGETS["stories"]) if task.model == "stories" else min(BUDGETS["smollm2"])
    jobs = [methods.job_of(task, method, choice, CHOICE_SEED, [budget]) for choice in method.choices]
    keys = [[task.name, method.name, "choice", methods.describe(choice)] for choice in method.choices]
    methods.run(method, [job for job, key in zip(jobs, keys, strict=True) if not lines.find(key)])
    scored = []
    for choice, key in zip(method.choices, keys, strict=True):
        line = lines.find(key)
        if line is None:
            folder = methods.weights_of(task, method, choice, CHOICE_SEED, budget)
            line = lines.add(key, {**judge.scores(task, folder / "run", "validation"), **cost_of(folder)})
        scored.append((line["kl"] <= MOST_KL, line["greedy"] + line["sampled"], -line["kl"]))
    return method.choices[scored.index(max(scored))]


def run_untuned(task: Task, lines: Lines, judge: Judge) -> None:
    """The base model's scores, on SmolLM2 also with demonstrations and as the best of eight."""
    if not lines.find([task.name, "base"]):
        lines.add([task.name, "base"], judge.scores(task, methods.model_folder(task), "test"))
    if task.model == "smollm2":
        for name, measure in (("demonstrations", demonstrated), ("best-of-eight", best_of_eight)):
            if not lines.find([task.name, name]):
                lines.add([task.name, name], measure(task, judge.base(task)))


def run_method(task: Task, method: methods.Method, lines: Lines, judge: Judge, args: argparse.Namespace) -> None:
    choice = choose(task, method, lines, judge)
    budgets = list(map(int, args.budgets.split(","))) if args.budgets else BUDGETS[task.model]
    wanted = [(seed, budget) for seed in range(args.seeds or SEEDS[task.model]) for budget in budgets]
    missing = [w for w in wanted if not lines.find([task.name, method.name, *w])]
    if args.again:
        for seed, budget in missing:
            shutil.rmtree(methods.folder_of(task, method, choice, seed, budget), ignore_errors=True)
    for seed, budget in missing:
        every = BUDGETS[task.model] if method.whole else [budget]
        methods.run(method, [methods.job_of(task, method, choice, seed, every)])
        folder = methods.weights_of(task, method, choice, seed, budget)
        values: dict[str, Any] = {"choice": dict(choice), **judge.scores(task, folder / "run", "test")}
        lines.add([task.name, method.name, seed, budget], {**values, **cost_of(folder)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = {"ours": None, **methods.ON_STORIES, **methods.ON_SMOLLM2}
    parser.add_argument("--task", action="append", choices=list(TASKS), help="repeatable; default: those on stories")
    parser.add_argument("--only", action="append", choices=list(every), help="methods; repeatable")
    parser.add_argument("--seeds", type=int, help="seeds 0 to SEEDS - 1; default: 3 on stories, 1 on SmolLM2")
    parser.add_argument("--budgets", help="completions, separated by commas; default: 640,1280,2560 and 768,1536")
    parser.add_argument("--again", action="store_true", help="repeat the runs of the methods that are asked for")
    parser.add_argument("--only-report", action="store_true", help="print the tables and draw the picture")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results, one JSON line a run")
    parser.add_argument("--picture", type=Path, default=RESULTS.with_suffix(".svg"))
    args = parser.parse_args()
    if not stories.MODEL.is_dir():
        raise SystemExit(f"needs {stories.MODEL}")
    lines = Lines(args.out)
    tasks = [TASKS[name] for name in args.task or TASKS if args.task or TASKS[name].model == "stories"]
    asked = [("zotune" if name == "ours" else name) for name in args.only or every if name != "ours" or args.only]
    if not args.only_report:
        if args.again:
            names = {t.name for t in tasks}
            lines.drop(lambda key: key[0] in names and key[1] in asked and key[2] != "choice")
        judge = Judge()
        for task in tasks:
            run_untuned(task, lines, judge)
        for name in asked:
            for task in tasks:
                if name in methods.methods_of(task):
                    run_method(task, methods.methods_of(task)[name], lines, judge, args)
    print(report.tables(lines.all(), [t.name for t in tasks]))
    report.picture(lines.all(), [t.name for t in tasks], args.picture)


if __name__ == "__main__":
    main()
