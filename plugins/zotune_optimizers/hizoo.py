"""HiZOO: Zhao et al. 2024, "Second-Order Fine-Tuning without Pain for LLMs: A Hessian Informed Zeroth-Order Optimizer",
arXiv:2402.15173.

    H: diagonal of the Hessian, 1 at the start
    z ~ N(0, I);  l₀ ← L(θ; B);  l± ← L(θ ± ε z/√H; B);  g ← (l₊ − l₋) / 2ε
    H ← (1 − s) H + s |l₊ + l₋ − 2 l₀| / 2ε² · H z²
    θ ← θ − η g z / √H

Evaluations a step: 3. Extra memory: one field, H.

Differs from the paper: H grows by at most the factor `growth` a step (the authors' code overflows in half precision),
and is stored in float32 whatever the weights' type. The default s = 0 of the authors' code is MeZO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypedDict

from zotune import constant, minimum, sqrt
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import fraction, positive, require


class State(TypedDict):
    H: Recipe  # H: diagonal of the Hessian


@dataclass(frozen=True)
class HiZOO:
    lr: float = 1e-6  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale
    smooth: float = 1e-8  # s: weight of the new curvature
    growth: float = 10.0  # largest factor by which H grows in a step
    schedule: Schedule = "constant"  # of η over the budget

    forwards: ClassVar[int] = 3
    fields: ClassVar[int] = 1

    def __post_init__(self) -> None:
        positive("hizoo", lr=self.lr, eps=self.eps)
        fraction("hizoo", smooth=self.smooth)
        require(self.growth > 1, f"hizoo: growth must be above 1, got {self.growth}")

    def init(self, theta: Theta) -> State:
        return {"H": constant(1.0)}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        H, z = state["H"], at.normal()  # z ~ N(0, I)
        direction = z / sqrt(H)
        clean, up, down = oracle(theta, theta + self.eps * direction, theta - self.eps * direction)
        g, curvature = (up - down) / (2 * self.eps), abs(up + down - 2 * clean) / (2 * self.eps**2)
        new_H = minimum((1 - self.smooth) * H + self.smooth * curvature * (H * z**2), self.growth * H)
        return theta - self.lr * at.schedule(self.schedule) * g * (z / sqrt(new_H)), {"H": new_H}
