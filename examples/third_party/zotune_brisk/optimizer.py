"""Sign descent with a step that decays over the budget.

    z ~ N(0, I);  θ ← θ − η (1 − t/T) sign(L(θ + εz) − L(θ − εz)) z

Forwards a step: 2. Extra memory: none. Differs from the paper: there is none.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Brisk:
    lr: float = 3e-3  # η: first step
    eps: float = 1e-2  # ε: perturbation scale

    forwards = 2

    def init(self, theta):
        return None

    def step(self, theta, oracle, state, at):
        z = at.normal()
        up, down = oracle(theta + self.eps * z, theta - self.eps * z)
        lr = self.lr * (1 - at.progress) * ((up > down) - (up < down))
        return theta - lr * z, state
