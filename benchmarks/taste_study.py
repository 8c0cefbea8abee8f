"""What one sitting teaches: scripted people of stated taste answer the questions of `-o human`, and their own measure
on held-out prompts shows what the model has learnt.

    python benchmarks/taste_study.py                                   # three tastes, 10 % wrong answers, 60 answers
    python benchmarks/taste_study.py --answers 20,40,60,100,200 --wrong 5,10,20 --seeds 3
    python benchmarks/taste_study.py --seeds 3 learn=perturbed               # without the answers so far; learn=answers
    python benchmarks/taste_study.py --tastes dog --answers 100 wish         # states the wish where the page offers it
    python benchmarks/taste_study.py --report                                # table and picture of what is there

stories260K continues openings of stories: 100 to train on, 20 for validation, 120 for the test, as in
benchmarks/rare_words.py. A person answers through the queue of questions that page and terminal use, without a browser:

    happy     common  the story with a word that begins with "happy" is better
    bigrams   graded  the story with the larger share of distinct pairs of words is better, from a difference of .05 on
    dog       rare    the story with a word that begins with "dog"; the base model writes none greedily

Where their measure is equal they answer "tie", or "both bad" where neither story has the word; in a share of answers
they choose a side by chance. A line of the file is one run of `zotune.fit` with so many questions of tuning and default
options: the measure of greedy stories before and after, the difference with its standard error over the test prompts,
the KL divergence from the base model, and CPU seconds of one thread after the imports. The weights are those after the
last step, whether they were kept or not. Finished runs are read from --out and not repeated. Needs stories260K in
../shared.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from head_to_head_parts import stories
from head_to_head_parts.processes import Lines, cpu_seconds

TASTES = {"happy": "common", "bigrams": "graded", "dog": "rare"}
WISH = "wish"
"""The flag with which the person states the wish below, once the page offers it."""
WISHES = {"happy": "A story about happy friends.", "dog": "A story about a dog."}
DIFFERENT = 0.05
JUDGED = 1
OUT = Path(__file__).parent / "results" / "taste_study.jsonl"


def measure(taste: str, text: str) -> float:
    """A person's own measure of a story, in [0, 1]."""
    words = re.findall(r"[a-z']+", text.lower())
    if taste == "bigrams":
        pairs = list(pairwise(words))
        return len(set(pairs)) / len(pairs) if pairs else 0.0
    return float(any(word.startswith(taste) for word in words))


class Person(threading.Thread):
    """Answers the questions of a run directory until the run ends. wrong: share of answers that are chance."""

    def __init__(self, folder: Path, taste: str, wrong: float, seed: int, wish: str = "") -> None:
        super().__init__(daemon=True)
        self.wish = wish
        self.folder, self.taste, self.wrong = folder, taste, wrong
        self.seed = seed
        self.counts = {"chosen": 0, "tie": 0, "bad": 0}
        self.reports: list[Any] = []

    def run(self) -> None:
        from zotune.humans.ratings import Ratings
        from zotune.humans.store import FILE_NAME

        while not (self.folder / FILE_NAME).exists():
            time.sleep(0.05)
        with Ratings(self.folder) as store:
            while True:
                question, progress = store.next_question(), store.progress()
                if self.wish and (progress.report or {}).get("wider") and progress.wish != self.wish:
                    store.set_wish(self.wish)
                if progress.report not in self.reports[-1:]:
                    self.reports.append(progress.report)
                if question is not None:
                    store.record(question.id, *self.verdict(question.completions))
                elif progress.done:
                    return
                else:
                    time.sleep(0.05)

    def verdict(self, texts: Sequence[str]) -> tuple[str, str, str]:
        """The verdict, the rater's name, which is none, and the worst of several texts, where one is."""
        values = [measure(self.taste, text) for text in texts]
        best, worst, chance = max(values), "", random.Random(f"{self.seed} {sorted(texts)}")
        if chance.random() < self.wrong:
            verdict = str(texts.index(chance.choice(sorted(texts))) + 1)
        elif best - min(values) < DIFFERENT:
            verdict = "bad" if best == 0 else "tie"
        else:
            verdict, low = str(values.index(best) + 1), sorted(values)
            worst = str(values.index(low[0]) + 1) if len(low) > 2 and low[1] - low[0] >= DIFFERENT else ""
        self.counts[verdict if verdict in self.counts else "chosen"] += 1
        return verdict, "", worst


def run_one(taste: str, wrong: float, answers: int, seed: int, flags: dict[str, Any], wish: str = "") -> dict[str, Any]:
    """One sitting of so many answers. wish: what the person says where the page asks for it."""
    from head_to_head_parts.evaluation import Generator, kl_divergence

    import zotune
    from zotune.runs.export_step import export_step

    splits, began = stories.splits(stories.RARE_WORDS), cpu_seconds()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stories.write_splits({k: [{"prompt": p} for p in v] for k, v in splits.items()}, folder / "data")
        person = Person(folder / "run", taste, wrong, seed, wish)
        person.start()
        result = zotune.fit(
            model=str(stories.MODEL),
            dataset=str(folder / "data"),
            objective="human",
            objective_args={"questions": str(answers + JUDGED), "judged": str(JUDGED), **flags},
            max_new_tokens=stories.TOKENS,
            output_dir=str(folder / "run"),
            seed=seed,
        )
        person.join()
        seconds = cpu_seconds() - began
        export_step(folder / "run", folder / "last", result.steps)
        tuned, base = Generator(folder / "last", stories.MODEL), Generator(stories.MODEL, stories.MODEL)
        prompts = splits["test"]
        before, after = ([measure(taste, x) for x in g.complete(prompts, stories.TOKENS)] for g in (base, tuned))
        kl = kl_divergence(tuned, base, prompts[:32], stories.TOKENS)
    gaps = [y - x for x, y in zip(before, after, strict=True)]
    last = next((r["predicted"] for r in reversed(person.reports) if r and r["predicted"]), None)
    return {
        "before": statistics.mean(before),
        "after": statistics.mean(after),
        "gain": statistics.mean(gaps),
        "error": statistics.stdev(gaps) / math.sqrt(len(gaps)),
        "kl": kl,
        "steps": result.steps,
        "answers": person.counts,
        "predicted": last,
        "cpu_seconds": seconds,
    }


def kind(line: dict[str, Any]) -> tuple[Any, ...]:
    """What a run has in common with those of other seeds: taste, share of wrong answers, answers, and flags."""
    taste, wrong, answers, _, *flags = line["key"]
    return taste, wrong, answers, " ".join(flags)


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Means over the seeds; the error is that of the mean, from seeds and prompts: the larger of the two."""
    head = "| taste | wrong | answers | options | seeds | before | after | gain | KL | decided | CPU s |"
    out = [head, "|---|" + "---|" * 10]
    for key in sorted({kind(x) for x in lines}, key=lambda k: ([*TASTES].index(k[0]), k[1:])):
        runs = [x for x in lines if kind(x) == key]
        mean = {k: statistics.mean(x[k] for x in runs) for k in ("before", "after", "gain", "kl", "cpu_seconds")}
        within = statistics.mean(x["error"] for x in runs)
        between = statistics.stdev(x["gain"] for x in runs) / math.sqrt(len(runs)) if len(runs) > 1 else 0.0
        options = key[3] or "default"
        decided = statistics.mean(x["answers"]["chosen"] / sum(x["answers"].values()) for x in runs)
        out.append(
            f"| {key[0]} | {key[1]:.0%} | {key[2]} | {options} | {len(runs)} | {mean['before']:.2f} "
            f"| {mean['after']:.2f} | {mean['gain']:+.2f} ± {max(within, between):.2f} | {mean['kl']:.2f} "
            f"| {decided:.0%} | {mean['cpu_seconds']:.1f} |"
        )
    return "\n".join(out)


def picture(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Gain against answers, one line a taste and set of options, as SVG; without other libraries."""
    width, height, colours = 640, 360, ("#2c6a5a", "#9a5b13", "#4a5fa5")
    dashes = {"": "none", "learn=perturbed": "6 4", "learn=answers": "2 3", WISH: "10 3"}
    most = max(x["key"][2] for x in lines)

    def at(answers: float, gain: float) -> tuple[float, float]:
        return 60 + 540 * answers / most, 310 - 270 * (gain + 0.1) / 1.1

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">']
    parts.append(f'<rect width="{width}" height="{height}" fill="#fffefb"/>')
    for gain in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = at(0, gain)
        parts.append(
            f'<path d="M{x} {y:.1f}H600" stroke="#e2dccf"/><text x="20" y="{y + 4:.1f}" font-size="12">{gain}</text>'
        )
    for answers in sorted({x["key"][2] for x in lines} | {0}):
        x, _ = at(answers, 0)
        parts.append(f'<text x="{x - 8:.1f}" y="330" font-size="12">{answers}</text>')
    for taste, options in sorted({(k[0], k[3]) for k in map(kind, lines)}):
        mine, points = [x for x in lines if (kind(x)[0], kind(x)[3]) == (taste, options)], [at(0, 0.0)]
        colour = colours[[*TASTES].index(taste)]
        for answers in sorted({x["key"][2] for x in mine}):
            points.append(at(answers, statistics.mean(x["gain"] for x in mine if x["key"][2] == answers)))
        path_data = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dash = dashes.get(options, "1 4")
        line = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        parts.append(f'<path d="{path_data}" {line}/>')
        x, y = points[-1]
        label = f"{taste} {options}".strip()
        parts.append(f'<text x="{x - 110:.1f}" y="{y - 6:.1f}" font-size="10" fill="{colour}">{label}</text>')
    parts.append('<text x="220" y="352" font-size="12">answers; gain of the person\'s own measure</text></svg>')
    path.write_text("\n".join(parts) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tastes", default=",".join(TASTES))
    parser.add_argument("--wrong", default="10", help="percent, comma separated")
    parser.add_argument("--answers", default="60")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("flags", nargs="*", help="options of the objective, name=value; or wish")
    arguments = parser.parse_args()
    flags, lines = dict(x.split("=", 1) for x in arguments.flags if x != WISH), Lines(arguments.out)
    wanted = [
        (taste, int(wrong) / 100, int(answers), seed)
        for seed in range(arguments.seeds)
        for answers in arguments.answers.split(",")
        for wrong in arguments.wrong.split(",")
        for taste in arguments.tastes.split(",")
    ]
    for taste, wrong, answers, seed in wanted if not arguments.report else ():
        key = [taste, wrong, answers, seed, *arguments.flags]
        if lines.find(key) is None:
            wish = WISHES.get(taste, "") if WISH in arguments.flags else ""
            print(json.dumps(lines.add(key, run_one(taste, wrong, answers, seed, flags, wish))), flush=True)
    if done := lines.all():
        print(table(done))
        picture(done, arguments.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
