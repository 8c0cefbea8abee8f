"""FZOO: Dang et al. 2025, "FZOO: Fast Zeroth-Order Optimizer for Fine-Tuning Large Language Models towards Adam-Scale
Speed", arXiv:2506.09034.

    l₀ ← L(θ; B);  for i = 1 … N:  u_i ∈ {−1, 1}ᵈ uniformly;  l_i ← L(θ + ε u_i; B)
    s² ← 1/(N − 1) Σ_i (l_i − mean l)²
    θ ← θ − η Σ_i (l_i − l₀) u_i / (N s)

s is about ε ‖∇L‖, so steps have the same length whether the loss is steep or flat, as in normalised SGD.

Evaluations a step: N + 1. Extra memory: none; each u_i is regenerated from its seed where it is used.

Differs from the paper: the 1/ε of the estimate is part of η, as in the authors' code (which divides s² by N). If all
l_i are equal, the weights stay. The N points are evaluated one by one; the paper batches their products into one
forward pass, with the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import stdev
from typing import ClassVar

from zotune import weighted_sum
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import at_least, positive


@dataclass(frozen=True)
class FZOO:
    lr: float = 1e-5  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale
    n: int = 8  # N: perturbations a step
    schedule: Schedule = "constant"  # of η over the budget

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("fzoo", lr=self.lr, eps=self.eps)
        at_least(2, "fzoo", n=self.n)

    @property
    def forwards(self) -> int:
        return self.n + 1

    def init(self, theta: Theta) -> None:
        return None

    def step(self, theta: Theta, oracle: Oracle, state: None, at: At) -> tuple[Recipe, None]:
        u = [at.rademacher(i) for i in range(self.n)]
        clean, *losses = oracle(theta, *(theta + self.eps * x for x in u))
        s = stdev(losses)
        if s == 0:
            return theta, None
        scale = self.lr * at.schedule(self.schedule) / (self.n * s)
        return theta - weighted_sum([(scale * (loss - clean), x) for loss, x in zip(losses, u, strict=True)]), None
