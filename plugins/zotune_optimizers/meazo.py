"""MEAZO: Dbouk et al. 2026, "On Adaptivity in Zeroth-Order Optimization", arXiv:2605.03869.

    for j = 1 … n:  z_j ~ N(0, I);  g_j ← (L(θ + ε z_j; B) − L(θ − ε z_j; B)) / 2ε
    g ← 1/n Σ_j g_j
    v ← β v + (1 − β) g²;  v̂ = v / (1 − βᵗ)
    θ ← θ − η / (√v̂ + ζ) · 1/n Σ_j g_j z_j − η λ θ

One scalar replaces Adam's second moment: in many dimensions the squares of g z are equal everywhere up to noise, so a
field of them holds no more information than this number.

Evaluations a step: 2n. Extra memory: none.

Differs from the paper: weight decay λ and the schedule are not in it; the defaults of η, ε, β and ζ are zotune's.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, sqrt
from typing import ClassVar, TypedDict

from zotune import weighted_sum
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import at_least, decay_rate, fraction, positive
from zotune_optimizers.spsa import decayed, projected_gradient


class State(TypedDict):
    t: int
    v: float  # v: running mean of g²


@dataclass(frozen=True)
class MEAZO:
    lr: float = 1e-5  # η: learning rate; the length of a step, whatever the slopes are
    eps: float = 1e-3  # ε: perturbation scale
    n: int = 1  # n: directions a step
    beta: float = 0.99  # β: memory of the mean of g²
    zeta: float = 1e-8  # ζ: added to √v̂
    weight_decay: float = 0.0  # λ: decoupled weight decay, none on biases and norm layers
    schedule: Schedule = "constant"  # of η over the budget

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("meazo", lr=self.lr, eps=self.eps, zeta=self.zeta)
        at_least(1, "meazo", n=self.n)
        fraction("meazo", beta=self.beta)
        decay_rate("meazo", self.weight_decay, self.lr)

    @property
    def forwards(self) -> int:
        return 2 * self.n

    def init(self, theta: Theta) -> State:
        return {"t": 0, "v": 0.0}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        z = [at.normal(j) for j in range(self.n)]  # ~ N(0, I)
        g = [projected_gradient(oracle, theta, x, self.eps) for x in z]
        t, v = state["t"] + 1, self.beta * state["v"] + (1 - self.beta) * (fsum(g) / self.n) ** 2
        lr = self.lr * at.schedule(self.schedule)
        scale = lr / (sqrt(v / (1 - self.beta**t)) + self.zeta) / self.n
        update = weighted_sum([(scale * slope, x) for slope, x in zip(g, z, strict=True)])
        return decayed(theta, lr * self.weight_decay) - update, {"t": t, "v": v}
