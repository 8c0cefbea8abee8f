"""EGGROLL: Sarkar et al. 2025, "Evolution Strategies at the Hyperscale", arXiv:2511.16652, with rank 1 and antithetic
pairs.

    for each pair p = 1 … P and each matrix:  u_p ~ N(0, I);  v_p ~ N(0, I)
    f_p± ← −L(θ ± σ S u_p v_pᵀ; rows of p)
    D_p ← (f_p+ − f_p−) / 2;  V ← β V + (1 − β) mean_p D_p²;  z_p ← clip(D_p / √max V̂, ±c)
    θ ← θ + α S 1/P Σ_p z_p u_p v_pᵀ
    S: root mean square of each matrix before the first step; with units=absolute 1

Evaluations a step: 2 P k / B for k rows a member and batches of B rows; all rows of a forward pass, or of one
`generate`, have directions of their own where the model allows it. Extra memory: none; factors of rows + columns a
matrix and pair while a pass is under way.

Differs from the paper: one row a member, where the paper scores whole batches; differences are divided by the largest
root of a running mean of squares so far (V̂: without bias) instead of standardised among members, so that steps shrink
once most rows have the best score; units are those of each matrix. Tensors that are no matrices stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from zotune import direction_sum
from zotune.types import At, Batch, Directions, Oracle, PerTensor, PopulationSize, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import at_least, fraction, positive, require

FLOOR = 0.1
"""Least unit of a matrix, as a share of the typical RMS: LoRA's B starts at 0 and would never move."""
DEFAULT_ROWS = 64
"""Rows a step where each member costs a pass of its own anyway."""


class Normalised(NamedTuple):
    """Differences in units of their size: z of each pair (0 where a member has no value), and the running mean."""

    z: tuple[float, ...]
    V: float
    weight: float  # of V: 1 − βᵗ
    peak: float  # max V̂


def units(theta: Theta, at: At) -> PerTensor:
    """S of each tensor: its root mean square, at least FLOOR of the typical one."""
    rms = at.rms(theta).values
    squares = [r * r for name, r in rms.items() if name not in at.logit_scales]
    typical = math.sqrt(sum(squares) / max(len(squares), 1)) or 1.0
    return theta.per(lambda t: max(rms[t.name], FLOOR * typical))


def normalised(
    up: Sequence[float | None],
    down: Sequence[float | None],
    V: float,
    weight: float,
    peak: float,
    *,
    beta: float,
    clip: float,
) -> Normalised:
    """z of each pair, from the losses of its two members. Pairs that lack a value count for nothing."""
    D = [None if a is None or b is None else (b - a) / 2 for a, b in zip(up, down, strict=True)]
    valid = [d for d in D if d is not None]
    V = beta * V + (1 - beta) * math.fsum(d * d for d in valid) / len(valid)
    weight = beta * weight + (1 - beta)
    peak = max(peak, V / weight)
    scale = math.sqrt(peak)
    z = tuple(0.0 if not d or not scale else max(-clip, min(clip, d / scale)) for d in D)
    return Normalised(z, V, weight, peak)


def update(S: PerTensor, directions: Directions, z: Sequence[float], alpha: float) -> Recipe:
    """α S 1/P Σ z_p u_p v_pᵀ over the P pairs."""
    return S * direction_sum(directions, [alpha * x / len(z) for x in z])


class State(NamedTuple):
    """Names are those of saved states."""

    S: PerTensor  # unit of each matrix
    V: float
    weight: float
    peak: float


@dataclass(frozen=True)
class Eggroll:
    lr: float = 0.1  # α: length of a step, in units of S
    eps: float = 0.15  # σ: perturbation scale, in units of S
    rows: int = 0  # rows that a step scores, 2 P k; 0: as many as the budget suggests
    each: int = 0  # k: rows a member; 0: 1, or several for an objective that scores sets
    beta: float = 0.8  # β: memory of the size of differences
    clip: float = 3.0  # c: largest normalised difference
    units: Literal["rms", "absolute"] = "rms"  # of α and σ
    schedule: Schedule = "constant"  # of α over the budget

    needs: ClassVar[str] = "comparisons"
    affine: ClassVar[bool] = True
    populations: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("eggroll", lr=self.lr, eps=self.eps, clip=self.clip)
        at_least(0, "eggroll", rows=self.rows, each=self.each)
        fraction("eggroll", beta=self.beta)
        k = max(self.each, 1)
        require(
            self.rows == 0 or self.rows % (2 * k) == 0,
            f"eggroll: rows must be a multiple of {2 * k}, two members of {k} rows, got {self.rows}",
        )

    def size(self, at: At) -> PopulationSize:
        """Rows a step and rows a member."""
        suggested = at.population
        each = self.each or suggested.each
        return PopulationSize(self.rows or suggested.rows or max(DEFAULT_ROWS, 2 * each), each)

    def cost(self, theta: Theta, at: At) -> int:
        size = self.size(at)
        return at.cost(Batch((0,) * (2 * size.pairs * size.each)))

    def init(self, theta: Theta, oracle: Oracle, at: At) -> State:
        S = units(theta, at) if self.units == "rms" else theta.per(lambda t: 1.0)
        return State(S, 0.0, 0.0, 0.0)

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        size = self.size(at)
        directions = at.directions(size.pairs)
        up, down = oracle.population(directions, state.S.map(lambda s: self.eps * s), each=size.each)
        z, V, weight, peak = normalised(up, down, state.V, state.weight, state.peak, beta=self.beta, clip=self.clip)
        state = state._replace(V=V, weight=weight, peak=peak)
        if not any(z):
            return theta, state
        return theta + update(state.S, directions, z, self.lr * at.schedule(self.schedule)), state
