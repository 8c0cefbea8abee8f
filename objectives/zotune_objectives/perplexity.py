"""Perplexity over the set: the exponential of the mean cross-entropy of rows.

    exp(mean over rows of the row's cross-entropy)

The cross-entropy of a row is the mean over its tokens (see cross_entropy.py), so long and short rows count the same; a
corpus perplexity, which weights each token the same, differs if rows differ in length. Rows without a label or
reference are left out. Source: Jelinek et al. 1977, "Perplexity: a measure of the difficulty of speech recognition
tasks".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import zotune


@zotune.objective(direction="minimize", level="set", fast=True)
def perplexity(losses: Sequence[float | None]) -> float:
    """At least 1. Raises ValueError if no row has a label or reference, OverflowError above the largest float."""
    values = [loss for loss in losses if loss is not None]
    if not values:
        raise ValueError("no row has a label or reference")
    return math.exp(math.fsum(values) / len(values))
