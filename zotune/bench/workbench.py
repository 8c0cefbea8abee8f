"""What the contract tests of `zotune.testing` run on: tiny modules, small problems, and a bench around one optimizer.

Knows the engine and everything below it. Needs torch, and no model or data set.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zotune.core.population import Population, RowWise
from zotune.core.recipe import Noise
from zotune.core.space import Space
from zotune.errors import ObjectiveError
from zotune.search import checkpoint
from zotune.search.batches import Batches
from zotune.search.engine import Engine
from zotune.search.hooks import Settings
from zotune.search.journal import Journal
from zotune.search.limits import Budget
from zotune.search.oracle import Oracle
from zotune.search.population_plan import PopulationPlan
from zotune.search.progress import ValidationResult
from zotune.types import Optimizer, Score


class TinyNet(nn.Module):
    """Two linear layers, a norm, an embedding with tied weights, and a buffer: one of each kind of tensor."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.embed = nn.Embedding(7, 8)
            self.norm = nn.LayerNorm(8)
            self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
            self.head = nn.Linear(8, 7, bias=False)
            for p in self.parameters():
                p.data.add_(0.1 * torch.randn(p.shape))
        self.head.weight = self.embed.weight
        self.register_buffer("calls", torch.zeros(()))
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for layer in self.layers:
            h = h + torch.tanh(layer(self.norm(h)))
        out: Tensor = self.head(h)
        return out


ROWS = 24


def data() -> tuple[Tensor, Tensor]:
    x = torch.arange(ROWS) % 7
    return x, (x * 3 + 1) % 7


class Bench:
    """One optimizer in an engine, by default on the cross-entropy of TinyNet on 24 rows in batches of 6.

    fail_at: evaluations, counted from 1, that raise ObjectiveError. interrupt_after: so many evaluations, the next one
    raises KeyboardInterrupt. assess: the validation loss, computed after every step. row_wise: whether the rows of
    TinyNet's passes have directions of their own, as where a model allows it. calls: evaluations so far;
    member_calls: members of the population that is under way, evaluated so far.
    """

    member_calls: int | None = None

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        seed: int = 0,
        steps: int = 6,
        chunk: int = 64,
        dtype: torch.dtype = torch.float32,
        module: nn.Module | None = None,
        evaluate: Callable[[Sequence[int]], Score] | None = None,
        select: Callable[[Any], bool] | None = None,
        fail_at: frozenset[int] = frozenset(),
        interrupt_after: int | None = None,
        journal: Journal | None = None,
        evals: int | None = None,
        compile: bool = False,
        assess: Callable[[Bench], float] | None = None,
        row_wise: bool = False,
    ) -> None:
        self.module = TinyNet(dtype) if module is None else module
        self.optimizer, self.calls = optimizer, 0
        self.fail_at, self.interrupt_after = fail_at, interrupt_after
        self.space = Space(self.module, seed, select, chunk, compile)
        self.batches = Batches(ROWS, 6, seed)
        self.oracle = _MembersInPasses(
            self.space,
            self._counted(evaluate or self.loss),
            self.batches,
            "minimize",
            retries=0,
            passes=lambda rows: 1,
        )
        self.oracle.bench = self
        if row_wise:
            self.batches.population = PopulationPlan(rows=2 * self.batches.size)
            self.oracle.score_members = self._score_members
        self.journal = journal or Journal.create(None, {})
        self.store = checkpoint.MemoryStore()
        budget = Budget(steps if evals is None else None, evals)
        self.engine = Engine(
            self.space,
            optimizer,
            self.oracle,
            self.batches,
            budget,
            self.journal,
            self.store,
            Settings(eval_steps=10**9),
        )
        if assess is not None:
            self.engine.hooks.validate = lambda: ValidationResult(loss=assess(self))
            self.engine.settings.eval_steps = 1

    def _counted(self, evaluate: Callable[[Sequence[int]], Score]) -> Callable[[Sequence[int]], Score]:
        def run(indices: Sequence[int]) -> Score:
            if self.calls == self.interrupt_after:
                raise KeyboardInterrupt
            cost = -(-len(indices) // self.batches.size)
            if self.member_calls is None:
                self.calls += cost
            else:
                self.member_calls += 1
            if self.calls + (self.member_calls is not None) in self.fail_at:
                raise ObjectiveError("this evaluation fails on purpose")
            return evaluate(indices)

        return run

    @torch.no_grad()
    def _score_members(self, population: Population, rows: Sequence[int], each: int) -> list[float | None]:
        """The cross-entropy of each member's rows, all in one pass."""
        x, y = data()
        both = torch.tensor([*rows, *rows])

        def losses(indices: Sequence[int]) -> Score:
            row_wise = RowWise(self.space, lambda: self.module(x[both]), len(both))
            with row_wise.at(population):
                logits = self.module(x[both])
            each_row = nn.functional.cross_entropy(logits.float(), y[both], reduction="none").tolist()
            return Score(sum(each_row) / len(each_row), tuple(each_row))

        samples = [s or 0.0 for s in self._counted(losses)(rows).samples or ()]
        return [sum(samples[k : k + each]) / each for k in range(0, len(samples), each)]

    @torch.no_grad()
    def loss(self, indices: Sequence[int]) -> Score:
        """The cross-entropy of the module as it is on these rows."""
        x, y = data()
        rows = torch.tensor(list(indices))
        logits = self.module(x[rows])
        losses = nn.functional.cross_entropy(logits.float(), y[rows], reduction="none").tolist()
        return Score(sum(losses) / len(losses), tuple(losses))

    def run(self) -> Bench:
        self.engine.run()
        return self

    def weights(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.space.params.items()}


class _MembersInPasses(Oracle):
    """Counts a population's members as the passes of whole batches that they are where rows have directions of their
    own: the bench evaluates each under written weights, which are as many calls as members."""

    bench: Bench

    def population(self, *args: Any, **kwargs: Any) -> Any:
        bench, before = self.bench, self.evaluations
        bench.member_calls = 0
        try:
            return super().population(*args, **kwargs)
        finally:
            if bench.member_calls:  # none in a replay
                bench.calls += self.evaluations - before
            bench.member_calls = None


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


class Weights(nn.Module):
    """Two tensors with values near 0.3, tuned by themselves."""

    def __init__(self, numel: int = 8) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.linspace(0.2, 0.4, numel))
        self.b = nn.Parameter(torch.full((2, 3), -0.3))

    def flat(self) -> Tensor:
        return torch.cat([self.a.detach().view(-1), self.b.detach().view(-1)])


def _target(like: Tensor) -> Tensor:
    return torch.cos(torch.arange(like.numel(), dtype=like.dtype))


def _quadratic(module: Weights, indices: Sequence[int]) -> Score:
    w = module.flat()
    return Score(float((w - _target(w)).square().mean()))


def _stretched(module: Weights, indices: Sequence[int]) -> Score:
    w = module.flat()
    scale = torch.logspace(-1, 1, w.numel(), dtype=w.dtype)
    return Score(float((scale * (w - _target(w)).square()).mean()))


def _absolute(module: Weights, indices: Sequence[int]) -> Score:
    w = module.flat()
    return Score(float((w - _target(w)).abs().mean()))


def _logistic(module: Weights, indices: Sequence[int]) -> Score:
    w = module.flat()
    return Score(float(nn.functional.softplus(-4 * w * _target(w).sign()).mean()))


PROBLEMS: dict[str, Callable[[Any, Sequence[int]], Score]] = {
    "quadratic": _quadratic,
    "stretched quadratic": _stretched,
    "absolute value": _absolute,
    "logistic": _logistic,
}
"""Objectives of `Weights`: smooth, badly scaled, with a kink, without a minimum."""


@dataclass(frozen=True)
class FirstStep:
    """What a reference of the first step needs: initial weights (numpy float64, by name), noise and loss."""

    bench: Bench
    weights: Mapping[str, Any]

    def noise(self, kind: str = "normal", draw: int = 0, step: int = 0) -> dict[str, Any]:
        return {n: z.numpy() for n, z in self.bench.space.value(Noise(kind, step, draw)).items()}

    def loss(self, weights: Mapping[str, Any], draw: int = 0) -> float:
        """The loss at other weights, on the first step's batch or on a further draw."""
        module = copy.deepcopy(self.bench.module)
        space = Space(module, 0)
        space.load({n: torch.as_tensor(w) for n, w in weights.items()})
        return Bench(self.bench.optimizer, module=module).loss(self.bench.batches.at(0, draw).rows).value


class Discard(checkpoint.MemoryStore):
    """A checkpoint store that saves nothing."""

    def save(self, space: Space, step: int, meta: Mapping[str, Any], keep: int) -> None:
        return


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures `peak`, the largest number of bytes at one time in tensors that were made inside the block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                key = storage.data_ptr()
                if key not in inputs or key in self._known:
                    self._hold(x, key, storage.nbytes())
        return out

    def _hold(self, x: Tensor, key: int, size: int) -> None:
        if key not in self._known:
            self.live += size
            self.peak = max(self.peak, self.live)
        self._known[key] = self._known.get(key, 0) + 1
        weakref.finalize(x, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known[key] -= 1
        if not self._known[key]:
            del self._known[key]
            self.live -= size


__all__ = ["PROBLEMS", "Bench", "Discard", "FirstStep", "LiveTensors", "TinyNet", "Weights", "data", "same"]
