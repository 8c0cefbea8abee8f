"""Perplexity: how many next tokens the model is torn between.

    exp(mean over rows of the row's cross-entropy)

A row's cross-entropy is the mean over its tokens (see cross_entropy.py), so each row counts the same, long or short;
a corpus perplexity that counts each token the same differs where rows differ in length. In classification it is the
number of classes that the model is torn between. Source: Jelinek et al. 1977, "Perplexity: a measure of the difficulty
of speech recognition tasks". Rows without a right answer are left out; where no row has one there is no perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import zotune


@zotune.objective(direction="minimize", level="set")
def perplexity(losses: Sequence[float | None]) -> float:
    """At least 1. Raises ValueError where no row has a right answer, OverflowError past the largest float."""
    known = [x for x in losses if x is not None]
    if not known:
        raise ValueError("no row has a right answer, so there is no perplexity")
    return math.exp(math.fsum(known) / len(known))
