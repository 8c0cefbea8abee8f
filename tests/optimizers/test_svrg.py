"""MeZO-SVRG and ZO-SVRG against plain references in float64, to 1e-12."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from references import Flat, load

from zotune import weighted_sum
from zotune.core.space import Space
from zotune.events import StepDone
from zotune.search.batches import Batches
from zotune.search.checkpoint import MemoryStore
from zotune.search.engine import Engine
from zotune.search.hooks import Hooks, Settings
from zotune.search.journal import Journal
from zotune.search.limits import Budget
from zotune.search.oracle import Oracle
from zotune.search.progress import ValidationResult
from zotune.testing import TinyNet
from zotune.types import Score


@pytest.mark.parametrize(("full", "p"), [(0, 1), (12, 1), (0, 3)])
@pytest.mark.parametrize("directions", ["shared", "independent"])
@pytest.mark.parametrize("anchored", ["stored", "recomputed"])
def test_mezo_svrg_with_both_kinds_of_step_and_annealing(anchored: str, directions: str, full: int, p: int) -> None:
    lr1, lr2, eps, q, factor, kappa, steps = 3e-3, 2e-3, 1e-2, 3, 2.0, 0.5, 13
    options = {"lr1": lr1, "lr2": lr2, "eps": eps, "q": q, "full": full, "anneal": factor, "kappa": kappa, "p": p}
    ref = Flat("mezo-svrg", steps, anchor=anchored, z=directions, **options)
    x, losses, scale = ref.x, [], 1.0
    anchor, g_full = x, np.zeros_like(x)
    for t in range(steps):
        if t and t % 4 == 0 and t >= 8 and np.mean(losses[t - 4 : t]) / np.mean(losses[t - 8 : t - 4]) > kappa:
            scale /= factor
        rows = ref.rows(t)
        if t % q == 0:
            rows = ref.bench.batches.sample(t, full).rows if full else tuple(range(24))
            anchor = x
            g_full = sum(ref.slope(x, ref.z(t, j), eps, rows) * ref.z(t, j) for j in range(p)) / p
            update = lr1 * scale * g_full
        else:
            here = sum(ref.slope(x, ref.z(t, j), eps, rows) * ref.z(t, j) for j in range(p)) / p
            others = [ref.z(t, j if directions == "shared" else p + j) for j in range(p)]
            there = sum(ref.slope(anchor, z, eps, rows) * z for z in others) / p
            update = lr2 * scale * (here - there + g_full)
        losses.append(np.mean([ref.L(x + s * eps * ref.z(t, j), rows) for j in range(p) for s in (1, -1)]))
        x = x - update
    ref.ends_at(x)
    assert ref.bench.engine.state["scale"] == scale < 1.0
    assert len(ref.bench.space.fields) == (anchored == "stored")


@pytest.mark.parametrize("full", [0, 12])
def test_zo_svrg_with_a_direction_for_each_row(full: int) -> None:
    lr, eps, q = 1e-3, 1e-2, 2
    ref = Flat("zo-svrg", lr=lr, eps=eps, q=q, full=full)
    x = anchor = G = ref.x

    def estimate(x: Any, rows: Any, t: int) -> Any:
        return sum(ref.slope(x, ref.z(t, i), eps, (row,)) * ref.z(t, i) for i, row in enumerate(rows)) / len(rows)

    for t in range(5):
        if t % q == 0:
            anchor, G = x, estimate(x, ref.bench.batches.sample(t, full).rows if full else range(24), t)
            x = x - lr * G
        else:
            x = x - lr * (estimate(x, ref.rows(t), t) - estimate(anchor, ref.rows(t), t) + G)
    ref.ends_at(x, anchor=anchor, G=G)


@pytest.mark.parametrize("directions", ["shared", "independent"])
def test_a_recomputed_anchor_equals_the_stored_one_after_a_rollback(directions: str) -> None:
    """q = 4: the weights diverge at steps 3 and 6 of a cycle, and the steps after a rollback are scaled by the run."""
    anchors: dict[str, list[dict[str, torch.Tensor]]] = {"stored": [], "recomputed": []}
    for anchored, seen in anchors.items():
        optimizer = load("mezo-svrg", q=4, lr1=1e-4, lr2=1e-4, eps=1e-2, anchor=anchored, z=directions)
        space, batches = Space(TinyNet(), 3), Batches(24, 4, 3)
        scores = itertools.count()

        def evaluate(rows: Any, space: Space = space) -> Score:
            return Score(sum(float(((p.detach() - 0.1 * sum(rows)) ** 2).sum()) for p in space.params.values()))

        def validate(scores: Any = scores) -> ValidationResult:
            number = next(scores)
            return ValidationResult(0.0, -float(number < 2), diverged="diverged" if number in (2, 4) else "")

        oracle = Oracle(space, evaluate, batches, "minimize")
        store, hooks = MemoryStore(), Hooks(validate=validate)
        engine = Engine(
            *(space, optimizer, oracle, batches, Budget(steps=12), Journal.create(None, {}), store),
            *(Settings(eval_steps=2), hooks),
        )

        def record(event: Any, engine: Engine = engine, space: Space = space, seen: Any = seen) -> None:
            if isinstance(event, StepDone):
                anchor = engine.state["anchor"]
                point = space.theta - weighted_sum(anchor) if isinstance(anchor, list) else anchor
                seen.append(space.value(point))

        hooks.emit = record
        engine.run()
        assert engine.progress.damping == 0.0625
    assert len(anchors["stored"]) == len(anchors["recomputed"]) == 12
    for stored, recomputed in zip(anchors["stored"], anchors["recomputed"], strict=True):
        for name, x in stored.items():
            assert (recomputed[name] - x).abs().max() <= 1e-6 * x.abs().max()


def test_a_recomputed_anchor_is_taken_anew_where_a_rollback_interpolates() -> None:
    """q = 4: at step 6, in the middle of a cycle, the run returns to weights between the base model and step 6."""
    optimizer = load("mezo-svrg", q=4, lr1=1e-4, lr2=1e-4, eps=1e-2, anchor="recomputed")
    space, batches = Space(TinyNet(), 3), Batches(24, 4, 3)
    scores, seen = itertools.count(), []

    def evaluate(rows: Any) -> Score:
        return Score(sum(float(((p.detach() - 0.1 * sum(rows)) ** 2).sum()) for p in space.params.values()))

    def validate() -> ValidationResult:  # base, steps 2, 4 and 6, then half of the way to step 6, which is the best
        number = next(scores)
        return ValidationResult(0.0, {0: 0.0, 4: -2.0}.get(number, 1.0), diverged="diverged" if number == 3 else "")

    engine = Engine(
        *(space, optimizer, Oracle(space, evaluate, batches, "minimize"), batches, Budget(steps=10)),
        *(Journal.create(None, {}), MemoryStore(), Settings(eval_steps=2, interpolate=True), Hooks(validate=validate)),
    )

    def record(event: Any) -> None:
        anchor = engine.state["anchor"] if isinstance(event, StepDone) and event.step > 4 else None
        if anchor is not None:
            seen.append((event.step, space.value(space.theta - weighted_sum(anchor)), space.snapshot()))

    engine.hooks.emit = record
    before: dict[str, torch.Tensor] = {}
    original = engine.step

    def step() -> None:
        if engine.progress.step == 6:
            before.update(space.snapshot())
        original()

    engine.step = step  # type: ignore[method-assign]
    engine.run()
    assert any(line["kind"] == "rollback" and line["share"] == 0.5 for line in engine.journal.lines)
    (after,) = [anchor for step, anchor, _ in seen if step == 7]
    for name, x in before.items():
        assert (after[name] - x).abs().max() <= 1e-6 * x.abs().max()
