"""The calibration of `auto` in its first edition, for runs that recorded it: how far the weights can be perturbed
before the model gets worse. New runs have that of auto_scales.py.

    groups: tensors by band of layers, kind and role (weight or bias)
    C(Δ): mean of L(θ₀ ± Δ z; B) − L(θ₀; B), z ~ Rademacher. The slope cancels, so this is the cost of curvature.
    for each group:  δ ← the largest power of two with C(δ RMS(θ₀)) ≤ τ |L(θ₀)|;  D ← δ RMS(θ₀) of each tensor
    for all groups together:  ε ← the largest of ε, ε/2, ε/4 … with C(ε D) ≤ 5 τ |L(θ₀)|
    κ ← κ √(T / 600) for a run of T < 600 steps

Where the oracle measures the KL divergence K from the base model (nats a token), K replaces the objective, which may be
flat near θ₀ or a person:
    δ: K(±δ RMS(θ₀) z) ≤ k/10;  ε: K(±ε D z) ≤ 2k/5
    κ ← min(κ, √(k ε² / K(±ε D z))): a random walk of that length diverges by about k

Signal grows with κ √T and noise with κ², so the best κ grows with √T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from zotune.types import At, Noise, Oracle, PerTensor, Recipe, Theta

LONG = 600
"""Steps from which on the displacement cap is the whole of κ."""
GROUP_PARTS, JOINT_KL = 10, 0.4
"""One group may cost a tenth of k, all groups together 0.4 k: the rest is for the distance that the run walks."""
JOINT_TOLERANCE = 5
"""Tolerances τ that all groups together may cost; there are usually more groups than that."""
FLOOR = 0.1
"""Least unit of a tensor, as a share of its group's RMS: LoRA's B and fresh biases start at 0."""
FIRST, LOWEST, HIGHEST = 0.25, 2**-7, 2**4
"""Scales δ in units of the RMS: a safe one where nothing can be tried, and the ends of the search."""
LOWEST_EPS = 2**-6
"""End of the search for ε."""
SMALL_BUDGET = 20
"""Evaluations a group below which the calibration uses the step's own batch instead of a larger one."""


class Sizes(NamedTuple):
    """What the calibration chose, and numbers for the user."""

    D: PerTensor
    eps: float
    cap: float
    numbers: dict[str, float]


def calibrate(
    theta: Theta,
    oracle: Oracle,
    at: At,
    *,
    cap: float,
    tolerance: float,
    eps: float,
    bands: int,
    rows: int,
    kl: float,
    limit: float,
) -> Sizes:
    """Choose D, ε and κ at θ₀ with at most `limit` evaluations. The other arguments are options of `Auto`.

    Short of budget, the search stops at the sizes that it has reached. Raises ObjectiveError.
    """
    rms, groups, batch = at.rms(theta).values, tensor_groups(theta, bands), at.large(rows)
    if limit < SMALL_BUDGET * (len(groups) + 1):
        batch = at.sample(0)
    before, measures_kl = oracle.evaluations, oracle.measures_kl
    (base_loss,) = (0.0,) if measures_kl else oracle(theta, batch=batch)
    evaluations = 2 * (oracle.evaluations - before) or 2  # of one cost
    group_limit = kl / GROUP_PARTS if measures_kl else tolerance * abs(base_loss)
    joint_limit = JOINT_KL * kl if measures_kl else JOINT_TOLERANCE * tolerance * abs(base_loss)

    def affordable() -> bool:
        return bool(oracle.evaluations + evaluations <= limit)

    def cost(D: Recipe, z: Recipe) -> float:
        """C(D)."""
        points = theta + D * z, theta - D * z
        up, down = oracle.kl(*points) if measures_kl else oracle(*points, batch=batch)
        return float((up + down) / 2 - base_loss)

    def group_scale(units: dict[str, float], z: Noise) -> float:
        """δ of the group with these units (RMS of each tensor), in direction z."""
        unit = theta.per(lambda t: units.get(t.name, 0.0))
        return largest_scale(lambda scale: cost(scale * unit, z) > group_limit, affordable)

    sizes: dict[str, float] = {}
    deltas = []
    for k, names in enumerate(groups.values()):
        typical = math.sqrt(sum(rms[n] ** 2 for n in names) / len(names)) or 1.0
        units = {n: max(rms[n], FLOOR * typical) for n in names}
        delta = group_scale(units, at.rademacher(k))
        sizes |= {n: delta * u for n, u in units.items()}
        deltas.append(delta)
    D, paid, z = theta.per(lambda t: sizes[t.name]), 0.0, at.rademacher(len(groups))
    while eps > LOWEST_EPS and affordable() and (paid := cost(eps * D, z)) > joint_limit:
        eps /= 2
    numbers = {"groups": len(groups), "smallest group scale": min(deltas), "largest group scale": max(deltas)}
    if not measures_kl:
        return Sizes(D, eps, cap * math.sqrt(min((at.total or LONG) / LONG, 1.0)), {"base loss": base_loss, **numbers})
    if paid > 0:
        return Sizes(D, eps, min(cap, eps * math.sqrt(kl / paid)), {"KL at the perturbation scale": paid, **numbers})
    return Sizes(D, eps, cap, numbers)


def largest_scale(too_large: Callable[[float], bool], affordable: Callable[[], bool]) -> float:
    """The largest power of two that is not too large, by doubling or halving from 1 on; FIRST where no evaluation is
    affordable."""
    if not affordable():
        return FIRST
    if too_large(1.0):
        scale = 0.5
        while scale > LOWEST and affordable() and too_large(scale):
            scale /= 2
        return scale
    if not affordable():
        return FIRST
    scale = 1.0
    while scale < HIGHEST and affordable() and not too_large(2 * scale):
        scale *= 2
    return scale


def tensor_groups(theta: Theta, bands: int) -> dict[tuple[int, str, str], list[str]]:
    """Tensor names by band of layers (0: outside of all layers), kind, and role (the last part of the name)."""
    blocks = sorted({t.block for t in theta.tensors if t.block is not None})
    band = {b: 1 + i * min(bands, len(blocks)) // len(blocks) for i, b in enumerate(blocks)}
    groups: dict[tuple[int, str, str], list[str]] = {}
    for t in theta.tensors:
        groups.setdefault((0 if t.block is None else band[t.block], t.kind, t.name.rpartition(".")[2]), []).append(
            t.name
        )
    return groups
