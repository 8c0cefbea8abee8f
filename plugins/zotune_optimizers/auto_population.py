"""The steps of `auto` on generated text: a direction for every row, with sizes that the KL divergence K from the base
model bounds (nats a token, on texts that the base model wrote; it costs forward passes and no score).

    once:  σ₁: K(θ₀ ± σ₁ S u vᵀ) ≈ LARGEST for one member;  κ ← K(θ₀ + σ₁ S/P Σ ±u_p v_pᵀ) / σ₁²
    first step:  a third of the pairs each at σ₁, σ₁/2 and σ₁/4
        σ ← the one with the largest √mean D² − max(0, M₄ − M),  M: mean reward of its rows, M₄: that at σ₁/4
        where no pair differs: σ₁
    each step, with n steps to go:
        z_p of EGGROLL (eggroll.py)
        r: what is left of the way from the first mean reward to a member's best; f: see LONG
        α² ← max(k − K, 0) / n κ max(mean z², 1) · max(min(SLOWER r, 1)², f), at most CATCH_UP² k / T κ;
            without the second factor where K ≤ FREE k
        θ ← θ + α S 1/P Σ_p z_p u_p v_pᵀ
    K is measured every T / MEASURED steps, and grows by κ α² mean z² in between
    where completions are sampled: members decode greedily, k is WALKED times as large, and after SHARPENED of the steps
        one is taken that multiplies all logits by c (auto_sharpness.py)

k is limit · MOST (SHORT / rows of the run)^⅓, within LEAST and MOST of it. Steps without signal leave K as it is, so
that later ones may be longer; once most rows have the best score, differences and steps shrink. A run therefore ends
near k, or before it with the reward at its maximum. A rare reward is met by large perturbations alone; a reward of
form is lost under them. So the first step tries three sizes (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from zotune.types import At, Oracle, PerTensor, Recipe, Theta
from zotune_optimizers.auto_member_scale import SCALES, best_scale, largest_scale
from zotune_optimizers.auto_sharpness import best_sharpness, scaled
from zotune_optimizers.eggroll import normalised, units, update

MOST, LEAST = 0.9, 0.5
"""k as a share of `--max-kl` in runs of up to SHORT rows, and at least: weights beyond the limit are never kept. Chance
has a share of a step that falls with the rows of a run, so longer runs need less KL for the same reward."""
SLOWER = 1.4
"""Steps become smaller once less than 1 / SLOWER of the way to the best score of a member is left."""
FREE = 0.15
"""Share of k that is spent without becoming slower."""
SHORT, LONG = 1280, 1.0
"""f = LONG (rows of the run / SHORT − 1) within 0 and 1: in long runs steps do not become smaller, for sampled rewards
still gain where greedy ones cannot."""
CATCH_UP = 4.0
"""How much longer than planned a step may be, after steps without signal."""
WALKED, SHARPENED = 0.6, 0.85
"""Where completions are sampled: share of k that steps may spend, the rest is for c (auto_sharpness.py); and share of
the steps after which c is chosen."""
MEASURED = 12
"""Measurements of K in a run."""
UNLIMITED_STEPS = 40
"""Steps that a run limited by time alone is planned with, before its pace is known."""


class PopulationState(NamedTuple):
    """Names are those of saved states."""

    S: PerTensor  # unit of each matrix
    sigma: float  # σ; σ₁ before the first step
    kappa: float  # κ
    k: float  # KL divergence that the run may spend
    kl: float  # K, as far as known
    V: float  # running mean of D²
    weight: float  # of V: 1 − βᵗ
    peak: float  # largest V̂ so far
    first: float  # mean loss of the first population
    best: float  # smallest loss of a member so far
    tried: bool  # whether σ is chosen
    found: Mapping[str, float]  # numbers of the calibration, for `describe`
    sharpness: float = 0.0  # c; 0 before it is chosen


def _share(rows: int) -> float:
    """k as a share of the limit, where steps may spend all of it. rows: of the run."""
    return max(min(MOST * math.pow(SHORT / rows, 1 / 3), MOST), LEAST)


def start(theta: Theta, oracle: Oracle, at: At, limit: float) -> PopulationState:
    """Find σ₁ and κ by the KL divergence alone. limit: of the KL divergence, in nats a token."""
    S = units(theta, at)
    rows = (at.total or UNLIMITED_STEPS) * at.population.rows
    k = limit * _share(rows) * (WALKED if at.logit_scales else 1.0)
    sigma, perturbed = largest_scale(theta, oracle, at, S)
    pairs = at.population.pairs
    signs = [1.0 if p % 2 else -1.0 for p in range(pairs)]
    (moved,) = oracle.kl(theta + update(S, at.directions(pairs, 1), signs, sigma), counted=False)
    kappa = max(moved, 1e-6) / sigma**2
    numbers = {
        "KL of a perturbed row": perturbed,
        "KL of a step of that size": moved,
        "rows a step": at.population.rows,
    }
    return PopulationState(S, sigma, kappa, k, 0.0, 0.0, 0.0, 0.0, 0.0, math.inf, False, numbers)


def step(
    theta: Theta, oracle: Oracle, state: PopulationState, at: At, limit: float, *, beta: float, clip: float
) -> tuple[Recipe, PopulationState]:
    """One step, and the state after it. limit: of the KL divergence, in nats a token."""
    pairs = at.population.pairs
    total = at.total or max(math.ceil(at.t / at.progress) if at.progress else UNLIMITED_STEPS, at.t + 1)
    if at.logit_scales and not state.sharpness and at.t and at.t >= SHARPENED * (total - 1):
        c = best_sharpness(theta, oracle, at, MOST * limit)
        return scaled(theta, at, c), state._replace(sharpness=c)
    kl = state.kl
    if at.t % max(total // MEASURED, 1) == 0 and at.t:
        unsharpened = scaled(theta, at, 1 / state.sharpness) if state.sharpness else theta
        kl = max(oracle.kl(unsharpened, counted=False)[0], 0.0)
    directions = at.directions(pairs)
    scales = [1.0] * pairs if state.tried else [SCALES[p % len(SCALES)] for p in range(pairs)]
    up, down = oracle.population(directions, state.S.map(lambda s: state.sigma * s), scales=scales)
    z, V, weight, peak = normalised(up, down, state.V, state.weight, state.peak, beta=beta, clip=clip)
    losses = [x for x in (*up, *down) if x is not None]
    mean, best = math.fsum(losses) / len(losses), min(state.best, *losses)
    first = state.first if state.tried else mean
    room = (mean - best) / (first - best) if first > best else 1.0
    sigma = state.sigma if state.tried else state.sigma * best_scale(scales, up, down)
    state = state._replace(sigma=sigma, tried=True, V=V, weight=weight, peak=peak, kl=kl, first=first, best=best)
    floor = min(max(LONG * (total * len(losses) / SHORT - 1), 0.0), 1.0)
    energy = math.fsum(x * x for x in z) / len(z)  # mean z²
    speed = max(min(SLOWER * room, 1.0) ** 2, floor) if kl > FREE * state.k else 1.0
    left = max(state.k - kl, 0.0) / max(total - at.t, 1) * speed
    alpha = math.sqrt(min(left / max(energy, 1.0), CATCH_UP**2 * state.k / total) / state.kappa)
    if not energy or not alpha:
        return theta, state
    grown = state.kappa * alpha**2 * energy
    return theta + update(state.S, directions, z, alpha), state._replace(kl=kl + grown)
