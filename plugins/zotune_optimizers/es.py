"""Evolution strategies: Qiu et al. 2025, "Evolution Strategies at Scale: LLM Fine-Tuning Beyond Reinforcement
Learning", arXiv:2509.24372, Algorithm 1.

    for i = 1 … N:  z_i ~ N(0, I);  R_i ← −L(θ + σ z_i; B)
    Z_i ← (R_i − mean R) / std R
    θ ← θ + α/N Σ_i Z_i z_i
    sampling=antithetic: z_{i + N/2} = −z_i                        Salimans et al. 2017, arXiv:1703.03864

    population=true: z_i and z_{i + N/2} = ±u_p v_pᵀ on each matrix, with rows of their own

Evaluations a step: N; with population=true its rows / B for batches of B rows. Extra memory: none; each z_i is
regenerated from its seed where it is used.

Differs from the paper: nothing is added to std R; if all rewards are equal, the weights stay. Antithetic directions and
the schedule of α are not in the paper. The default α is half of σ; change one with the other in mind. With
population=true members have noise of rank 1 with both signs, as in EGGROLL (arXiv:2511.16652), tensors that are no
matrices stay, each member scores rows of its own in passes that all share, and the budget suggests N; the paper's
members have full rank and score the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import ClassVar, Literal

from zotune import direction_sum, weighted_sum
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import at_least, positive, require
from zotune_optimizers.row_populations import differences, population_cost, population_size


@dataclass(frozen=True)
class ES:
    lr: float = 5e-4  # α: learning rate
    eps: float = 1e-3  # σ: perturbation scale
    n: int = 30  # N: members of the population
    sampling: Literal["independent", "antithetic"] = "independent"  # N directions, or N/2 with both signs
    schedule: Schedule = "constant"  # of α over the budget
    population: bool = False  # members of rank 1 with rows of their own; the budget suggests N

    needs: ClassVar[str] = "comparisons"
    unrecorded: ClassVar[Mapping[str, object]] = {"population": False}

    def __post_init__(self) -> None:
        positive("es", lr=self.lr, eps=self.eps)
        at_least(2, "es", n=self.n)
        message = f"es: sampling=antithetic takes an even n, got {self.n}"
        require(self.sampling == "independent" or self.n % 2 == 0, message, f"n={self.n + 1}")

    @property
    def populations(self) -> bool:
        return self.population

    def cost(self, theta: Theta, at: At) -> int:
        return population_cost(at, population_size(at, self.n)) if self.population else self.n

    def init(self, theta: Theta) -> None:
        return None

    def step(self, theta: Theta, oracle: Oracle, state: None, at: At) -> tuple[Recipe, None]:
        if self.population:
            return self._row_wise(theta, oracle, at), None
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

    def _row_wise(self, theta: Theta, oracle: Oracle, at: At) -> Recipe:
        size = population_size(at, self.n)
        directions = at.directions(size.pairs)
        up, down = oracle.population(directions, theta.per(lambda t: self.eps), each=size.each)
        spread = pstdev([x for x in (*up, *down) if x is not None])
        if spread == 0:
            return theta
        D = differences(up, down)
        step = self.lr * at.schedule(self.schedule) / (2 * sum(d is not None for d in D) * spread)
        return theta + direction_sum(directions, [-step * (d or 0.0) for d in D])
