"""F1 over a set of rows, as `sklearn.metrics.f1_score` defines it.

    F1 of class c = 2·TP / (2·TP + FP + FN)
    macro: mean over the classes that occur in labels or predictions;  weighted: weighted by the labels of each class
    micro: TP, FP and FN summed over the classes first;  binary: F1 of one class

A prediction outside the classes (None, or an index that no label has) is a false negative of its label and no class of
its own, so it never raises during a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from zotune.errors import OptionError
from zotune.types import ObjectiveInfo


@dataclass(frozen=True)
class F1:
    average: Literal["macro", "micro", "weighted", "binary"] = "macro"  # how the classes are averaged
    positive: int = 1  # index of the class that binary scores

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo("maximize", level="set", fast=True, check=self._check)

    def _check(self, classes: int) -> None:
        """Refuse a binary F1 of a class that the task does not have."""
        if self.average == "binary" and not 0 <= self.positive < classes:
            raise OptionError(f"f1: positive must be a class index from 0 to {classes - 1}, got {self.positive}")

    def __call__(self, predictions: Sequence[int | None], labels: Sequence[int]) -> float:
        """A float in [0, 1]."""
        predicted = [-1 if p is None else p for p in predictions]
        hits = Counter(g for g, p in zip(labels, predicted, strict=True) if g == p)
        of_gold, of_predicted = Counter(labels), Counter(predicted)

        def f1(classes: Iterable[int]) -> float:
            right = total = 0
            for c in classes:
                right += hits[c]
                total += of_gold[c] + of_predicted[c]  # 2·TP + FP + FN
            return 2 * right / total if total else 0.0

        if self.average == "binary":
            return f1((self.positive,))
        classes = sorted((of_gold.keys() | of_predicted.keys()) - {-1})
        if self.average == "micro":
            return f1(classes)
        weights = [of_gold[c] if self.average == "weighted" else 1 for c in classes]
        sum_of_weights = sum(weights)
        total = sum(w * f1((c,)) for c, w in zip(classes, weights, strict=True))
        return total / sum_of_weights if sum_of_weights else 0.0
