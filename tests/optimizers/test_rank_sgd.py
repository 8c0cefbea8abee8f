"""ZO-RankSGD against plain references in float64, to 1e-12."""

from __future__ import annotations

import math

import numpy as np
import pytest
from references import Flat, load


@pytest.mark.parametrize(("best", "lines", "units"), [(0, 0, "rms"), (2, 0, "absolute"), (0, 3, "rms"), (1, 2, "rms")])
def test_rank_sgd_with_orders_top_k_and_line_search(best: int, lines: int, units: str) -> None:
    lr, eps, m, gamma = 0.3, 0.02, 5, 0.4
    ref = Flat("rank-sgd", lr=lr, eps=eps, points=m, best=best, lines=lines, gamma=gamma, units=units)
    x, sizes = ref.x, {n: math.sqrt((w**2).mean()) for n, w in ref.theta.items()}
    typical = math.sqrt(sum(s * s for s in sizes.values()) / len(sizes))
    unit = ref.join(
        {n: np.full(w.shape, 1.0 if units == "absolute" else max(sizes[n], typical / 10)) for n, w in ref.theta.items()}
    )
    for t in range(5):
        rows, eta = ref.rows(t), lr * (1 - t / 5)
        xi = [ref.z(t, i) for i in range(m)]
        order = sorted(range(m), key=lambda i, x=x, xi=xi, rows=rows: ref.L(x + eps * unit * xi[i], rows))
        ranked = order[: best or m]
        edges = [(i, j) for a, i in enumerate(ranked) for j in order[a + 1 :]]
        g = sum(xi[j] - xi[i] for i, j in edges) / len(edges) * unit
        tried = [x] + [x - eta * gamma**j * g for j in range(lines)]
        x = tried[int(np.argmin([ref.L(p, rows) for p in tried]))] if lines else x - eta * g
    ref.ends_at(x)


def test_rank_sgd_leaves_the_weights_where_no_point_is_better() -> None:
    rule = load("rank-sgd", points=4)
    assert rule.pairs([0, 0, 0, 0]) == []
    assert rule.pairs([None, None, None, None]) == []
    assert rule.pairs([0, 1, 1, None]) == [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    assert load("rank-sgd", points=4, best=1).pairs([1, 0, 2, 3]) == [(1, 0), (1, 2), (1, 3)]
