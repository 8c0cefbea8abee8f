"""The calibration of `auto`: how far the weights can be perturbed before the model gets worse.

    u: RMS of each tensor of θ₀, at least FLOOR of its group's; groups: tensors by band of layers, kind and role
    C(Δ): mean of L(θ₀ ± Δ z; B) − L(θ₀; B), z ~ Rademacher. The slope cancels, so this is the cost of curvature.
    U: spread (standard deviation) of one row's value at θ₀ (`zotune.scales`), so that no scale changes with a shift or
       a factor of the objective
    all tensors together:  s ← the largest power of two with C(s u) ≤ 5 τ U, from a small one up
    each group, where the budget allows it:  δ ← the largest power of two with C(δ u) ≤ τ U, from s on;  else δ ← s
    D ← δ u;  ε ← the largest of … 1/4, 1/2, 1 … ε with C(ε D) ≤ 5 τ U, from s / max δ up
    κ ← κ √(T / 600) for a run of T < 600 steps

Where the oracle measures the KL divergence K from the base model (nats a token), K replaces the objective, which may be
flat near θ₀ or a person:
    s, ε: K(± …) ≤ 2k/5;  δ: K(±δ u z) ≤ k/10
    κ ← min(κ, √(k ε² / K(±ε D z))): a random walk of that length diverges by about k

No ε is used that was not evaluated. Signal grows with κ √T and noise with κ², so the best κ grows with √T.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from zotune.scales import Tolerated, largest_tolerated, level, level_cost
from zotune.types import At, Noise, Oracle, PerTensor, Recipe, Theta
from zotune_optimizers.auto_calibration import FLOOR, GROUP_PARTS, JOINT_KL, JOINT_TOLERANCE, LONG, tensor_groups

FIRST, LOWEST, HIGHEST = 2.0**-5, 2.0**-10, 4.0
"""Scales in units of the RMS: where the search begins, and its ends."""
FLAT = 0.25
"""The largest scale where the objective is flat at all points that were tried."""
JOINT_TRIES, GROUP_TRIES, LAST_TRIES, SHORT_TRIES = 5, 3, 3, 3
"""Costs that a search takes, about: for all tensors together, for a group, for ε, and for all together in a run whose
budget is short: there the calibration may take twice its share."""


class Sizes(NamedTuple):
    """What the calibration chose, and numbers for the user. short: a message where the budget was too small, or ""."""

    D: PerTensor
    eps: float
    cap: float
    numbers: dict[str, float]
    short: str


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
    """Choose D, ε and κ at θ₀ with about `limit` evaluations, twice as many in a short run. The other arguments are
    options of `Auto`. Raises ObjectiveError."""
    groups, measures_kl, begin = tensor_groups(theta, bands), oracle.measures_kl, oracle.evaluations
    batch = at.large(rows)
    start, once = (0, 2) if measures_kl else (level_cost(at, batch), 2 * at.cost(batch))
    whole = start + once * (JOINT_TRIES + GROUP_TRIES * len(groups) + LAST_TRIES)
    if limit < start + JOINT_TRIES * once:
        batch = at.sample(0)
        start, once = (0, 2) if measures_kl else (level_cost(at, batch), 2 * at.cost(batch))
        limit = max(limit, min(start + SHORT_TRIES * once, 2 * limit))

    rms, units = at.rms(theta).values, dict[str, float]()
    for names in groups.values():
        typical = math.sqrt(sum(rms[n] ** 2 for n in names) / len(names)) or 1.0
        units |= {n: max(rms[n], FLOOR * typical) for n in names}
    u = theta.per(lambda t: units[t.name])
    value, spread = (0.0, 1.0) if measures_kl else level(theta, oracle, at, batch, FLAT * u)
    group_limit, joint_limit = tolerance * spread, JOINT_TOLERANCE * tolerance * spread
    if measures_kl:
        group_limit, joint_limit = kl / GROUP_PARTS, JOINT_KL * kl

    def left(costs: int) -> bool:
        """Whether so many costs can be evaluated yet."""
        return bool(oracle.evaluations - begin + costs * once <= limit)

    def search(D: Recipe, z: Noise, most: float, first: float, ends: tuple[float, float], kept: int) -> Tolerated:
        """The largest tolerated scale of D in direction z. kept: costs that the search leaves for others."""

        def cost(scale: float) -> float:
            points = theta + scale * D * z, theta - scale * D * z
            up, down = oracle.kl(*points) if measures_kl else oracle(*points, batch=batch)
            return float(((up - value) + (down - value)) / 2)

        return largest_tolerated(cost, most, first, *ends, lambda: left(1 + kept))

    high = HIGHEST if spread else FLAT
    s, paid = search(u, at.rademacher(len(groups)), joint_limit, FIRST, (LOWEST, high), 0)
    deltas = dict.fromkeys(units, s)
    D, scale = u.map(lambda x: s * x), 1.0
    complete = left(GROUP_TRIES * len(groups) + LAST_TRIES) and bool(spread) and paid <= joint_limit
    if complete:
        for k, names in enumerate(groups.values()):
            only = theta.per(lambda t, names=frozenset(names): units[t.name] if t.name in names else 0.0)  # type: ignore[misc]
            delta = search(only, at.rademacher(k), group_limit, s, (LOWEST, HIGHEST), LAST_TRIES).scale
            deltas |= dict.fromkeys(names, delta)
        D = theta.per(lambda t: deltas[t.name] * units[t.name])
        first = min(s / max(deltas.values()), eps)
        scale, paid = search(D, at.rademacher(len(groups)), joint_limit, first, (first * LOWEST, eps), 0)

    numbers = {
        "groups": float(len(groups)),
        "smallest group scale": min(deltas.values()),
        "largest group scale": max(deltas.values()),
    }
    short = ""
    if not complete and spread:
        short = f"the calibration used {oracle.evaluations - begin} evaluations; a whole one takes about {whole}"
    if measures_kl:
        numbers = {"KL at the perturbation scale": paid, **numbers}
        return Sizes(D, scale, min(cap, scale * math.sqrt(kl / paid)) if paid > 0 else cap, numbers, short)
    numbers = {"base loss": value, "spread of a row": spread, **numbers}
    return Sizes(D, scale, cap * math.sqrt(min((at.total or LONG) / LONG, 1.0)), numbers, short)
