"""The papers' own small experiments, again, with zotune's optimizers: a picture and a table each.

    python examples/papers.py functions       # ZO-AdaMU, Figure 2: six functions of two variables
    python examples/papers.py least-squares   # MeZO-SVRG, Appendix B.2: n = 1000, d = 100
    python examples/papers.py sparsity        # Sparse-MeZO, Figure 2: learning rates, on the encoder and SST-2
    python examples/papers.py divergence      # DiZO, Figure 1: distance to the pretrained weights, layer by layer

Pictures go to docs/figures (--out). Needs matplotlib: `pip install -e .[examples]`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn

import zotune

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# -- ZO-AdaMU: six functions -------------------------------------------------------------------------------------------

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
    """The path of one method; stops where it leaves the picture by far."""
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

    def seen(kind: str, event: Any) -> None:
        if kind == "step":
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


# -- MeZO-SVRG: least squares ------------------------------------------------------------------------------------------


def least_squares(out: Path) -> None:
    rows, d, batch = 1000, 100, 32
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(rows, d, generator=generator, dtype=torch.float64)
    y = X @ torch.randn(d, generator=generator, dtype=torch.float64)
    y = y + torch.randn(rows, generator=generator, dtype=torch.float64)
    least = float((X @ torch.linalg.lstsq(X, y[:, None]).solution[:, 0] - y).square().mean())
    marks = [10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7]
    svrg = {"eps": 1e-3, "anneal": 1.0, "q": 2, "lr1": 3e-3, "lr2": 3e-3}
    methods: dict[str, tuple[str, dict[str, Any], int]] = {
        "MeZO, constant η": ("mezo", {"lr": 1e-3, "eps": 1e-3}, batch),
        "MeZO, linear decay": ("mezo", {"lr": 1e-3, "eps": 1e-3, "schedule": "linear"}, batch),
        "MeZO-SVRG, shared z": ("mezo-svrg", svrg, batch),
        "MeZO-SVRG, independent z": ("mezo-svrg", svrg | {"z": "independent", "lr2": 3e-4}, batch),
        "full batch only": ("mezo", {"lr": 3e-3, "eps": 1e-3}, rows),
    }
    figure, ax = plt.subplots(figsize=(7, 5))
    print("Excess loss after so many sample queries\n")
    print(f"| method | {' | '.join(f'{m:.0e}' for m in marks)} |")
    print("|---|" + "---|" * len(marks))
    for label, (name, options, size) in methods.items():
        module, queries, found = nn.Module(), [0], {}
        module.w = nn.Parameter(torch.zeros(d, dtype=torch.float64))

        def loss(model: Any, batch: list[int], queries: list[int] = queries) -> float:
            queries[0] += len(batch)
            some = slice(None) if len(batch) == rows else batch
            return float((X[some] @ model.w.detach() - y[some]).square().mean())

        def seen(kind: str, event: Any, m: Any = module, queries: Any = queries, found: Any = found) -> None:
            for mark in marks:
                if queries[0] >= mark and mark not in found:
                    found[mark] = float((X @ m.w.detach() - y).square().mean()) - least

        full = rows if name == "mezo-svrg" else 0
        a_step = (2 * full + 4 * size) / 2 if full else 2 * size
        steps = math.ceil(marks[-1] / a_step) + 2
        tuner = zotune.Tuner(
            module,
            loss,
            name,
            data=list(range(rows)),
            batch_size=size,
            direction="minimize",
            optimizer_args=options,
            emit=seen,
        )
        tuner.fit(max_steps=steps, eval_steps=10**9)
        print(f"| {label} | {' | '.join(f'{found[m]:.1e}' for m in marks)} |", flush=True)
        ax.loglog(marks, [max(found[m], 1e-16) for m in marks], "o-", label=label)
    ax.set(xlabel="sample queries", ylabel="excess loss", title=f"Least squares, n = {rows}, d = {d}, noise 1")
    ax.legend()
    save(figure, out / "least-squares.png")


# -- Sparse-MeZO and DiZO on the encoder -------------------------------------------------------------------------------


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


def divergence(out: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    from zotune.models import default_folder
    from zotune.plan import embedded_data

    rows = [json.loads(x) for x in (Path(embedded_data()) / "train.jsonl").open()][:256]
    names = sorted({r["label"] for r in rows})
    tokenizer = AutoTokenizer.from_pretrained(default_folder())

    def encode(model: nn.Module, texts: list[str]) -> Tensor:
        ids = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
        mask = ids["attention_mask"][..., None]
        with torch.no_grad():
            hidden = model(**ids).last_hidden_state
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    @zotune.objective(direction="minimize")
    def loss(model: nn.Module, batch: list[dict[str, str]]) -> float:
        scores = 20 * encode(model, [r["text"] for r in batch]) @ encode(model, names).T
        return float(nn.functional.cross_entropy(scores, torch.tensor([names.index(r["label"]) for r in batch])))

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    print("| projection | loss at the start | at the end | distance by block | largest / smallest |")
    print("|---|---|---|---|---|")
    for ax, (label, name, options) in zip(
        axes,
        (
            ("without", "mezo", {"lr": 1e-4, "eps": 1e-2}),
            ("with", "dizo", {"lr": 1e-4, "eps": 1e-2, "interval": 20, "iters": 5, "gamma_lr": 2.0}),
        ),
        strict=True,
    ):
        model = AutoModel.from_pretrained(default_folder()).eval()
        chosen = {n: p for n, p in model.named_parameters() if n.endswith(("query.weight", "value.weight"))}
        start = {n: p.detach().clone() for n, p in chosen.items()}
        paths: dict[str, list[float]] = {n: [] for n in chosen}

        def seen(kind: str, event: Any, chosen: Any = chosen, start: Any = start, paths: Any = paths) -> None:
            if kind == "step":
                for n, p in chosen.items():
                    paths[n].append(float((p.detach() - start[n]).norm()))

        tuner = zotune.Tuner(
            model,
            loss,
            name,
            data=rows,
            batch_size=16,
            select=lambda t: t.name.endswith(("query.weight", "value.weight")),
            optimizer_args=options,
            emit=seen,
        )
        before = tuner.score(rows)
        tuner.fit(max_steps=200, eval_steps=10**9)
        for n, path in paths.items():
            ax.plot(path, label=n.removeprefix("encoder.layer.").replace(".attention.self", "").removesuffix(".weight"))
        ends = [path[-1] for path in paths.values()]
        shown = ", ".join(f"{a:.3f}" for a in ends)
        print(
            f"| {label} | {before:.4f} | {tuner.score(rows):.4f} | {shown} | {max(ends) / min(ends):.3f} |", flush=True
        )
        ax.set(title=f"{label} projection", xlabel="step")
    axes[0].set(ylabel="distance to the pretrained weights")
    axes[1].legend(fontsize=7, ncol=2)
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
