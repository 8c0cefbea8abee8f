"""Verdicts from numbers of several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error; the error of a single value is infinite."""
    if not all(map(math.isfinite, values)):
        return math.inf, math.inf
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return statistics.mean(values), error


def shown(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± standard error."""
    if not all(map(math.isfinite, values)):
        diverged = sum(not math.isfinite(v) for v in values)
        return f"diverged ({diverged} of {len(values)})"
    mean, error = mean_error(values)
    return f"{mean:.{digits}f} ± {error:.{digits}f}" if math.isfinite(error) else f"{mean:.{digits}f}"


def is_below(a: Sequence[float], b: Sequence[float]) -> str:
    """The verdict on "a is smaller than b", paired by seed, by two standard errors. A run that diverged counts as worse
    than one that did not."""
    lost_a, lost_b = (sum(not math.isfinite(v) for v in x) for x in (a, b))
    if lost_a != lost_b:
        return "holds" if lost_a < lost_b else "does not hold"
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if len(pairs) < 2:
        return "cannot be told here"
    mean, error = mean_error([x - y for x, y in pairs])
    if abs(mean) <= 2 * error:
        return "cannot be told here"
    return "holds" if mean < 0 else "does not hold"


def is_equal(a: Sequence[float], b: Sequence[float], tolerance: float) -> str:
    """The verdict on "a and b are the same": within the tolerance by two standard errors, outside of it, or neither."""
    mean, error = mean_error([x - y for x, y in zip(a, b, strict=True)])
    if not math.isfinite(mean):
        return "does not hold"
    if abs(mean) + 2 * error <= tolerance:
        return "holds"
    return "does not hold" if abs(mean) - 2 * error > tolerance else "cannot be told here"
