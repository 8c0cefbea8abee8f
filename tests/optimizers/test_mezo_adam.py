"""MeZO-momentum and MeZO-Adam against plain references in float64, to 1e-12."""

from __future__ import annotations

import numpy as np
import pytest
from references import Flat


@pytest.mark.parametrize("n", [1, 2])
def test_mezo_momentum_and_adam(n: int) -> None:
    lr, eps, b1, b2, sigma, decay = 3e-3, 1e-2, 0.8, 0.95, 1e-6, 0.1
    for name in ("mezo-momentum", "mezo-adam"):
        more = {"beta2": b2, "sigma": sigma} if name == "mezo-adam" else {}
        ref = Flat(name, lr=lr, eps=eps, beta1=b1, n=n, weight_decay=decay, **more)
        shrinks = ref.shrinks()
        x = ref.x
        m = v = np.zeros_like(x)
        for t in range(5):
            estimate = sum(ref.slope(x, ref.z(t, j), eps, ref.rows(t)) * ref.z(t, j) for j in range(n)) / n
            m = b1 * m + (1 - b1) * estimate
            v = b2 * v + (1 - b2) * estimate**2
            adam = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + sigma)
            x = x - lr * (adam if name == "mezo-adam" else m) - lr * decay * shrinks * x
        ref.ends_at(x, m=m, **({"v": v} if name == "mezo-adam" else {}))


@pytest.mark.parametrize("window", [2, 9])
def test_recomputed_moments_are_those_of_the_last_steps(window: int) -> None:
    lr, eps, b1, b2, sigma = 3e-3, 1e-2, 0.8, 0.95, 1e-6
    options = {"lr": lr, "eps": eps, "beta1": b1, "moments": "recomputed", "window": window}
    for name in ("mezo-momentum", "mezo-adam"):
        ref = Flat(name, **options, **({"beta2": b2, "sigma": sigma} if name == "mezo-adam" else {}))
        x, past = ref.x, []
        for t in range(5):
            past.append(ref.slope(x, ref.z(t), eps, ref.rows(t)) * ref.z(t))
            last = list(reversed(past))[:window]
            m = sum((1 - b1) * b1**k * e for k, e in enumerate(last))
            v = sum((1 - b2) * b2**k * e**2 for k, e in enumerate(last))
            adam = m / (1 - b1 ** len(last)) / (np.sqrt(v / (1 - b2 ** len(last))) + sigma)
            x = x - lr * (adam if name == "mezo-adam" else m)
        ref.ends_at(x)
        assert not ref.bench.space.fields
