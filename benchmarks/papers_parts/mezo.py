"""MeZO (arXiv:2305.17333): directions a step, schedules, group norms, one point a step, and gradients beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.papers_parts import digits
from benchmarks.papers_parts.experiment import Experiment, Finding, Measured
from benchmarks.papers_parts.verdicts import is_below, is_equal, shown

SEEDS = range(3)
QUERIES = 12_800
"""Queries of single rows a run: 100 steps of two points on 64 rows."""
RATES = (1e-3, 3e-3)
BASE: dict[str, Any] = {"eps": 1e-3}
SETTING = "perceptron, moved digits, 12,800 queries, 3 seeds, the better of two learning rates by training loss"
TOLERANCE = 0.02
"""Test accuracies closer than this are the same."""


def grid(
    variants: Mapping[str, dict[str, Any]],
    rates: Sequence[float] = RATES,
    optimizer: str = "mezo",
    scaled: Mapping[str, float] | None = None,
) -> dict[str, Callable[[], Measured]]:
    """A cell for each variant, learning rate and seed. scaled: a factor on the rates of a variant."""
    cells = {}
    for name, options in variants.items():
        for rate in rates:
            lr = rate * (scaled or {}).get(name, 1.0)
            for seed in SEEDS:
                run = functools.partial(
                    digits.tune,
                    options.get("optimizer", optimizer),
                    {**BASE, "lr": lr, **{k: v for k, v in options.items() if k != "optimizer"}},
                    seed,
                    queries=QUERIES,
                    fine_tune=True,
                )
                cells[f"{name} {lr:g} seed {seed}"] = run
    return cells


def best(cells: Mapping[str, Measured], variant: str) -> tuple[str, list[Measured]]:
    """The learning rate of the smallest mean training loss of a variant, and its runs by seed."""
    rates = dict.fromkeys(
        cell.removeprefix(f"{variant} ").partition(" seed ")[0] for cell in cells if cell.startswith(f"{variant} ")
    )
    runs = {r: [cells[f"{variant} {r} seed {seed}"] for seed in SEEDS] for r in rates}
    rate = min(runs, key=lambda r: sum(x["loss"] for x in runs[r]))
    return rate, runs[rate]


def accuracies(cells: Mapping[str, Measured], variant: str) -> list[float]:
    return [x["accuracy"] for x in best(cells, variant)[1]]


def losses(cells: Mapping[str, Measured], variant: str) -> list[float]:
    return [x["loss"] for x in best(cells, variant)[1]]


def listed(cells: Mapping[str, Measured], variants: Sequence[str]) -> str:
    return ", ".join(f"{v} {shown(accuracies(cells, v))}" for v in variants)


def table(cells: Mapping[str, Measured], variants: Sequence[str]) -> tuple[str, ...]:
    """Rows of Markdown: each variant with its learning rate, losses, accuracy, queries and CPU seconds."""
    lines = [
        "| variant | learning rate | training loss | test accuracy | queries | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for v in variants:
        rate, runs = best(cells, v)
        numbers = [[x[k] for x in runs] for k in ("loss", "accuracy", "queries", "cpu_seconds")]
        queries, seconds = (sum(x) / len(x) for x in numbers[2:])
        lines.append(f"| {v} | {rate} | {shown(numbers[0])} | {shown(numbers[1])} | {queries:,.0f} | {seconds:.1f} |")
    return tuple(lines)


def all_equal(cells: Mapping[str, Measured], variants: Sequence[str]) -> str:
    """Whether the accuracies of all variants are those of the first one."""
    verdicts = [is_equal(accuracies(cells, v), accuracies(cells, variants[0]), TOLERANCE) for v in variants[1:]]
    if "does not hold" in verdicts:
        return "does not hold"
    return "cannot be told here" if "cannot be told here" in verdicts else "holds"


N: dict[str, dict[str, Any]] = {
    "mezo": {},
    "n = 4": {"n": 4},
    "n = 4, growing": {"n": 4, "growth": "linear"},
    "n = 16": {"n": 16},
}
"""Table 6 scales the learning rate with n."""


def judge_n(cells: Mapping[str, Measured]) -> Finding:
    names = list(N)
    best_gain = max(sum(accuracies(cells, v)) - sum(accuracies(cells, "mezo")) for v in names[1:]) / len(SEEDS)
    verdict = "holds" if best_gain < TOLERANCE else "does not hold"
    return Finding(f"accuracy {listed(cells, names)}", verdict, table(cells, names))


SCHEDULES: dict[str, dict[str, Any]] = {"mezo": {}, "linear decay": {"schedule": "linear"}, "warm-up": {"warmup": 0.1}}


def judge_schedules(cells: Mapping[str, Measured]) -> Finding:
    names = list(SCHEDULES)
    return Finding(f"accuracy {listed(cells, names)}", all_equal(cells, names), table(cells, names))


MODIFIED: dict[str, dict[str, Any]] = {
    "mezo": {},
    "parameter norms": {"modified": "variance"},
    "ZO gradient norms, once": {"modified": "variance", "norms": "gradient"},
    "ZO gradient norms, each epoch": {"modified": "variance", "norms": "gradient", "refresh": "epoch"},
}


def judge_zo_norms(cells: Mapping[str, Measured]) -> Finding:
    names = ["ZO gradient norms, once", "ZO gradient norms, each epoch"]
    verdicts = [is_below(accuracies(cells, v), accuracies(cells, "mezo")) for v in names]
    verdict = "holds" if verdicts == ["holds"] * 2 else "does not hold" if "does not hold" in verdicts else verdicts[0]
    same = verdict if verdict != "holds" or len(set(verdicts)) == 1 else "cannot be told here"
    return Finding(f"accuracy {listed(cells, ['mezo', *names])}", same, table(cells, list(MODIFIED)))


def judge_parameter_norms(cells: Mapping[str, Measured]) -> Finding:
    names = ["mezo", "parameter norms"]
    return Finding(f"accuracy {listed(cells, names)}", all_equal(cells, names))


def backprop_norms(lr: float, seed: int) -> Measured:
    """Table 8 with d from back-propagated norms: the example of examples/backprop_norms.py on this network."""
    from examples.backprop_norms import GivenNorms, group_gradient_norms

    x, y, _, _ = digits.rows()
    model = digits.model_of(seed, True)
    norms = group_gradient_norms(model, lambda m: nn.functional.cross_entropy(m(digits.moved(x)), y))
    optimizer = GivenNorms(tuple(norms.items()), lr=lr, eps=1e-3)
    return digits.tune(optimizer, {}, seed, queries=QUERIES, fine_tune=True, model=model)


def judge_backprop(cells: Mapping[str, Measured]) -> Finding:
    names = ["mezo", "back-propagated norms"]
    return Finding(f"accuracy {listed(cells, names)}", all_equal(cells, names), table(cells, names))


ONE_POINT: dict[str, dict[str, Any]] = {"mezo": {}, "one point": {"estimate": "one-point"}}


def judge_one_point(cells: Mapping[str, Measured]) -> Finding:
    ours = ", ".join(f"{v} {shown(losses(cells, v))}" for v in ONE_POINT)
    worse = is_below(losses(cells, "mezo"), losses(cells, "one point"))
    verdict = {"holds": "does not hold", "does not hold": "holds"}.get(worse, worse)
    return Finding(f"training loss {ours}", verdict, table(cells, list(ONE_POINT)))


STEPS, FIRST_RATES = 100, {"adam": (1e-3, 1e-2), "sgd": (0.03, 0.3)}


class LowRank(nn.Module):
    """LoRA on a linear layer: y = W x + b + B A x, with B = 0 at the start."""

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x) + x @ self.A.T @ self.B.T
        return out


def with_gradients(kind: str, lora: bool, lr: float, seed: int) -> Measured:
    """Fine-tuning with back-propagation, of all weights or of LoRA (rank 4) on every layer."""
    model = digits.model_of(seed, True)
    parameters = None
    if lora:
        generator = torch.Generator().manual_seed(seed)
        model.layers = nn.ModuleList(LowRank(layer, 4, generator) for layer in model.layers)  # type: ignore[arg-type]
        parameters = [p for p in model.parameters() if p.requires_grad]
    scores = digits.first_order(model, kind, lr, STEPS, seed=seed, fine_tune=True, parameters=parameters)
    return {**scores, "queries": STEPS * 64}


def baseline_cells() -> dict[str, Callable[[], Measured]]:
    cells = grid({"mezo": {}})
    kinds = (("Adam", "adam", False), ("SGD", "sgd", False), ("Adam, LoRA", "adam", True))
    for name, kind, lora in kinds:
        for lr in FIRST_RATES[kind]:
            for seed in SEEDS:
                cells[f"{name} {lr:g} seed {seed}"] = functools.partial(with_gradients, kind, lora, lr, seed)
    return cells


def judge_baselines(cells: Mapping[str, Measured]) -> Finding:
    names = ["mezo", "Adam", "SGD", "Adam, LoRA"]
    gap = (sum(accuracies(cells, "Adam")) - sum(accuracies(cells, "mezo"))) / len(SEEDS)
    verdict = "holds" if gap < 0.05 else "cannot be told here"  # the paper takes 1,000 times as many steps as Adam
    return Finding(f"accuracy {listed(cells, names)}", verdict, table(cells, names))


EXPERIMENTS = (
    Experiment(
        "directions",
        "MeZO",
        "Table 6",
        "at equal forward passes a larger n gains marginally at most",
        SETTING,
        grid(N, scaled={"n = 4": 2.0, "n = 4, growing": 2.0, "n = 16": 4.0}),
        judge_n,
        group="mezo",
    ),
    Experiment(
        "schedules",
        "MeZO",
        "Appendix A",
        "linear decay and warm-up neither help nor harm",
        SETTING,
        grid(SCHEDULES),
        judge_schedules,
        group="mezo",
    ),
    Experiment(
        "parameter-norms",
        "MeZO",
        "Table 9",
        "variance modified by parameter norms changes nothing",
        SETTING,
        grid({k: MODIFIED[k] for k in ("mezo", "parameter norms")}),
        judge_parameter_norms,
        group="mezo",
    ),
    Experiment(
        "zo-norms",
        "MeZO",
        "Table 8",
        "variance modified by ZO estimates of gradient norms harms",
        SETTING,
        grid(MODIFIED),
        judge_zo_norms,
        group="mezo",
    ),
    Experiment(
        "backprop-norms",
        "MeZO",
        "Table 8",
        "with norms of one back-propagation it changes nothing",
        SETTING,
        grid({"mezo": {}})
        | {
            f"back-propagated norms {lr:g} seed {seed}": functools.partial(backprop_norms, lr, seed)
            for lr in RATES
            for seed in SEEDS
        },
        judge_backprop,
        group="mezo",
    ),
    Experiment(
        "one-point",
        "Zhang et al. 2020",
        "abstract",
        "one point with residual feedback has the query complexity of two points",
        SETTING,
        grid(ONE_POINT, rates=(3e-5, 3e-4, *RATES)),
        judge_one_point,
        group="mezo",
    ),
    Experiment(
        "fine-tuning",
        "MeZO",
        "Figure 2, Table 1",
        "MeZO comes close to fine-tuning with Adam (within 5 points)",
        f"{SETTING}; gradients: {STEPS} steps of 64 rows",
        baseline_cells(),
        judge_baselines,
        group="mezo",
    ),
)
