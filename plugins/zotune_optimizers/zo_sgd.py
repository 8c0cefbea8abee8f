"""ZO-SGD-Sign and ZO-SGD-Cons, as ZO-Bench compares them: Zhang et al. 2024, "Revisiting Zeroth-Order Optimization for
Memory-Efficient LLM Fine-Tuning: A Benchmark", arXiv:2402.11592; signs after Liu et al. 2019, "signSGD via Zeroth-Order
Oracle".

    z ~ N(0, I);  g = (L(θ + ε z; B) − L(θ − ε z; B)) / 2ε
    zo-sign:          θ ← θ − η sign(g) z
    zo-conservative:  θ ← argmin { L(θ; B), L(θ − η g z; B), L(θ + η g z; B) }

Forwards a step: 2 (sign) or 5 (conservative). Extra memory: none.

Differs from the paper: sign(g) z rather than the sign of each coordinate of g z, as in ZO-Bench's code; of equally good
points zo-conservative keeps the incumbent, then the step against the slope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zotune.core.recipe import sign
from zotune_optimizers.parts import decay, positive, slope


@dataclass(frozen=True)
class ZOSign:
    lr: float = 1e-6  # η: learning rate; the length of every step, whatever the slope
    eps: float = 1e-3  # ε: perturbation scale
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of η over the budget

    name: ClassVar[str] = "zo-sign"
    forwards: ClassVar[int] = 2
    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive(self.name, lr=self.lr, eps=self.eps)

    def init(self, theta: Any) -> None:
        return None

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> tuple[Any, None]:
        z, lr = at.normal(), self.lr * decay(self.schedule, at.progress)
        g = slope(oracle, theta, z, self.eps)
        return theta - lr * sign(g) * z, None


@dataclass(frozen=True)
class ZOConservative(ZOSign):
    name: ClassVar[str] = "zo-conservative"
    forwards: ClassVar[int] = 5

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> tuple[Any, None]:
        z, lr = at.normal(), self.lr * decay(self.schedule, at.progress)
        g = slope(oracle, theta, z, self.eps)
        points = (theta, theta - lr * g * z, theta + lr * g * z)
        values = oracle(*points)
        return points[values.index(min(values))], None  # index: the first of equal ones
