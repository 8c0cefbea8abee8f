"""ZO-AdaMM: Chen et al. 2019, "ZO-AdaMM: Zeroth-Order Adaptive Momentum Method for Black-Box Optimization",
arXiv:1910.06513, Algorithm 1; the other moments and on=perturbation: Table 3 of ZO-AdaMU (arXiv:2312.15184).

    on=gradient:      x ← g z;  g ← (L(θ + ε z; B) − L(θ − ε z; B)) / 2ε
    on=perturbation:  x ← z;    d ← m̂ / (√v̂ + σ);  g ← (L(θ + ε d; B) − L(θ − ε d; B)) / 2ε
    m ← β₁ m + (1 − β₁) x
    adam, adamw:  v ← β₂ v + (1 − β₂) x²;  m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ);  adamw: weight decay λ too
    adamax:       √v̂ = max(β₂ √v̂, |x|);    m̂ = m / (1 − β₁ᵗ)
    adamm:        v as adam;                m̂ = m, v̂ ← max(v̂, v)
    rmsgrad:      v as adam;                m̂ = x, v̂ = v / (1 − β₂ᵗ)
    θ ← θ − η m̂ / (√v̂ + σ) with on=gradient,  θ ← θ − η g d with on=perturbation

Evaluations a step: 2. Extra memory: two fields; adamm three, rmsgrad one.

Differs from the paper: Chen et al. estimate one-sided, on the sphere, and project onto a feasible set; this estimate is
two-sided with z ~ N(0, I) and without a feasible set. Table 3 gives no formulas: on=perturbation takes the moments of z
and uses the same d in evaluation and step, as ZO-AdaMU does with its own. "Rmsgrad" is named beside that table without
a formula: RMSProp (Tieleman and Hinton 2012) with Adam's bias correction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict

from zotune import constant, maximum, sqrt
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import decay_rate, fraction, positive
from zotune_optimizers.spsa import decayed, projected_gradient


class State(TypedDict, total=False):
    t: int
    m: Recipe  # m: first moment
    v: Recipe  # v: second moment; √v̂ where momentum=adamax
    most: Recipe  # v̂, where momentum=adamm


@dataclass(frozen=True)
class ZOAdaMM:
    lr: float = 1e-6  # η: learning rate [Alg. 1]
    eps: float = 1e-3  # ε: perturbation scale [Alg. 1]
    momentum: Literal["adam", "adamw", "adamax", "adamm", "rmsgrad"] = "adamm"  # both moments [Table 3 of ZO-AdaMU]
    on: Literal["gradient", "perturbation"] = "gradient"  # what the moments are of [Table 3 of ZO-AdaMU]
    beta1: float = 0.9  # β₁: memory of the first moment [Alg. 1]
    beta2: float = 0.999  # β₂: memory of the second moment [Alg. 1]
    sigma: float = 1e-8  # σ: added to √v̂ [Alg. 1]
    weight_decay: float = 0.01  # λ: decoupled weight decay of adamw alone, none on biases and norm layers [Table 3]
    schedule: Schedule = "constant"  # of η over the budget [ours]

    forwards: ClassVar[int] = 2
    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("zo-adamm", lr=self.lr, eps=self.eps, sigma=self.sigma)
        fraction("zo-adamm", beta1=self.beta1, beta2=self.beta2)
        decay_rate("zo-adamm", self.weight_decay, self.lr)

    @property
    def fields(self) -> int:
        return {"adamm": 3, "rmsgrad": 1}.get(self.momentum, 2)

    def init(self, theta: Theta) -> State:
        zero = constant(0.0)
        if self.momentum == "adamm":
            return {"t": 0, "m": zero, "v": zero, "most": zero}
        if self.momentum == "rmsgrad":
            return {"t": 0, "v": zero}
        return {"t": 0, "m": zero, "v": zero}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        lr, z = self.lr * at.schedule(self.schedule), at.normal()  # z ~ N(0, I)
        if self.on == "gradient":
            direction, state = self.moments(projected_gradient(oracle, theta, z, self.eps) * z, state)
        else:
            d, state = self.moments(z, state)
            direction = projected_gradient(oracle, theta, d, self.eps) * d
        return decayed(theta, lr * self.weight_decay if self.momentum == "adamw" else 0.0) - lr * direction, state

    def moments(self, x: Recipe, state: State) -> tuple[Recipe, State]:
        """m̂ / (√v̂ + σ) after x is taken in, and the next state."""
        t, b1, b2 = state["t"] + 1, self.beta1, self.beta2
        if self.momentum == "rmsgrad":
            v = b2 * state["v"] + (1 - b2) * x**2
            return x / (sqrt(v / (1 - b2**t)) + self.sigma), {"t": t, "v": v}
        m = b1 * state["m"] + (1 - b1) * x
        if self.momentum == "adamax":
            root = maximum(b2 * state["v"], abs(x))  # √v̂, stored in the field v
            return m / (1 - b1**t) / (root + self.sigma), {"t": t, "m": m, "v": root}
        v = b2 * state["v"] + (1 - b2) * x**2
        if self.momentum == "adamm":
            v_hat = maximum(state["most"], v)
            return m / (sqrt(v_hat) + self.sigma), {"t": t, "m": m, "v": v, "most": v_hat}
        return m / (1 - b1**t) / (sqrt(v / (1 - b2**t)) + self.sigma), {"t": t, "m": m, "v": v}
