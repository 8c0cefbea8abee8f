"""Sparse-MeZO (arXiv:2402.15751): learning rates that a mask tolerates, steps that raise the loss on other batches, and
the weights that are worth tuning after a drop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.papers_parts import digits
from benchmarks.papers_parts.experiment import Experiment, Finding, Measured
from benchmarks.papers_parts.verdicts import is_below, is_equal, mean_error, shown

SEEDS = range(3)
QUERIES = 12_800
RATES = (1e-3, 3e-3, 6e-3)
SETTING = "perceptron, moved digits, 12,800 queries, 3 seeds"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MeZO": ("mezo", {}),
    "Sparse-MeZO": ("sparse-mezo", {}),
    "R-MeZO": ("sparse-mezo", {"mask": "random"}),
    "largest weights": ("sparse-mezo", {"tuned": "largest"}),
    "sparsity 0.5": ("sparse-mezo", {"sparsity": 0.5}),
    "sparsity 0.95": ("sparse-mezo", {"sparsity": 0.95}),
}


def run(method: str, lr: float, seed: int, **more: Any) -> Measured:
    name, options = METHODS[method]
    own = {"lr": lr, "eps": 1e-3, **options, **more}
    return digits.tune(name, own, seed, queries=QUERIES, fine_tune=True)


def cells(methods: tuple[str, ...]) -> dict[str, Callable[[], Measured]]:
    return {f"{m} {lr:g} seed {s}": functools.partial(run, m, lr, s) for m in methods for lr in RATES for s in SEEDS}


def values(cells: Mapping[str, Measured], method: str, lr: float, key: str = "loss") -> list[float]:
    return [cells[f"{method} {lr:g} seed {seed}"][key] for seed in SEEDS]


def best(cells: Mapping[str, Measured], method: str) -> tuple[float, list[float]]:
    """The learning rate of the smallest mean training loss, and the test accuracies there."""
    lr = min(RATES, key=lambda r: sum(values(cells, method, r)))
    return lr, values(cells, method, lr, "accuracy")


def table(cells: Mapping[str, Measured], methods: tuple[str, ...]) -> tuple[str, ...]:
    lines = [f"| training loss | {' | '.join(f'η {r:g}' for r in RATES)} |", "|---|" + "---|" * len(RATES)]
    lines += [f"| {m} | {' | '.join(shown(values(cells, m, r)) for r in RATES)} |" for m in methods]
    return tuple(lines)


LARGE = ("MeZO", "Sparse-MeZO", "R-MeZO")


def judge_rates(cells: Mapping[str, Measured]) -> Finding:
    """The largest rate of the grid at which MeZO is worse than at the rate before."""
    lr = RATES[-1]
    dense, sparse = values(cells, "MeZO", lr), values(cells, "Sparse-MeZO", lr)
    ours = f"training loss at η {lr:g}: MeZO {shown(dense)}, Sparse-MeZO {shown(sparse)}"
    return Finding(ours, is_below(sparse, dense), table(cells, LARGE))


def judge_best(cells: Mapping[str, Measured]) -> Finding:
    found = {m: best(cells, m) for m in LARGE}
    ours = ", ".join(f"{m} {shown(accuracy)} (η {lr:g})" for m, (lr, accuracy) in found.items())
    return Finding(f"accuracy {ours}", is_below(found["MeZO"][1], found["Sparse-MeZO"][1]))


def judge_choice(cells: Mapping[str, Measured]) -> Finding:
    found = {m: best(cells, m)[1] for m in ("Sparse-MeZO", "R-MeZO")}
    ours = ", ".join(f"{m} {shown(x)}" for m, x in found.items())
    return Finding(f"accuracy {ours}", is_below(found["R-MeZO"], found["Sparse-MeZO"]))


SPARSITIES = ("MeZO", "sparsity 0.5", "Sparse-MeZO", "sparsity 0.95")


def judge_sparsity(cells: Mapping[str, Measured]) -> Finding:
    found = {m: best(cells, m)[1] for m in SPARSITIES}
    ours = ", ".join(f"{m} {shown(x)}" for m, x in found.items())
    verdicts = [is_below(found["MeZO"], found[m]) for m in ("sparsity 0.5", "Sparse-MeZO")]
    verdict = verdicts[0] if verdicts[0] == verdicts[1] else "cannot be told here"
    return Finding(f"accuracy with 0, 0.5, 0.75 and 0.95 frozen: {ours}", verdict, table(cells, SPARSITIES))


EFFECT_BATCH = 16
"""Rows on which a step is estimated, and of the other batch (Section 3.1)."""


def effect(kind: str, seed: int) -> Measured:
    """The share of steps that raise the loss on their own batch and on another one of 16 rows."""
    if kind != "SGD":
        lr = {"MeZO": 1e-3, "Sparse-MeZO": 3e-3}[kind]
        name, options = METHODS[kind]
        own = {"lr": lr, "eps": 1e-3, "diagnose": 2, **options}
        found = digits.tune(name, own, seed, queries=8_000, batch=EFFECT_BATCH, fine_tune=True)["findings"]
        return {"own": found["raised the loss on their batch"], "other": found["raised the loss on another batch"]}
    x, y, _, _ = digits.rows()
    x, counts = digits.moved(x), {"own": 0, "other": 0}
    model, generator = digits.model_of(seed, True), torch.Generator().manual_seed(seed)
    optimizer, steps = torch.optim.SGD(model.parameters(), lr=0.03), 200
    for _ in range(steps):
        order = torch.randperm(len(y), generator=generator)
        own, other = order[:EFFECT_BATCH], order[EFFECT_BATCH : 2 * EFFECT_BATCH]
        before = [_loss(model, x, y, rows) for rows in (own, other)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[own]), y[own]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        after = [_loss(model, x, y, rows) for rows in (own, other)]
        counts = {k: counts[k] + int(b > a) for k, a, b in zip(counts, before, after, strict=True)}
    return {k: count / steps for k, count in counts.items()}


@torch.no_grad()
def _loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> float:
    return float(nn.functional.cross_entropy(model(x[rows]), y[rows]))


KINDS = ("MeZO", "Sparse-MeZO", "SGD")


def effects(cells: Mapping[str, Measured], kind: str, key: str) -> list[float]:
    return [cells[f"{kind} seed {seed}"][key] for seed in SEEDS]


def effect_table(cells: Mapping[str, Measured]) -> tuple[str, ...]:
    lines = ["| method | raised the loss on its batch | on another batch |", "|---|---|---|"]
    lines += [f"| {k} | {shown(effects(cells, k, 'own'))} | {shown(effects(cells, k, 'other'))} |" for k in KINDS]
    return tuple(lines)


def judge_effect(cells: Mapping[str, Measured]) -> Finding:
    """90 % success on the own batch, around 50 % on another one."""
    own, other = (effects(cells, "MeZO", key) for key in ("own", "other"))
    ours = f"MeZO's steps raise the loss of their batch in {shown(own, 2)}, of another in {shown(other, 2)} of cases"
    half = is_equal(other, [0.5] * len(other), 0.15)
    verdict = half if mean_error(own)[0] < 0.2 else "does not hold"
    return Finding(ours, verdict, effect_table(cells))


def judge_sgd(cells: Mapping[str, Measured]) -> Finding:
    ours = ", ".join(f"{k} {shown(effects(cells, k, 'other'))}" for k in ("MeZO", "SGD"))
    return Finding(
        f"share of steps that raise another batch's loss: {ours}",
        is_below(effects(cells, "SGD", "other"), effects(cells, "MeZO", "other")),
    )


def after_a_drop(method: str, seed: int) -> Measured:
    """Figure 2c: weights that a too large learning rate has spoiled, tuned further: the smallest or largest weights."""
    model = digits.model_of(seed, True)
    digits.tune("mezo", {"lr": 1e-3, "eps": 1e-3}, seed, queries=QUERIES, fine_tune=True, model=model)
    top = digits.scores(model, True)["accuracy"]
    spoiled = digits.tune("mezo", {"lr": 6e-3, "eps": 1e-3}, seed + 100, queries=1600, fine_tune=True, model=model)
    name, options = METHODS[method]
    shares = {} if name == "mezo" else {"sparsity": 0.8}
    options = {"lr": 1e-3, "eps": 1e-3, **options, **shares}
    after = digits.tune(name, options, seed + 200, queries=QUERIES, fine_tune=True, model=model)
    return {"top": top, "dropped": spoiled["accuracy"], "after": after["accuracy"]}


DROPS = ("MeZO", "Sparse-MeZO", "largest weights")


def judge_drop(cells: Mapping[str, Measured]) -> Finding:
    found = {m: [cells[f"{m} seed {s}"]["after"] for s in SEEDS] for m in DROPS}
    start = [cells[f"MeZO seed {s}"]["dropped"] for s in SEEDS]
    names = {"Sparse-MeZO": "smallest fifth", "largest weights": "largest fifth", "MeZO": "all weights"}
    ours = ", ".join(f"{names[m]} {shown(x)}" for m, x in found.items())
    verdict = is_below(found["largest weights"], found["Sparse-MeZO"])
    return Finding(f"accuracy {shown(start)} after the drop; then {ours}", verdict)


def experiment(name: str, place: str, claim: str, methods: tuple[str, ...], judge: Any) -> Experiment:
    return Experiment(name, "Sparse-MeZO", place, claim, SETTING, cells(methods), judge, group="sparse")


def effect_experiment(name: str, place: str, claim: str, judge: Any) -> Experiment:
    setting = "perceptron, moved digits, batches of 16, 3 seeds"
    runs = {f"{k} seed {s}": functools.partial(effect, k, s) for k in KINDS for s in SEEDS}
    return Experiment(name, "Sparse-MeZO", place, claim, setting, runs, judge, group="step-effect")


EXPERIMENTS = (
    experiment("rates", "Figure 2a", "Sparse-MeZO tolerates learning rates that spoil MeZO", LARGE, judge_rates),
    effect_experiment(
        "step-effect",
        "Figure 2b",
        "a MeZO step lowers the loss of its batch in 90 % of cases, of another one in 50 %",
        judge_effect,
    ),
    effect_experiment("step-effect-sgd", "Figure 5", "SGD's steps raise another batch's loss less often", judge_sgd),
    Experiment(
        "drop",
        "Sparse-MeZO",
        "Figure 2c",
        "after a drop, tuning the small weights recovers and the large ones do not",
        f"{SETTING}, a fifth of the weights",
        {f"{m} seed {s}": functools.partial(after_a_drop, m, s) for m in DROPS for s in SEEDS},
        judge_drop,
    ),
    experiment("sparse-best", "Table 1", "Sparse-MeZO is more accurate than MeZO", LARGE, judge_best),
    experiment("smallest", "Table 1", "the smallest weights beat random ones (R-MeZO)", LARGE, judge_choice),
    experiment("sparsity", "Figure 4", "a sparsity of 0.5 to 0.8 gains over none", SPARSITIES, judge_sparsity),
)
