"""The README's figure, from the results of `rewards.py` and `benchmark_suite.py`.

    python benchmarks/readme_figure.py          # writes docs/figures/scores.png

Left: one goal scored in six ways, before and after tuning. Right: ROUGE-L against the budget, with baselines. Runs no
model. Needs matplotlib: `pip install -e .[examples]`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SCORERS = {
    "python": "Python function",
    "exec": "program",
    "http": "HTTP server",
    "judge": "judge of pairs",
    "reward-model": "reward model",
    "human": "person (scripted)",
}
MEZO_LABEL, SEARCH_LABEL = "MeZO, best of 4 learning rates", "random search, better of 2 scales"
TUNED, BASE, OTHER = "#1b6ca8", "#b8bec4", "#7a828a"
BUDGETS = {200: 80, 600: 240, 2400: 960}
"""Budget in benchmark_suite.py: evaluations of the stories."""


def read(name: str) -> list[dict[str, Any]]:
    """The rows of a results file; a repeated key counts once, with its last row."""
    rows = [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]
    return list({json.dumps(r["key"]): r for r in rows}.values())


def shares() -> dict[str, tuple[float, float]]:
    """Share of test stories with the word, before and after, by scorer, with default settings."""
    rows = {r["key"][0]: r["happy"] for r in read("rewards.jsonl") if r["key"][1] == "default"}
    return {label: (rows[name][0], rows[name][1]) for name, label in SCORERS.items()}


def rouge() -> tuple[float, list[tuple[int, float, float, float]], dict[str, tuple[int, float]]]:
    """Test ROUGE-L of the base model; (evaluations, mean, least, most) of `auto` over seeds; the best baselines."""
    rows = [r for r in read("suite.jsonl") if r["key"][0] == "stories-rougeL"]
    curve = []
    for budget, evaluations in BUDGETS.items():
        scores = [r["before"] + r["gain"] for r in rows if r["key"][1] == "auto" and r["key"][2] == budget]
        curve.append((evaluations, sum(scores) / len(scores), min(scores), max(scores)))
    baselines = {}
    for label, prefix in ((MEZO_LABEL, "mezo 0"), (SEARCH_LABEL, "random-search")):
        found = [r["before"] + r["gain"] for r in rows if r["key"][1].startswith(prefix) and r["key"][2] == 600]
        baselines[label] = (BUDGETS[600], max(found))
    return rows[0]["before"], curve, baselines


def draw(path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.1))
    draw_shares(left, shares())
    draw_rouge(right, *rouge())
    figure.tight_layout(w_pad=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_shares(axes: Any, rows: dict[str, tuple[float, float]]) -> None:
    for place, (before, after) in enumerate(reversed(rows.values())):
        axes.plot([before, after], [place, place], color=TUNED, lw=5, alpha=0.25, solid_capstyle="butt", zorder=1)
        axes.plot(before, place, "o", color=OTHER, ms=9)
        axes.plot(after, place, "o", color=TUNED, ms=11)
        axes.annotate(f"{100 * after:.0f} %", (after, place), (9, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), list(reversed(rows)))
    axes.set(xlim=(0, 1.12), ylim=(-0.5, len(rows) + 0.1))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    before, after = next(iter(rows.values()))
    for x, text, color in ((before, "base model", OTHER), (after, "tuned", TUNED)):
        axes.annotate(text, (x, len(rows) - 0.55), ha="center", color=color, weight="bold")
    axes.set_title("Anything that scores can tune a model", loc="left", weight="bold")
    axes.set_xlabel("test stories that contain a happy word")
    axes.tick_params(axis="y", length=0)


def draw_rouge(
    axes: Any, base: float, curve: Sequence[tuple[int, float, float, float]], baselines: dict[str, tuple[int, float]]
) -> None:
    x = [0, *(row[0] for row in curve)]
    axes.axhline(base, color=BASE, lw=1.5, ls="--", zorder=1)
    axes.annotate("base model", (960, base), (0, 6), textcoords="offset points", ha="right", color=OTHER)
    axes.fill_between(x, [base, *(r[2] for r in curve)], [base, *(r[3] for r in curve)], color=TUNED, alpha=0.15, lw=0)
    axes.plot(x, [base, *(r[1] for r in curve)], "o-", color=TUNED, lw=2.5, ms=8)
    axes.annotate("zotune, default settings", (960, 0.87), ha="right", va="bottom", color=TUNED, weight="bold")
    for label, (evaluations, score) in baselines.items():
        axes.plot(evaluations, score, "D", color=OTHER, ms=8)
        axes.annotate(label, (evaluations, score), (10, 0), textcoords="offset points", va="center", color="#444")
    axes.set(xlim=(-15, 1000), ylim=(0, 1))
    axes.set_xticks(x)
    axes.set_title("A few hundred evaluations, no gradient", loc="left", weight="bold")
    axes.set_xlabel("evaluations (one batch of 16 prompts at one point)")
    axes.set_ylabel("ROUGE-L to one story, test prompts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "scores.png")
    draw(parser.parse_args().out)


if __name__ == "__main__":
    main()
