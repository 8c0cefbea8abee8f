"""ZO-Muon: Lang et al. 2026, "Powering Up Zeroth-Order Training via Subspace Gradient Orthogonalization",
arXiv:2602.17155; msign: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".

    matrices (m × n):  P of m × r with orthonormal columns, redrawn every ν steps;  Ψ_i ~ N(0, 1) of r × n;  Z_i = P Ψ_i
    other tensors:     Z_i ~ N(0, I)
    l₀ ← L(θ; B);  for i = 1 … N:  g_i ← (L(θ + μ Z_i; B) − l₀) / μ
    matrices:  Ĝ ← 1/N Σ_i g_i Ψ_i;  θ ← θ − γ P msign(Ĝ)
    others:    θ ← θ − γ'/N Σ_i g_i Z_i
    msign(G):  X ← G/‖G‖, then five times  A ← X Xᵀ,  X ← a X + (b A + c A²) X

Evaluations a step: N + 1. Extra memory: no field; while a pass is under way, r (m + n) for each matrix.

Differs from the paper: r is at most m, so that P has orthonormal columns. γ' is a constant in the authors' code. There
is no weight decay λ. If all g_i are 0, the weights stay. The first axis of a tensor with more than two axes counts
rows, all others columns. QR and matrix products round differently from machine to machine, so a run replays bit for bit
on the same kind of machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from zotune import each, outer, weighted_sum, where
from zotune.types import At, Factor, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.matrices import added, is_matrix, matrix_shape, scaled
from zotune_optimizers.option_checks import at_least, positive

if TYPE_CHECKING:
    from torch import Tensor

A, B, C = 3.4445, -4.775, 2.0315
"""a, b, c: Jordan et al.'s coefficients, which bring singular values near 1 in few iterations."""
ITERATIONS = 5
"""As Jordan et al. use."""
TINY = 1e-7
"""Added to ‖G‖, against division by 0; as in Jordan et al.'s code."""


@dataclass(frozen=True)
class ZOMuon:
    lr: float = 1e-2  # γ: learning rate of matrices; about the singular values of a step
    vector_lr: float = 1e-7  # γ': learning rate of biases and norms, for the plain estimate
    eps: float = 1e-3  # μ: perturbation scale
    rank: int = 64  # r: columns of P
    n: int = 4  # N: perturbations a step
    interval: int = 100  # ν: steps that P is kept
    schedule: Schedule = "constant"  # of γ and γ' over the budget

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("zo-muon", lr=self.lr, vector_lr=self.vector_lr, eps=self.eps)
        at_least(1, "zo-muon", rank=self.rank, n=self.n, interval=self.interval)

    @property
    def forwards(self) -> int:
        return self.n + 1

    def init(self, theta: Theta) -> None:
        return None

    def step(self, theta: Theta, oracle: Oracle, state: None, at: At) -> tuple[Recipe, None]:
        matrices, z = theta.per(is_matrix), [at.normal(i) for i in range(self.n)]
        P = each(orthonormal, self.factor(at, 0, 0, at.t - at.t % self.interval))
        psi = [self.factor(at, 1, 1 + i) for i in range(self.n)]  # Ψᵀ, n × r
        Z = [where(matrices, outer(P, y), x) for x, y in zip(z, psi, strict=True)]
        clean, *losses = oracle(theta, *(theta + self.eps * x for x in Z))
        g = [(loss - clean) / self.eps for loss in losses]
        if not any(g):
            return theta, None
        G = each(partial(scaled, g[0] / self.n), psi[0])  # Ĝᵀ, n × r
        for slope, y in zip(g[1:], psi[1:], strict=True):
            G = each(partial(added, slope / self.n), G, y)
        factor = at.schedule(self.schedule)
        others = weighted_sum([(factor * self.vector_lr * slope / self.n, x) for slope, x in zip(g, z, strict=True)])
        return theta - where(matrices, factor * self.lr * outer(P, each(msign, G)), others), None

    def factor(self, at: At, axis: int, draw: int, step: int | None = None) -> Factor:
        """Noise with as many rows as a matrix has along an axis, and r columns."""
        return at.factor(
            lambda t: (shape[axis], min(self.rank, shape[0])) if (shape := matrix_shape(t)) else None, draw, step
        )


def orthonormal(x: Tensor) -> Tensor:
    """Q of the QR decomposition of an (m, r) tensor whose R has a positive diagonal: uniform among all matrices with
    orthonormal columns."""
    import torch

    Q, R = torch.linalg.qr(x.double())
    oriented: Tensor = Q * R.diagonal().sign()
    return oriented


def msign(G: Tensor) -> Tensor:
    """All singular values of a matrix brought near 1, by Newton-Schulz iterations; G or its transpose alike."""
    X: Tensor = G / (G.norm() + TINY)
    for _ in range(ITERATIONS):
        S = X.T @ X
        X = A * X + X @ (B * S + C * (S @ S))
    return X
