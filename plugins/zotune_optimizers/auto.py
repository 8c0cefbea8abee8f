"""auto: two-point steps whose sizes are calibrated before the first step. SPSA: Spall 1992; one running mean of g²:
Dbouk et al. 2026, arXiv:2605.03869.

    once (auto_scales.py):
        D: perturbation size of each tensor;  ε: perturbation scale in units of D;  κ: displacement cap in units of D
        ρ ← min(ε, κ / √Σ s(t)²)
    each step:
        z ~ Rademacher;  g ← (L(θ + ε D z; B) − L(θ − ε D z; B)) / 2ε
        v ← β v + (1 − β) g²;  v̂ = v / (1 − βᵗ);  d ← clip(g / √v̂, ±c)
        θ ← θ − ρ s(t) b d D z
        s(t): 1, and from 70 % of the budget on falling linearly to 0
        b: 1, and from a displacement of √3 κ on falling to 0 at 2 κ

On generated text the steps are those of auto_population.py: a direction for every row.

A random walk of such steps ends about κ D away from the base model. This displacement, rather than the learning rate,
predicts whether tuning ruins a model. D is measured in units of what the model tolerates, so one κ fits every model
and every subset of its weights.

Evaluations a step: 2; the calibration takes one of the base model and two for each size that it tries, each for every
batch of its rows. Extra memory: none.

Differs from the paper: SPSA is the estimate alone and the running mean of g² is MEAZO's; sizes, cap and schedule are
zotune's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from zotune.types import At, Batch, Oracle, Recipe, Theta
from zotune_optimizers import auto_calibration, auto_scales
from zotune_optimizers import auto_population as population
from zotune_optimizers.auto_population import PopulationState
from zotune_optimizers.option_checks import at_least, fraction, positive, require

HOLD = 0.7
"""Share of the budget before steps shrink: most of the signal is gathered at full size, the end averages noise out."""
MEAN_SQUARE = HOLD + (1 - HOLD) / 3
"""Mean of s(t)² over the budget."""
UNLIMITED_STEPS = 300
"""Steps that a run limited by time alone is planned with."""
POINTS = 2
"""Evaluations of a two-point step."""
MEMORY = 0.8
"""β of a population's steps, which are fewer."""
STOP = 2.0
"""Displacement, in units of κ, at which steps become 0: twice what a random walk of all steps reaches."""


class State(NamedTuple):
    """Names are those of saved states."""

    D: Recipe  # D: perturbation size of each tensor
    eps: float  # ε: perturbation scale
    rho: float  # ρ: size of the first step
    cap: float  # κ: displacement cap
    v: float  # v: running mean of g²
    weight: float  # 1 − βᵗ: total weight of v
    moved: float  # Σ (step size)²: squared displacement in units of D
    found: Mapping[str, float]  # numbers of the calibration, for `describe`
    short: str = ""  # what the user should know of a calibration that the budget cut short


@dataclass(frozen=True)
class Auto:
    cap: float = 3.0  # κ: displacement at the end of the budget, in units of what the model tolerates
    tolerance: float = 0.05  # τ: share of a row's spread that the perturbation of one group may cost on average
    eps: float = 2.0  # ε: largest perturbation scale, in the same units
    beta: float = 0.95  # β: memory of g²
    clip: float = 3.0  # c: largest normalised step
    bands: int = 3  # bands of layers that are calibrated separately
    rows: int = 64  # rows of the calibration's batch
    drift: float = 0.5  # k: KL divergence from the base model in nats a token, where it can be measured
    share: float = 0.25  # share of the budget that the calibration may take
    edition: int = 3  # 3; 2: populations spend more KL; 1: also the calibration of runs that record none

    needs: ClassVar[str] = "comparisons"
    interpolates: ClassVar[bool] = True
    populations: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True
    stratifies: ClassVar[bool] = True
    sharpens: ClassVar[bool] = True
    reuses_answers: ClassVar[bool] = True
    affine: ClassVar[bool] = True
    unrecorded: ClassVar[Mapping[str, object]] = {"edition": 1}

    def __post_init__(self) -> None:
        positive("auto", cap=self.cap, drift=self.drift, tolerance=self.tolerance, eps=self.eps, clip=self.clip)
        positive("auto", share=self.share)
        fraction("auto", beta=self.beta)
        at_least(1, "auto", bands=self.bands, rows=self.rows)
        require(self.edition in (1, 2, 3), f"auto: edition must be 1, 2 or 3, got {self.edition}")

    def cost(self, theta: Theta, at: At) -> int:
        size = at.population
        return at.cost(Batch((0,) * (2 * size.pairs * size.each))) if size.rows else POINTS

    def init(self, theta: Theta, oracle: Oracle, at: At) -> State | PopulationState:
        if at.population.rows:
            return population.start(theta, oracle, at, at.max_kl or self.drift / 2, self.edition)
        limit = math.inf if at.total is None else self.share * POINTS * at.total
        calibrate = auto_calibration.calibrate if self.edition == 1 else auto_scales.calibrate
        D, eps, cap, numbers, *notes = calibrate(
            theta,
            oracle,
            at,
            cap=self.cap,
            tolerance=self.tolerance,
            eps=self.eps,
            bands=self.bands,
            rows=self.rows,
            kl=self.drift,
            limit=limit,
        )
        rho = min(eps, cap / math.sqrt(MEAN_SQUARE * max(at.total or UNLIMITED_STEPS, 1)))
        return State(D, eps, rho, cap, 0.0, 0.0, 0.0, numbers, *notes)

    def describe(self, state: State | PopulationState) -> dict[str, float]:
        """What the calibration measured and chose. Scales and displacements are in units of D, or of S."""
        if isinstance(state, PopulationState):
            return {**state.found, "perturbation scale": state.sigma, "KL that steps may spend": state.k}
        chosen = {"perturbation scale": state.eps, "first step": state.rho, "displacement cap": state.cap}
        return {**state.found, **chosen}

    def warning(self, state: State | PopulationState) -> str:
        """What the user should know of a calibration that the budget cut short, or ""."""
        return "" if isinstance(state, PopulationState) else state.short

    def step(
        self, theta: Theta, oracle: Oracle, state: State | PopulationState, at: At
    ) -> tuple[Recipe, State | PopulationState]:
        if isinstance(state, PopulationState):
            limit = at.max_kl or self.drift / 2
            return population.step(theta, oracle, state, at, limit, self.edition, beta=MEMORY, clip=self.clip)
        D, eps, z = state.D, state.eps, at.rademacher()
        up, down = oracle(theta + eps * D * z, theta - eps * D * z)
        g = (up - down) / (2 * eps)
        v, weight = self.beta * state.v + (1 - self.beta) * g * g, self.beta * state.weight + (1 - self.beta)
        if v == 0:  # no difference was seen yet
            return theta, state
        d = max(-self.clip, min(self.clip, g / math.sqrt(v / weight)))
        room = max(0.0, 1 - state.moved / (STOP * state.cap) ** 2)
        s, b = min(1.0, (1 - at.progress) / (1 - HOLD)), min(1.0, 2 * math.sqrt(room))
        step = state.rho * s * d * b
        return theta - step * D * z, state._replace(v=v, weight=weight, moved=state.moved + step * step)
