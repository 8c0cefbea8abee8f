"""DiZO and its projection rounds against plain references in float64, to 1e-12."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from references import Flat, load

from zotune.core.recipe import Theta
from zotune.types import TensorInfo

VARIANTS: list[dict[str, Any]] = [
    *({"mode": mode, "perturb": perturb} for mode in ("zo", "adam") for perturb in ("relative", "absolute")),
    *({"reinit": reinit, "clip": False, "perturb": p} for reinit in (True, False) for p in ("relative", "absolute")),
    *({"base": base, "reinit": reinit} for base in ("previous", "lr") for reinit in (True, False)),
    {"reinit": False},
    {"base": "lr", "mode": "adam", "clip": False, "reinit": False},
    {"base": "previous", "perturb": "absolute"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_dizo_and_its_rounds_of_projection(variant: dict[str, Any]) -> None:
    mode, perturb, base = variant.get("mode", "zo"), variant.get("perturb", "relative"), variant.get("base", "start")
    reinit, clip = variant.get("reinit", True), variant.get("clip", True)
    lr, eps, interval, iters, tau, steps = 3e-3, 1e-2, 2, 3, 0.2, 7
    rate = {"zo": 5.0, "adam": 0.05}[mode] * (1.0 if perturb == "relative" else 0.1)
    rate *= (1.0 if clip or base == "lr" else 0.2) * (1.0 if base == "start" or mode == "adam" else 50.0)
    probe = 0.1 if perturb == "relative" else 0.01
    options = {"lr": lr, "eps": eps, "interval": interval, "iters": iters, "gamma_lr": rate, "gamma_eps": probe}
    ref = Flat("dizo", steps, pattern="layers", tau=tau, **options, **variant)
    x, start = ref.x, ref.x.copy()
    layers = [n for n in ref.spans if "layers" in n]
    L, clipped = len(layers), 0
    kept, factors, outside = None, np.ones(L), False
    for t in range(steps):
        z, rows = ref.z(t), ref.rows(t)
        before, change = x, -lr * ref.slope(x, z, eps, rows) * z
        if (t + 1) % interval:
            if base == "lr":  # Table 9: every tensor's own learning rate
                for k, n in enumerate(layers):
                    change[ref.spans[n]] *= factors[k]
            x = before + change
            continue
        anchor = start if base == "start" else before
        x = before + change
        delta = {n: x[ref.spans[n]] - anchor[ref.spans[n]] for n in layers}
        d = np.array([math.sqrt((delta[n] ** 2).sum()) for n in layers])
        if base == "lr":
            ratios = np.ones(L) if reinit else factors
            gamma = ratios * d if perturb == "absolute" else ratios
        else:
            length = d if reinit or kept is None else kept  # Figure 5: γ of the round before
            gamma = length if perturb == "absolute" else length / d
        unit = d if perturb == "absolute" else np.ones(L)
        low, high = (1 - tau) * unit, (1 + tau) * unit

        def at(gamma: Any, x: Any = x, anchor: Any = anchor, delta: Any = delta, unit: Any = unit) -> Any:
            moved = x.copy()
            for k, n in enumerate(layers):
                moved[ref.spans[n]] = anchor[ref.spans[n]] + gamma[k] / unit[k] * delta[n]
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
            gamma = np.clip(step, low, high) if clip else step
        outside |= bool(((gamma < low) | (gamma > high)).any())
        kept, factors = gamma / unit * d, gamma / unit
        x = at(gamma)
    ref.ends_at(x)
    assert mode == "adam" or clipped, "no ratio was clipped: the test shows less than it says"
    assert outside == (not clip), "without clipping a ratio leaves 1 ± τ, and with it none does"
    assert len(ref.bench.space.fields) == (base == "start")


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
