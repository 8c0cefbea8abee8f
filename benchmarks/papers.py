"""Small experiments of the papers, repeated with zotune's optimizers: a figure and a table each.

    python benchmarks/papers.py functions       # ZO-AdaMU, Figure 2: six functions of two variables
    python benchmarks/papers.py least-squares   # MeZO-SVRG, Appendix B.2: n = 1000, d = 100
    python benchmarks/papers.py sparsity        # Sparse-MeZO, Figure 2: learning rates, on the encoder and SST-2
    python benchmarks/papers.py divergence      # DiZO, Figure 1: distance to the pretrained weights, by matrix

Figures go to docs/figures (--out). Needs matplotlib: `pip install -e .[examples]`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zotune
from zotune.events import Event, StepDone


def pyplot() -> Any:
    """pyplot without a window. Imported on use, so that --help works without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


Function = tuple[Callable[[Tensor, Tensor], Tensor], tuple[float, float], tuple[float, float], float, int]
FUNCTIONS: dict[str, Function] = {  # formula, start, minimum, half width, steps
    "|x| + |y|": (lambda x, y: x.abs() + y.abs(), (2.0, -1.5), (0, 0), 3, 4000),
    "|x+y| + |x-y|/10": (lambda x, y: (x + y).abs() + (x - y).abs() / 10, (2.0, 1.0), (0, 0), 3, 4000),
    "(x+y)² + (x-y)²/10": (lambda x, y: (x + y) ** 2 + (x - y) ** 2 / 10, (2.0, 1.0), (0, 0), 3, 4000),
    "|x|/10 + |y|": (lambda x, y: x.abs() / 10 + y.abs(), (2.0, -1.5), (0, 0), 3, 4000),
    "Beale": (
        lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2,
        (1.0, 1.5),
        (3, 0.5),
        4.5,
        4000,
    ),
    "Rosenbrock": (lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2, (-1.0, 1.5), (1, 1), 4.5, 20000),
}
RATES = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4)
NEAR = 0.05


class Point(nn.Module):
    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))


def descend(function: Function, method: str, rate: float, steps: int) -> list[list[float]]:
    """The path of one method; it stops far outside the figure."""
    formula, start, _, width, _ = function
    point, path = Point(start), [list(start)]
    if method == "Adam":
        optimizer = torch.optim.Adam(point.parameters(), lr=rate)
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
                raise FloatingPointError

    options = {"lr": rate, "eps": 1e-3, "schedule": "linear"}
    tuner = zotune.Tuner(point, value, method, direction="minimize", optimizer_args=options, emit=seen)
    try:
        tuner.fit(max_steps=steps, eval_steps=10**9)
    except FloatingPointError:
        path[-1] = [math.inf, math.inf]
    return path


def functions(out: Path) -> None:
    plt = pyplot()
    figure, axes = plt.subplots(2, 3, figsize=(12, 8))
    print(f"| function | start | steps | method | learning rate | end | distance | within {NEAR} |")
    print("|---|---|---|---|---|---|---|---|")
    for ax, (name, function) in zip(axes.flat, FUNCTIONS.items(), strict=True):
        formula, start, minimum, width, steps = function
        grid = torch.linspace(-width, width, 200, dtype=torch.float64)
        x, y = torch.meshgrid(grid, grid, indexing="xy")
        ax.contourf(x, y, torch.log1p(formula(x, y)), 20, cmap="Greys", alpha=0.6)
        for method, colour in (("mezo", "tab:blue"), ("zo-adamu", "tab:orange"), ("Adam", "tab:green")):
            short = steps // 10
            ends = {r: math.dist(descend(function, method, r, short)[-1], minimum) for r in RATES}
            found = sorted(RATES, key=lambda r: ends[r])[:2]  # tuned on a tenth of the steps, then the better of two
            paths = {r: descend(function, method, r, steps) for r in found}
            rate = min(paths, key=lambda r: math.dist(paths[r][-1], minimum))
            path, distance = paths[rate], math.dist(paths[rate][-1], minimum)
            ax.plot(*zip(*path, strict=True), color=colour, lw=1, label=f"{method} ({distance:.1g})")
            end = f"({path[-1][0]:.3f}, {path[-1][1]:.3f})"
            near = "yes" if distance < NEAR else "no"
            shown = name.replace("|", "\\|")
            row = f"| {shown} | {start} | {steps} | {method} | {rate:g} | {end} | {distance:.2g} | {near} |"
            print(row, flush=True)
        ax.plot(*minimum, "k*", ms=10)
        ax.plot(*start, "ko", ms=4)
        ax.set(title=name, xlim=(-width, width), ylim=(-width, width))
        ax.legend(fontsize=8, loc="lower left")
    figure.suptitle("Paths from the dot to the star; in brackets, how far from it they end")
    save(figure, out / "functions.png")


def svrg(lr1: float, lr2: float, z: str) -> dict[str, Any]:
    return {"lr1": lr1, "lr2": lr2, "z": z, "eps": 1e-3, "anneal": 1.0, "q": 2}


SQUARES: dict[str, tuple[str, list[dict[str, Any]]]] = {  # the first rates are the paper's, where it gives any
    "MeZO, constant η": ("mezo", [{"lr": x, "eps": 1e-3} for x in (1e-3, 1e-4)]),
    "MeZO, linear decay": ("mezo", [{"lr": x, "eps": 1e-3, "schedule": "linear"} for x in (1e-3, 3e-4)]),
    "MeZO-SVRG, shared z": (
        "mezo-svrg",
        [svrg(*x, "shared") for x in ((1e-3, 1e-4), (3e-3, 3e-4), (3e-3, 3e-3), (5e-3, 1e-3))],
    ),
    "MeZO-SVRG, independent z": (
        "mezo-svrg",
        [svrg(*x, "independent") for x in ((1e-3, 1e-4), (3e-3, 3e-5), (3e-3, 3e-4), (3e-3, 3e-3))],
    ),
    "full batch only": ("mezo", [{"lr": x, "eps": 1e-3} for x in (1e-3, 3e-3, 5e-3)]),
}
ROWS, QUERIES = 1000, (10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7)


def excess(X: Tensor, y: Tensor, name: str, options: dict[str, Any], size: int) -> list[float]:
    """Excess loss over the minimum after each number of sample queries; infinity once it has diverged."""
    least = float((X @ torch.linalg.lstsq(X, y[:, None]).solution[:, 0] - y).square().mean())
    module, queries = nn.Module(), 0
    found: list[float] = []
    module.w = nn.Parameter(torch.zeros(X.shape[1], dtype=X.dtype))

    def loss(model: Any, batch: list[int]) -> float:
        nonlocal queries
        queries += len(batch)
        some = slice(None) if len(batch) == len(X) else batch
        return float((X[some] @ model.w.detach() - y[some]).square().mean())

    def seen(event: Event) -> None:
        if not float(module.w.detach().abs().max()) < 1e3:
            raise FloatingPointError
        while len(found) < len(QUERIES) and queries >= QUERIES[len(found)]:
            found.append(float((X @ module.w.detach() - y).square().mean()) - least)

    a_step = len(X) + 2 * size if name == "mezo-svrg" else 2 * size  # with q = 2 every other step is on all rows
    tuner = zotune.Tuner(
        module,
        loss,
        name,
        data=list(range(len(X))),
        batch_size=size,
        direction="minimize",
        optimizer_args=options,
        emit=seen,
    )
    try:
        tuner.fit(max_steps=math.ceil(QUERIES[-1] / a_step) + 2, eval_steps=10**9)
    except FloatingPointError:
        found += [math.inf] * (len(QUERIES) - len(found))
    return found


def least_squares(out: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(ROWS, 100, generator=generator, dtype=torch.float64)
    y = X @ torch.randn(100, generator=generator, dtype=torch.float64)
    y = y + torch.randn(ROWS, generator=generator, dtype=torch.float64)
    plt = pyplot()
    figure, ax = plt.subplots(figsize=(8, 5))
    print("Excess loss after so many sample queries\n")
    print(f"| method | rates | {' | '.join(f'{m:.0e}' for m in QUERIES)} |")
    print("|---|---|" + "---|" * len(QUERIES))
    for label, (name, tried) in SQUARES.items():
        best: tuple[list[float], str] = ([math.inf] * len(QUERIES), "")
        for options in tried:
            rates = ", ".join(f"{v:g}" for k, v in options.items() if k in ("lr", "lr1", "lr2"))
            found = excess(X, y, name, options, ROWS if label == "full batch only" else 32)
            best = min(best, (found, rates), key=lambda x: x[0][-1])
            shown = " | ".join(f"{v:.1e}" if math.isfinite(v) else "diverged" for v in found)
            print(f"| {label} | {rates} | {shown} |", flush=True)
        ax.loglog(QUERIES, [max(v, 1e-16) for v in best[0]], "o-", label=f"{label} ({best[1]})")
    ax.set(xlabel="sample queries", ylabel="excess loss", title=f"Least squares, n = {ROWS}, d = 100, noise 1")
    ax.legend(title="method (its best rates)", fontsize=8, loc="lower left")
    save(figure, out / "least-squares.png")


def sparsity(out: Path) -> None:
    from compare_optimizers import LastBlock, rows_of, run

    texts, truth, words = rows_of("sst2")
    model = LastBlock(texts, words)
    rates = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    methods: dict[str, tuple[str, dict[str, Any]]] = {
        "MeZO": ("mezo", {}),
        "R-MeZO": ("sparse-mezo", {"mask": "random"}),
        "Sparse-MeZO": ("sparse-mezo", {}),
    }
    plt = pyplot()
    figure, ax = plt.subplots(figsize=(7, 5))
    print("Held-out accuracy, mean of two seeds (cross-entropy)\n")
    print(f"| method | {' | '.join(f'η {r:g}' for r in rates)} |")
    print("|---|" + "---|" * len(rates))
    for label, (name, options) in methods.items():
        runs = [[run(model, truth, name, {"lr": r, **options}, seed) for seed in range(2)] for r in rates]
        accuracy = [sum(x["judge_accuracy"] for x in pair) / 2 for pair in runs]
        loss = [sum(x["judge"] for x in pair) / 2 for pair in runs]
        print(
            f"| {label} | {' | '.join(f'{a:.3f} ({v:.3f})' for a, v in zip(accuracy, loss, strict=True))} |", flush=True
        )
        ax.semilogx(rates, accuracy, "o-", label=label)
    ax.set(xlabel="learning rate", ylabel="held-out accuracy", title="SST-2, 600 forwards, last block of the encoder")
    ax.legend()
    save(figure, out / "sparsity.png")


FORWARDS, SEEDS = 500, 3


def divergence(out: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    from zotune.models.model_files import embedded_model_folder
    from zotune.runs.plan import embedded_data

    rows = [json.loads(x) for x in (Path(embedded_data()) / "train.jsonl").open()][:256]
    names = sorted({r["label"] for r in rows})
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())

    def encode(model: nn.Module, texts: list[str]) -> Tensor:
        ids = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
        mask = ids["attention_mask"][..., None]
        hidden = model(**ids).last_hidden_state
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def entropy(model: nn.Module, batch: list[dict[str, str]]) -> Tensor:
        scores = 20 * encode(model, [r["text"] for r in batch]) @ encode(model, names).T
        return nn.functional.cross_entropy(scores, torch.tensor([names.index(r["label"]) for r in batch]))

    @zotune.objective(direction="minimize")
    def loss(model: nn.Module, batch: list[dict[str, str]]) -> float:
        return float(entropy(model, batch))

    def first_order(model: nn.Module, chosen: dict[str, nn.Parameter], seed: int, seen: Callable[..., None]) -> None:
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.SGD(chosen.values(), lr=0.1)
        for _ in range(50):
            batch = [rows[i] for i in torch.randperm(len(rows), generator=generator)[:16].tolist()]
            optimizer.zero_grad()
            entropy(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seen(StepDone(0, 0))

    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5))
    print(f"| method | steps | evaluations | loss, mean of {SEEDS} seeds | distance, seed 0 | largest / smallest |")
    print("|---|---|---|---|---|---|")
    methods: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("MeZO", "mezo", {"lr": 1e-4, "eps": 1e-2}),
        ("DiZO", "dizo", {"lr": 1e-4, "eps": 1e-2, "interval": 20, "iters": 5, "gamma_lr": 2.0}),
        ("SGD, true gradients", "", {}),
    )
    for ax, (label, name, options) in zip(axes, methods, strict=True):
        ends, first, forwards = [], {}, 0
        for seed in range(SEEDS):
            model = AutoModel.from_pretrained(embedded_model_folder()).eval()
            chosen = {n: p for n, p in model.named_parameters() if n.endswith(("query.weight", "value.weight"))}
            start = {n: p.detach().clone() for n, p in chosen.items()}
            paths: dict[str, list[float]] = {n: [0.0] for n in chosen}

            def seen(event: Event, chosen: Any = chosen, start: Any = start, paths: Any = paths) -> None:
                if isinstance(event, StepDone):
                    for n, p in chosen.items():
                        paths[n].append(float((p.detach() - start[n]).norm()))

            tuner = zotune.Tuner(
                model,
                loss,
                name or "mezo",
                data=rows,
                batch_size=16,
                select=lambda t: t.name.endswith(("query.weight", "value.weight")),
                seed=seed,
                optimizer_args=options,
                emit=seen,
            )
            before = tuner.score(rows)
            if name:
                forwards = tuner.fit(max_evals=FORWARDS, eval_steps=10**9).progress.evaluations
            else:
                first_order(model, chosen, seed, seen)
            ends.append(tuner.score(rows))
            first = first or paths
        if label == "MeZO":
            print(f"| base model | 0 | 0 | {before:.3f} | | |")
        far = [path[-1] for path in first.values()]
        steps = len(next(iter(first.values()))) - 1
        error = torch.tensor(ends).std() / SEEDS**0.5
        mean = f"{sum(ends) / SEEDS:.3f} ± {error:.3f}"
        shown = f"{min(far):.3f} to {max(far):.3f} | {max(far) / min(far):.3f}"
        print(f"| {label} | {steps} | {forwards or 'with gradients'} | {mean} | {shown} |", flush=True)
        for n, path in first.items():
            block, kind = n.split(".")[2], n.split(".")[-2]
            style = {"color": plt.cm.viridis(int(block) / 5.5), "ls": "-" if kind == "query" else "--"}
            ax.plot(path, label=f"{block} {kind}", lw=1.2, **style)
        ax.set(title=f"{label} (largest / smallest {max(far) / min(far):.2f})", xlabel="step", ylim=(0, None))
    axes[0].set(ylabel="distance to the pretrained weights")
    axes[0].legend(fontsize=8, ncol=2, loc="lower right", title="block and matrix")
    save(figure, out / "divergence.png")


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    print(f"\n{path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found = {"functions": functions, "least-squares": least_squares, "sparsity": sparsity, "divergence": divergence}
    parser.add_argument("experiment", choices=found)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "figures")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found[args.experiment](args.out)


if __name__ == "__main__":
    main()
