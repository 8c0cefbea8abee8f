"""Evolution strategies: Qiu et al. 2025, "Evolution Strategies at Scale: LLM Fine-Tuning Beyond Reinforcement
Learning", arXiv:2509.24372, Algorithm 1.

    for i = 1 … N:  z_i ~ N(0, I);  R_i ← −L(θ + σ z_i; B)
    Z_i ← (R_i − mean R) / std R
    θ ← θ + α/N Σ_i Z_i z_i
    sampling=antithetic: z_{i + N/2} = −z_i                        Salimans et al. 2017, arXiv:1703.03864

Evaluations a step: N. Extra memory: none; each z_i is regenerated from its seed where it is used.

Differs from the paper: nothing is added to std R; if all rewards are equal, the weights stay. Antithetic directions and
the schedule of α are not in the paper. The default α is half of σ; change one with the other in mind.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import ClassVar, Literal

from zotune import weighted_sum
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import at_least, positive, require


@dataclass(frozen=True)
class ES:
    lr: float = 5e-4  # α: learning rate
    eps: float = 1e-3  # σ: perturbation scale
    n: int = 30  # N: members of the population
    sampling: Literal["independent", "antithetic"] = "independent"  # N directions, or N/2 with both signs
    schedule: Schedule = "constant"  # of α over the budget

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("es", lr=self.lr, eps=self.eps)
        at_least(2, "es", n=self.n)
        message = f"es: sampling=antithetic takes an even n, got {self.n}"
        require(self.sampling == "independent" or self.n % 2 == 0, message, f"n={self.n + 1}")

    @property
    def forwards(self) -> int:
        return self.n

    def init(self, theta: Theta) -> None:
        return None

    def step(self, theta: Theta, oracle: Oracle, state: None, at: At) -> tuple[Recipe, None]:
        antithetic = self.sampling == "antithetic"
        z = [at.normal(i) for i in range(self.n // 2 if antithetic else self.n)]  # ~ N(0, I)
        mirrored = [theta - self.eps * x for x in z] if antithetic else []
        losses = oracle(*(theta + self.eps * x for x in z), *mirrored)
        spread, mean = pstdev(losses), fmean(losses)
        if spread == 0:
            return theta, None
        Z = [(mean - loss) / spread for loss in losses]  # R = −L
        c = [a - b for a, b in zip(Z, Z[len(z) :], strict=False)] if antithetic else Z
        lr = self.lr * at.schedule(self.schedule)
        return theta + weighted_sum([(lr / self.n * a, x) for a, x in zip(c, z, strict=True)]), None
