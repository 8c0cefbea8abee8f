"""What the optimizers share that take a population as an option: its size and cost, and the weights of its pairs.

A population has P pairs of members θ ± S u_p v_pᵀ, each with k rows of its own, evaluated in shared passes
(arXiv:2511.16652).
"""

from __future__ import annotations

from collections.abc import Sequence

from zotune.types import At, Batch, PopulationSize


def population_size(at: At, members: int) -> PopulationSize:
    """Rows a step and rows a member: those that the run suggests for its budget. members: how many there are where rows
    of one pass cannot have directions of their own."""
    suggested = at.population
    return PopulationSize(suggested.rows or 2 * max(members // 2, 1) * suggested.each, suggested.each)


def population_cost(at: At, size: PopulationSize) -> int:
    """Evaluations of a population: its rows in batches."""
    return at.cost(Batch((0,) * (2 * size.pairs * size.each)))


def differences(up: Sequence[float | None], down: Sequence[float | None]) -> list[float | None]:
    """f_p+ − f_p− of each pair; None where one of both has no value."""
    return [None if a is None or b is None else a - b for a, b in zip(up, down, strict=True)]
