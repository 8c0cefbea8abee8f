"""F1 over a set of rows, as `sklearn.metrics.f1_score` defines it.

    F1 of class c = 2·TP / (2·TP + FP + FN)
    macro: mean over the classes that occur in labels or predictions;  weighted: weighted by the labels of each class
    micro: TP, FP and FN summed over the classes first;  binary: F1 of one class

A prediction outside the classes (None, or an index that no label has) is a false negative of its label and no class of
its own, so it never raises during a run.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        gold, predicted = list(labels), [-1 if p is None else p for p in predictions]
        if self.average == "binary":
            return _f1(gold, predicted, {self.positive})
        classes = sorted((set(gold) | set(predicted)) - {-1})
        if self.average == "micro":
            return _f1(gold, predicted, set(classes))
        weights = [gold.count(c) if self.average == "weighted" else 1 for c in classes]
        total = sum(w * _f1(gold, predicted, {c}) for c, w in zip(classes, weights, strict=True))
        return total / sum(weights) if sum(weights) else 0.0


def _f1(gold: list[int], predicted: list[int], classes: set[int]) -> float:
    hits = sum(g == p and g in classes for g, p in zip(gold, predicted, strict=True))
    total = sum(g in classes for g in gold) + sum(p in classes for p in predicted)  # 2·TP + FP + FN
    return 2 * hits / total if total else 0.0
