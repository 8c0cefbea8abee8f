"""DiZO and its projection rounds against plain references in float64, to 1e-12."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from references import Flat, load

from zotune.core.recipe import Theta
from zotune.types import TensorInfo


@pytest.mark.parametrize("perturb", ["relative", "absolute"])
@pytest.mark.parametrize("mode", ["zo", "adam"])
def test_dizo_and_its_rounds_of_projection(mode: str, perturb: str) -> None:
    lr, eps, interval, iters, tau = 3e-3, 1e-2, 2, 3, 0.2
    rate = {"zo": 5.0, "adam": 0.05}[mode] * (1.0 if perturb == "relative" else 0.1)
    probe = 0.1 if perturb == "relative" else 0.01
    options = {"lr": lr, "eps": eps, "interval": interval, "iters": iters, "gamma_lr": rate, "gamma_eps": probe}
    ref = Flat("dizo", pattern="layers", mode=mode, perturb=perturb, tau=tau, **options)
    x, start = ref.x, ref.x.copy()
    layers = [n for n in ref.spans if "layers" in n]
    L, clipped = len(layers), 0
    for t in range(5):
        z, rows = ref.z(t), ref.rows(t)
        x = x - lr * ref.slope(x, z, eps, rows) * z
        if (t + 1) % interval:
            continue
        delta = {n: x[ref.spans[n]] - start[ref.spans[n]] for n in layers}
        d = [math.sqrt((delta[n] ** 2).sum()) for n in layers]
        gamma = np.array(d) if perturb == "absolute" else np.ones(L)
        low, high = (1 - tau) * gamma, (1 + tau) * gamma

        def at(gamma: Any, x: Any = x, delta: Any = delta, d: Any = d) -> Any:
            moved = x.copy()
            for k, n in enumerate(layers):
                ratio = gamma[k] / d[k] if perturb == "absolute" else gamma[k]
                moved[ref.spans[n]] = start[ref.spans[n]] + ratio * delta[n]
            return moved

        def along(u: Any, gamma: Any, rows: Any = rows, at: Any = at) -> float:
            return (ref.L(at(gamma + probe * u), rows) - ref.L(at(gamma - probe * u), rows)) / (2 * probe)

        m = v = np.zeros(L)
        for k in range(iters):
            if mode == "zo":
                u = np.array(ref.vector(t, L, k))
                down = along(u, gamma) * u / L
            else:
                gradient = np.array([along(np.eye(L)[i], gamma) for i in range(L)])
                m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                down = m / (1 - 0.9 ** (k + 1)) / (np.sqrt(v / (1 - 0.999 ** (k + 1))) + 1e-8)
            step = gamma - rate * down
            clipped += int(((step < low) | (step > high)).sum())
            gamma = np.clip(step, low, high)
        x = at(gamma)
    ref.ends_at(x)
    assert mode == "adam" or clipped, "no ratio was clipped: the test shows less than it says"


def test_query_and_value_weights_are_projected_and_nothing_else() -> None:
    names = {
        *("model.layers.0.self_attn.q_proj.weight", "encoder.layer.0.attention.self.value.weight"),
        *("h.0.attn.c_attn.weight", "encoder.block.0.layer.0.SelfAttention.q.weight", "layers.1.self_attn.Wqkv.weight"),
    }
    others = {
        *("encoder.layer.0.attention.self.query.bias", "value_head.weight", "v_head.summary.value.weight"),
        *("layers.0.self_attn.k_proj.weight", "layers.0.self_attn.query_norm.weight", "lm_head.weight"),
    }
    tensors = tuple(TensorInfo(n, (4, 4), "linear", None, "float32") for n in sorted(names | others))
    assert set(load("dizo").projected(Theta(tensors))) == names
