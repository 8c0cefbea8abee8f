"""An optimizer in twenty lines: sign descent, θ ← θ − η sign(g) z (ZO-signSGD with one direction)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SignSGD:
    lr: float = 1e-4  # η: step size
    eps: float = 1e-2  # ε: perturbation scale

    forwards = 2

    def init(self, theta):
        return None

    def step(self, theta, oracle, state, at):
        z = at.normal()  # ~ N(0, I)
        up, down = oracle(theta + self.eps * z, theta - self.eps * z)
        direction = 1.0 if up > down else -1.0
        return theta - self.lr * direction * z, state
