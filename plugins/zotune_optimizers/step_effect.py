"""The share of steps that raise the loss: on their own batch, and on another one.

Sparse-MeZO (Liu et al. 2024, arXiv:2402.15751), Figures 2b and 5: θ' is the step's result, B its batch and B' an
independent one. A step that lowers L(·; B) in most cases and L(·; B') in half of them has learned the batch's noise.
Where the values are equal, the step has not raised them.

Differs from the paper: B' is a batch of the training rows, so it may share rows with B; the paper halves a batch of 32.
"""

from __future__ import annotations

from zotune.types import At, Oracle, Recipe

Effect = dict[str, int]
"""Steps that were observed, and those that raised the loss: keys `observed`, `own`, `other`."""


def no_effect() -> Effect:
    return {"observed": 0, "own": 0, "other": 0}


def is_observed(every: int, t: int) -> bool:
    """Whether a step is observed: every so many, 0: none."""
    return bool(every and t % every == 0)


def effect_cost(every: int, at: At) -> int:
    """Evaluations that a step takes beyond its own."""
    return 4 if is_observed(every, at.t) else 0


def observed(effect: Effect, every: int, oracle: Oracle, theta: Recipe, new: Recipe, at: At) -> Effect:
    """The counts after this step, whose result is `new`."""
    if not is_observed(every, at.t):
        return effect
    before, after = oracle(theta, new)
    other_before, other_after = oracle(theta, new, batch=at.sample(OTHER))
    raised = {"observed": 1, "own": int(after > before), "other": int(other_after > other_before)}
    return {name: count + raised[name] for name, count in effect.items()}


def effect_numbers(effect: Effect) -> dict[str, float]:
    """The shares by name, for `summarize`; empty where no step was observed."""
    count = effect["observed"]
    if not count:
        return {}
    return {
        "observed steps": count,
        "raised the loss on their batch": effect["own"] / count,
        "raised the loss on another batch": effect["other"] / count,
    }


OTHER = 1_000_003
"""The draw of B', which no option reaches: a step's own draws are small numbers."""
