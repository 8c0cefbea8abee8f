"""ZO-AdaMM: Chen et al. 2019, "ZO-AdaMM: Zeroth-Order Adaptive Momentum Method for Black-Box Optimization",
arXiv:1910.06513, Algorithm 1; and the momentum schedules of ZO-AdaMU's Table 3 (arXiv:2312.15184).

    on the gradient:      x = g z;  g = (L(θ + ε z; B) − L(θ − ε z; B)) / 2ε
    on the perturbation:  x = z;    d = m̂ / (√v̂ + σ);  g = (L(θ + ε d; B) − L(θ − ε d; B)) / 2ε
    m ← β₁ m + (1 − β₁) x
    adam, adamw:  v ← β₂ v + (1 − β₂) x²;   m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ);  adamw: λ too
    adamax:       √v̂ = max(β₂ √v̂, |x|);     m̂ = m/(1 − β₁ᵗ)
    adamm:        v as adam;                 m̂ = m, v̂ ← max(v̂, v)
    θ ← θ − η m̂ / (√v̂ + σ)   on the gradient;   θ ← θ − η g d   on the perturbation

Forwards a step: 2. Extra memory: two fields; adamm three.

Differs from the paper: Chen et al. estimate one-sided, on the sphere, and project onto a feasible set; here two-sided,
z ~ N(0, I), and no set. Table 3 gives no formulas: the perturbation's are their moments put in the place of z, as
ZO-AdaMU does with its own, the same d in probe and step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zotune.core.recipe import maximum, sqrt
from zotune_optimizers.parts import ZERO, check_decay, decay, positive, share, shrunk, slope


@dataclass(frozen=True)
class ZOAdaMM:
    lr: float = 1e-6  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale
    momentum: Literal["adam", "adamw", "adamax", "adamm"] = "adamm"  # the schedule of both moments
    on: Literal["gradient", "perturbation"] = "gradient"  # what the moments are of
    beta1: float = 0.9  # β₁: memory of the first moment
    beta2: float = 0.999  # β₂: memory of the second moment
    sigma: float = 1e-8  # σ: added to √v̂
    weight_decay: float = 0.01  # λ: of adamw alone, none on biases and norm layers
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of η over the budget

    forwards = 2

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("zo-adamm", lr=self.lr, eps=self.eps, sigma=self.sigma)
        share("zo-adamm", beta1=self.beta1, beta2=self.beta2)
        check_decay("zo-adamm", self.weight_decay, self.lr)

    @property
    def fields(self) -> int:
        return 3 if self.momentum == "adamm" else 2

    def init(self, theta: Any) -> Any:
        return {"t": 0, "m": ZERO, "v": ZERO} | ({"most": ZERO} if self.momentum == "adamm" else {})

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> tuple[Any, Any]:
        lr, z = self.lr * decay(self.schedule, at.progress), at.normal()
        if self.on == "gradient":
            update, state = self.moments(slope(oracle, theta, z, self.eps) * z, state)
        else:
            d, state = self.moments(z, state)
            update = slope(oracle, theta, d, self.eps) * d
        return shrunk(theta, lr * self.weight_decay if self.momentum == "adamw" else 0.0) - lr * update, state

    def moments(self, x: Any, state: Any) -> tuple[Any, Any]:
        """m̂ / (√v̂ + σ) with x taken in, and the state with it."""
        t, b1, b2 = state["t"] + 1, self.beta1, self.beta2
        m = b1 * state["m"] + (1 - b1) * x
        if self.momentum == "adamax":  # the field v holds the root
            v = maximum(b2 * state["v"], abs(x))
            return m / (1 - b1**t) / (v + self.sigma), {"t": t, "m": m, "v": v}
        v = b2 * state["v"] + (1 - b2) * x**2
        if self.momentum == "adamm":
            most = maximum(state["most"], v)
            return m / (sqrt(most) + self.sigma), {"t": t, "m": m, "v": v, "most": most}
        return m / (1 - b1**t) / (sqrt(v / (1 - b2**t)) + self.sigma), {"t": t, "m": m, "v": v}
