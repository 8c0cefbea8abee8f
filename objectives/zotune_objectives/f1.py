"""F1 over a set of rows, as `sklearn.metrics.f1_score` defines it.

    F1 of class c = 2·TP / (2·TP + FP + FN)
    macro: the mean over the classes that occur in labels or predictions;  weighted: by how often each is right
    micro: TP, FP and FN summed over classes first;  binary: one class alone

A prediction that is no class (None, or one that the labels' vocabulary does not have) is a miss of its gold class and
no class of its own, so it never raises in the middle of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import zotune
from zotune.errors import OptionError


@zotune.objective(direction="maximize", level="set")
@dataclass(frozen=True)
class F1:
    average: Literal["macro", "micro", "weighted", "binary"] = "macro"  # mean over classes, or the F1 of one class
    positive: int = 1  # class index that counts as positive for binary

    def check(self, classes: int) -> None:
        """Refuse, before a run, a binary F1 without its positive class."""
        if self.average == "binary" and not 0 <= self.positive < classes:
            raise OptionError(f"f1: positive must be a class index below {classes}, got {self.positive}")

    def __call__(self, predictions: Sequence[int | None], labels: Sequence[int]) -> float:
        """A float in [0, 1]."""
        gold, found = list(labels), [-1 if p is None else p for p in predictions]
        if self.average == "binary":
            return _f1(gold, found, {self.positive})
        classes = sorted((set(gold) | set(found)) - {-1})
        if self.average == "micro":
            return _f1(gold, found, set(classes))
        weights = [gold.count(c) if self.average == "weighted" else 1 for c in classes]
        total = sum(w * _f1(gold, found, {c}) for c, w in zip(classes, weights, strict=True))
        return total / sum(weights) if sum(weights) else 0.0


def _f1(gold: list[int], found: list[int], classes: set[int]) -> float:
    hits = sum(g == p and g in classes for g, p in zip(gold, found, strict=True))
    total = sum(g in classes for g in gold) + sum(p in classes for p in found)  # 2·TP + FP + FN
    return 2 * hits / total if total else 0.0
