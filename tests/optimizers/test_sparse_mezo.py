"""Sparse-MeZO and its masks against plain references in float64, to 1e-12."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from references import Flat


def quantile(values: Any, q: float) -> float:
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    return float(ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low))


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
@pytest.mark.parametrize("kind", ["dynamic", "constant", "random"])
def test_sparse_mezo_and_its_masks(kind: str, sparsity: float) -> None:
    lr, eps = 3e-2, 1e-2
    ref = Flat("sparse-mezo", lr=lr, eps=eps, sparsity=sparsity, mask=kind)
    x = ref.x
    size = abs(ref.z(-1)) if kind == "random" else abs(x)
    h = np.full_like(x, np.inf)
    for n, part in ref.spans.items():
        if ref.kinds[n].kind not in ("bias", "norm"):
            h[part] = quantile(size[part], 1 - sparsity)
    first = size <= h
    assert (first.mean() == 1.0) == (sparsity == 0.0), "the largest weight is at the threshold of sparsity 0"
    changed = 0
    for t in range(5):
        mask = abs(x) <= h if kind == "dynamic" else first
        changed += int((mask != first).sum())
        z = mask * ref.z(t)
        x = x - lr * ref.slope(x, z, eps, ref.rows(t)) * z
    ref.ends_at(x)
    assert (changed > 0) == (kind == "dynamic")
