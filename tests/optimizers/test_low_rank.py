"""LOZO, ZO-Muon and GRZO, which treat matrices as matrices, against plain references in float64, to 1e-12."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from references import Flat


def sizes(ref: Flat) -> dict[str, tuple[int, int]]:
    """Rows and columns of every matrix."""
    return {n: (w.shape[0], w.size // w.shape[0]) for n, w in ref.theta.items() if w.ndim > 1}


def by_matrix(ref: Flat, of_matrix: Any, elsewhere: Any) -> Any:
    """One vector of what `of_matrix` gives for each matrix, and of `elsewhere` for all other tensors."""
    out = elsewhere.copy()
    for n in sizes(ref):
        out[ref.spans[n]] = of_matrix(n).ravel()
    return out


@pytest.mark.parametrize("interval", [2, 100])
@pytest.mark.parametrize(("beta", "window"), [(0.0, 32), (0.8, 32), (0.8, 3)])
def test_lozo_and_its_momentum(beta: float, window: int, interval: int) -> None:
    eta, eps, r = 3e-3, 1e-2, 3
    ref = Flat("lozo", lr=eta, eps=eps, rank=r, interval=interval, beta=beta, window=window)
    x, past = ref.x, []
    M = np.zeros_like(x)

    def V(n: str, t: int) -> Any:
        return ref.factor(n, sizes(ref)[n][1], r, t - t % interval, 1)

    def U(n: str, t: int) -> Any:
        return ref.factor(n, sizes(ref)[n][0], r, t, 0)

    def momentum(n: str) -> Any:
        """N of the paper, started at 0 before the window, and N Vᵀ."""
        N = np.zeros((sizes(ref)[n][0], r))
        for t, g in past[-window:]:
            if t % interval == 0 and t:
                N = N @ V(n, t - 1).T @ V(n, t) / sizes(ref)[n][1]
            N = beta * N + (1 - beta) * g * U(n, t)
        return N @ V(n, past[-1][0]).T / r

    for t in range(5):
        z = by_matrix(ref, lambda n, t=t: U(n, t) @ V(n, t).T, ref.z(t))
        g = ref.slope(x, z, eps, ref.rows(t))
        past.append((t, g))
        M = beta * M + (1 - beta) * g * by_matrix(ref, lambda n: np.zeros(sizes(ref)[n]), ref.z(t))
        plain = by_matrix(ref, lambda n, t=t, g=g: g * U(n, t) @ V(n, t).T / r, g * ref.z(t))
        x = x - eta * (by_matrix(ref, momentum, M) if beta else plain)
    ref.ends_at(x)
    assert set(ref.bench.space.fields) == ({"M"} if beta else set())
    stored = ref.bench.space.fields.get("M", {})
    assert not set(stored) & set(sizes(ref)), "the momentum of a matrix is no field"
    for n, m in stored.items():
        np.testing.assert_allclose(m.numpy().ravel(), M[ref.spans[n]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("rank", "interval"), [(3, 2), (64, 100)])
def test_zo_muon(rank: int, interval: int) -> None:
    gamma, other, mu, N = 0.02, 3e-3, 0.1, 4
    ref = Flat("zo-muon", lr=gamma, vector_lr=other, eps=mu, rank=rank, n=N, interval=interval)
    x = ref.x

    def P(n: str, t: int) -> Any:
        rows = sizes(ref)[n][0]
        Q, R = np.linalg.qr(ref.factor(n, rows, min(rank, rows), t - t % interval, 0))
        assert np.allclose(Q.T @ Q, np.eye(Q.shape[1]))
        return Q * np.sign(np.diag(R))

    def psi(n: str, t: int, i: int) -> Any:
        rows, columns = sizes(ref)[n]
        return ref.factor(n, columns, min(rank, rows), t, 1 + i).T

    def msign(G: Any) -> Any:
        X = G / (np.linalg.norm(G) + 1e-7)
        for _ in range(5):
            A = X @ X.T
            X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
        sizes_of_all = np.linalg.svd(X, compute_uv=False)
        assert 0.3 < sizes_of_all[0] < 1.3
        return X

    for t in range(5):
        Z = [by_matrix(ref, lambda n, t=t, i=i: P(n, t) @ psi(n, t, i), ref.z(t, i)) for i in range(N)]
        clean = ref.L(x, ref.rows(t))
        g = [(ref.L(x + mu * z, ref.rows(t)) - clean) / mu for z in Z]

        def update(n: str, t: int = t, g: Any = g) -> Any:
            return gamma * P(n, t) @ msign(sum(g[i] * psi(n, t, i) for i in range(N)) / N)

        x = x - by_matrix(ref, update, other / N * sum(g[i] * ref.z(t, i) for i in range(N)))
    ref.ends_at(x)


def test_grzo_with_a_direction_for_each_row() -> None:
    eta, sigma, floor = 1e-3, 1e-2, 1e-3
    ref = Flat("grzo", lr=eta, eps=sigma, floor=floor)
    x = ref.x

    def sign(n: str, side: int, t: int, i: int) -> Any:
        return np.where(ref.factor(n, sizes(ref)[n][side], 1, t, 2 * i + side) >= 0, 1.0, -1.0)

    for t in range(5):
        rows, U = ref.rows(t), ref.noise("normal", t)

        def direction(i: int, t: int = t, U: Any = U) -> Any:
            of_matrix = lambda n: U[n] * (sign(n, 0, t, i) @ sign(n, 1, t, i).T)  # noqa: E731
            return by_matrix(ref, of_matrix, ref.z(t, i, "rademacher"))

        z = [direction(i) for i in range(len(rows))]
        delta = np.array(
            [ref.L(x + sigma * z[i], (row,)) - ref.L(x - sigma * z[i], (row,)) for i, row in enumerate(rows)]
        )
        a = delta / (delta.std() + floor)
        x = x - eta / (2 * sigma * len(rows)) * sum(a[i] * z[i] for i in range(len(rows)))
    ref.ends_at(x)
