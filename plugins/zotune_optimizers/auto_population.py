"""The steps of `auto` on generated text: a direction for every row, with sizes that the KL divergence K from the base
model bounds (nats a token, on texts that the base model wrote; it costs forward passes and no score).

    once:  σ₁: K(θ₀ ± σ₁ S u vᵀ) ≈ LARGEST for one member;  κ ← K(θ₀ + σ₁ S/P Σ ±u_p v_pᵀ) / σ₁²
    first step:  a third of the pairs each at σ₁, σ₁/2 and σ₁/4
        σ ← the one with the largest √mean D² − max(0, M₄ − M),  M: mean reward of its rows, M₄: that at σ₁/4
        where no pair differs: σ₁
    each step, with n steps to go:
        z_p of EGGROLL (eggroll.py)
        α: see auto_spending.py
        θ ← θ + α S 1/P Σ_p z_p u_p v_pᵀ
        where people compare completions, a part of α comes from all of their answers so far (auto_answers.py)
    K is measured every T / MEASURED steps, and grows by κ α² mean z² in between
    where completions are sampled: members decode greedily, k is WALKED times as large, and after SHARPENED of the steps
        one is taken that multiplies all logits by c (auto_sharpness.py)

Steps without signal leave K as it is, so that later ones may be longer; once most rows have the best score, differences
and steps shrink. A run therefore ends near k, or before it with the reward at its maximum. A rare reward is met by
large perturbations alone; a reward of form is lost under them. So the first step tries three sizes (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from zotune.types import At, Oracle, PerTensor, Recipe, Theta
from zotune_optimizers.auto_answers import CLOSE, answers_share, part_of_step
from zotune_optimizers.auto_member_scale import SCALES, best_scale, largest_scale
from zotune_optimizers.auto_sharpness import best_sharpness, scaled
from zotune_optimizers.auto_spending import BOUND, Situation, share, squared_length
from zotune_optimizers.eggroll import normalised, units, update

NONE = 1e-9
"""K₀ of a reward that is rare in the first step."""
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
    spared: float = 0.0  # K up to which the reward was rare
    close: float = 0.0  # σ of members that read answers


def start(theta: Theta, oracle: Oracle, at: At, limit: float, edition: int) -> PopulationState:
    """Find σ₁ and κ by the KL divergence alone. limit: of the KL divergence, in nats a token. edition: of k."""
    S = units(theta, at)
    rows = (at.total or UNLIMITED_STEPS) * at.population.rows
    k = limit * share(rows, edition) * (WALKED if at.logit_scales else 1.0)
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
    state = PopulationState(S, sigma, kappa, k, 0.0, 0.0, 0.0, 0.0, 0.0, math.inf, False, numbers)
    return state._replace(close=CLOSE * sigma)


def step(
    theta: Theta,
    oracle: Oracle,
    state: PopulationState,
    at: At,
    limit: float,
    edition: int,
    *,
    beta: float,
    clip: float,
) -> tuple[Recipe, PopulationState]:
    """One step, and the state after it. limit: of the KL divergence, in nats a token."""
    pairs = at.population.pairs
    total = at.total or max(math.ceil(at.t / at.progress) if at.progress else UNLIMITED_STEPS, at.t + 1)
    if at.logit_scales and not state.sharpness and at.t and at.t >= SHARPENED * (total - 1):
        c = best_sharpness(theta, oracle, at, BOUND * limit)
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
    energy = math.fsum(x * x for x in z) / len(z)  # mean z²
    now = Situation(
        kl,
        state.spared,
        state.k,
        BOUND * limit * (WALKED if at.logit_scales else 1.0),
        energy,
        sum(x != 0 for x in z) / len(z),
        room,
        total * len(losses),
        total - at.t,
        total,
        edition,
    )
    state = state._replace(spared=max(kl, NONE) if now.rare else state.spared)
    spent = (1 - answers_share(at)) * squared_length(now)
    moved: Recipe = theta
    grown = spent * energy
    if spent:
        moved = theta + update(state.S, directions, z, math.sqrt(spent / state.kappa))
    if at.learning.pairs:
        part, more = part_of_step(theta, oracle, at, state.S, state.close, state.kappa, now, clip)
        moved, grown = moved if part is None else moved + part, grown + more
    return moved, state._replace(kl=kl + grown) if grown else state
