"""Pictures of finished experiments: paths on six functions, excess losses, and distances by layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.papers_parts import adamu, dizo, svrg
from benchmarks.papers_parts.experiment import Experiment, Store


def draw(store: Store, folder: Path) -> None:
    """Every picture whose experiment is finished."""
    experiments = {e.name: e for e in (*adamu.EXPERIMENTS, *svrg.EXPERIMENTS, *dizo.EXPERIMENTS)}
    pictures: dict[str, Callable[[dict[str, Any]], Any]] = {
        "functions": functions,
        "least-squares": least_squares,
        "divergence": divergence,
    }
    for name, picture in pictures.items():
        e: Experiment = experiments[name]
        cells = store.of(e)
        if len(cells) == len(e.cells):
            folder.mkdir(parents=True, exist_ok=True)
            figure = picture(cells)
            figure.tight_layout()
            figure.savefig(folder / f"{name}.png", dpi=100, metadata={"Software": None})
            print(folder / f"{name}.png")


def pyplot() -> Any:
    """pyplot without a window. Imported on use, so that the command works without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def functions(cells: dict[str, Any]) -> Any:
    figure, axes = pyplot().subplots(2, 3, figsize=(12, 8))
    for ax, (name, (formula, start, minimum, width, _)) in zip(axes.flat, adamu.FUNCTIONS.items(), strict=True):
        grid = torch.linspace(-width, width, 200, dtype=torch.float64)
        x, y = torch.meshgrid(grid, grid, indexing="xy")
        ax.contourf(x, y, torch.log1p(formula(x, y)), 20, cmap="Greys", alpha=0.6)
        for method in adamu.METHODS:
            cell = cells[f"{name}, {method}"]
            ax.plot(*zip(*cell["path"], strict=True), lw=1, label=f"{method} ({cell['distance']:.1g})")
        ax.plot(*minimum, "k*", ms=10)
        ax.plot(*start, "ko", ms=4)
        ax.set(title=name, xlim=(-width, width), ylim=(-width, width))
        ax.legend(fontsize=8, loc="lower left")
    figure.suptitle("Paths from the dot to the star; in brackets, how far from it they end")
    return figure


def least_squares(cells: dict[str, Any]) -> Any:
    figure, ax = pyplot().subplots(figsize=(8, 5))
    for name, cell in cells.items():
        ax.loglog(svrg.LEAST_QUERIES, [max(v, 1e-16) for v in cell["excess"]], "o-", label=name)
    ax.set(xlabel="queries of single rows", ylabel="excess loss", title="Least squares")
    ax.legend(fontsize=8)
    return figure


def divergence(cells: dict[str, Any]) -> Any:
    plt = pyplot()
    figure, axes = plt.subplots(1, len(dizo.ENCODER), figsize=(15, 4.5))
    for ax, method in zip(axes, dizo.ENCODER, strict=True):
        cell = cells[f"{method} seed 0"]
        for name, path in cell["path"].items():
            block, kind = name.split(".")[2], name.split(".")[-2]
            style = {"color": plt.cm.viridis(int(block) / 5.5), "ls": "-" if kind == "query" else "--"}
            ax.plot(path, label=f"{block} {kind}", lw=1.2, **style)
        ax.set(title=f"{method} (largest / smallest {cell['ratio']:.2f})", xlabel="share of the run", ylim=(0, None))
    axes[0].legend(fontsize=8, ncol=2, title="block and matrix")
    return figure
