"""FZOO: Dang et al. 2025, "FZOO: Fast Zeroth-Order Optimizer for Fine-Tuning Large Language Models towards Adam-Scale
Speed", arXiv:2506.09034.

    l₀ ← L(θ; B);  for i = 1 … N:  u_i ∈ {−1, 1}ᵈ uniformly;  l_i ← L(θ + ε u_i; B)
    s² ← 1/(N − 1) Σ_i (l_i − mean l)²
    θ ← θ − η Σ_i (l_i − l₀) u_i / (N s)

s is about ε ‖∇L‖, so steps have the same length whether the loss is steep or flat, as in normalised SGD.

    population=true, with pairs ±u_p v_pᵀ on each matrix and rows of their own:
        d_p ← (l_p+ − l_p−) / 2;  s² ← mean d²;  θ ← θ − η Σ_p d_p u_p v_pᵀ / (P s)

Evaluations a step: N + 1; with population=true its rows / B for batches of B rows. Extra memory: none; each u_i is
regenerated from its seed where it is used.

Differs from the paper: the 1/ε of the estimate is part of η, as in the authors' code (which divides s² by N). If all
l_i are equal, the weights stay. The N points are evaluated one by one; the paper batches their products into one
forward pass, with the same values. With population=true directions have rank 1 as in EGGROLL (arXiv:2511.16652), a
member is compared with its partner instead of the clean pass, whose rows are others, tensors that are no matrices
stay, and the budget suggests N.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import stdev
from typing import ClassVar

from zotune import direction_sum, weighted_sum
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import at_least, positive
from zotune_optimizers.row_populations import differences, population_cost, population_size


@dataclass(frozen=True)
class FZOO:
    lr: float = 1e-5  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale
    n: int = 8  # N: perturbations a step
    schedule: Schedule = "constant"  # of η over the budget
    population: bool = False  # pairs of rank 1 with rows of their own; the budget suggests N

    needs: ClassVar[str] = "comparisons"
    unrecorded: ClassVar[Mapping[str, object]] = {"population": False}

    def __post_init__(self) -> None:
        positive("fzoo", lr=self.lr, eps=self.eps)
        at_least(2, "fzoo", n=self.n)

    @property
    def populations(self) -> bool:
        return self.population

    def cost(self, theta: Theta, at: At) -> int:
        return population_cost(at, population_size(at, self.n)) if self.population else self.n + 1

    def init(self, theta: Theta) -> None:
        return None

    def step(self, theta: Theta, oracle: Oracle, state: None, at: At) -> tuple[Recipe, None]:
        if self.population:
            return self._row_wise(theta, oracle, at), None
        u = [at.rademacher(i) for i in range(self.n)]
        clean, *losses = oracle(theta, *(theta + self.eps * x for x in u))
        s = stdev(losses)
        if s == 0:
            return theta, None
        scale = self.lr * at.schedule(self.schedule) / (self.n * s)
        return theta - weighted_sum([(scale * (loss - clean), x) for loss, x in zip(losses, u, strict=True)]), None

    def _row_wise(self, theta: Theta, oracle: Oracle, at: At) -> Recipe:
        size = population_size(at, self.n)
        directions = at.directions(size.pairs)
        D = differences(*oracle.population(directions, theta.per(lambda t: self.eps), each=size.each))
        d = [x / 2 for x in D if x is not None]
        s = math.sqrt(math.fsum(x * x for x in d) / len(d))
        if s == 0:
            return theta
        scale = self.lr * at.schedule(self.schedule) / (len(d) * s)
        return theta - direction_sum(directions, [scale * (x or 0.0) / 2 for x in D])
