"""Modified estimates of MeZO, under both names, against plain references in float64, to 1e-12."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from references import Flat


@pytest.mark.parametrize("refresh", ["once", "epoch"])
@pytest.mark.parametrize("norms", ["parameter", "gradient"])
@pytest.mark.parametrize("modified", ["variance", "expectation"])
@pytest.mark.parametrize("name", ["mezo-modified", "mezo"])  # the options of mezo are aliases
def test_mezo_with_modified_estimates(name: str, modified: str, norms: str, refresh: str) -> None:
    lr, eps, steps, samples = 3e-3, 1e-2, 6, 2
    ref = Flat(name, steps, lr=lr, eps=eps, modified=modified, norms=norms, refresh=refresh, samples=samples)
    groups = [["embed.weight"], ["layers.0.bias", "layers.0.weight"], ["layers.1.bias", "layers.1.weight"]]
    groups.append(["norm.bias", "norm.weight"])  # outside of blocks and embeddings: the head

    def sizes(x: Any, t: int) -> Any:
        d = np.zeros_like(x)
        for k, names in enumerate(groups):
            inside = np.zeros_like(x)
            for n in names:
                inside[ref.spans[n]] = 1.0
            if norms == "parameter":
                d += inside * math.sqrt(((inside * x) ** 2).sum())
            else:
                zs = [inside * ref.z(t, 1 + k * samples + j) for j in range(samples)]
                d += inside * math.sqrt(sum(ref.slope(x, z, eps, ref.rows(max(t, -1))) ** 2 for z in zs) / samples)
        return d

    x = ref.x
    d = sizes(x, -1)
    for t in range(steps):
        if refresh == "epoch" and t == 4:  # 24 rows in batches of 6
            d = sizes(x, t)
        z = ref.z(t)
        g = ref.slope(x, z / d, eps, ref.rows(t))
        x = x - lr * g * (d * z if modified == "variance" else z)
    ref.ends_at(x)
