"""Cross-entropy: the negative log-likelihood of the right answer, in nats, computed in float32.

In classification of the gold class under the softmax of the class scores; in multiple choice and generation the mean
over the tokens of the right option or completion, by teacher forcing, prompt tokens excluded (MeZO, arXiv:2305.17333,
D.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import zotune


@zotune.objective(direction="minimize", level="sample")
def cross_entropy(losses: Sequence[float | None]) -> list[float | None]:
    """One loss a row; None where a row has no right answer."""
    return list(losses)
