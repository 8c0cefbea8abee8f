"""ZO-SVRG: Liu et al. 2018, "Zeroth-Order Stochastic Variance Reduction for Nonconvex Optimization", arXiv:1805.10367,
as the MeZO-SVRG paper states it (arXiv:2404.08080, Algorithm 2 and equations 2 to 4).

    ∇f_i(θ) = (f_i(θ + μ z_i) − f_i(θ − μ z_i)) / 2μ · z_i,   a direction of its own for each row        (2)
    ĝ(θ; I) = 1/|I| Σ_{i ∈ I} ∇f_i(θ)                                                                    (3), (4)
    t mod q = 0:  G ← ĝ(θ; all rows);  θ̄ ← θ                                                             lines 1, 2
    θ ← θ − η (ĝ(θ; I_t) − ĝ(θ̄; I_t) + G)                                                                lines 3 to 7

Evaluations a step: 4b of single rows, for b rows a batch; where t mod q = 0, 2 × rows instead. Extra memory: two
fields, θ̄ and G.

Differs from the paper: θ and θ̄ share each row's direction, without which nothing cancels. Where t mod q = 0, θ = θ̄, so
the difference is exactly zero and is not evaluated. `full` replaces all rows by a sample. One row counts as one
evaluation, so this method takes b times as many as mezo-svrg.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypedDict

from zotune import constant, weighted_sum
from zotune.types import At, Batch, Oracle, Recipe, Theta
from zotune_optimizers.option_checks import at_least, positive
from zotune_optimizers.spsa import projected_gradient


class State(TypedDict):
    anchor: Recipe  # θ̄
    G: Recipe  # full estimate
    ready: bool  # whether both are computed


@dataclass(frozen=True)
class ZOSVRG:
    lr: float = 1e-6  # η: learning rate [Alg. 2]
    eps: float = 1e-3  # μ: perturbation scale [(2)]
    q: int = 2  # q: steps from one full estimate to the next [Alg. 2]
    full: int = 0  # rows of the full estimate; 0: all [Remark 3.3]

    fields: ClassVar[int] = 2

    def __post_init__(self) -> None:
        positive("zo-svrg", lr=self.lr, eps=self.eps)
        at_least(1, "zo-svrg", q=self.q)
        at_least(0, "zo-svrg", full=self.full)

    def cost(self, theta: Theta, at: At) -> int:
        return 4 * len(at.sample(0).rows) if at.t % self.q else 2 * len(self.full_batch(at).rows)

    def full_batch(self, at: At) -> Batch:
        return at.large(self.full) if self.full else at.full

    def init(self, theta: Theta) -> State:
        return {"anchor": constant(0.0), "G": constant(0.0), "ready": False}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        if at.t % self.q == 0 or not state["ready"]:  # not ready: the full step was dropped
            rows = self.full_batch(at).each
            slopes = [projected_gradient(oracle, theta, at.normal(i), self.eps, row) for i, row in enumerate(rows)]
            G = weighted_sum([(g / len(rows), at.normal(i)) for i, g in enumerate(slopes)])  # (4)
            return theta - self.lr * G, {"anchor": theta, "G": G, "ready": True}
        rows, pairs = at.sample(0).each, []
        for i, row in enumerate(rows):
            z = at.normal(i)
            g = projected_gradient(oracle, theta, z, self.eps, row)
            g_anchor = projected_gradient(oracle, state["anchor"], z, self.eps, row)
            pairs.append(((g - g_anchor) / len(rows), z))  # (3)
        return theta - self.lr * (weighted_sum(pairs) + state["G"]), state
