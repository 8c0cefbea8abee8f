"""ZO-RankSGD: Tang, Rybin and Chang 2024, "Zeroth-Order Optimization Meets Human Feedback: Provable Learning via
Ranking Oracles", arXiv:2303.03751.

    ξ_1 … ξ_m ~ N(0, I);  rank θ + μ ξ_1, …, θ + μ ξ_m, all of them or the k best
    E ← { (i, j): i is ranked, and better than j }
    ĝ ← 1/|E| Σ_(i,j)∈E (ξ_j − ξ_i)                                                        Algorithm 1
    θ ← θ − η ĝ
    with a line search: θ ← the best of θ, θ − η ĝ, θ − η γ ĝ, …, θ − η γ^(l−1) ĝ          Algorithm 3

Evaluations a step: m; with a line search m + l + 1. Extra memory: none; each ξ is regenerated from its seed where it is
used.

Differs from the paper: ξ is in units of each tensor's root mean square before the first step, so that one μ and one η
suit all models (units=absolute: as in the paper), and η falls linearly to 0. Points may share a rank; such pairs are
not in E, and if no pair is left, the weights stay. The line search takes the incumbent before equally good candidates,
and the longer step before the shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar, Literal, TypedDict

from zotune import weighted_sum
from zotune.types import At, Oracle, PerTensor, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import at_least, positive, require

FLOOR = 0.1
"""Least unit of a tensor, as a share of the typical RMS: LoRA's B starts at 0 and would never move."""


class State(TypedDict):
    unit: PerTensor  # of ξ


@dataclass(frozen=True)
class RankSGD:
    lr: float = 0.05  # η: step size
    eps: float = 0.05  # μ: perturbation scale
    points: int = 8  # m: points that are ranked in a step
    best: int = 0  # k: ranks that are used; 0: all
    lines: int = 0  # l: step sizes tried by the line search; 0: no line search
    gamma: float = 0.5  # γ: ratio of one tried step size to the one before
    units: Literal["rms", "absolute"] = "rms"  # of μ and η
    schedule: Schedule = "linear"  # of η over the budget

    needs: ClassVar[str] = "order"
    affine: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("rank-sgd", lr=self.lr, eps=self.eps, gamma=self.gamma)
        at_least(2, "rank-sgd", points=self.points)
        at_least(0, "rank-sgd", best=self.best, lines=self.lines)
        require(self.gamma < 1, f"rank-sgd: gamma must be below 1, got {self.gamma}")

    @property
    def forwards(self) -> int:
        return self.points + (self.lines + 1 if self.lines else 0)

    @property
    def compares(self) -> int:
        return self.points

    def init(self, theta: Theta, oracle: Oracle, at: At) -> State:
        if self.units == "absolute":
            return {"unit": theta.per(lambda t: 1.0)}
        rms = at.rms(theta).values
        typical = (sum(r * r for r in rms.values()) / len(rms)) ** 0.5 or 1.0
        return {"unit": theta.per(lambda t: max(rms[t.name], FLOOR * typical))}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        unit, xi = state["unit"], [at.normal(i) for i in range(self.points)]  # ~ N(0, I)
        E = self.pairs(oracle.rank(*(theta + self.eps * unit * x for x in xi)))
        if not E:
            return theta, state
        c = [sum(k == j for _, j in E) - sum(k == i for i, _ in E) for k in range(self.points)]
        g = unit * weighted_sum([(n / len(E), x) for n, x in zip(c, xi, strict=True) if n])  # Algorithm 1
        lr = self.lr * at.schedule(self.schedule)
        if not self.lines:
            return theta - lr * g, state
        candidates = [theta, *(theta - lr * self.gamma**j * g for j in range(self.lines))]  # Algorithm 3
        ranks = [len(candidates) if rank is None else rank for rank in oracle.rank(*candidates)]
        return candidates[ranks.index(min(ranks))], state  # index: the first of equal ones

    def pairs(self, ranks: Sequence[int | None]) -> list[tuple[int, int]]:
        """E, as (better, worse). A point without a rank is worse than all that have one."""
        last = len(ranks)
        known = [last if rank is None or (self.best and rank >= self.best) else rank for rank in ranks]
        return [(i, j) for i, j in permutations(range(last), 2) if known[i] < known[j]]
