"""ZO-RankSGD: Tang, Rybin and Chang 2024, "Zeroth-Order Optimization Meets Human Feedback: Provable Learning via
Ranking Oracles", arXiv:2303.03751.

    ξ_1 … ξ_m ~ N(0, I);  an order of θ + μ ξ_1, …, θ + μ ξ_m, whole or of its k best
    E = { (i, j): i is ranked, and better than j }
    ĝ = 1/|E| Σ_(i,j)∈E (ξ_j − ξ_i)                                                               Algorithm 1
    θ ← θ − η ĝ,  or the best of θ, θ − η ĝ, θ − η γ ĝ, …, θ − η γ^(l−1) ĝ by the same oracle      Algorithm 3

Forwards a step: m; with a line search m + l + 1. Extra memory: none; each ξ is drawn again where it is used.

Differs from the paper: ξ is in units of each tensor's root mean square at the start, so that one μ and one η fit all
models (units=absolute: as the paper has it), and η falls to 0 linearly. Points may share a place: such pairs are not in
E. Where no pair is left the weights stay; of equally good candidates of the line search the longest step is taken, but
the incumbent before all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any, ClassVar, Literal

from zotune.core.recipe import weighted_sum
from zotune_optimizers.parts import at_least, decay, positive, require


@dataclass(frozen=True)
class RankSGD:
    lr: float = 0.05  # η: step size
    eps: float = 0.05  # μ: perturbation scale
    points: int = 8  # m: points that are ordered in a step
    best: int = 0  # k: places that the order tells; 0: all
    lines: int = 0  # l: step sizes tried by the line search; 0: none
    gamma: float = 0.5  # γ: ratio of one tried step size to the one before
    units: Literal["rms", "absolute"] = "rms"  # of μ and η
    schedule: Literal["constant", "linear", "cosine"] = "linear"  # of η over the budget

    needs: ClassVar[str] = "order"

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

    def init(self, theta: Any, oracle: Any, at: Any) -> dict[str, Any]:
        if self.units == "absolute":
            return {"unit": theta.per(lambda t: 1.0)}
        rms = at.rms(theta).values
        typical = (sum(r * r for r in rms.values()) / len(rms)) ** 0.5 or 1.0
        return {"unit": theta.per(lambda t: max(rms[t.name], 0.1 * typical))}  # LoRA's B starts at 0

    def pairs(self, places: Any) -> list[tuple[int, int]]:
        """E: (better, worse). A point without a place is worse than all that have one."""
        last = len(places)
        place = [last if p is None or (self.best and p >= self.best) else p for p in places]
        return [(i, j) for i, j in permutations(range(last), 2) if place[i] < place[j]]

    def step(self, theta: Any, oracle: Any, state: dict[str, Any], at: Any) -> tuple[Any, dict[str, Any]]:
        unit, xi = state["unit"], [at.normal(i) for i in range(self.points)]  # ~ N(0, I)
        E = self.pairs(oracle.rank(*(theta + self.eps * unit * x for x in xi)))
        if not E:
            return theta, state
        c = [sum(k == j for _, j in E) - sum(k == i for i, _ in E) for k in range(self.points)]
        g = unit * weighted_sum([(n / len(E), x) for n, x in zip(c, xi, strict=True) if n])
        lr = self.lr * decay(self.schedule, at.progress)
        if not self.lines:
            return theta - lr * g, state
        tried = [theta, *(theta - lr * self.gamma**j * g for j in range(self.lines))]
        places = [len(tried) if p is None else p for p in oracle.rank(*tried)]
        return tried[places.index(min(places))], state
