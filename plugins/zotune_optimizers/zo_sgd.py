"""ZO-SGD-Sign and ZO-SGD-Cons of ZO-Bench: Zhang et al. 2024, "Revisiting Zeroth-Order Optimization for
Memory-Efficient LLM Fine-Tuning: A Benchmark", arXiv:2402.11592; signs: Liu et al. 2019, "signSGD via Zeroth-Order
Oracle".

    z ~ N(0, I);  g ← (L(θ + ε z; B) − L(θ − ε z; B)) / 2ε
    zo-sign:          θ ← θ − η sign(g) z
    zo-conservative:  θ ← argmin { L(θ; B), L(θ − η g z; B), L(θ + η g z; B) }

Evaluations a step: 2 (sign), 5 (conservative). Extra memory: none.

Differs from the paper: sign(g) z instead of the sign of each coordinate of g z, as in ZO-Bench's code. Of equally good
points zo-conservative takes θ first, then the step against the slope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zotune import sign
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import positive
from zotune_optimizers.spsa import projected_gradient


@dataclass(frozen=True)
class ZOSign:
    lr: float = 1e-6  # η: learning rate; the length of every step, whatever the slope
    eps: float = 1e-3  # ε: perturbation scale
    schedule: Schedule = "constant"  # of η over the budget

    forwards: ClassVar[int] = 2
    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("zo-sign", lr=self.lr, eps=self.eps)

    def init(self, theta: Theta) -> None:
        return None

    def step(self, theta: Theta, oracle: Oracle, state: None, at: At) -> tuple[Recipe, None]:
        z, lr = at.normal(), self.lr * at.schedule(self.schedule)
        g = projected_gradient(oracle, theta, z, self.eps)
        return theta - lr * sign(g) * z, None


@dataclass(frozen=True)
class ZOConservative:
    lr: float = 1e-6  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale
    schedule: Schedule = "constant"  # of η over the budget

    forwards: ClassVar[int] = 5
    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("zo-conservative", lr=self.lr, eps=self.eps)

    def init(self, theta: Theta) -> None:
        return None

    def step(self, theta: Theta, oracle: Oracle, state: None, at: At) -> tuple[Recipe, None]:
        z, lr = at.normal(), self.lr * at.schedule(self.schedule)
        g = projected_gradient(oracle, theta, z, self.eps)
        points = (theta, theta - lr * g * z, theta + lr * g * z)
        losses = oracle(*points)
        return points[losses.index(min(losses))], None  # index: the first of equal ones
