"""MeZO-SVRG (arXiv:2404.08080): least squares, the perceptron of Appendix B.1, and its ablations."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import zotune
from benchmarks.papers_parts import digits
from benchmarks.papers_parts.experiment import Experiment, Finding, Measured
from benchmarks.papers_parts.verdicts import is_below, is_equal, shown
from zotune.errors import ZotuneError
from zotune.events import Event

ROWS, DIMENSIONS = 1000, 100
LEAST_QUERIES = (10**5, 3 * 10**5, 10**6, 3 * 10**6)
LEAST: dict[str, tuple[str, dict[str, Any], int]] = {
    "MeZO, the paper's η": ("mezo", {"lr": 1e-3, "eps": 1e-3}, 32),
    "MeZO-SVRG, the paper's η": ("mezo-svrg", {"lr1": 1e-3, "lr2": 1e-4, "eps": 1e-3, "anneal": 1.0}, 32),
    "MeZO-SVRG, 3e-3": ("mezo-svrg", {"lr1": 3e-3, "lr2": 3e-3, "eps": 1e-3, "anneal": 1.0}, 32),
    "MeZO-SVRG, independent z": (
        "mezo-svrg",
        {"lr1": 1e-3, "lr2": 1e-4, "eps": 1e-3, "anneal": 1.0, "z": "independent"},
        32,
    ),
    "MeZO on all rows": ("mezo", {"lr": 3e-3, "eps": 1e-3}, ROWS),
}


@functools.cache
def problem() -> tuple[Tensor, Tensor, float]:
    """X, y and the smallest loss; the noise of y has variance 1."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(ROWS, DIMENSIONS, generator=generator, dtype=torch.float64)
    y = X @ torch.randn(DIMENSIONS, generator=generator, dtype=torch.float64)
    y = y + torch.randn(ROWS, generator=generator, dtype=torch.float64)
    return X, y, float((X @ torch.linalg.lstsq(X, y[:, None]).solution[:, 0] - y).square().mean())


def excess(name: str, options: dict[str, Any], size: int) -> Measured:
    """Excess loss over the minimum after each number of queries of single rows; infinity once it has diverged."""
    X, y, least = problem()
    module, found = nn.Module(), []
    module.w = nn.Parameter(torch.zeros(DIMENSIONS, dtype=X.dtype))

    def loss(model: Any, batch: list[int]) -> float:
        some = slice(None) if len(batch) == ROWS else batch
        return float((X[some] @ model.w.detach() - y[some]).square().mean())

    def seen(event: Event) -> None:
        if not float(module.w.detach().abs().max()) < 1e3:
            raise digits.Spent
        while len(found) < len(LEAST_QUERIES) and tuner.oracle.queries >= LEAST_QUERIES[len(found)]:
            found.append(float((X @ module.w.detach() - y).square().mean()) - least)
        if len(found) == len(LEAST_QUERIES):
            raise digits.Spent

    tuner = zotune.Tuner(
        module,
        loss,
        name,
        data=list(range(ROWS)),
        batch_size=size,
        direction="minimize",
        optimizer_args=options,
        emit=seen,
    )
    with contextlib.suppress(digits.Spent, ZotuneError):
        tuner.fit(max_evals=math.ceil(1.1 * LEAST_QUERIES[-1] / size) + 100, eval_steps=10**9)
    return {"excess": [*found, *[math.inf] * (len(LEAST_QUERIES) - len(found))]}


def judge_least(cells: Mapping[str, Measured]) -> Finding:
    ends = {name: cells[name]["excess"][-1] for name in LEAST}
    mezo, same, svrg = (ends[x] for x in ("MeZO, the paper's η", "MeZO-SVRG, the paper's η", "MeZO-SVRG, 3e-3"))
    ours = (
        f"excess loss after 3·10⁶ queries: MeZO {mezo:.2g}, MeZO-SVRG {same:.2g} at the paper's η, {svrg:.2g} at 3e-3"
    )
    lines = [
        f"| method | {' | '.join(f'{q:.0e} queries' for q in LEAST_QUERIES)} |",
        "|---|" + "---|" * len(LEAST_QUERIES),
    ]
    for name in LEAST:
        values = [f"{v:.1e}" if math.isfinite(v) else "diverged" for v in cells[name]["excess"]]
        lines.append(f"| {name} | {' | '.join(values)} |")
    return Finding(ours, "holds" if min(same, svrg) < mezo / 2 else "does not hold", tuple(lines))


SEEDS = range(3)
QUERIES = 60_000
MLP_RATES = (3e-3, 1e-2)
SETTING = "perceptron 64-32-16-10 on digits from scratch, 60,000 queries, 3 seeds"


def mlp(name: str, options: dict[str, Any], batch: int, seed: int) -> Measured:
    return digits.tune(name, options, seed, queries=QUERIES, batch=batch, every=QUERIES // 50)


def svrg(lr1: float, lr2: float, **more: Any) -> dict[str, Any]:
    return {"lr1": lr1, "lr2": lr2, "eps": 1e-3, "anneal": 1.0, **more}


def of_seeds(label: str, run: Callable[[int], Measured]) -> dict[str, Callable[[], Measured]]:
    return {f"{label} seed {seed}": functools.partial(run, seed) for seed in SEEDS}


def mlp_cells() -> dict[str, Callable[[], Measured]]:
    cells: dict[str, Callable[[], Measured]] = {}
    for batch in (32, 128):
        for lr in MLP_RATES:
            options = {"lr": lr, "eps": 1e-3}
            cells |= of_seeds(f"MeZO batch {batch} η {lr:g}", functools.partial(mlp, "mezo", options, batch))
    for lr1 in MLP_RATES:
        options = svrg(lr1, lr1 / 10)
        cells |= of_seeds(f"MeZO-SVRG batch 64 η {lr1:g}", functools.partial(mlp, "mezo-svrg", options, 64))
    for lr in (0.1,):
        cells |= of_seeds(f"SGD batch 64 η {lr:g}", functools.partial(sgd, lr))
    return cells


def sgd(lr: float, seed: int) -> Measured:
    steps = 1500
    scores = digits.first_order(digits.Perceptron(seed), "sgd", lr, steps, seed=seed)
    return {**scores, "queries": 64 * steps}


def runs(cells: Mapping[str, Measured], label: str) -> list[Measured]:
    return [cells[f"{label} seed {seed}"] for seed in SEEDS]


def values(cells: Mapping[str, Measured], label: str, key: str = "accuracy") -> list[float]:
    return [float(x[key]) for x in runs(cells, label)]


def best_label(cells: Mapping[str, Measured], start: str) -> str:
    """The label with this start whose mean training loss is the smallest."""
    labels = dict.fromkeys(c.partition(" seed ")[0] for c in cells if c.startswith(start))
    return min(labels, key=lambda label: sum(values(cells, label, "loss")))


def judge_batches(cells: Mapping[str, Measured]) -> Finding:
    """B.1: MeZO at small batches is unstable: its loss is worse at 32 rows than at 128, at the larger learning rate and
    equal steps; here at equal queries, and by the spread of its accuracy curve."""
    small, large = (best_label(cells, f"MeZO batch {b} ") for b in (32, 128))
    wobble = {b: [roughness(x["curve"]) for x in runs(cells, label)] for b, label in ((32, small), (128, large))}
    verdict = is_below(wobble[128], wobble[32])
    ours = (
        f"accuracy falls by {shown(wobble[32])} between points of the curve with 32 rows, {shown(wobble[128])} with 128"
    )
    return Finding(ours, verdict)


def roughness(curve: Sequence[Sequence[float]]) -> float:
    """Root mean square of the accuracy's changes that go down, between neighbouring points of a curve."""
    drops = [max(a[2] - b[2], 0.0) for a, b in itertools.pairwise(curve)]
    return math.sqrt(sum(d * d for d in drops) / max(len(drops), 1))


def reached(curve: Sequence[Sequence[float]], threshold: float) -> tuple[float, float]:
    """(queries, hours) at the first point of a curve with this accuracy; infinite where there is none."""
    first = next((x for x in curve if x[2] >= threshold), None)
    return (first[0], first[1] / 3600) if first else (math.inf, math.inf)


def judge_accuracy(cells: Mapping[str, Measured]) -> Finding:
    mezo, ours = best_label(cells, "MeZO batch"), best_label(cells, "MeZO-SVRG")
    verdict = is_below(values(cells, mezo), values(cells, ours))
    text = f"accuracy MeZO {shown(values(cells, mezo))} ({mezo[5:]}), MeZO-SVRG {shown(values(cells, ours))}"
    return Finding(f"{text}, SGD {shown(values(cells, 'SGD batch 64 η 0.1'))}", verdict)


def judge_hours(cells: Mapping[str, Measured]) -> Finding:
    """Table 4: the threshold is MeZO's peak test accuracy, by seed."""
    mezo, ours = best_label(cells, "MeZO batch"), best_label(cells, "MeZO-SVRG")
    lines = ["| method | seed | threshold | queries to it | CPU hours to it |", "|---|---|---|---|---|"]
    hours: dict[str, list[float]] = {mezo: [], ours: []}
    for seed in SEEDS:
        threshold = max(x[2] for x in cells[f"{mezo} seed {seed}"]["curve"])
        for label in (mezo, ours):
            queries, hour = reached(cells[f"{label} seed {seed}"]["curve"], threshold)
            hours[label].append(hour)
            text = f"{queries:,.0f} | {hour:.5f}" if math.isfinite(hour) else "not reached | not reached"
            lines.append(f"| {label} | {seed} | {threshold:.3f} | {text} |")
    missed = sum(not math.isfinite(h) for h in hours[ours])
    if missed:
        return Finding(f"not reached by MeZO-SVRG with {missed} of {len(SEEDS)} seeds", "does not hold", tuple(lines))
    ratio = sum(hours[ours]) / sum(hours[mezo])
    return Finding(f"{ratio:.2f} of MeZO's CPU hours", "holds" if ratio <= 0.5 else "does not hold", tuple(lines))


SHORT = 60_000
ABLATIONS: dict[str, dict[str, Any]] = {
    **{f"q {q}": svrg(3e-3, 3e-4, q=q) for q in (1, 2, 10)},
    **{f"μ {mu:g}": svrg(3e-3, 3e-4) | {"eps": mu} for mu in (1e-4, 1e-2, 1.0)},
    **{f"large batch {rows}": svrg(3e-3, 3e-4, full=rows) for rows in (128, 256)},
    "p 4": svrg(3e-3, 3e-4, p=4),
}


def ablation_cells(labels: Sequence[str]) -> dict[str, Callable[[], Measured]]:
    cells: dict[str, Callable[[], Measured]] = {}
    for label in labels:
        run = functools.partial(digits.tune, "mezo-svrg", ABLATIONS[label], queries=SHORT, fine_tune=True)
        cells |= {f"{label} seed {seed}": functools.partial(run, seed) for seed in SEEDS}
    return cells


def losses(cells: Mapping[str, Measured], labels: Sequence[str]) -> str:
    return ", ".join(f"{label}: {shown(values(cells, label, 'loss'))}" for label in labels)


def judge_mu(cells: Mapping[str, Measured]) -> Finding:
    same = is_equal(values(cells, "μ 0.0001", "loss"), values(cells, "μ 0.01", "loss"), 0.02)
    worse = is_below(values(cells, "μ 0.01", "loss"), values(cells, "μ 1", "loss"))
    verdict = "holds" if same == worse == "holds" else "does not hold" if "does not hold" in (same, worse) else same
    return Finding(f"training loss {losses(cells, ['μ 0.0001', 'μ 0.01', 'μ 1'])}", verdict)


def judge_q(cells: Mapping[str, Measured]) -> Finding:
    """Figure 5 is by steps: the loss after as many steps as q = 2 takes in the budget is what a smaller q improves."""
    verdict = is_below(values(cells, "q 2", "loss"), values(cells, "q 10", "loss"))
    return Finding(f"training loss at equal queries {losses(cells, ['q 1', 'q 2', 'q 10'])}", verdict)


def judge_large(cells: Mapping[str, Measured]) -> Finding:
    pairs = [(values(cells, f"large batch {n}"), values(cells, "q 2")) for n in (128, 256)]
    verdicts = [is_equal(a, b, 0.05) if sum(a) < sum(b) else "holds" for a, b in pairs]
    verdict = next((v for v in verdicts if v != "holds"), "holds")
    labels = ["q 2", "large batch 128", "large batch 256"]
    return Finding(f"accuracy {', '.join(f'{x}: {shown(values(cells, x))}' for x in labels)}", verdict)


def judge_p(cells: Mapping[str, Measured]) -> Finding:
    better = is_below(values(cells, "p 4", "loss"), values(cells, "q 2", "loss"))
    verdict = "does not hold" if better == "holds" else "holds"
    one = losses(cells, ["q 2"]).removeprefix("q 2")
    return Finding(f"training loss at equal queries p 1{one}, {losses(cells, ['p 4'])}", verdict)


SHORT_SETTING = "perceptron, moved digits, 60,000 queries, η₁ 3e-3, η₂ 3e-4, 3 seeds"


def ablation(name: str, place: str, claim: str, labels: Sequence[str], judge: Callable[..., Finding]) -> Experiment:
    return Experiment(name, "MeZO-SVRG", place, claim, SHORT_SETTING, ablation_cells(labels), judge, group="svrg")


def experiment(name: str, place: str, claim: str, judge: Callable[..., Finding]) -> Experiment:
    return Experiment(name, "MeZO-SVRG", place, claim, SETTING, mlp_cells(), judge, group="svrg")


EXPERIMENTS = (
    Experiment(
        "least-squares",
        "MeZO-SVRG",
        "Figure 1a, B.2",
        "MeZO does not attain the optimum and stays behind MeZO-SVRG",
        f"n = {ROWS}, d = {DIMENSIONS}, noise 1",
        {name: functools.partial(excess, *arguments) for name, arguments in LEAST.items()},
        judge_least,
    ),
    experiment("small-batches", "Figure 1b, B.1", "MeZO is unstable at small batch sizes", judge_batches),
    experiment("mlp", "Section 4, B.1", "MeZO-SVRG surpasses MeZO at equal queries", judge_accuracy),
    experiment("hours", "Table 4", "MeZO's peak accuracy in at most half of the hours", judge_hours),
    ablation("mu", "E.2", "no difference for μ below 0.1, worse above", ["μ 0.0001", "μ 0.01", "μ 1"], judge_mu),
    ablation("q", "E.3", "more frequent full steps converge faster (q 2 against 10)", ["q 1", "q 2", "q 10"], judge_q),
    ablation(
        "large-batch",
        "E.5, Table 10",
        "a large batch replaces the full batch",
        ["q 2", "large batch 128", "large batch 256"],
        judge_large,
    ),
    ablation("p-spsa", "Section 2.1", "p > 1 has no empirical benefit", ["q 2", "p 4"], judge_p),
)
