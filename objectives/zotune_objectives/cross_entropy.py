"""Cross-entropy: the negative log-likelihood of the gold class under the softmax of the class scores, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import zotune


@zotune.objective(direction="minimize", level="sample")
def cross_entropy(logits: Tensor, labels: Sequence[int]) -> list[float]:
    """One loss a row, in nats. logits: (rows, classes); labels: class indices."""
    gold = torch.as_tensor(labels, dtype=torch.long)
    losses: list[float] = torch.nn.functional.cross_entropy(logits.float(), gold, reduction="none").tolist()
    return losses
