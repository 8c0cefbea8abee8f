"""ZO-SGD-Sign and ZO-SGD-Cons against plain references in float64, to 1e-12."""

from __future__ import annotations

import numpy as np
from references import Flat


def test_zo_sign_and_zo_conservative() -> None:
    lr, eps = 1e-3, 1e-2
    for name in ("zo-sign", "zo-conservative"):
        ref = Flat(name, lr=lr, eps=eps, schedule="linear")
        x = ref.x
        for t in range(5):
            z, rows, eta = ref.z(t), ref.rows(t), lr * (1 - t / 5)
            g = ref.slope(x, z, eps, rows)
            points = [x, x - eta * g * z, x + eta * g * z]
            best = int(np.argmin([ref.L(p, rows) for p in points]))
            x = x - eta * np.sign(g) * z if name == "zo-sign" else points[best]
        ref.ends_at(x)
