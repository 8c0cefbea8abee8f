"""ZO-AdaMM and its variants against plain references in float64, to 1e-12."""

from __future__ import annotations

import numpy as np
import pytest
from references import Flat


@pytest.mark.parametrize("on", ["gradient", "perturbation"])
@pytest.mark.parametrize("momentum", ["adam", "adamw", "adamax", "adamm", "rmsgrad"])
def test_zo_adamm_and_its_schedules(momentum: str, on: str) -> None:
    lr, eps, b1, b2, sigma, decay = 3e-3, 1e-2, 0.8, 0.9, 1e-6, 0.1
    options = {"lr": lr, "eps": eps, "beta1": b1, "beta2": b2, "sigma": sigma, "weight_decay": decay}
    ref = Flat("zo-adamm", momentum=momentum, on=on, **options)
    shrinks = ref.shrinks()
    x = ref.x
    m = v = most = np.zeros_like(x)
    for t in range(5):
        z = ref.z(t)
        taken = ref.slope(x, z, eps, ref.rows(t)) * z if on == "gradient" else z
        m = b1 * m + (1 - b1) * taken
        first = m if momentum == "adamm" else m / (1 - b1 ** (t + 1))
        if momentum == "adamax":
            v = np.maximum(b2 * v, abs(taken))
            root = v
        else:
            v = b2 * v + (1 - b2) * taken**2
            most = np.maximum(most, v)
            root = np.sqrt(most if momentum == "adamm" else v / (1 - b2 ** (t + 1)))
            first = taken if momentum == "rmsgrad" else first
        d = first / (root + sigma)
        update = d if on == "gradient" else ref.slope(x, d, eps, ref.rows(t)) * d
        x = x - lr * update - (lr * decay * shrinks * x if momentum == "adamw" else 0.0)
    fields = {"v": v} if momentum == "rmsgrad" else {"m": m, "v": v}
    ref.ends_at(x, **fields, **({"most": most} if momentum == "adamm" else {}))
    assert set(ref.bench.space.fields) == {*fields, *(["most"] if momentum == "adamm" else [])}
