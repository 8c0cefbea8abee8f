"""The part of a step of `auto` that comes from all answers so far, where people compare completions.

    P directions of their own; L_p±: a preference loss of θ ± σ S u_p v_pᵀ on one earlier answer (oracle.preferences)
    D_p ← (L_p− − L_p+) / 2;  z_p ← clip(D_p / √mean D², ±c)
    α² κ' mean z² = the KL divergence that this part of the step may spend;  κ' = κ · pairs of the questions / P
    θ ← θ + α S 1/P Σ z_p u_p v_pᵀ

σ is CLOSE of the largest that the model stands: likelihoods are smooth, so that small perturbations tell as much. The
mean of P random directions is shorter by 1/√P, hence κ'. The part from the answers is EQUAL of a step, and all of it
where the questions tell nothing.
"""

from __future__ import annotations

import math

from zotune.types import At, Oracle, PerTensor, Recipe, Theta
from zotune_optimizers.auto_spending import CATCH_UP, Situation
from zotune_optimizers.eggroll import normalised, update

CLOSE = 0.25
"""σ, in units of the largest perturbation that the model stands."""
EQUAL = 0.5
"""Share of a step's KL divergence that the answers get, where the questions get the rest."""
DRAW = 1
"""Draw of the directions; the questions have those of draw 0."""


def answers_share(at: At) -> float:
    """Share of a step's KL divergence that goes to the answers so far."""
    return {"perturbed": 0.0, "answers": 1.0, "both": EQUAL}[at.learning.source]


def part_of_step(
    theta: Theta, oracle: Oracle, at: At, S: PerTensor, sigma: float, kappa: float, now: Situation, clip: float
) -> tuple[Recipe | None, float]:
    """What this part adds to θ, None where nobody has preferred a completion yet, and its KL divergence. S, kappa: as
    in auto_population.py; sigma: σ of the members that read answers."""
    pairs = at.learning.pairs
    directions = at.directions(pairs, DRAW)
    up, down = oracle.preferences(directions, S.map(lambda s: sigma * s))
    if all(a == b for a, b in zip(up, down, strict=True)):
        return None, 0.0
    z = normalised(up, down, 0.0, 0.0, 0.0, beta=0.0, clip=clip).z
    share = answers_share(at) if now.energy else 1.0
    spent = share * min(max(now.k - now.kl, 0.0) / max(now.left, 1), CATCH_UP**2 * now.k / now.total)
    per_square = kappa * at.population.pairs / pairs * math.fsum(x * x for x in z) / pairs
    return update(S, directions, z, math.sqrt(spent / per_square)), spent


__all__ = ["CLOSE", "answers_share", "part_of_step"]
