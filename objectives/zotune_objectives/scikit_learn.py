"""Any classification metric of scikit-learn by its name: `-o sklearn:balanced_accuracy`.

    of predictions:   accuracy, balanced_accuracy, cohen_kappa, matthews_corrcoef, hamming_loss, zero_one_loss, and
                      f1, fbeta, jaccard, precision, recall, each alone or with _macro, _micro or _weighted
    of probabilities, softmax(logits): log_loss, brier_score_loss, d2_log_loss, d2_brier, top_k_accuracy,
                      average_precision, and roc_auc, alone or with _ovr, _ovo, _ovr_weighted, _ovo_weighted

Names are those of functions in `sklearn.metrics`, with or without `_score` and `_loss`, or of scorers. Losses are
minimized; `neg_log_loss` and similar names are maximized, as all other metrics are. Metrics of regression and
clustering are refused.

Cases in which scikit-learn raises or warns:
- Rows without a label are left out.
- A prediction outside the classes (None) is wrong. It is an extra class that no label has; for f1, precision and
  similar metrics it is a false negative of its label only. In cohen_kappa with weights it is ordered before class 0,
  and classes that no row has keep their place.
- A division by zero, such as the precision of a class that is never predicted, gives 0.
- roc_auc with more than two classes is one-versus-rest. roc_auc and average_precision leave out classes that no label
  has, as small batches may lack some.
- A metric without a value, such as roc_auc of rows of one class, raises ValueError.

Metrics of predictions take scikit-learn some milliseconds a call, and smoothing calls them 64 times an evaluation. The
objectives `f1`, `mcc` and `accuracy` compute the same numbers faster.

Source: scikit-learn's user guide, https://scikit-learn.org/stable/modules/model_evaluation.html.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zotune.errors import OptionError, nearest
from zotune.types import Direction, ObjectiveInfo

AVERAGED = ("f1_score", "fbeta_score", "jaccard_score", "precision_score", "recall_score")
"""Functions with an `average` over classes."""
PREDICTED = (
    *("accuracy_score", "balanced_accuracy_score", "cohen_kappa_score", "matthews_corrcoef"),
    *("hamming_loss", "zero_one_loss", *AVERAGED),
)
"""Functions of predictions; all others are functions of probabilities."""
RANKED = ("average_precision_score", "roc_auc_score")
"""Functions that are computed for each class against the rest."""
SECOND_CLASS = ("brier_score_loss", "d2_brier_score", "top_k_accuracy_score")
"""Functions that take the probability of the second class if there are two classes."""
FUNCTIONS = (*PREDICTED, *RANKED, *SECOND_CLASS, "d2_log_loss_score", "log_loss")
OUTSIDE = -1
"""Stands for a prediction outside the classes."""


@dataclass(frozen=True)
class Metric:
    """What the name of a metric means.

    function: in `sklearn.metrics`. average: over classes, if the name tells. one_vs_one: pairs of classes are compared.
    negated: the name starts with neg_.
    """

    function: str
    average: str | None = None
    one_vs_one: bool = False
    negated: bool = False

    @property
    def direction(self) -> Direction:
        return "maximize" if self.negated or not self.function.endswith("_loss") else "minimize"


@functools.cache
def metrics_by_name() -> dict[str, Metric]:
    """All metrics by their short names: without `_score`, and losses also with `neg_`."""
    result: dict[str, Metric] = {}
    for function in FUNCTIONS:
        loss = function.endswith("_loss")
        name = function if loss else function.removesuffix("_score")
        result[name] = Metric(function)
        if loss:
            result["neg_" + name.replace("_score_loss", "_score")] = Metric(function, negated=True)
        if function in AVERAGED:
            result |= {f"{name}_{a}": Metric(function, a) for a in ("macro", "micro", "weighted")}
    for way in ("ovr", "ovo"):
        result[f"roc_auc_{way}"] = Metric("roc_auc_score", "macro", way == "ovo")
        result[f"roc_auc_{way}_weighted"] = Metric("roc_auc_score", "weighted", way == "ovo")
    return result


def find_metric(name: str) -> Metric:
    """The metric with this name, in any of its forms. Raises OptionError with the nearest name."""
    short = name.strip().replace("-", "_").lower()
    for form in (short, short.removesuffix("_score"), f"{short}_loss", f"{short}_score_loss"):
        if form in metrics_by_name():
            return metrics_by_name()[form]
    raise OptionError(
        f"sklearn: {name!r} is not a classification metric that zotune supports",
        hint=nearest(short, metrics_by_name()),
    )


@dataclass(frozen=True)
class Sklearn:
    metric: str  # name in scikit-learn: balanced_accuracy, f1_macro, neg_log_loss, roc_auc, …
    average: Literal["binary", "macro", "micro", "weighted"] | None = None  # over classes; default: by the name
    positive: int = 1  # index of the class that binary averages score
    beta: float = 1.0  # β of fbeta: weight of recall relative to precision
    weights: Literal["linear", "quadratic"] | None = None  # of cohen_kappa: by the distance of ordered classes
    k: int = 2  # of top_k_accuracy: the label is among the k most probable classes

    def __post_init__(self) -> None:
        from sklearn import metrics

        function = self._metric.function
        if function not in vars(metrics):
            raise OptionError(
                f"sklearn: the installed scikit-learn has no {function}", hint="pip install --upgrade scikit-learn"
            )
        takes_average = function in AVERAGED or (function in RANKED and self.average in ("macro", "weighted"))
        if self.average is not None and not takes_average:
            raise OptionError(f"sklearn: {self.metric} does not support average={self.average!r}")
        if self.weights and function != "cohen_kappa_score":
            raise OptionError(
                f"sklearn: {self.metric} does not support weights, got {self.weights!r}", hint="cohen_kappa does"
            )
        if not self.beta > 0:
            raise OptionError(f"sklearn: beta must be positive, got {self.beta}")
        if self.k < 1:
            raise OptionError(f"sklearn: k must be 1 or more, got {self.k}")

    def info(self) -> ObjectiveInfo:
        source = "predictions" if self._of_predictions else "logits"
        return ObjectiveInfo(
            self._metric.direction, level="set", fast=True, needs=(source, "labels"), check=self._check
        )

    def _check(self, classes: int) -> None:
        """Refuse, before the model is loaded, what scikit-learn cannot score for so many classes."""
        function = self._metric.function
        if function in AVERAGED and self._average == "binary":
            if classes > 2:
                raise OptionError(
                    f"sklearn: {self.metric} scores one of two classes; the task has {classes}", hint=self._hint
                )
            if not 0 <= self.positive < classes:
                raise OptionError(
                    f"sklearn: positive must be a class index from 0 to {classes - 1}, got {self.positive}"
                )
        if function == "top_k_accuracy_score" and self.k >= classes:
            raise OptionError(f"sklearn: k must be below the number of classes, {classes}, got {self.k}")

    def __call__(
        self,
        labels: Sequence[int | None],
        predictions: Sequence[int | None] = (),
        logits: Any = None,
    ) -> float:
        """The number that scikit-learn computes. `info` declares which inputs are needed.

        Raises ValueError if the metric has no value on these rows.
        """
        with warnings.catch_warnings():  # a batch may lack a class, and scikit-learn would warn at every step
            warnings.simplefilter("ignore")
            if self._of_predictions:
                value = self._score_predictions(predictions, labels)
            else:
                value = self._score_logits(logits, labels)
        if not math.isfinite(value):
            raise ValueError(f"{self.metric} has no value on these {len(labels)} rows; a larger batch may have one")
        return -value if self._metric.negated else value

    @property
    def _metric(self) -> Metric:
        return find_metric(self.metric)

    @property
    def _of_predictions(self) -> bool:
        return self._metric.function in PREDICTED

    @property
    def _average(self) -> str:
        usual = "binary" if self._metric.function in AVERAGED else "macro"
        return self.average or self._metric.average or usual

    @property
    def _hint(self) -> str:
        return f"-o sklearn:{self._metric.function.removesuffix('_score')}_macro"

    def _score_predictions(self, predictions: Sequence[int | None], labels: Sequence[int | None]) -> float:
        pairs = [(y, OUTSIDE if p is None else p) for p, y in zip(predictions, labels, strict=True) if y is not None]
        gold, predicted = [y for y, _ in pairs if y >= 0], [p for y, p in pairs if y >= 0]
        function = self._metric.function
        options: dict[str, Any] = {}
        if function in AVERAGED:
            classes, average = sorted({*gold, *predicted} - {OUTSIDE}), self._average
            if average == "binary":
                if classes and classes[-1] > 1:
                    raise ValueError(f"{self.metric} scores one of two classes; use {self._hint}")
                classes, average = [self.positive], "macro"  # so that a prediction outside the classes is allowed
            options = {"labels": classes, "average": average, "zero_division": 0}
        if function == "fbeta_score":
            options["beta"] = self.beta
        if function == "cohen_kappa_score":
            options = {"labels": range(OUTSIDE, max(gold + predicted, default=0) + 1), "weights": self.weights}
        return self._compute(gold, predicted, **options)

    def _score_logits(self, logits: Any, labels: Sequence[int | None]) -> float:
        labelled = [(i, y) for i, y in enumerate(labels) if y is not None and y >= 0]
        rows, gold = [i for i, _ in labelled], [y for _, y in labelled]
        p = logits[rows].detach().double().softmax(-1).cpu().numpy()
        function, classes = self._metric.function, p.shape[1]
        if function not in RANKED:
            options = {"k": self.k} if function == "top_k_accuracy_score" else {}
            second_only = classes == 2 and function in SECOND_CLASS
            return self._compute(gold, p[:, 1] if second_only else p, labels=range(classes), **options)
        present = sorted({*gold} & {self.positive}) if classes == 2 else sorted({*gold})
        if not present or (function == "roc_auc_score" and len({*gold}) < 2):
            return math.nan
        if self._metric.one_vs_one and classes > 2:
            return self._compute(gold, p, labels=range(classes), multi_class="ovo", average=self._average)
        return self._compute([[y == c for c in present] for y in gold], p[:, present], average=self._average)

    def _compute(self, *arguments: Any, **options: Any) -> float:
        from sklearn import metrics

        return float(vars(metrics)[self._metric.function](*arguments, **options))
