"""The results of benchmarks/head_to_head.py as Markdown tables and one picture. Knows result lines alone."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]
NAMES = {
    "zotune": "zotune, default",
    "zotune-sampled": "zotune --temperature 1",
    "grpo": "GRPO (TRL)",
    "grpo-lora": "GRPO (TRL), LoRA",
    "sft": "supervised, own samples",
    "es": "ES at Scale",
    "random-search": "random search",
}
COLORS = dict(zip(NAMES, ("#c0392b", "#e08e45", "#2c5f8a", "#6fa3d0", "#8e5ea2", "#7f8c3a", "#8a8a8a"), strict=True))
SCORES = {"greedy": "greedy", "sampled": "sampled", "right": "right"}
MORE = {"right": "right", "kl_unrelated": "KL on other texts"}
UNTUNED = {"demonstrations": "two demonstrations", "best-of-eight": "best of eight"}


def runs(lines: Sequence[Line], task: str, method: str, budget: int | None = None) -> list[Line]:
    """The lines of runs (task, method, seed, budget), by budget."""
    found = [x for x in lines if x["key"][:2] == [task, method] and len(x["key"]) == 4 and x["key"][2] != "choice"]
    return sorted((x for x in found if budget in (None, x["key"][3])), key=lambda x: x["key"][3])


def mean(rows: Sequence[Line], name: str) -> float:
    return statistics.mean(x[name] for x in rows)


def cell(rows: Sequence[Line], name: str, digits: int) -> str:
    """Mean and, of several runs, the range."""
    values = [x[name] for x in rows]
    text = f"{statistics.mean(values):.{digits}f}"
    return text + (f" ({min(values):.{digits}f}–{max(values):.{digits}f})" if len(values) > 1 and digits > 1 else "")


def measured(line: Line) -> str:
    return ", ".join(f"{line[name]:.3f} {title}" for name, title in SCORES.items() if name in line)


def tables(lines: Sequence[Line], tasks: Sequence[str]) -> str:
    text = []
    for task in tasks:
        base = next((x for x in lines if x["key"] == [task, "base"]), None)
        if base is None:
            continue
        text += [f"**{task}**: base model {measured(base)}", ""]
        untuned = {x["key"][1]: x for x in lines if x["key"][0] == task and x["key"][1] in UNTUNED}
        text += [f"{UNTUNED[name]}: {measured(x)}\n" for name, x in untuned.items()]
        more = [name for name in MORE if name in base]
        names = ["greedy", "sampled", *(MORE[name] for name in more), "KL", "completions", "held-out", "CPU s", "MiB"]
        text += [f"| method | budget | runs | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
        for method, title in NAMES.items():
            for budget in sorted({x["key"][3] for x in runs(lines, task, method)}):
                rows = runs(lines, task, method, budget)
                values = [cell(rows, name, 3) for name in ("greedy", "sampled", *more, "kl")]
                values += [cell(rows, name, 0) for name in ("completions", "held_out")]
                values += [cell(rows, "cpu_seconds", 1), cell(rows, "peak_mib", 0)]
                text.append(f"| {title} | {budget} | {len(rows)} | {' | '.join(values)} |")
        text += ["", *time_to_reward(lines, task), *sampled_gains(lines, task), ""]
    return "\n".join([*text, *choices(lines, tasks)])


def time_to_reward(lines: Sequence[Line], task: str) -> list[str]:
    """The CPU seconds in which zotune's mean greedy reward, linear between budgets, reaches GRPO's."""
    ours = [runs(lines, task, "zotune", b) for b in sorted({x["key"][3] for x in runs(lines, task, "zotune")})]
    points = [(0.0, next(x["greedy"] for x in lines if x["key"] == [task, "base"]))]
    points += [(mean(rows, "cpu_seconds"), mean(rows, "greedy")) for rows in ours]
    text = []
    for budget in sorted({x["key"][3] for x in runs(lines, task, "grpo")}) if ours else ():
        theirs = runs(lines, task, "grpo", budget)
        goal, seconds = mean(theirs, "greedy"), mean(theirs, "cpu_seconds")
        reached = None
        for (before, low), (after, high) in itertools.pairwise(points):
            if reached is None and high >= goal:
                part = (goal - low) / (high - low) if high > low else 0.0
                reached = before + max(part, 0.0) * (after - before)
        said = "not reached" if reached is None else f"{reached:.1f} s, {reached / seconds:.2f} of its {seconds:.1f} s"
        text.append(f"- CPU seconds to GRPO's greedy reward at {budget} ({goal:.3f}): {said}")
    return text


def sampled_gains(lines: Sequence[Line], task: str) -> list[str]:
    """The gain of the sampled reward as a share of GRPO's, at each number of completions."""
    base = next(x["sampled"] for x in lines if x["key"] == [task, "base"])
    text = []
    for method in ("zotune", "zotune-sampled"):
        for budget in sorted({x["key"][3] for x in runs(lines, task, method)}):
            theirs = runs(lines, task, "grpo", budget)
            gain = mean(theirs, "sampled") - base if theirs else 0.0
            if gain > 0:
                share = (mean(runs(lines, task, method, budget), "sampled") - base) / gain
                text.append(f"- sampled gain of {NAMES[method]} at {budget}: {share:.2f} of GRPO's {gain:.3f}")
    return text


def choices(lines: Sequence[Line], tasks: Sequence[str]) -> list[str]:
    """What the rivals' settings scored on validation prompts."""
    found = [x for x in lines if len(x["key"]) == 4 and x["key"][2] == "choice" and x["key"][0] in tasks]
    if not found:
        return []
    text = ["Settings tried on validation prompts:", "", "| task | method | settings | greedy | sampled | KL |"]
    text.append("|---|---|---|---|---|---|")
    for x in found:
        task, method, _, choice = x["key"]
        text.append(f"| {task} | {NAMES[method]} | {choice} | {x['greedy']:.3f} | {x['sampled']:.3f} | {x['kl']:.3f} |")
    return text


def picture(lines: Sequence[Line], tasks: Sequence[str], path: Path) -> None:
    """Greedy (line) and sampled (dashed) reward by completions, CPU seconds and KL divergence, a row for each task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes_of = (("completions", "completions"), ("cpu_seconds", "CPU seconds"), ("kl", "KL, nats a token"))
    tasks = [t for t in tasks if any(x["key"] == [t, "base"] for x in lines)]
    if not tasks:
        return
    figure, grid = plt.subplots(len(tasks), 3, figsize=(11, 2.6 * len(tasks)), squeeze=False, sharey="row")
    for row, task in zip(grid, tasks, strict=True):
        base = next(x for x in lines if x["key"] == [task, "base"])
        for axes, (name, title) in zip(row, axes_of, strict=True):
            for method, label in NAMES.items():
                if not runs(lines, task, method):
                    continue
                rows = [runs(lines, task, method, b) for b in sorted({x["key"][3] for x in runs(lines, task, method)})]
                for score, style in (("greedy", "-"), ("sampled", "--")):
                    x = [0.0, *(mean(r, name) for r in rows)]
                    y = [base[score], *(mean(r, score) for r in rows)]
                    drawn = {"color": COLORS[method], "linestyle": style, "marker": "o", "markersize": 3}
                    axes.plot(x, y, label=label if score == "greedy" else None, linewidth=1.3, **drawn)
            axes.spines[["top", "right"]].set_visible(False)
            if task == tasks[-1]:
                axes.set_xlabel(title)
        row[0].set_ylabel(f"{task}: reward")
    grid[0][0].legend(frameon=False, fontsize=8)
    figure.text(0.99, 0.005, "line: greedy, dashed: temperature 1; test prompts, mean of seeds", ha="right", fontsize=8)
    figure.tight_layout(rect=(0, 0.015, 1, 1))
    figure.savefig(path)
    plt.close(figure)


__all__ = ["picture", "tables"]
