"""MeZO-SVRG and ZO-SVRG against plain references in float64, to 1e-12."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from references import Flat


@pytest.mark.parametrize("full", [0, 12])
@pytest.mark.parametrize("directions", ["shared", "independent"])
@pytest.mark.parametrize("anchored", ["stored", "recomputed"])
def test_mezo_svrg_with_both_kinds_of_step_and_annealing(anchored: str, directions: str, full: int) -> None:
    lr1, lr2, eps, q, factor, kappa, steps = 3e-3, 2e-3, 1e-2, 3, 2.0, 0.5, 13
    options = {"lr1": lr1, "lr2": lr2, "eps": eps, "q": q, "full": full, "anneal": factor, "kappa": kappa}
    ref = Flat("mezo-svrg", steps, anchor=anchored, z=directions, **options)
    x, losses, scale = ref.x, [], 1.0
    anchor, g_full, z_full = x, 0.0, x
    for t in range(steps):
        if t and t % 4 == 0 and t >= 8 and np.mean(losses[t - 4 : t]) / np.mean(losses[t - 8 : t - 4]) > kappa:
            scale /= factor
        z = ref.z(t)
        if t % q == 0:
            rows = ref.bench.batches.sample(t, full).rows if full else tuple(range(24))
            up, down = ref.L(x + eps * z, rows), ref.L(x - eps * z, rows)
            anchor, g_full, z_full = x, (up - down) / (2 * eps), z
            update = lr1 * scale * g_full * z_full
        else:
            rows, other = ref.rows(t), ref.z(t, 0 if directions == "shared" else 1)
            up, down = ref.L(x + eps * z, rows), ref.L(x - eps * z, rows)
            g, fixed = (up - down) / (2 * eps), ref.slope(anchor, other, eps, rows)
            update = lr2 * scale * (g * z - fixed * other + g_full * z_full)
        losses.append((up + down) / 2)
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
