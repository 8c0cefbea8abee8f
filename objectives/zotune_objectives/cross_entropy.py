"""Cross-entropy: the negative log-likelihood of the label or reference, in nats, computed in float32.

In classification it is that of the label under the softmax of the class scores. In multiple choice and generation it is
the mean over the tokens of the correct option or the reference, by teacher forcing; prompt tokens do not count. Source:
MeZO (arXiv:2305.17333), D.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import zotune


@zotune.objective(direction="minimize", level="sample")
def cross_entropy(losses: Sequence[float | None]) -> list[float | None]:
    """The loss of each row; None for a row without a label or reference."""
    return list(losses)
