"""Random search: the best of N perturbations and the incumbent, all on the step's batch (Rastrigin 1963).

    z_j ~ N(0, I);  θ ← argmin { L(θ; B), L(θ + σ W z_1; B), …, L(θ + σ W z_N; B) }
    W: root mean square of each tensor before the first step

The baseline: an optimizer that does not beat it in the same number of evaluations is not worth them.

Evaluations a step: N + 1. Extra memory: none.

Differs from the paper: the unit W is zotune's, so that one σ suits every tensor. The incumbent wins ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypedDict

from zotune.types import At, Oracle, PerTensor, Recipe, Theta
from zotune_optimizers.option_checks import at_least, positive


class State(TypedDict):
    W: PerTensor  # W: RMS of each tensor


@dataclass(frozen=True)
class RandomSearch:
    sigma: float = 0.01  # σ: size of a perturbation, in units of each tensor's RMS
    n: int = 5  # N: candidates a step

    needs: ClassVar[str] = "comparisons"
    affine: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("random-search", sigma=self.sigma)
        at_least(1, "random-search", n=self.n)

    @property
    def forwards(self) -> int:
        return self.n + 1

    def init(self, theta: Theta, oracle: Oracle, at: At) -> State:
        return {"W": at.rms(theta)}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        points = [theta, *(theta + self.sigma * state["W"] * at.normal(j) for j in range(self.n))]
        losses = oracle(*points)
        return points[losses.index(min(losses))], state  # index: the first of equal ones
