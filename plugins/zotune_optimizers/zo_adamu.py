"""ZO-AdaMU: Jiang et al. 2023, "ZO-AdaMU Optimizer: Adapting Perturbation by the Momentum and Uncertainty in
Zeroth-order Optimization", arXiv:2312.15184, Algorithm 1.

    α, β₁, β₂ ← Anneal(t): 1 until T₁, along a cosine until T₂, their end values until T₃, the end       (7)
    ż ~ N(0, α);  z̈ ~ N(m, 1 − α)   (variances);  d ← β₁ ż + (1 − β₁) z̈                                 (4)
    g ← (L(θ + ε d; B) − L(θ − ε d; B)) / 2ε                                                             (5)
    v ← β₂ ż² + (1 − β₂) z̈²;  θ ← θ − η g d / √(v + σ)                                                   (6)
    m ← sign(g) d

While α = β₁ = β₂ = 1 the step is η g sign(ż).

    on=gradient: z ~ N(0, I);  x ← g z, with g from L(θ ± ε z; B)                                  Table 3, column g
                 ẋ = √α x;  ẍ = m + √(1 − α) x;  d and v as above;  θ ← θ − η d / √(v + σ);  m ← d

Evaluations a step: 2. Extra memory: one field, m.

Differs from the paper: sign(g) on m is in the authors' code and not in the paper (`signed=false`). Noise is symmetric
and both g d and v are even in (d, m), so the sign does not change the distribution of θ. (6) prints √(v² + σ), where
Algorithm 1 prints √(v + σ), which is used. (7) as printed jumps at T₁ and ends at 0.9 for all three; the text below it
is followed. T₁ and T₂ are shares of the budget (the authors' code: 1,024 steps and 0.8). With β₁ = 0.9 at the end, as
printed, d correlates 0.1 with m; the authors' code has it the other way round, β₁ = 0.1. Table 3 gives no formula for
the momentum on the gradient: the estimate x takes the place of both noises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict

from zotune import constant, sign, sqrt
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import positive, require
from zotune_optimizers.spsa import projected_gradient


class State(TypedDict):
    m: Recipe  # m: momentum


@dataclass(frozen=True)
class ZOAdaMU:
    lr: float = 1e-6  # η: learning rate [(6)]
    eps: float = 1e-3  # ε: perturbation scale [(5)]
    warmup: float = 0.1  # T₁/T₃: share of the budget without momentum [(7)]
    anneal: float = 0.8  # T₂/T₃: share of the budget at which annealing ends [(7)]
    alpha: float = 0.5  # α: uncertainty at the end [(4), (7)]
    beta1: float = 0.9  # β₁: weight of ż in d at the end [(4), (7)]
    beta2: float = 0.01  # β₂: weight of ż² in v at the end [(6), (7)]
    sigma: float = 1e-8  # σ: under the root [(6)]
    signed: bool = True  # sign(g) on m [authors' code]
    schedule: Schedule = "constant"  # of η over the budget [ours]
    on: Literal["perturbation", "gradient"] = "perturbation"  # what the momentum is of: δ or g [Table 3]

    forwards: ClassVar[int] = 2
    fields: ClassVar[int] = 1
    needs: ClassVar[str] = "comparisons"
    unrecorded: ClassVar[Mapping[str, object]] = {"on": "perturbation"}

    def __post_init__(self) -> None:
        positive("zo-adamu", lr=self.lr, eps=self.eps, sigma=self.sigma)
        for name, value in {"alpha": self.alpha, "beta1": self.beta1, "beta2": self.beta2}.items():
            require(0 <= value <= 1, f"zo-adamu: {name} must be in [0, 1], got {value}")
        message = f"zo-adamu: 0 <= warmup < anneal <= 1 must hold, got warmup {self.warmup} and anneal {self.anneal}"
        require(0 <= self.warmup < self.anneal <= 1, message)

    def init(self, theta: Theta) -> State:
        return {"m": constant(0.0)}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        alpha, beta1, beta2 = (self.annealed(end, at.progress) for end in (self.alpha, self.beta1, self.beta2))  # (7)
        if self.on == "gradient":
            z = at.normal(0)
            first = second = projected_gradient(oracle, theta, z, self.eps) * z  # x = g z
        else:
            first, second = at.normal(0), at.normal(1)
        z1 = math.sqrt(alpha) * first  # ż ~ N(0, α)
        z2 = state["m"] + math.sqrt(1 - alpha) * second  # z̈ ~ N(m, 1 − α)
        d, v = z1, z1**2
        if alpha < 1 or beta1 < 1 or beta2 < 1:
            d, v = beta1 * z1 + (1 - beta1) * z2, beta2 * z1**2 + (1 - beta2) * z2**2  # (4), (6)
        lr = self.lr * at.schedule(self.schedule)
        if self.on == "gradient":
            return theta - lr * (d / sqrt(v + self.sigma)), {"m": d}
        g = projected_gradient(oracle, theta, d, self.eps)  # (5)
        m = sign(g) * d if self.signed else d
        return theta - lr * g * (d / sqrt(v + self.sigma)), {"m": m}  # (6)

    def annealed(self, end: float, progress: float) -> float:
        """From 1 to `end`, along half a cosine between T₁ and T₂."""
        x = (progress - self.warmup) / (self.anneal - self.warmup)
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(max(x, 0.0), 1.0)))
