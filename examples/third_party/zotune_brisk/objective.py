"""The recall of the class with the lowest recall: a set-level metric that no sum of row scores can express."""

from collections.abc import Sequence

import zotune


@zotune.objective(direction="maximize", level="set")
def recall(predictions: Sequence[int | None], labels: Sequence[int]) -> float:
    def of(label: int) -> float:
        hits = [p == y for p, y in zip(predictions, labels, strict=True) if y == label]
        return sum(hits) / len(hits)

    return min(of(label) for label in set(labels))
