"""Random search: the best of N perturbations and the incumbent, all on the step's batch (Rastrigin 1963).

    z_j ~ N(0, I);  θ ← argmin { L(θ; B), L(θ + σ W z_1; B), …, L(θ + σ W z_N; B) }

W is the RMS of each tensor at the start, so that σ means the same for every tensor. Forwards a step: N + 1.
Extra memory: none. What does not beat this at the same number of forwards is not worth its forwards.

Differs from the paper: nothing; W is ours. The incumbent keeps ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from zotune_optimizers.parts import at_least, positive


@dataclass(frozen=True)
class RandomSearch:
    sigma: float = 0.01  # σ: size of a perturbation, in units of each tensor's RMS
    n: int = 5  # N: candidates a step

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("random-search", sigma=self.sigma)
        at_least(1, "random-search", n=self.n)

    @property
    def forwards(self) -> int:
        return self.n + 1

    def init(self, theta: Any, oracle: Any, at: Any) -> dict[str, Any]:
        return {"W": at.rms(theta)}

    def step(self, theta: Any, oracle: Any, state: dict[str, Any], at: Any) -> tuple[Any, dict[str, Any]]:
        points = [theta, *(theta + self.sigma * state["W"] * at.normal(j) for j in range(self.n))]
        values = oracle(*points)
        return points[values.index(min(values))], state  # index: the first, so the incumbent keeps ties
