"""Contract tests for plugin authors: subclass one class, and pytest runs the whole contract on your plugin.

    from zotune.testing import OptimizerContract

    class TestMine(OptimizerContract):
        def optimizer(self):
            return Mine(lr=1e-2)

The same classes test every optimizer and objective that ships with zotune. They need pytest, and of zotune's
dependencies torch alone.
"""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zotune import declarations
from zotune.bench.workbench import PROBLEMS, ROWS, Bench, Discard, FirstStep, LiveTensors, TinyNet, Weights, data, same
from zotune.core.bits import is_packed
from zotune.core.recipe import Noise
from zotune.core.space import Space
from zotune.events import RolledBack
from zotune.scoring.objective import wrap
from zotune.search import checkpoint
from zotune.search.journal import Journal
from zotune.search.limits import cost_of
from zotune.search.progress import ValidationResult
from zotune.types import Optimizer, Score


class OptimizerContract:
    """The invariants that every optimizer keeps, each as a test.

    Override `optimizer`: it returns an instance with settings that move a tiny model, whose weights are near 0.3. It is
    called again for each test.
    """

    steps = 6
    long = 200
    """Steps for the small problems."""

    def optimizer(self) -> Optimizer:
        raise NotImplementedError

    def reference(self, first: FirstStep) -> Mapping[str, Any] | None:
        """The weights after the first step by tensor name, computed in numpy float64 from the paper's equations; None:
        no reference."""
        return None

    def bench(self, **options: Any) -> Bench:
        return Bench(self.optimizer(), **{"steps": self.steps, **options})

    def test_it_moves_the_weights_and_keeps_them_finite(self) -> None:
        bench = self.bench()
        start = bench.weights()
        end = bench.run().weights()
        assert not same(start, end), "no step changed a weight; give `optimizer` a larger step"
        assert all(torch.isfinite(p).all() for p in end.values()), "a step wrote a weight that is not finite"

    def test_same_seed_same_bits(self) -> None:
        assert same(self.bench(seed=5).run().weights(), self.bench(seed=5).run().weights()), (
            "two runs with one seed differ: draw noise from `at` alone, keep nothing outside of the state"
        )

    def test_another_seed_other_weights(self) -> None:
        assert not same(self.bench(seed=5).run().weights(), self.bench(seed=6).run().weights()), (
            "two seeds give the same run: the noise does not come from `at`"
        )

    def test_chunk_size_changes_no_bit(self) -> None:
        assert same(self.bench(chunk=32).run().weights(), self.bench(chunk=4096).run().weights()), (
            "the size of a chunk changes the weights"
        )

    def test_compiling_changes_no_bit(self) -> None:
        compiled = self.bench(compile=True, steps=3).run()
        assert same(compiled.weights(), self.bench(steps=3).run().weights()), (
            "compiled steps give other weights than uncompiled ones"
        )
        assert compiled.space.kernels.recompilations == 0

    def test_evaluating_points_changes_no_bit(self) -> None:
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
        bench = self.bench(steps=2, fail_at=frozenset(range(first.calls + 1, first.calls + 1000)))
        bench.engine.settings.max_failures = 5
        bench.run()
        assert bench.engine.progress.dropped == 1, (
            "a step whose evaluation failed was not dropped: let ObjectiveError pass"
        )
        assert same(first.weights(), bench.weights()), "a dropped step changed the weights"

    def test_an_interrupt_during_an_evaluation_leaves_every_bit(self) -> None:
        first = self.bench(steps=1).run()
        bench = self.bench(steps=2, interrupt_after=first.calls)
        interrupted = False
        try:
            bench.run()
        except KeyboardInterrupt:  # at the second step's first evaluation
            interrupted = True
        assert interrupted, "the second step asked for no evaluation"
        assert same(first.weights(), bench.weights()), "an interrupted step changed the weights"

    def test_replay_needs_no_forward_and_gives_the_same_bits(self) -> None:
        run = self.bench().run()
        journal = Journal.of(run.journal.lines)
        again = self.bench(journal=journal).run()
        assert again.calls == 0, (
            "a replay asked for an evaluation: ask the oracle for nothing that depends on more than state and `at`"
        )
        assert same(run.weights(), again.weights()), (
            "a replay gives other weights: everything that a step reads must come from oracle, state and `at`"
        )

    def test_resumed_equals_uninterrupted(self) -> None:
        whole = self.bench().run()
        half = self.bench(steps=self.steps)
        half.engine.hooks.stop = lambda: half.engine.progress.step == self.steps // 2
        with tempfile.TemporaryDirectory() as folder:  # through files, as a run does it
            half.engine.store = checkpoint.FolderStore(Path(folder), 1, base=dict)
            assert half.engine.run().reason == "interrupted"
            journal = Journal.of(half.journal.lines, 0)
            rest = self.bench(journal=journal)
            (step,) = checkpoint.checkpoints(Path(folder))
            rest.engine.restore(checkpoint.read(Path(folder) / f"checkpoint-{step}", rest.space))
        rest.run()
        assert same(whole.weights(), rest.weights()), (
            "a resumed run gives other weights: the state does not hold all that a step needs"
        )
        assert [x for x in whole.journal.lines if x["kind"] == "step"] == [
            x for x in rest.journal.lines if x["kind"] == "step"
        ]

    def test_diverged_weights_are_restored_and_the_next_step_is_smaller(self) -> None:
        for best in (0, 1):  # the base model, or a step with a state of its own
            run, seen = self._diverged(best, None)
            (line,) = [x for x in run.journal.lines if x["kind"] == "rollback"]
            assert (line["step"], line["to"], line["damping"]) == (best + 1, best, 0.25)
            assert same(seen[best], seen[best + 2]), "the best weights were not restored"
            journal = Journal.of(run.journal.lines)
            again, _ = self._diverged(best, journal)
            assert again.calls == 0, (
                "a replay asked for an evaluation: ask the oracle for nothing that depends on more than state and `at`"
            )
            assert same(run.weights(), again.weights()), (
                "a replay gives other weights: everything that a step reads must come from oracle, state and `at`"
            )

    def _diverged(self, best: int, journal: Journal | None) -> tuple[Bench, list[Any]]:
        """A run whose best step is followed by one that diverged, and its weights at each validation and rollback."""
        bench = self.bench(steps=4, journal=journal)
        seen: list[Any] = []

        def look() -> ValidationResult:
            step = len(seen)
            seen.append(bench.weights())
            return ValidationResult(loss=float(abs(step - best)), diverged="by a test" if step == best + 1 else "")

        bench.engine.hooks.validate, bench.engine.settings.eval_steps = look, 1
        bench.engine.hooks.emit = lambda event: seen.append(bench.weights()) if isinstance(event, RolledBack) else None
        return bench.run(), seen

    def test_freezing_a_tensor_leaves_the_noise_of_others(self) -> None:
        z = Noise("normal", 3, 0)
        everything = self.bench().space.value(z)
        fewer = self.bench(select=lambda t: t.name != "layers.0.weight").space.value(z)
        assert same({n: everything[n] for n in fewer}, fewer), "freezing one tensor changes the noise of another"
        assert not torch.equal(everything["layers.0.weight"], everything["layers.1.weight"])

    def test_global_generators_are_untouched(self) -> None:
        import random

        import numpy as np

        before = (torch.get_rng_state(), random.getstate(), repr(np.random.get_state()))
        self.bench().run()
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate(), "a step used Python's global generator: take numbers from at.vector"
        assert before[2] == repr(np.random.get_state())

    def test_evaluations_counted_are_evaluations_declared(self) -> None:
        bench = self.bench().run()
        assert bench.oracle.evaluations == bench.calls, (
            "the oracle counted another number of evaluations than were made"
        )
        if declarations.declares_cost(bench.optimizer):
            steps = [line["evals"] for line in bench.journal.lines if line["kind"] == "step"]
            costs = [b - a for a, b in itertools.pairwise(steps)]
            declared = [
                cost_of(bench.optimizer, bench.space, bench.batches, t, t / self.steps) for t in range(1, self.steps)
            ]
            assert costs == declared, f"declares {declared} evaluations a step, used {costs}"

    def test_a_budget_in_evaluations_is_kept(self) -> None:
        bench = self.bench(evals=17).run()
        declared = declarations.declares_cost(bench.optimizer)
        slack = 0 if declared else 16
        assert bench.calls <= 17 + slack or bench.engine.progress.step == 0

    def test_fields_declared_are_fields_stored(self) -> None:
        bench = self.bench().run()
        one_bit = [any(is_packed(x) for x in f.values()) for f in bench.space.fields.values()]
        stored = sum(1 / 32 if packed else 1 for packed in one_bit)
        assert stored <= declarations.optimizer_info(bench.optimizer).fields, sorted(bench.space.fields)

    def test_one_step_equals_the_reference(self) -> None:
        """In float64, at 1e-12; nothing where `reference` returns None."""
        bench = self.bench(dtype=torch.float64, steps=1)
        start = {n: p.numpy().copy() for n, p in bench.weights().items()}
        new = self.reference(FirstStep(bench, start))
        if new is None:
            return
        actual = bench.run().weights()
        for name, expected in new.items():
            torch.testing.assert_close(actual[name], torch.as_tensor(expected), rtol=1e-12, atol=1e-13)

    def test_an_affine_change_of_the_objective_changes_no_decision(self) -> None:
        """For optimizers that declare `affine`: L + 1000, L - L0 and 10^6 L end with the loss of L to 1e-3, and 2^k L
        with its bits."""
        if not declarations.optimizer_info(self.optimizer()).affine:
            return
        start = self.bench().loss(range(ROWS)).value

        def run(factor: float, shift: float) -> Bench:
            def evaluate(rows: Sequence[int]) -> Score:
                score = bench.loss(rows)
                samples = tuple(None if s is None else factor * s + shift for s in score.samples or ())
                return Score(factor * score.value + shift, samples)

            bench = self.bench(steps=self.long // 8, dtype=torch.float64, evaluate=evaluate)
            return bench.run()

        plain = run(1.0, 0.0)
        end = plain.loss(range(ROWS)).value
        for factor, shift in ((1.0, 1000.0), (1.0, -start), (1e6, 0.0)):
            other = run(factor, shift).loss(range(ROWS)).value
            assert abs(other - end) < 1e-3, f"{factor:g} L + {shift:g} ends with {other:.4f}, L with {end:.4f}"
        for factor in (2.0**-12, 2.0**20):
            assert same(run(factor, 0.0).weights(), plain.weights()), f"{factor:g} L gives other weights than L"

    def test_it_converges_on_four_small_problems(self) -> None:
        for name, problem in PROBLEMS.items():
            module = Weights()
            bench = self.bench(steps=self.long, module=module, evaluate=functools.partial(problem, module), seed=1)
            start = problem(module, ()).value
            bench.run()
            end = problem(module, ()).value
            assert end < start - 0.05 * abs(start), f"{name}: {start:.3g} at the start, {end:.3g} at the end"

    def test_memory_stays_within_what_is_declared(self) -> None:
        """Bytes of tensors alive at one time in a step: scratch or a copy, the declared fields, and chunks."""
        module = Weights(100 * 256)  # more than a chunk's temporaries by far

        def evaluate(indices: Sequence[int]) -> Score:
            return Score(float((module.a.detach()[:64] - 1.0).square().mean()))

        bench = self.bench(steps=2, module=module, evaluate=evaluate, chunk=256)
        bench.engine.store = Discard()
        size = sum(p.numel() * p.element_size() for p in module.parameters())
        with LiveTensors() as live:
            bench.run()
        declared = size * (1 + declarations.optimizer_info(bench.optimizer).fields)
        assert live.peak <= declared + size // 4, f"{live.peak} bytes live at one time, {declared} declared"

    def test_the_best_is_chosen_on_rows_that_the_loop_may_see(self) -> None:
        held, losses = tuple(range(18, 24)), []

        def assess(bench: Bench) -> float:
            losses.append(bench.loss(held).value)
            return losses[-1]

        bench = self.bench(assess=assess).run()
        best = bench.engine.progress.best_step
        assert losses[best] == min(losses), "the step that counts as the best has not the lowest validation loss"
        module = TinyNet()
        space = Space(module, 0)
        space.load(bench.store.weights(best))
        again = Bench(self.optimizer(), module=module)
        assert again.loss(held).value == losses[best], "the best weights were not restored"

    def test_state_survives_json(self) -> None:
        from zotune.core import state_codec as states

        bench = self.bench().run()
        coded = json.loads(json.dumps(states.encode(bench.engine.state)))
        back = states.decode(coded, type(bench.optimizer).__module__)
        assert states.encode(back) == states.encode(bench.engine.state), (
            "the state is another one after it was saved and loaded: keep numbers, strings, lists and fields in it"
        )


class ObjectiveContract:
    """What every objective that scores classifications keeps. Override `objective`."""

    def objective(self) -> Callable[..., Any]:
        raise NotImplementedError

    def inputs(self, rows: int = 12, right: float = 0.5) -> dict[str, Any]:
        """The inputs of a task with three classes. right: share of the predictions that are right, about."""
        labels = [i % 3 for i in range(rows)]
        predictions = [y if (i * 37 % 100) < 100 * right else (y + 1) % 3 for i, y in enumerate(labels)]
        logits = torch.full((rows, 3), -1.0)
        logits[range(rows), predictions] = 1.0
        names = ["it is all red", "it is all green", "it is all blue"]  # metrics of texts may count runs of words
        return {
            "prompts": [f"row {i}" for i in range(rows)],
            "completions": [names[p] for p in predictions],
            "references": [names[y] for y in labels],
            "predictions": predictions,
            "labels": labels,
            "logits": logits,
            "losses": (-torch.log_softmax(logits, -1)[range(rows), labels]).tolist(),
            "chosen_logps": [-1.0 if p == y else -3.0 for p, y in zip(predictions, labels, strict=True)],
            "rejected_logps": [-2.0] * rows,
            "chosen_tokens": [1] * rows,
            "rejected_tokens": [1] * rows,
            "batch": [{} for _ in range(rows)],
        }

    def score(self, **options: Any) -> Score:
        objective = wrap(self.objective(), "under-test")
        inputs = self.inputs(**options)
        return objective.score(len(inputs["labels"]), inputs)

    def test_it_gives_a_finite_number_or_one_for_each_row(self) -> None:
        score = self.score()
        assert score.samples is None or len(score.samples) == 12

    def test_it_is_deterministic(self) -> None:
        assert self.score() == self.score(), "two calls on the same rows give different scores"

    def test_better_predictions_score_better(self) -> None:
        objective = wrap(self.objective(), "under-test")
        sign = 1 if objective.direction == "maximize" else -1
        assert sign * self.score(right=1.0).value > sign * self.score(right=0.3).value, (
            "better predictions score worse: check `direction`"
        )

    def test_one_row_is_enough(self) -> None:
        self.score(rows=1)


__all__ = [
    "PROBLEMS",
    "Bench",
    "FirstStep",
    "LiveTensors",
    "ObjectiveContract",
    "OptimizerContract",
    "TinyNet",
    "Weights",
    "data",
]
