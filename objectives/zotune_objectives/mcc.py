"""Matthews' correlation coefficient of predictions and labels, for any number of classes.

    (c·s − Σ_k p_k·t_k) / √((s² − Σ_k p_k²) (s² − Σ_k t_k²))

s: number of rows; c: number of correct predictions; p_k and t_k: how often class k is predicted and is the label. The
range is [−1, 1]: 1 if all predictions are correct, 0 at chance or if predictions or labels are of one class only.
Predictions outside the classes (None) are wrong and form a class of their own; rows without a label are left out.
Source: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient"; equals
`sklearn.metrics.matthews_corrcoef`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import zotune


@zotune.objective(direction="maximize", level="set", fast=True)
def mcc(predictions: Sequence[int | None], labels: Sequence[int | None]) -> float:
    """A float in [−1, 1]. Raises ValueError if no row has a label."""
    pairs = [(p, y) for p, y in zip(predictions, labels, strict=True) if y is not None and y >= 0]
    if not pairs:
        raise ValueError("no row has a label")
    s, c = len(pairs), sum(p == y for p, y in pairs)
    p_k, t_k = Counter(p for p, _ in pairs), Counter(y for _, y in pairs)
    spread = (s * s - sum(n * n for n in p_k.values())) * (s * s - sum(n * n for n in t_k.values()))
    return (c * s - sum(n * p_k[k] for k, n in t_k.items())) / math.sqrt(spread) if spread else 0.0
