"""Every installed optimizer keeps the contract; ours equal float64 references written from their papers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from zotune import host
from zotune.errors import OptionError
from zotune.recipe import Noise
from zotune.testing import PROBLEMS, Bench, Given, LiveTensors, OptimizerContract, data

SETTINGS: dict[str, dict[str, Any]] = {"mezo": {"lr": 1e-2, "eps": 1e-2}}
"""Steps large enough to move a tiny net where the paper's defaults are for large models."""


@pytest.mark.parametrize("name", host.default().names("optimizer"))
class TestEveryInstalledOptimizer(OptimizerContract):
    @pytest.fixture(autouse=True)
    def _chosen(self, name: str) -> None:
        self.name = name

    def optimizer(self) -> Any:
        return host.default().find("optimizer", self.name).load()(**SETTINGS.get(self.name, {}))

    def test_it_lowers_the_loss(self) -> None:
        bench = self.bench(steps=300, seed=1)
        everything = range(24)
        start = bench.oracle._evaluate(everything).value
        bench.run()
        assert bench.oracle._evaluate(everything).value < start - 0.05

    def test_options_are_a_frozen_dataclass_with_meanings(self) -> None:
        from zotune.config import comments

        target = host.default().find("optimizer", self.name).load()
        assert dataclasses.is_dataclass(target)
        with pytest.raises(dataclasses.FrozenInstanceError):
            self.optimizer().__setattr__(dataclasses.fields(target)[0].name, 1)
        assert set(comments(target)) >= {f.name for f in dataclasses.fields(target)}


# -- references: numpy, float64, own loops ----------------------------------------------------------------------------


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
    """θ as numpy arrays, noise from the product, everything else written again."""

    def __init__(self, optimizer: Any, seed: int = 2, steps: int = 5) -> None:
        def evaluate(indices: Any) -> Any:
            from zotune.types import Score

            now = {n: p.detach().double().numpy() for n, p in self.bench.space.params.items()}
            return Score(quadratic(now, tuple(indices)))

        self.bench = Bench(optimizer, seed=seed, steps=steps, dtype=torch.float64, evaluate=evaluate)
        self.theta = {n: p.detach().numpy().copy() for n, p in self.bench.space.params.items()}
        self.kinds = {t.name: t for t in self.bench.space.theta.tensors}

    def noise(self, kind: str, step: int, draw: int = 0) -> dict[str, np.ndarray]:
        return {n: z.numpy() for n, z in self.bench.space.value(Noise(kind, step, draw)).items()}

    def moved(self, scale: Any, z: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        of = scale if isinstance(scale, dict) else dict.fromkeys(z, scale)
        return {n: w + of[n] * z[n] for n, w in self.theta.items()}

    def rows(self, step: int, draw: int = 0) -> tuple[int, ...]:
        return self.bench.batches.at(step, draw).rows

    def agrees(self) -> None:
        self.bench.run()
        for n, p in self.bench.space.params.items():
            np.testing.assert_allclose(p.detach().numpy(), self.theta[n], rtol=1e-12, atol=1e-12)


def load(name: str, **options: Any) -> Any:
    return host.default().find("optimizer", name).load()(**options)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("n", "batches"), [(1, "shared"), (3, "shared"), (3, "fresh")])
def test_mezo_is_its_paper(schedule: str, n: int, batches: str) -> None:
    lr, eps, decay, steps = 3e-3, 1e-2, 0.1, 5
    ref = Reference(load("mezo", lr=lr, eps=eps, n=n, weight_decay=decay, schedule=schedule, batches=batches))
    for t in range(steps):
        share = {"constant": 1.0, "linear": 1 - t / steps, "cosine": (1 + math.cos(math.pi * t / steps)) / 2}[schedule]
        eta = lr * share
        update = {name: np.zeros_like(w) for name, w in ref.theta.items()}
        for j in range(n):
            z = ref.noise("normal", t, j)
            rows = ref.rows(t, j if batches == "fresh" else 0)
            g = (quadratic(ref.moved(eps, z), rows) - quadratic(ref.moved(-eps, z), rows)) / (2 * eps)
            for name in update:
                update[name] += eta / n * g * z[name]
        for name, w in ref.theta.items():
            lam = 0.0 if ref.kinds[name].kind in ("bias", "norm") else decay
            ref.theta[name] = w - update[name] - eta * lam * w
    ref.agrees()


def test_random_search_keeps_the_best_of_all() -> None:
    ref = Reference(load("random-search", sigma=0.05, n=4))
    rms = {n: math.sqrt((w**2).mean()) for n, w in ref.theta.items()}
    for t in range(5):
        points = [ref.theta] + [
            ref.moved({n: 0.05 * r for n, r in rms.items()}, ref.noise("normal", t, j)) for j in range(4)
        ]
        values = [quadratic(p, ref.rows(t)) for p in points]
        ref.theta = points[int(np.argmin(values))]
    ref.agrees()


def test_auto_is_its_docstring() -> None:
    tau, eps, cap, beta, c, rows = 0.003, 0.5, 0.05, 0.9, 1.5, 12
    options = {
        "share": 100.0,
        "tolerance": tau,
        "eps": eps,
        "cap": cap,
        "beta": beta,
        "clip": c,
        "rows": rows,
        "bands": 2,
    }
    ref = Reference(load("auto", **options), steps=6)
    batch = ref.bench.batches.sample(-1, rows).rows
    assert len(set(batch)) == rows
    clean = quadratic(ref.theta, batch)

    def costs(D: dict[str, float], draw: int, share: float) -> bool:
        z = ref.noise("rademacher", -1, draw)
        probes = [quadratic(ref.moved({n: s * D[n] for n in D}, z), batch) for s in (1, -1)]
        return sum(probes) / 2 - clean > share * abs(clean)

    groups: dict[Any, list[str]] = {}
    for t in ref.kinds.values():
        groups.setdefault((t.block, t.kind, t.name.split(".")[-1]), []).append(t.name)
    D: dict[str, float] = {}
    for draw, names in enumerate(groups.values()):
        rms = {n: math.sqrt((ref.theta[n] ** 2).mean()) for n in names}
        typical = math.sqrt(sum(r * r for r in rms.values()) / len(names))
        unit = {n: max(rms[n], 0.1 * typical) if n in names else 0.0 for n in ref.theta}
        powers = [2.0**k for k in range(4, -7, -1)]
        fits = [p for p in powers if not costs({n: p * u for n, u in unit.items()}, draw, tau)]
        D |= {n: max(fits) * unit[n] for n in names}
    while costs({n: eps * d for n, d in D.items()}, len(groups), 5 * tau):
        eps /= 2
    first = min(cap * math.sqrt(3 / 6), eps)
    v = weight = moved = 0.0
    for t in range(6):
        z, now = ref.noise("rademacher", t), ref.rows(t)
        up, down = (quadratic(ref.moved({n: s * eps * d for n, d in D.items()}, z), now) for s in (1, -1))
        g = (up - down) / (2 * eps)
        v, weight = beta * v + (1 - beta) * g * g, beta * weight + (1 - beta)
        d = max(-c, min(c, g / math.sqrt(v / weight)))
        step = first * (1 - t / 6) * d * min(1.0, 2 * math.sqrt(max(0.0, 1 - moved / (2 * cap) ** 2)))
        moved += step * step
        ref.theta = ref.moved({n: -step * x for n, x in D.items()}, z)
    ref.agrees()


def test_auto_stays_within_its_cap() -> None:
    bench = Bench(load("auto", cap=0.1), steps=200).run()
    assert math.sqrt(bench.engine.state.moved) <= 0.1 * 2.2


def test_numpy_net_is_the_torch_net() -> None:
    bench = Bench(load("mezo"), dtype=torch.float64)
    weights = {n: p.detach().numpy() for n, p in bench.space.params.items()}
    with torch.no_grad():
        torch_logits = bench.module(data()[0]).numpy()
    np.testing.assert_allclose(net(weights, data()[0].numpy()), torch_logits, rtol=1e-10)
    assert loss(weights, tuple(range(24))) == pytest.approx(bench._loss(range(24)).value, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("mezo", {"lr": 0}, "lr must be positive, got 0"),
        ("mezo", {"eps": -1.0}, "eps must be positive"),
        ("mezo", {"n": 0}, "n must be at least 1"),
        ("mezo", {"weight_decay": -0.1}, "weight_decay"),
        ("random-search", {"sigma": 0}, "sigma"),
        ("random-search", {"n": 0}, "n must be"),
        ("auto", {"cap": -1}, "cap must be positive"),
        ("auto", {"beta": 1.0}, "beta"),
        ("auto", {"bands": 0}, "bands"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        load(name, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", host.default().names("optimizer"))
def test_half_precision_stays_finite(name: str, dtype: torch.dtype) -> None:
    bench = Bench(load(name, **SETTINGS.get(name, {})), steps=100, dtype=dtype).run()
    assert all(torch.isfinite(p).all() for p in bench.weights().values())
    assert all(p.dtype == dtype for p in bench.weights().values())


# -- the contract itself ----------------------------------------------------------------------------------------------


def test_live_tensors_are_counted_until_they_die() -> None:
    with LiveTensors() as live:
        a = torch.zeros(1000)
        b = a[10:]
        assert live.live == 4000
        c = a + 1
        assert live.live == 8000
        del a, c
        assert live.live == 4000, "a view keeps its storage alive"
        del b
        assert live.live == 0
    assert live.peak == 8000


class Hoarder:
    """Keeps a copy of the weights that it does not declare."""

    def init(self, theta: Any) -> Any:
        return {"copy": theta}

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> Any:
        z = at.normal()
        up, down = oracle(theta + 0.01 * z, theta - 0.01 * z)
        return theta - (up - down) * z, {"copy": theta}


class HoarderContract(OptimizerContract):
    def optimizer(self) -> Any:
        return Hoarder()


@pytest.mark.parametrize(
    "test", ["test_memory_stays_within_what_is_declared", "test_fields_declared_are_fields_stored"]
)
def test_the_contract_finds_undeclared_memory(test: str) -> None:
    with pytest.raises(AssertionError):
        getattr(HoarderContract(), test)()


class RightReference(OptimizerContract):
    """The hook for a reference, on the smallest optimizer there is."""

    def optimizer(self) -> Any:
        return host.default().find("optimizer", "mezo").load()(lr=1e-2, eps=1e-2)

    def reference(self, given: Given) -> Any:
        z = given.noise()
        up, down = (given.loss({n: w + s * 1e-2 * z[n] for n, w in given.weights.items()}) for s in (1, -1))
        return {n: w - 1e-2 * (up - down) / 2e-2 * z[n] for n, w in given.weights.items()}


class WrongReference(RightReference):
    def reference(self, given: Given) -> Any:
        return {n: w + 1e-9 for n, w in super().reference(given).items()}


def test_the_contract_finds_a_step_that_is_not_its_paper() -> None:
    RightReference().test_one_step_equals_the_reference()
    with pytest.raises(AssertionError):
        WrongReference().test_one_step_equals_the_reference()


class Wanders:
    """Goes by noise alone, as far a step as the signal could make it."""

    forwards = 2

    def init(self, theta: Any) -> None:
        return None

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
        z = at.normal()
        oracle(theta + 0.01 * z, theta - 0.01 * z)
        return theta + 1e-2 * at.normal(1), None


class Climbs(Wanders):
    """Takes the sign the wrong way round."""

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
        z = at.normal()
        up, down = oracle(theta + 0.01 * z, theta - 0.01 * z)
        return theta + 1e-2 * (up - down) / 0.02 * z, None


@pytest.mark.parametrize("kind", [Wanders, Climbs])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_contract_finds_what_does_not_converge(
    kind: type[Wanders], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Contract(OptimizerContract):
        def optimizer(self) -> Any:
            return kind()

    monkeypatch.setattr("zotune.testing.PROBLEMS", {problem: PROBLEMS[problem]})
    with pytest.raises(AssertionError, match=problem):
        Contract().test_it_converges_on_four_small_problems()
