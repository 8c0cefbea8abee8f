"""HiZOO against a plain reference in float64, to 1e-12."""

from __future__ import annotations

import numpy as np
import pytest
from references import Flat


@pytest.mark.parametrize("growth", [1.01, 1e9])
def test_hizoo(growth: float) -> None:
    lr, eps, s = 3e-3, 1e-2, 0.05
    ref = Flat("hizoo", lr=lr, eps=eps, smooth=s, growth=growth)
    x, H = ref.x, np.ones_like(ref.x)
    for t in range(5):
        z, rows = ref.z(t), ref.rows(t)
        clean, up, down = ref.L(x, rows), ref.L(x + eps * z / np.sqrt(H), rows), ref.L(x - eps * z / np.sqrt(H), rows)
        new = (1 - s) * H + s * abs(up + down - 2 * clean) / (2 * eps**2) * H * z**2
        H = np.minimum(new, growth * H)
        x = x - lr * (up - down) / (2 * eps) * z / np.sqrt(H)
    assert (growth == 1.01) == bool((H <= 1.01**5).all())
    ref.ends_at(x, H=H)
