"""Test scores of default settings and baselines: cases × methods × budgets × seeds with equal evaluations.

    python benchmarks/benchmark_suite.py                      # restartable: finished runs are read from suite.jsonl
    python benchmarks/benchmark_suite.py --case support-f1 --method auto --budget 600 --seeds 1
    python benchmarks/benchmark_suite.py --only-table --picture suite.png

Cases: the embedded encoder on the embedded data (macro-F1, accuracy), on SST-2 (cross-entropy, accuracy) and on CoLA
from a linear probe (macro-F1); stories260K for a word in its stories, for ROUGE-L to one story, and for a reward model
that is trained here. Budgets are 600 and 2,400 evaluations of 16 rows, for stories 240 and 960. `auto` has no options,
`mezo` a grid of five learning rates, random search two scales, the others the middle of the grid; `mezo` is also
calibrated once. For the encoder's metrics `auto` also tunes cross-entropy, scored by the metric, and draws batches that
are not stratified. Adam with gradients in all weights, 60 steps of 16 rows, is a reference, with the learning rate of
two that is better on the validation set. One JSON line per run: test scores before and after, the paired difference
with its error, which weights were kept, seconds. `--budget 200 --method auto` is a third of the evaluations.
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

import rewards
import torch

import zotune
from zotune import config
from zotune.events import ignore
from zotune.runs.plan import embedded_data, plan
from zotune.runs.session import Session
from zotune.search.journal import Journal

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BUDGETS, SEEDS = (600, 2400), 3
GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
THIRD = 200
"""Evaluations of `auto` that are compared with 600 of the other methods, by `--budget 200`."""
ADAM = "Adam, back-propagated"
PROXY = "auto, for cross-entropy"
UNSTRATIFIED = "auto, not stratified"
EDITION = "auto, first edition"
"""The calibration by a share of |L|, which earlier runs recorded."""
RATES, STEPS, SHARPNESS = (3e-5, 3e-4), 60, 20.0
METHODS: dict[str, dict[str, Any]] = {
    "auto": {},
    **{f"random-search {s:g}": {"optimizer": "random-search", "optimizer_args": {"sigma": s}} for s in (0.1, 0.5)},
    **{f"mezo {lr:g}": {"optimizer": "mezo", "learning_rate": lr, "eps": 1e-2} for lr in GRID},
    **{name: {"optimizer": name, "learning_rate": 1e-3, "eps": 1e-2} for name in ("es", "fzoo", "meazo", "hizoo")},
    "lozo": {"optimizer": "lozo", "learning_rate": 1e-3, "eps": 1e-2},
    "rank-sgd": {"optimizer": "rank-sgd"},
    "mezo auto": {"optimizer": "mezo", "learning_rate": "auto", "eps": "auto"},
    **{f"auto, steps x {x:g}": {"optimizer_args": {"cap": 3 * x}} for x in (0.1, 10, 100)},
    UNSTRATIFIED: {"stratify": False},
    EDITION: {"optimizer_args": {"edition": 1}},
    PROXY: {"objective": "cross-entropy", "guard": 0.0},
    ADAM: {},
}
STORIES = ("word", "rougeL", "reward-model")


def cases() -> dict[str, dict[str, Any]]:
    """Options of `zotune.fit` for the cases whose data exist."""
    found: dict[str, dict[str, Any]] = {
        f"support-{goal}": {"objective": goal, "init": "none"} for goal in ("f1", "accuracy")
    }
    if SHARED.is_dir():
        sst2 = {"dataset": str(SHARED / "sst2"), "task": "sst2", "head": "embedding", "train_size": 1000}
        found |= {f"sst2-{goal}": {**sst2, "objective": goal, "init": "none"} for goal in ("cross-entropy", "accuracy")}
        cola = {"dataset": str(SHARED / "cola"), "task": "cola", "head": "embedding", "init": "linear-probe"}
        found["cola-f1"] = {**cola, "objective": "f1", "train_size": 1000}
    if rewards.MODEL.is_dir():
        stories = {"model": str(rewards.MODEL), "max_new_tokens": rewards.TOKENS}
        found |= {f"stories-{goal}": {**stories, "objective": goal} for goal in STORIES}
    return found


def _loss(session: Session) -> float:
    """The validation loss of the current weights."""
    loss = session.validation.evaluate().loss
    assert loss is not None
    return loss


def adam(case: str, seed: int) -> dict[str, Any]:
    """Fine-tuning with gradients: the validation set selects one of two learning rates and three steps; test score."""
    best: dict[str, Any] = {}
    for rate in RATES:
        session = Session(
            plan(config.resolve({**cases()[case], "tune": "all", "seed": seed, "threads": 1}, None)), ignore
        )
        task, rows, model = session.task, session.train, session.loaded.model
        gold = torch.tensor([g[0] for g in rows.gold])
        before = session.test.score()
        if not best:
            best = {"before": before, "after": before, "loss": _loss(session)}
        for p in model.parameters():
            p.requires_grad_(True)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for step in range(1, STEPS + 1):
            chosen = list(session.batches.at(step).rows)
            embedded, head = task.embed([rows.tokens[i] for i in chosen]), session.loaded.linear_head
            logits = head(embedded) if head else SHARPNESS * embedded @ task.embed(task.label_descriptions).T
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, gold[chosen]).backward()
            optimizer.step()
            if step % (STEPS // 3) == 0 and (loss := _loss(session)) < best["loss"]:
                best |= {"loss": loss, "after": session.test.score()}
    difference = session.test.difference(best["before"], best["after"], seed)
    found = {"before": best["before"][1].value, "after": best["after"][1].value, "kept": "tuned"}
    return {**found, "gain": difference.value, "error": difference.error, "forwards": 0}


def by_metric(case: str, folder: Path, seed: int) -> dict[str, Any]:
    """Score of weights that were tuned for another objective, by the case's own metric."""
    original = {"dataset": str(embedded_data()), **cases()[case], "seed": seed, "threads": 1}
    tuned = {name: x for name, x in original.items() if name != "init"} | {"model": str(folder)}
    start, end = (Session(plan(config.resolve(x, None)), ignore) for x in (original, tuned))
    before, after = start.test.score(), end.test.score()
    difference = start.test.difference(before, after, seed)
    values = {"before": before[1].value, "tuned": after[1].value, "after": after[1].value}
    return {**values, "gain": difference.value, "error": difference.error}


def run(case: str, method: str, budget: int, seed: int) -> dict[str, Any]:
    if method == ADAM:
        found = adam(case, seed)
        return {**found, "gain": -found["gain"] if "cross-entropy" in case else found["gain"]}
    options = {**cases()[case], **METHODS[method]}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if case.startswith("stories"):
            options["dataset"], budget = str(rewards.prepare(home)), budget * 2 // 5
            spec = {"word": f"{rewards.__file__}:happy", "rougeL": "rougeL"}.get(options["objective"])
            options["objective"] = spec or f"reward-model:{rewards.reward_model(home / 'reward')}"
        found = zotune.fit(output_dir=str(home / "run"), max_evals=budget, seed=seed, threads=1, **options)
        lines = Journal.open(home / "run" / "journal.jsonl", read_only=True).lines
        proxy = by_metric(case, home / "run", seed) if method == PROXY else {}
    ahead: dict[str, Any] = next((x for x in lines if x["kind"] == "preflight"), {})
    sign = -1 if "cross-entropy" in case else 1
    return {
        "before": found.before.value,
        "tuned": found.tuned.value,
        "after": found.after.value,
        "gain": sign * found.difference.value + 0.0,
        "error": found.difference.error,
        "kept": found.kept,
        "probe": found.probe.value if found.probe else None,
        "forwards": found.forwards,
        "zero": found.zero_share,
        "share": found.best_share,
        "rollbacks": sum(x["kind"] == "rollback" for x in lines),
        "signal": ahead.get("r"),
        "seconds": round(time.monotonic() - began, 1),
        **proxy,
    }


def table(lines: Sequence[dict[str, Any]], budget: int) -> None:
    """Gains on the test set, pooled over seeds, ± one paired standard error, and how often they were kept."""
    mine = [x for x in lines if x["key"][2] == budget]
    if not mine:
        return
    names = [c for c in cases() if any(x["key"][0] == c for x in mine)]
    print(f"\n{budget} evaluations (stories {budget * 2 // 5})\n\n| method | {' | '.join(names)} |")
    print(f"|---|{'---|' * len(names)}")
    for method in METHODS:
        cells = []
        for case in names:
            found = [x for x in mine if x["key"][:2] == [case, method]]
            if not found:
                cells.append("")
                continue
            mean = statistics.mean(x["gain"] for x in found)
            error = sum((x["error"] or 0) ** 2 for x in found) ** 0.5 / len(found)
            kept = sum(x["kept"] == "tuned" for x in found)
            cells.append(f"{mean:+.3f} ± {error:.3f}, {kept} of {len(found)}")
        if any(cells):
            print(f"| {method} | {' | '.join(cells)} |")


def picture(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Gains in standard errors, one panel per case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [c for c in cases() if any(x["key"][0] == c for x in lines)]
    figure, axes = plt.subplots(1, len(names), figsize=(2.2 * len(names) + 1.5, 4.2), sharey=True, squeeze=False)
    colors = {budget: f"C{k}" for k, budget in enumerate((*BUDGETS, THIRD))}
    for axis, case in zip(axes[0], names, strict=True):
        for row, method in enumerate(reversed(METHODS)):
            for x in (x for x in lines if x["key"][:2] == [case, method]):
                color = colors[x["key"][2]]
                face = color if x["kept"] == "tuned" else "none"
                axis.errorbar(x["gain"], row, xerr=x["error"] or 0, fmt="o", color=color, mfc=face, ms=5)
        axis.axvline(0, color="0.7", lw=1)
        axis.set_title(case, fontsize=9)
    axes[0][0].set_yticks(range(len(METHODS)), list(reversed(METHODS)), fontsize=8)
    marks = [plt.Line2D([], [], color=c, marker="o", ls="") for c in colors.values()]
    figure.legend(marks, [f"{b} evaluations" for b in colors], ncols=len(colors), loc="lower left", fontsize=8)
    figure.supxlabel("gain on the test set, ± one paired standard error (filled: kept)", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=140)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("suite.jsonl"))
    parser.add_argument("--case", action="append", choices=list(cases()))
    parser.add_argument("--method", action="append", choices=list(METHODS))
    parser.add_argument("--budget", action="append", type=int, choices=(THIRD, *BUDGETS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    args.out.touch()

    def known() -> list[dict[str, Any]]:
        return [json.loads(line) for line in args.out.read_text().splitlines()]

    for budget in [] if args.only_table else args.budget or BUDGETS:
        for seed in range(args.seeds):
            for case in args.case or cases():
                for method in args.method or METHODS:
                    if method in (ADAM, PROXY) and (case.startswith("stories") or budget != BUDGETS[0]):
                        continue
                    if method == UNSTRATIFIED and case.startswith("stories"):
                        continue
                    if method == PROXY and case.endswith("cross-entropy"):
                        continue
                    key = [case, method, budget, seed]
                    if not any(x["key"] == key for x in known()):
                        line = {"key": key, **run(case, method, budget, seed)}
                        with args.out.open("a") as file:
                            file.write(json.dumps(line) + "\n")
    for budget in (THIRD, *BUDGETS):
        table(known(), budget)
    if args.picture:
        picture(known(), args.picture)


if __name__ == "__main__":
    main()
