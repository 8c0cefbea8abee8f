"""Plain references in numpy and float64 of the papers' formulas. They share with zotune the noise, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from zotune import plugins
from zotune.core import noise
from zotune.core.recipe import Noise
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.testing import Bench, data
from zotune.types import Score

Vector = np.ndarray[Any, np.dtype[np.float64]]


def net(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """TinyNet's forward pass."""
    h = weights["embed.weight"][x]
    for k in range(2):
        mean = h.mean(-1, keepdims=True)
        norm = (h - mean) / np.sqrt(((h - mean) ** 2).mean(-1, keepdims=True) + 1e-5)
        norm = norm * weights["norm.weight"] + weights["norm.bias"]
        h = h + np.tanh(norm @ weights[f"layers.{k}.weight"].T + weights[f"layers.{k}.bias"])
    return h @ weights["embed.weight"].T


def loss(weights: dict[str, np.ndarray], rows: tuple[int, ...]) -> float:
    """Cross-entropy in float32 of float64 logits, as the bench computes it."""
    x, y = (t.numpy()[list(rows)] for t in data())
    logits = torch.from_numpy(net(weights, x)).float()
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="none").tolist()
    return sum(losses) / len(losses)


def quadratic(weights: dict[str, np.ndarray], rows: tuple[int, ...]) -> float:
    """A smooth function of every weight and of the batch, in float64 throughout."""
    shift = sum(rows) / 100
    return float(sum(((w - shift * math.cos(k)) ** 2).sum() for k, (_, w) in enumerate(sorted(weights.items()))))


class Reference:
    """θ as numpy arrays, with zotune's noise; all else is written again."""

    def __init__(self, optimizer: Any, seed: int = 2, steps: int = 5) -> None:
        def evaluate(indices: Any) -> Any:
            now = {n: p.detach().double().numpy() for n, p in self.bench.space.params.items()}
            return Score(quadratic(now, tuple(indices)))

        self.bench = Bench(optimizer, seed=seed, steps=steps, dtype=torch.float64, evaluate=evaluate)
        self.theta = {n: p.detach().numpy().copy() for n, p in self.bench.space.params.items()}
        self.kinds = {t.name: t for t in self.bench.space.theta.tensors}

    def noise(self, kind: str, step: int, draw: int = 0) -> dict[str, np.ndarray]:
        return {n: z.numpy() for n, z in self.bench.space.value(Noise(kind, step, draw)).items()}

    def factor(self, name: str, rows: int, columns: int, step: int, draw: int) -> Vector:
        """The small matrix of noise of one tensor."""
        key = self.bench.space.key(name, Noise("factor", step, draw))
        return noise.factor(key, rows, columns, torch.device("cpu")).double().numpy()

    def moved(self, scale: Any, z: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        of = scale if isinstance(scale, dict) else dict.fromkeys(z, scale)
        return {n: w + of[n] * z[n] for n, w in self.theta.items()}

    def rows(self, step: int, draw: int = 0) -> tuple[int, ...]:
        return self.bench.batches.at(step, draw).rows

    def agrees(self) -> None:
        self.bench.run()
        for n, p in self.bench.space.params.items():
            np.testing.assert_allclose(p.detach().numpy(), self.theta[n], rtol=1e-12, atol=1e-12)


PACKAGES = {"cma": "cma"}
"""The package that an optimizer needs beyond zotune's own requirements."""


def target(name: str) -> Any:
    """The class of an installed optimizer, or a skipped test where the package that it needs is not installed."""
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    return plugins.default().find("optimizer", name).load()


def load(name: str, **options: Any) -> Any:
    return target(name)(**options)


class Flat(Reference):
    """A reference with all weights in one vector x, so that it reads as its paper does."""

    def __init__(self, name: str, steps: int = 5, **options: Any) -> None:
        super().__init__(load(name, **options), steps=steps)
        self.spans: dict[str, slice] = {}
        start = 0
        for n, w in self.theta.items():
            self.spans[n] = slice(start, start + w.size)
            start += w.size
        self.x = self.join(self.theta)

    @staticmethod
    def join(tensors: Any) -> Vector:
        return np.concatenate([np.asarray(w, dtype=np.float64).ravel() for w in tensors.values()])

    def shrinks(self) -> Vector:
        """1 where weight decay applies, 0 on biases and norm layers."""
        return self.join(
            {n: np.full(w.shape, self.kinds[n].kind not in ("bias", "norm")) for n, w in self.theta.items()}
        )

    def z(self, step: int, draw: int = 0, kind: str = "normal") -> Vector:
        return self.join(self.noise(kind, step, draw))

    def vector(self, step: int, length: int, draw: int) -> list[float]:
        return At(self.bench.space, self.bench.batches, Tape(), step, None, 0.0).vector(length, draw)

    def L(self, x: Vector, rows: tuple[int, ...]) -> float:
        return quadratic({n: x[part].reshape(self.theta[n].shape) for n, part in self.spans.items()}, rows)

    def slope(self, x: Vector, z: Vector, eps: float, rows: tuple[int, ...]) -> float:
        return (self.L(x + eps * z, rows) - self.L(x - eps * z, rows)) / (2 * eps)

    def field(self, path: str) -> Vector:
        return self.join({n: self.bench.space.fields[path][n].numpy() for n in self.spans})

    def ends_at(self, x: Vector, **fields: Vector) -> None:
        """Run the optimizer, and compare its weights and fields with these."""
        self.bench.run()
        weights = self.join({n: p.detach().numpy() for n, p in self.bench.space.params.items()})
        np.testing.assert_allclose(weights, x, rtol=1e-12, atol=1e-12)
        for path, expected in fields.items():
            np.testing.assert_allclose(self.field(path), expected, rtol=1e-12, atol=1e-12)


class Members:
    """Factors of a population, written again from the noise's counter."""

    def __init__(self, ref: Reference) -> None:
        self.ref = ref
        self.shapes = {n: w.shape for n, w in ref.theta.items() if w.ndim == 2}

    def factors(self, name: str, step: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
        sides = []
        for side, length in enumerate(self.shapes[name]):
            key = self.ref.bench.space.key(name, Noise("member", step, side))
            units = noise.units("member", key, 0, pairs * length, torch.device("cpu")).double().numpy()
            sides.append(units.reshape(pairs, length) * noise.NORMAL_SCALE)
        return sides[0], sides[1]

    def moved(self, scale: dict[str, float], weights: np.ndarray, step: int) -> dict[str, np.ndarray]:
        out = dict(self.ref.theta)
        for name in self.shapes:
            u, v = self.factors(name, step, len(weights))
            out[name] = out[name] + scale[name] * np.einsum("p,pi,pj->ij", weights, u, v)
        return out
