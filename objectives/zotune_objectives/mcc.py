"""Matthews' correlation of predicted and right classes, for any number of classes.

    (c·s − Σ_k p_k·t_k) / √((s² − Σ_k p_k²) (s² − Σ_k t_k²))

s rows, c of them right; class k is predicted p_k times and right t_k times. 1: all right; 0: no better than chance, or
one class alone is predicted or right; down to −1 for two classes. Source: Gorodkin 2004, "Comparing two K-category
assignments by a K-category correlation coefficient"; the same as `sklearn.metrics.matthews_corrcoef`. Predictions that
are no class (None) are wrong: together they are one more class, which is never right. Rows without a right class are
left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import zotune


@zotune.objective(direction="maximize", level="set")
def mcc(predictions: Sequence[int | None], labels: Sequence[int | None]) -> float:
    """A float in [−1, 1]. Raises ValueError where no row has a right class."""
    pairs = [(p, y) for p, y in zip(predictions, labels, strict=True) if y is not None and y >= 0]
    if not pairs:
        raise ValueError("no row has a right class, so there is no correlation")
    s, c = len(pairs), sum(p == y for p, y in pairs)
    p_k, t_k = Counter(p for p, _ in pairs), Counter(y for _, y in pairs)
    spread = (s * s - sum(n * n for n in p_k.values())) * (s * s - sum(n * n for n in t_k.values()))
    return (c * s - sum(n * p_k[k] for k, n in t_k.items())) / math.sqrt(spread) if spread else 0.0
