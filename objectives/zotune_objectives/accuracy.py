"""Accuracy: the share of predictions that equal the label. A prediction outside the classes (None) is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import zotune


@zotune.objective(direction="maximize", level="sample")
def accuracy(predictions: Sequence[int | None], labels: Sequence[int]) -> list[float]:
    """1.0 or 0.0 for each row."""
    return [float(p == y) for p, y in zip(predictions, labels, strict=True)]
