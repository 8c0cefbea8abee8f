"""An optimizer in twenty lines: sign descent along one random direction a step.

z ~ N(0, I);  θ ← θ − η sign(L(θ + ε z) − L(θ − ε z)) z

zotune fit --optimizer examples/sign_sgd.py:SignSGD --optimizer-arg lr=1e-3
"""

from dataclasses import dataclass

from zotune.types import At, Oracle, Recipe, Theta


@dataclass(frozen=True)
class SignSGD:
    lr: float = 1e-4  # η: step size
    eps: float = 1e-2  # ε: perturbation scale

    forwards = 2  # evaluations a step

    def init(self, theta: Theta) -> None:
        return None

    def step(self, theta: Theta, oracle: Oracle, state: None, at: At) -> tuple[Recipe, None]:
        z = at.normal()  # ~ N(0, I)
        up, down = oracle(theta + self.eps * z, theta - self.eps * z)
        sign = 1.0 if up > down else -1.0
        return theta - self.lr * sign * z, state
