"""Learning-rate schedules: the factor of the learning rate at a share of the budget.

Knows numbers alone; optimizers whose steps are proportional to their learning rate use it through `At.schedule`.
"""

from __future__ import annotations

import math
from typing import get_args

from zotune.errors import OptionError, nearest
from zotune.types import Schedule


def factor(kind: Schedule, progress: float) -> float:
    """The factor by which the learning rate is multiplied. progress: share of the budget that is used, in [0, 1].

    Raises OptionError on an unknown schedule.
    """
    match kind:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - progress
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
    raise OptionError(f"unknown schedule {kind!r}", hint=nearest(kind, get_args(Schedule)))


__all__ = ["Schedule", "factor"]
