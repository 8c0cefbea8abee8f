"""Sparse-MeZO and its masks against plain references in float64, to 1e-12."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from references import Flat, load

from zotune.testing import Bench


def quantile(values: Any, q: float) -> float:
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    return float(ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low))


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
@pytest.mark.parametrize("tuned", ["smallest", "largest"])
@pytest.mark.parametrize("kind", ["dynamic", "constant", "random"])
def test_sparse_mezo_and_its_masks(kind: str, tuned: str, sparsity: float) -> None:
    lr, eps = 3e-2, 1e-2
    ref = Flat("sparse-mezo", lr=lr, eps=eps, sparsity=sparsity, mask=kind, tuned=tuned)
    x = ref.x
    size = abs(ref.z(-1)) if kind == "random" else abs(x)
    h = np.full_like(x, np.inf if tuned == "smallest" else 0.0)
    for n, part in ref.spans.items():
        if ref.kinds[n].kind not in ("bias", "norm"):
            h[part] = quantile(size[part], 1 - sparsity if tuned == "smallest" else sparsity)

    def chosen(size: Any) -> Any:
        return size <= h if tuned == "smallest" else size >= h

    first = chosen(size)
    assert (first.mean() == 1.0) == (sparsity == 0.0), "the last weight is at the threshold of sparsity 0"
    changed = 0
    for t in range(5):
        mask = chosen(abs(x)) if kind == "dynamic" else first
        changed += int((mask != first).sum())
        z = mask * ref.z(t)
        x = x - lr * ref.slope(x, z, eps, ref.rows(t)) * z
    ref.ends_at(x)
    assert (changed > 0) == (kind == "dynamic")
    stored = ref.bench.space.fields.get("mask", {}).values()
    assert all(f.dtype == torch.uint8 for f in stored), "a constant mask has one bit a weight"
    assert bool(stored) == (kind == "constant")


@pytest.mark.parametrize("tuned", ["smallest", "largest"])
def test_the_sparsity_of_a_tensor_follows_its_name(tuned: str) -> None:
    lr, eps, shares = 1e-2, 1e-2, {"embed.weight": 0.5, "layers.0.weight": 0.9, "layers.1.weight": 0.25}
    patterns = r"embed=0.5, layers\.0=0.9,layers=0.25"
    ref = Flat("sparse-mezo", lr=lr, eps=eps, sparsity=0.0, patterns=patterns, tuned=tuned)
    x, h = ref.x, np.full_like(ref.x, np.inf if tuned == "smallest" else 0.0)
    for n, share in shares.items():
        h[ref.spans[n]] = quantile(abs(x[ref.spans[n]]), 1 - share if tuned == "smallest" else share)
    for t in range(5):
        mask = abs(x) <= h if tuned == "smallest" else abs(x) >= h
        z = mask * ref.z(t)
        x = x - lr * ref.slope(x, z, eps, ref.rows(t)) * z
    ref.ends_at(x)


@pytest.mark.parametrize("name", ["mezo", "sparse-mezo"])
def test_steps_that_raise_the_loss_are_counted_on_their_batch_and_on_another(name: str) -> None:
    lr, eps, every, steps = 5e-3, 1e-2, 2, 9
    options = {"sparsity": 0.0, "mask": "random"} if name == "sparse-mezo" else {}
    ref = Flat(name, steps, lr=lr, eps=eps, diagnose=every, **options)
    x, counts = ref.x, {"observed": 0, "own": 0, "other": 0}
    for t in range(steps):
        new = x - lr * ref.slope(x, ref.z(t), eps, ref.rows(t)) * ref.z(t)
        if t % every == 0:
            counts["observed"] += 1
            for which, rows in (("own", ref.rows(t)), ("other", ref.rows(t, 1_000_003))):
                counts[which] += int(ref.L(new, rows) > ref.L(x, rows))
        x = new
    ref.ends_at(x)
    assert ref.bench.engine.state["effect"] == counts
    assert 0 < counts["own"] <= counts["other"] < counts["observed"], "the test shows less than it says"
    optimizer = ref.bench.optimizer
    share = optimizer.summarize(ref.bench.engine.state)["raised the loss on another batch"]
    assert share == counts["other"] / counts["observed"]
    assert load(name).summarize(Bench(load(name), steps=1).run().engine.state) == {}
