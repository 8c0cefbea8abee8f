"""What scoring has cost so far, from the meters of an objective's parts.

Knows objectives; scores nothing.
"""

from __future__ import annotations

import math

from zotune.runs.result import ScoringCost
from zotune.scoring.objective import Objective


def scoring_cost(objective: Objective, seconds: float) -> ScoringCost:
    """The cost until now, as a share of a run that has taken so many seconds."""
    parts = objective.each
    spent = math.fsum(part.meter.seconds for part in parts)
    faults: dict[str, int] = {}
    for part in parts:
        for name, count in part.faults().items():
            faults[name] = faults.get(name, 0) + count
    rows, cached = sum(part.meter.rows for part in parts), sum(part.meter.hits for part in parts)
    return ScoringCost(rows, cached, round(spent, 3), spent / max(seconds, 1e-9), faults)


__all__ = ["scoring_cost"]
