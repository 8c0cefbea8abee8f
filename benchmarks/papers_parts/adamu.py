"""ZO-AdaMU (arXiv:2312.15184): six functions of two variables, and momentum on perturbation or gradient."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import zotune
from benchmarks.papers_parts import digits
from benchmarks.papers_parts.experiment import Experiment, Finding, Measured
from benchmarks.papers_parts.verdicts import is_below, shown
from zotune.errors import ZotuneError
from zotune.events import Event, StepDone

Function = tuple[Callable[[Tensor, Tensor], Tensor], tuple[float, float], tuple[float, float], float, int]
FUNCTIONS: dict[str, Function] = {  # formula, start, minimum, half width, steps
    "|x| + |y|": (lambda x, y: x.abs() + y.abs(), (2.0, -1.5), (0, 0), 3, 1000),
    "|x+y| + |x-y|/10": (lambda x, y: (x + y).abs() + (x - y).abs() / 10, (2.0, 1.0), (0, 0), 3, 1000),
    "(x+y)² + (x-y)²/10": (lambda x, y: (x + y) ** 2 + (x - y) ** 2 / 10, (2.0, 1.0), (0, 0), 3, 1000),
    "|x|/10 + |y|": (lambda x, y: x.abs() / 10 + y.abs(), (2.0, -1.5), (0, 0), 3, 1000),
    "Beale": (
        lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2,
        (1.0, 1.5),
        (3, 0.5),
        4.5,
        2000,
    ),
    "Rosenbrock": (lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2, (-1.0, 1.5), (1, 1), 4.5, 6000),
}
METHODS = ("mezo", "zo-adamu", "Adam", "AdaMax")
RATES = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)
NEAR = 0.05
KEPT = 100
"""Points of a path that are kept for the figure."""


class Point(nn.Module):
    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))


def descend(function: Function, method: str, rate: float, steps: int) -> list[list[float]]:
    """The path of one method; it stops far outside the figure."""
    formula, start, _, width, _ = function
    point, path = Point(start), [list(start)]
    if method in ("Adam", "AdaMax"):
        kind = torch.optim.Adam if method == "Adam" else torch.optim.Adamax
        optimizer = kind(point.parameters(), lr=rate)
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: max(1 - t / steps, 0.0))
        for _ in range(steps):
            optimizer.zero_grad()
            formula(*point.w).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            decay.step()
            path.append(point.w.tolist())
        return path

    def value(model: Any, batch: Any) -> float:
        return float(formula(*model.w.detach()))

    def seen(event: Event) -> None:
        if isinstance(event, StepDone):
            path.append(point.w.tolist())
            if not max(map(abs, path[-1])) < 10 * width:
                raise digits.Spent

    options = {"lr": rate, "eps": 1e-3, "schedule": "linear"}
    tuner = zotune.Tuner(point, value, method, direction="minimize", optimizer_args=options, emit=seen)
    try:
        tuner.fit(max_steps=steps, eval_steps=10**9)
    except (digits.Spent, ZotuneError):
        path[-1] = [math.inf, math.inf]
    return path


def solve(name: str, method: str) -> Measured:
    """End, distance and path; the learning rate is tuned on a tenth of the steps, then the better of two."""
    function = FUNCTIONS[name]
    minimum, steps = function[2], function[4]
    ends = {r: math.dist(descend(function, method, r, steps // 10)[-1], minimum) for r in RATES}
    paths = {r: descend(function, method, r, steps) for r in sorted(RATES, key=lambda r: ends[r])[:2]}
    rate = min(paths, key=lambda r: math.dist(paths[r][-1], minimum))
    path = paths[rate]
    thinned = [*path[:: max(len(path) // KEPT, 1)], path[-1]]
    return {
        "rate": rate,
        "end": path[-1],
        "distance": math.dist(path[-1], minimum),
        "path": [[round(x, 4) for x in p] for p in thinned],
    }


def distances(cells: Mapping[str, Measured], method: str) -> dict[str, float]:
    return {name: cells[f"{name}, {method}"]["distance"] for name in FUNCTIONS}


def function_table(cells: Mapping[str, Measured]) -> tuple[str, ...]:
    lines = [
        "| function | steps | method | learning rate | end | distance to the minimum |",
        "|---|---|---|---|---|---|",
    ]
    for name, function in FUNCTIONS.items():
        for method in METHODS:
            cell = cells[f"{name}, {method}"]
            end = f"({cell['end'][0]:.3f}, {cell['end'][1]:.3f})"
            escaped = name.replace("|", "\\|")
            row = f"{escaped} | {function[4]} | {method} | {cell['rate']:g} | {end} | {cell['distance']:.2g}"
            lines.append(f"| {row} |")
    return tuple(lines)


def judge_adamu(cells: Mapping[str, Measured]) -> Finding:
    solved = sum(d < NEAR for d in distances(cells, "zo-adamu").values())
    return Finding(f"{solved} of 6 minima found", "holds" if solved == 6 else "does not hold", function_table(cells))


def judge_mezo(cells: Mapping[str, Measured]) -> Finding:
    solved = sum(d < NEAR for d in distances(cells, "mezo").values())
    return Finding(f"MeZO finds {solved} of 6 minima", "holds" if solved == 0 else "does not hold")


def judge_first_order(cells: Mapping[str, Measured]) -> Finding:
    solved = {m: sum(d < NEAR for d in distances(cells, m).values()) for m in ("zo-adamu", "Adam", "AdaMax")}
    ours = ", ".join(f"{m} {count}" for m, count in solved.items())
    verdict = "holds" if solved["zo-adamu"] >= max(solved.values()) else "does not hold"
    return Finding(f"minima found: {ours}", verdict)


SEEDS = range(3)
QUERIES = 12_800
GRID: dict[str, tuple[str, dict[str, Any], tuple[float, ...]]] = {
    "mezo": ("mezo", {}, (1e-3, 3e-3)),
    **{f"AdaMU, {on}": ("zo-adamu", {"on": on}, (1e-3, 3e-3)) for on in ("perturbation", "gradient")},
    **{
        f"{momentum}, {on}": ("zo-adamm", {"momentum": momentum, "on": on}, (1e-3, 3e-3))
        for momentum in ("adam", "adamw", "adamax", "adamm", "rmsgrad")
        for on in ("perturbation", "gradient")
    },
}


def run(label: str, lr: float, seed: int) -> Measured:
    name, options, _ = GRID[label]
    return digits.tune(name, {"lr": lr, "eps": 1e-3, **options}, seed, queries=QUERIES, fine_tune=True)


def best(cells: Mapping[str, Measured], label: str, key: str = "accuracy") -> list[float]:
    runs = [[cells[f"{label} {lr:g} seed {s}"] for s in SEEDS] for lr in GRID[label][2]]
    chosen = min(runs, key=lambda r: sum(x["loss"] for x in r))
    return [x[key] for x in chosen]


def momentum_table(cells: Mapping[str, Measured]) -> tuple[str, ...]:
    lines = ["| momentum | training loss | test accuracy |", "|---|---|---|"]
    lines += [f"| {label} | {shown(best(cells, label, 'loss'))} | {shown(best(cells, label))} |" for label in GRID]
    return tuple(lines)


def judge_momentum(cells: Mapping[str, Measured]) -> Finding:
    """Whether AdaMU on the perturbation has the highest accuracy of the table."""
    ours, others = best(cells, "AdaMU, perturbation"), [x for x in GRID if x not in ("mezo", "AdaMU, perturbation")]
    top = max(others, key=lambda x: sum(best(cells, x)))
    verdict = is_below(best(cells, top), ours)
    text = f"accuracy AdaMU on the perturbation {shown(ours)}; the best other, {top}, {shown(best(cells, top))}"
    return Finding(text, verdict, momentum_table(cells))


def judge_places(cells: Mapping[str, Measured]) -> Finding:
    pairs = [x.removesuffix(", gradient") for x in GRID if x.endswith(", gradient")]
    verdicts = {x: is_below(best(cells, f"{x}, gradient"), best(cells, f"{x}, perturbation")) for x in pairs}
    better, worse = (sum(v == word for v in verdicts.values()) for word in ("holds", "does not hold"))
    ours = f"on the perturbation {better} of {len(pairs)} are more accurate, {worse} less accurate, the others alike"
    verdict = "holds" if better > len(pairs) / 2 else "does not hold" if worse > better else "cannot be told here"
    return Finding(ours, verdict)


def judge_beats_mezo(cells: Mapping[str, Measured]) -> Finding:
    pair = {x: best(cells, x) for x in ("mezo", "AdaMU, perturbation")}
    ours = ", ".join(f"{x} {shown(v)}" for x, v in pair.items())
    return Finding(f"accuracy {ours}", is_below(pair["mezo"], pair["AdaMU, perturbation"]))


def momentum(name: str, place: str, claim: str, judge: Any) -> Experiment:
    setting = "perceptron, moved digits, 12,800 queries, 3 seeds, the better of two learning rates"
    cells = {f"{x} {lr:g} seed {s}": functools.partial(run, x, lr, s) for x in GRID for lr in GRID[x][2] for s in SEEDS}
    return Experiment(name, "ZO-AdaMU", place, claim, setting, cells, judge, group="momentum")


def functions(name: str, claim: str, judge: Any) -> Experiment:
    cells = {f"{x}, {m}": functools.partial(solve, x, m) for x in FUNCTIONS for m in METHODS}
    setting = "two variables, learning rate tuned"
    return Experiment(name, "ZO-AdaMU", "Figure 2", claim, setting, cells, judge, group="functions")


EXPERIMENTS = (
    functions("functions", "ZO-AdaMU reaches the minima of all six functions", judge_adamu),
    functions("functions-mezo", "MeZO finds none of them", judge_mezo),
    functions("functions-first-order", "ZO-AdaMU does as well as Adam and AdaMax", judge_first_order),
    momentum("momentum", "Table 3", "AdaMU on the perturbation is the best of all schedules", judge_momentum),
    momentum("momentum-place", "Table 3", "momentum on the perturbation beats momentum on the gradient", judge_places),
    momentum("adamu", "Tables 1, 2", "ZO-AdaMU is more accurate than MeZO", judge_beats_mezo),
)
