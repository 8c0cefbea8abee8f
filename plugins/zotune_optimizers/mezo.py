"""MeZO: Malladi et al. 2023, "Fine-Tuning Language Models with Just Forward Passes", arXiv:2305.17333.

    for j = 1 … n:  z_j ~ N(0, I);  g_j = (L(θ + ε z_j; B) − L(θ − ε z_j; B)) / 2ε        Definition 1
    θ ← θ − η/n Σ_j g_j z_j − η λ θ                                                        Algorithms 1 and 2

Forwards a step: 2n. Extra memory: none; each z_j is drawn again where it is used.

Differs from the paper: λ is decoupled from g and spares biases and norm layers, decided by module type (Algorithm 1
has no λ; the
authors' code decides by name). Noise is a sum of four uniform bytes, of mean 0, variance 1 and kurtosis 2.7; SPSA needs
E[zzᵀ] = I alone. ±ε are probed on copies, so the weights never drift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from zotune.errors import OptionError
from zotune.recipe import weighted_sum


@dataclass(frozen=True)
class MeZO:
    lr: float = 1e-6  # η: learning rate; the paper's grid for full tuning is 1e-7 … 1e-5
    eps: float = 1e-3  # ε: perturbation scale
    n: int = 1  # n: directions a step
    weight_decay: float = 0.0  # λ: decoupled, none on biases and norm layers
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of η over the budget
    batches: Literal["shared", "fresh"] = "shared"  # one batch for all directions (Def. 1) or one each (Alg. 2)

    def __post_init__(self) -> None:
        for name, low in (("lr", self.lr), ("eps", self.eps)):
            if not low > 0 or not math.isfinite(low):
                raise OptionError(f"mezo: {name} must be positive, got {low}")
        if self.n < 1:
            raise OptionError(f"mezo: n must be at least 1, got {self.n}")
        if not self.weight_decay >= 0 or not self.lr * self.weight_decay < 1:
            raise OptionError(f"mezo: weight_decay must be in [0, 1/lr), got {self.weight_decay}")

    @property
    def forwards(self) -> int:
        return 2 * self.n

    def init(self, theta: Any) -> None:
        return None

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> tuple[Any, None]:
        lr = self.lr * decay(self.schedule, at.progress)
        pairs = []
        for j in range(self.n):
            z = at.normal(j)  # ~ N(0, I)
            batch = at.sample(j if self.batches == "fresh" else 0)
            up, down = oracle(theta + self.eps * z, theta - self.eps * z, batch=batch)
            g = (up - down) / (2 * self.eps)  # Definition 1
            pairs.append((-lr * g / self.n, z))
        new = theta + weighted_sum(pairs)
        if self.weight_decay:
            new = new - theta.per(lambda t: 0.0 if t.kind in ("bias", "norm") else lr * self.weight_decay) * theta
        return new, None


def decay(schedule: str, progress: float) -> float:
    """The share of the learning rate that is left: 1 at the start; linear and cosine reach 0 at the end."""
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0
