"""ZO-Muon: Lang et al. 2026, "Powering Up Zeroth-Order Training via Subspace Gradient Orthogonalization",
arXiv:2602.17155; orthogonalised as in "Muon: An optimizer for hidden layers in neural networks", Jordan et al. 2024.

    matrices (m × n):  P of m × r with orthonormal columns, drawn every ν steps;  Ψ_i ~ N(0, 1) of r × n;  Z_i = P Ψ_i
    others:            Z_i ~ N(0, I)
    l₀ = L(θ; B);  for i = 1 … N:  g_i = (L(θ + μ Z_i; B) − l₀) / μ
    matrices:  Ĝ = 1/N Σ_i g_i Ψ_i;  θ ← θ − γ P msign(Ĝ)
    others:    θ ← θ − γ' /N Σ_i g_i Z_i
    msign(G):  X ← G/‖G‖, then five times  X ← a X + (b A + c A²) X,  A = X Xᵀ,  (a, b, c) = (3.4445, −4.775, 2.0315)

Forwards a step: N + 1. Extra memory: no field; while a pass is under way, r (m + n) for each matrix.

Differs from the paper: r is at most m, so that P has orthonormal columns. γ' is a constant in the authors' code, and λ
is left out. Slopes that are all zero move nothing. A tensor of more than two axes is a matrix of its first axis. Not
portable: QR and matrix products round as the machine likes, so a run replays bit for bit on the same kind of machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from zotune.core.recipe import each, outer, weighted_sum, where
from zotune_optimizers.parts import at_least, decay, matrix, positive


@dataclass(frozen=True)
class ZOMuon:
    lr: float = 1e-2  # γ: learning rate of matrices; about the size of a step's singular values
    vector_lr: float = 1e-7  # γ': learning rate of biases and norms, of the plain estimate
    eps: float = 1e-3  # μ: perturbation scale
    rank: int = 64  # r: columns of P
    n: int = 4  # N: probes a step
    interval: int = 100  # ν: steps that P is kept
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of γ and γ' over the budget

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("zo-muon", lr=self.lr, vector_lr=self.vector_lr, eps=self.eps)
        at_least(1, "zo-muon", rank=self.rank, n=self.n, interval=self.interval)

    @property
    def forwards(self) -> int:
        return self.n + 1

    def init(self, theta: Any) -> None:
        return None

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> tuple[Any, None]:
        matrices, z = theta.per(lambda t: matrix(t) is not None), [at.normal(i) for i in range(self.n)]
        P = each(orthonormal, self.factor(at, 0, 0, at.t - at.t % self.interval))
        psi = [self.factor(at, 1, 1 + i) for i in range(self.n)]  # Ψᵀ, n × r
        probes = [where(matrices, outer(P, y), x) for x, y in zip(z, psi, strict=True)]
        clean, *values = oracle(theta, *(theta + self.eps * x for x in probes))
        g = [(value - clean) / self.eps for value in values]
        if not any(g):
            return theta, None
        G = each(partial(scaled, g[0] / self.n), psi[0])
        for slope, y in zip(g[1:], psi[1:], strict=True):
            G = each(partial(added, slope / self.n), G, y)
        left = decay(self.schedule, at.progress)
        rest = weighted_sum([(left * self.vector_lr * slope / self.n, x) for slope, x in zip(g, z, strict=True)])
        return theta - where(matrices, left * self.lr * outer(P, each(msign, G)), rest), None

    def factor(self, at: Any, side: int, draw: int, step: int | None = None) -> Any:
        """Noise of as many rows as a matrix has along that side, and r columns."""
        return at.factor(lambda t: (s[side], min(self.rank, s[0])) if (s := matrix(t)) else None, draw, step)


def scaled(c: float, x: Any) -> Any:
    return c * x.double()


def added(c: float, G: Any, x: Any) -> Any:
    return G + c * x.double()


def orthonormal(x: Any) -> Any:
    """Q of QR with a positive diagonal of R: uniform among all matrices with orthonormal columns."""
    import torch

    Q, R = torch.linalg.qr(x.double())
    return Q * R.diagonal().sign()


def msign(G: Any) -> Any:
    """All singular values brought near 1, by five steps of Newton and Schulz; G may stand or lie."""
    X = G / (G.norm() + 1e-7)
    for _ in range(5):
        A = X.T @ X
        X = 3.4445 * X + X @ (-4.775 * A + 2.0315 * (A @ A))
    return X
