"""A perceptron with 32 and 16 hidden units on scikit-learn's digits (MeZO-SVRG, Appendix B.1, on 8 × 8 pixels): trained
from scratch, or fine-tuned from a network that has learned the same digits at another place.

Knows zotune's Tuner and torch's optimizers; knows no claim.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import zotune
from zotune.errors import ZotuneError
from zotune.events import Event, StepDone

TRAIN = 1000
"""Rows for training; 797 are for testing."""


@functools.cache
def rows() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels in [0, 1] and classes for training, and the same for testing."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    pixels, classes = torch.tensor(x, dtype=torch.float32)[order] / 16, torch.tensor(y)[order]
    return pixels[:TRAIN], classes[:TRAIN], pixels[TRAIN:], classes[TRAIN:]


def moved(pixels: Tensor) -> Tensor:
    """The same digits one pixel further right: another task for a network that knows them."""
    return pixels.view(-1, 8, 8).roll(1, 2).reshape(-1, 64)


class Perceptron(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = (64, 32, 16, 10)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        with torch.no_grad():
            for layer in self.layers:
                bound = 1 / math.sqrt(layer.in_features)
                for p in layer.parameters():
                    p.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


@functools.cache
def pretrained(seed: int) -> dict[str, Tensor]:
    """Weights that know the digits at their own place: 100 steps of Adam."""
    model = Perceptron(seed)
    first_order(model, "adam", 1e-2, 100, seed=seed)
    return {n: p.detach().clone() for n, p in model.state_dict().items()}


def model_of(seed: int, fine_tune: bool) -> Perceptron:
    model = Perceptron(seed)
    if fine_tune:
        model.load_state_dict(pretrained(seed))
    return model


def scores(model: nn.Module, fine_tune: bool = False) -> dict[str, float]:
    """Cross-entropy of the training rows, and cross-entropy and accuracy of the test rows."""
    x, y, x_test, y_test = rows()
    if fine_tune:
        x, x_test = moved(x), moved(x_test)
    with torch.no_grad():
        train, test = model(x), model(x_test)
        return {
            "loss": float(nn.functional.cross_entropy(train, y)),
            "test_loss": float(nn.functional.cross_entropy(test, y_test)),
            "accuracy": float((test.argmax(-1) == y_test).float().mean()),
        }


def tune(
    optimizer: Any,
    options: dict[str, Any],
    seed: int,
    *,
    queries: int,
    batch: int = 64,
    fine_tune: bool = False,
    model: Perceptron | None = None,
    every: int = 0,
    on_step: Callable[[nn.Module], None] | None = None,
) -> dict[str, Any]:
    """Tune with a zotune optimizer until so many queries of single rows are spent; scores at the end, queries, steps,
    CPU seconds, and with `every` the accuracy after every so many queries. Diverged weights score infinity."""
    x, y, _, _ = rows()
    x = moved(x) if fine_tune else x
    model = model or model_of(seed, fine_tune)
    curve: list[tuple[int, float, float]] = []
    began, paused = time.process_time(), 0.0

    def loss(model: nn.Module, batch: list[int]) -> list[float]:
        return nn.functional.cross_entropy(model(x[batch]), y[batch], reduction="none").tolist()

    def seen(event: Event) -> None:
        nonlocal paused
        if not isinstance(event, StepDone):
            return
        if on_step is not None:
            on_step(model)
        if every and tuner.oracle.queries >= (len(curve) + 1) * every:
            start = time.process_time()
            accuracy = scores(model, fine_tune)["accuracy"]
            paused += time.process_time() - start
            curve.append((tuner.oracle.queries, time.process_time() - began - paused, accuracy))
        if tuner.oracle.queries >= queries:
            raise Spent

    tuner = zotune.Tuner(
        model,
        zotune.objective(direction="minimize")(loss),
        optimizer,
        data=list(range(TRAIN)),
        batch_size=batch,
        seed=seed,
        optimizer_args=options if isinstance(optimizer, str) else None,
        emit=seen,
    )
    diverged = False
    try:  # the budget in steps fixes `at.progress`; queries end the run
        tuner.fit(max_evals=-(-queries // batch), eval_steps=10**9)
    except Spent:
        pass
    except ZotuneError:
        diverged = True
    ended = scores(model, fine_tune)
    if diverged or not math.isfinite(ended["loss"]):
        ended = {"loss": math.inf, "test_loss": math.inf, "accuracy": 0.0}
    result = {**ended, "queries": tuner.oracle.queries, "seconds": time.process_time() - began - paused}
    result["findings"] = tuner.findings
    return result | ({"curve": curve} if every else {})


class Spent(Exception):
    """The queries of a run are spent."""


def first_order(
    model: nn.Module,
    kind: str,
    lr: float,
    steps: int,
    *,
    seed: int,
    batch: int = 64,
    fine_tune: bool = False,
    parameters: list[nn.Parameter] | None = None,
    on_step: Callable[[nn.Module, Tensor, Tensor], None] | None = None,
) -> dict[str, float]:
    """Train with back-propagated gradients. kind: "adam" or "sgd". on_step: called after each step with the model and
    the batch's rows."""
    x, y, _, _ = rows()
    x = moved(x) if fine_tune else x
    generator = torch.Generator().manual_seed(seed)
    own = list(model.parameters()) if parameters is None else parameters
    optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind](own, lr=lr)
    for _ in range(steps):
        chosen = torch.randperm(TRAIN, generator=generator)[:batch]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if on_step is not None:
            on_step(model, x[chosen], y[chosen])
    return scores(model, fine_tune)
