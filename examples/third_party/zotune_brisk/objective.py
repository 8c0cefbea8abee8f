"""The recall of the class that is recognised worst: a set-level metric that no per-sample reward can express."""

import zotune


@zotune.objective(direction="maximize")
def recall(predictions, labels):
    def of(c):
        found = [p == c for p, y in zip(predictions, labels, strict=True) if y == c]
        return sum(found) / len(found)

    return min(of(c) for c in set(labels))
