"""F1 over a set of rows, as `sklearn.metrics.f1_score` defines it.

    F1 of class c = 2·TP / (2·TP + FP + FN);  macro: the mean over the classes that occur in labels or predictions

A prediction that is no class (None, or one that the labels' vocabulary does not have) is a miss of its gold class
and no
class of its own, so it never raises in the middle of a run.
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
    average: Literal["macro", "binary"] = "macro"  # mean over classes, or the F1 of one class
    positive: int = 1  # class index that counts as positive for binary

    def check(self, classes: int) -> None:
        """Refuse, before a run, a binary F1 without its positive class."""
        if self.average == "binary" and not 0 <= self.positive < classes:
            raise OptionError(f"f1: positive must be a class index below {classes}, got {self.positive}")

    def __call__(self, predictions: Sequence[int | None], labels: Sequence[int]) -> float:
        """A float in [0, 1]."""
        gold, found = list(labels), [-1 if p is None else p for p in predictions]
        if self.average == "binary":
            return _f1(gold, found, self.positive)
        classes = sorted((set(gold) | set(found)) - {-1})
        return sum(_f1(gold, found, c) for c in classes) / len(classes) if classes else 0.0


def _f1(gold: list[int], found: list[int], c: int) -> float:
    hit = sum(g == c == p for g, p in zip(gold, found, strict=True))
    total = gold.count(c) + found.count(c)  # 2·TP + FP + FN
    return 2 * hit / total if total else 0.0
