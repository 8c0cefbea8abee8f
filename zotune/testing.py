"""Contract tests for plugin authors: subclass one class, and pytest runs the whole contract on your plugin.

    from zotune.testing import OptimizerContract

    class TestMine(OptimizerContract):
        def optimizer(self):
            return Mine(lr=1e-2)

The same classes test every optimizer and objective that ships with zotune, found by discovery. They need pytest, and
nothing but torch besides.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zotune import checkpoint, objectives
from zotune.engine import Budget, Engine
from zotune.errors import ObjectiveError
from zotune.journal import Journal
from zotune.oracle import Batches, Oracle
from zotune.space import Space
from zotune.types import Optimizer, Score


class TinyNet(nn.Module):
    """Two linear layers, a norm, an embedding, tied weights and a buffer: one of everything that matters."""

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
    """A tiny problem around one optimizer: cross-entropy of TinyNet on 24 rows, in batches of 6.

    fail_at: evaluations (counted from 1) that raise ObjectiveError.
    """

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
        journal: Journal | None = None,
        evals: int | None = None,
    ) -> None:
        self.module = TinyNet(dtype) if module is None else module
        self.optimizer, self.calls, self.fail_at = optimizer, 0, fail_at
        self.space = Space(self.module, seed, select, chunk)
        self.batches = Batches(ROWS, 6, seed)
        self.oracle = Oracle(
            self.space,
            self._counted(evaluate or self._loss),
            self.batches,
            "minimize",
            retries=0,
            passes=lambda rows: 1,
        )
        self.journal = journal or Journal.create(None, {})
        self.store = checkpoint.MemoryStore()
        budget = Budget(steps if evals is None else None, evals)
        self.engine = Engine(
            self.space, optimizer, self.oracle, self.batches, budget, self.journal, self.store, eval_steps=10**9
        )

    def _counted(self, evaluate: Callable[[Sequence[int]], Score]) -> Callable[[Sequence[int]], Score]:
        def run(indices: Sequence[int]) -> Score:
            self.calls += -(-len(indices) // self.batches.size)
            if self.calls in self.fail_at:
                raise ObjectiveError("this evaluation fails on purpose")
            return evaluate(indices)

        return run

    @torch.no_grad()
    def _loss(self, indices: Sequence[int]) -> Score:
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


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


class OptimizerContract:
    """Every optimizer keeps this. Override `optimizer` to give an instance with settings that move a tiny model
    (weights near 0.3); it is called anew for each test."""

    steps = 6

    def optimizer(self) -> Optimizer:
        raise NotImplementedError

    def bench(self, **options: Any) -> Bench:
        return Bench(self.optimizer(), **{"steps": self.steps, **options})

    def test_it_moves_the_weights_and_keeps_them_finite(self) -> None:
        bench = self.bench()
        start = bench.weights()
        end = bench.run().weights()
        assert not same(start, end), "no step changed a weight; give `optimizer` a larger step"
        assert all(torch.isfinite(p).all() for p in end.values())

    def test_same_seed_same_bits(self) -> None:
        assert same(self.bench(seed=5).run().weights(), self.bench(seed=5).run().weights())

    def test_another_seed_other_weights(self) -> None:
        assert not same(self.bench(seed=5).run().weights(), self.bench(seed=6).run().weights())

    def test_chunk_size_changes_no_bit(self) -> None:
        assert same(self.bench(chunk=32).run().weights(), self.bench(chunk=4096).run().weights())

    def test_probing_changes_no_bit(self) -> None:
        bench = self.bench()
        digests = [bench.space.digest()]
        assign = bench.space.assign

        def checked(theta: Any, state: Any = None) -> Any:
            assert bench.space.digest() == digests[-1], "a weight changed before the step's one write"
            result = assign(theta, state)
            digests.append(bench.space.digest())
            return result

        bench.space.assign = checked  # type: ignore[method-assign]
        bench.run()
        assert len(digests) == self.steps + 2

    def test_a_failing_objective_leaves_every_bit(self) -> None:
        first = self.bench(steps=1).run()
        bench = self.bench(steps=2, fail_at=frozenset({first.calls + 1}))
        bench.engine.max_failures = 5
        bench.run()
        assert bench.engine.progress.dropped == 1
        assert same(first.weights(), bench.weights()), "a dropped step changed the weights"

    def test_replay_needs_no_forward_and_gives_the_same_bits(self) -> None:
        run = self.bench().run()
        journal = Journal(None)
        journal.lines, journal.cursor = copy.deepcopy(run.journal.lines), 1
        again = self.bench(journal=journal).run()
        assert again.calls == 0
        assert same(run.weights(), again.weights())

    def test_resumed_equals_uninterrupted(self) -> None:
        whole = self.bench().run()
        half = self.bench(steps=self.steps)
        half.engine.stop = lambda: half.engine.progress.step == self.steps // 2
        saved: dict[str, Any] = {}

        class Keep(checkpoint.MemoryStore):
            def save(self, space: Space, step: int, meta: Mapping[str, Any], keep: int) -> None:
                saved.update(meta=json.loads(json.dumps(meta)), weights=space.snapshot())
                saved["fields"] = {k: {n: t.clone() for n, t in f.items()} for k, f in space.fields.items()}

        half.engine.store = Keep()
        assert half.engine.run().reason == "interrupted"
        journal = Journal(None)
        journal.lines = copy.deepcopy(half.journal.lines)
        rest = self.bench(journal=journal)
        rest.space.load(saved["weights"])
        rest.space.fields = saved["fields"]
        rest.engine.restore(saved["meta"])
        rest.run()
        assert same(whole.weights(), rest.weights())
        assert [x for x in whole.journal.lines if x["kind"] == "step"] == [
            x for x in rest.journal.lines if x["kind"] == "step"
        ]

    def test_freezing_a_tensor_leaves_the_noise_of_others(self) -> None:
        from zotune.recipe import Noise

        z = Noise("normal", 3, 0)
        everything = self.bench().space.value(z)
        fewer = self.bench(select=lambda t: t.name != "layers.0.weight").space.value(z)
        assert same({n: everything[n] for n in fewer}, fewer)
        assert not torch.equal(everything["layers.0.weight"], everything["layers.1.weight"])

    def test_global_generators_are_untouched(self) -> None:
        import random

        before = (torch.get_rng_state(), random.getstate())
        self.bench().run()
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate()

    def test_forwards_counted_are_forwards_declared(self) -> None:
        bench = self.bench().run()
        assert bench.oracle.evaluations == bench.calls
        declared = getattr(bench.optimizer, "forwards", None)
        if isinstance(declared, int):
            steps = [line["evals"] for line in bench.journal.lines if line["kind"] == "step"]
            costs = [b - a for a, b in itertools.pairwise(steps)]
            assert costs == [declared] * len(costs), f"declares {declared} forwards a step, used {costs}"

    def test_budget_in_forwards_is_kept(self) -> None:
        bench = self.bench(evals=17).run()
        slack = 0 if isinstance(getattr(bench.optimizer, "forwards", None), int) else 16
        assert bench.calls <= 17 + slack or bench.engine.progress.step == 0

    def test_fields_declared_are_fields_stored(self) -> None:
        bench = self.bench().run()
        assert len(bench.space.fields) <= getattr(bench.optimizer, "fields", 0), sorted(bench.space.fields)

    def test_state_survives_json(self) -> None:
        from zotune import state as states

        bench = self.bench().run()
        coded = json.loads(json.dumps(states.encode(bench.engine.state)))
        back = states.decode(coded, type(bench.optimizer).__module__)
        assert states.encode(back) == states.encode(bench.engine.state)


class ObjectiveContract:
    """Every objective that scores classifications keeps this. Override `objective`."""

    def objective(self) -> Callable[..., Any]:
        raise NotImplementedError

    def inputs(self, rows: int = 12, right: float = 0.5) -> dict[str, Any]:
        """What a three-class task gives: about `right` of the predictions are right."""
        labels = [i % 3 for i in range(rows)]
        predictions = [y if (i * 37 % 100) < 100 * right else (y + 1) % 3 for i, y in enumerate(labels)]
        logits = torch.full((rows, 3), -1.0)
        logits[range(rows), predictions] = 1.0
        names = ["red", "green", "blue"]
        return {
            "prompts": [f"row {i}" for i in range(rows)],
            "completions": [names[p] for p in predictions],
            "references": [names[y] for y in labels],
            "predictions": predictions,
            "labels": labels,
            "logits": logits,
            "batch": [{} for _ in range(rows)],
        }

    def score(self, **options: Any) -> Score:
        goal = objectives.wrap(self.objective(), "under-test")
        inputs = self.inputs(**options)
        return goal.score(len(inputs["labels"]), inputs)

    def test_it_gives_a_finite_number_or_one_for_each_row(self) -> None:
        score = self.score()
        assert score.samples is None or len(score.samples) == 12

    def test_it_is_deterministic(self) -> None:
        assert self.score() == self.score()

    def test_better_predictions_score_better(self) -> None:
        goal = objectives.wrap(self.objective(), "under-test")
        sign = 1 if goal.direction == "maximize" else -1
        assert sign * self.score(right=1.0).value > sign * self.score(right=0.3).value

    def test_one_row_is_enough(self) -> None:
        self.score(rows=1)


__all__ = ["Bench", "ObjectiveContract", "OptimizerContract", "TinyNet"]
