"""ZO-SVRG: Liu et al. 2018, "Zeroth-Order Stochastic Variance Reduction for Nonconvex Optimization", arXiv:1805.10367,
as the MeZO-SVRG paper states it (arXiv:2404.08080, Algorithm 2 and equations 3 and 4).

    ĝ(θ; I) = 1/|I| Σ_{i ∈ I} (f_i(θ + μ z_i) − f_i(θ − μ z_i)) / 2μ · z_i,   a direction of its own for each row
    t mod q = 0:  G ← ĝ(θ; all rows);  θ̄ ← θ
    θ ← θ − η (ĝ(θ; I_t) − ĝ(θ̄; I_t) + G)

Forwards a step: 4b single rows, b the batch; where t mod q = 0, 2 × rows instead. Extra memory: two fields, θ̄ and G.

Differs from the paper: θ and θ̄ share each row's direction, without which nothing cancels; where t mod q = 0 both are
the same, their difference is exactly zero, and it is not computed. `full` takes a sample of rows for the full estimate.
Every forward of one row counts as one, so a budget in forwards flatters no one: this method asks for b times as many
as mezo-svrg.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zotune.core.recipe import weighted_sum
from zotune_optimizers.parts import ZERO, at_least, positive, slope


@dataclass(frozen=True)
class ZOSVRG:
    lr: float = 1e-6  # η: learning rate
    eps: float = 1e-3  # μ: perturbation scale
    q: int = 2  # q: steps from one full estimate to the next
    full: int = 0  # rows of the full estimate; 0: all

    fields = 2

    def __post_init__(self) -> None:
        positive("zo-svrg", lr=self.lr, eps=self.eps)
        at_least(1, "zo-svrg", q=self.q)
        at_least(0, "zo-svrg", full=self.full)

    def cost(self, theta: Any, at: Any) -> int:
        return 4 * len(at.sample(0).rows) if at.t % self.q else 2 * len(self.rows(at).rows)

    def rows(self, at: Any) -> Any:
        return at.large(self.full) if self.full else at.full

    def init(self, theta: Any) -> Any:
        return {"anchor": ZERO, "G": ZERO, "ready": False}

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> tuple[Any, Any]:
        if at.t % self.q == 0 or not state["ready"]:  # after a dropped full step too
            every = self.rows(at).each
            slopes = [slope(oracle, theta, at.normal(i), self.eps, row) for i, row in enumerate(every)]
            G = weighted_sum([(g / len(every), at.normal(i)) for i, g in enumerate(slopes)])
            return theta - self.lr * G, {"anchor": theta, "G": G, "ready": True}
        rows, pairs = at.sample(0).each, []
        for i, row in enumerate(rows):
            z = at.normal(i)
            g = slope(oracle, theta, z, self.eps, row) - slope(oracle, state["anchor"], z, self.eps, row)
            pairs.append((g / len(rows), z))
        return theta - self.lr * (weighted_sum(pairs) + state["G"]), state
