"""Sign descent with a learning rate that decays over the budget.

    z ~ N(0, I);  θ ← θ − η (1 − t/T) sign(L(θ + εz) − L(θ − εz)) z

Forwards a step: 2. Extra memory: none. Differs from the paper: there is none.
"""

from dataclasses import dataclass

from zotune.types import At, Oracle, Recipe, Theta


@dataclass(frozen=True)
class Brisk:
    lr: float = 3e-3  # η: learning rate of the first step
    eps: float = 1e-2  # ε: perturbation scale

    forwards = 2

    def init(self, theta: Theta) -> None:
        return None

    def step(self, theta: Theta, oracle: Oracle, state: None, at: At) -> tuple[Recipe, None]:
        z = at.normal()  # ~ N(0, I)
        up, down = oracle(theta + self.eps * z, theta - self.eps * z)
        lr = self.lr * at.schedule("linear") * ((up > down) - (up < down))
        return theta - lr * z, state
