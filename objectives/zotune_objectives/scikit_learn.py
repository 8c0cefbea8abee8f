"""Any metric of scikit-learn that scores classifications, by its name there: `-o sklearn:balanced_accuracy`.

    predictions:   accuracy, balanced_accuracy, cohen_kappa, matthews_corrcoef, hamming_loss, zero_one_loss, and
                   f1, fbeta, jaccard, precision, recall, alone or with _macro, _micro or _weighted
    probabilities: log_loss, brier_score_loss, d2_log_loss, d2_brier, top_k_accuracy, average_precision, and
                   roc_auc, alone or with _ovr, _ovo, _ovr_weighted, _ovo_weighted: of softmax(logits)

Names are those of functions in `sklearn.metrics`, with or without `_score` and `_loss`, or of its scorers. Losses are
minimized; `neg_log_loss` and its like are maximized, as everything else. Regression and clustering are refused.

Where scikit-learn raises or warns, this is what happens. Rows without a right class are left out. A prediction that is
no class (None) is an extra class that nothing is, so it is wrong; for f1 and its kind it is a miss of the right class
and no class of its own. In cohen_kappa with weights it stands before class 0, and classes that no row has keep their
place. What divides by zero (the precision of a class that is never predicted) is 0. roc_auc alone is one-versus-rest
where there are more than two classes; it and average_precision leave out classes that no row has, as small batches may
lack some. What has no value at all (roc_auc of rows of one class) raises ValueError.

Metrics of predictions take scikit-learn some milliseconds, 64 times an evaluation where they are smoothed: `f1`, `mcc`
and `accuracy` of zotune's own are the same numbers sooner.

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
PREDICTED = (
    *("accuracy_score", "balanced_accuracy_score", "cohen_kappa_score", "matthews_corrcoef"),
    *("hamming_loss", "zero_one_loss", *AVERAGED),
)
RANKED = ("average_precision_score", "roc_auc_score")
HALVED = ("brier_score_loss", "d2_brier_score", "top_k_accuracy_score")
"""Of two classes these want the probability of the second alone."""
FUNCTIONS = (*PREDICTED, *RANKED, *HALVED, "d2_log_loss_score", "log_loss")


@dataclass(frozen=True)
class Found:
    """A metric by name: its function in `sklearn.metrics`, what the name says of averaging over classes, whether pairs
    of classes are compared (ovo), whether the name turns a loss round (neg_)."""

    function: str
    average: str | None = None
    pairs: bool = False
    negated: bool = False

    @property
    def maximized(self) -> bool:
        return self.negated or not self.function.endswith("_loss")


@functools.cache
def known() -> dict[str, Found]:
    """Every short name: without `_score`, losses also with `neg_`."""
    out: dict[str, Found] = {}
    for function in FUNCTIONS:
        loss = function.endswith("_loss")
        name = function if loss else function.removesuffix("_score")
        out[name] = Found(function)
        if loss:
            out["neg_" + name.replace("_score_loss", "_score")] = Found(function, negated=True)
        if function in AVERAGED:
            out |= {f"{name}_{a}": Found(function, a) for a in ("macro", "micro", "weighted")}
    for way in ("ovr", "ovo"):
        out[f"roc_auc_{way}"] = Found("roc_auc_score", "macro", way == "ovo")
        out[f"roc_auc_{way}_weighted"] = Found("roc_auc_score", "weighted", way == "ovo")
    return out


def read(metric: str) -> Found:
    """A metric's name. Raises OptionError with the nearest one."""
    name = metric.strip().replace("-", "_").lower()
    for form in (name, name.removesuffix("_score"), f"{name}_loss", f"{name}_score_loss"):
        if form in known():
            return known()[form]
    raise OptionError(
        f"sklearn: {metric!r} is no metric of classifications that can be used here", hint=nearest(name, known())
    )


@dataclass(frozen=True)
class Sklearn:
    metric: str  # name in scikit-learn: balanced_accuracy, f1_macro, neg_log_loss, roc_auc, …
    average: Literal["binary", "macro", "micro", "weighted"] | None = None  # over classes; none: as the name says
    positive: int = 1  # class index that counts as positive where one class of two is scored
    beta: float = 1.0  # β of fbeta: recall counts β times as much as precision
    weights: Literal["linear", "quadratic"] | None = None  # of cohen_kappa: by the distance of ordered classes
    k: int = 2  # of top_k_accuracy: the right class is among so many

    def __post_init__(self) -> None:
        from sklearn import metrics

        found = self.found
        if found.function not in vars(metrics):
            raise OptionError(f"sklearn: the installed scikit-learn has no {found.function}", hint="a newer one has")
        averages = self.average is None or found.function in AVERAGED
        if not averages and not (found.function in RANKED and self.average in ("macro", "weighted")):
            raise OptionError(f"sklearn: {self.metric} has no average {self.average!r}")
        if self.weights and found.function != "cohen_kappa_score":
            raise OptionError(f"sklearn: {self.metric} takes no weights, got {self.weights!r}")
        if not self.beta > 0:
            raise OptionError(f"sklearn: beta must be positive, got {self.beta}")
        if self.k < 1:
            raise OptionError(f"sklearn: k must be 1 or more, got {self.k}")

    def info(self) -> ObjectiveInfo:
        inputs = "predictions" if self.found.function in PREDICTED else "logits"
        direction: Direction = "maximize" if self.found.maximized else "minimize"
        return ObjectiveInfo(direction, level="set", needs=(inputs, "labels"), check=self._check)

    @property
    def found(self) -> Found:
        return read(self.metric)

    def _check(self, classes: int) -> None:
        """Refuse, before a run, what scikit-learn does not score for so many classes."""
        function = self.found.function
        if function in AVERAGED and self._average == "binary":
            if classes > 2:
                raise OptionError(f"sklearn: {self.metric} scores one class of two, not of {classes}", hint=self._hint)
            if not 0 <= self.positive < classes:
                raise OptionError(f"sklearn: positive must be a class index below {classes}, got {self.positive}")
        if function == "top_k_accuracy_score" and self.k >= classes:
            raise OptionError(f"sklearn: k must be below the number of classes, {classes}, got {self.k}")

    def __call__(self, **given: Any) -> float:
        """scikit-learn's number. Raises ValueError where it has no value."""
        with warnings.catch_warnings():  # a batch may lack a class, at every step
            warnings.simplefilter("ignore")
            value = float(self._score(**given))
        if not math.isfinite(value):
            raise ValueError(f"{self.metric} has no value on these {len(given['labels'])} rows; it may on more")
        return -value if self.found.negated else value

    @property
    def _score(self) -> Any:
        return self._of_predictions if self.found.function in PREDICTED else self._of_logits

    @property
    def _average(self) -> str:
        usual = "binary" if self.found.function in AVERAGED else "macro"
        return self.average or self.found.average or usual

    @property
    def _hint(self) -> str:
        return f"sklearn:{self.found.function.removesuffix('_score')}_macro"

    def _of_predictions(self, predictions: Sequence[int | None], labels: Sequence[int | None]) -> float:
        pairs = [(y, -1 if p is None else p) for p, y in zip(predictions, labels, strict=True) if y is not None]
        gold, found = [y for y, _ in pairs if y >= 0], [p for y, p in pairs if y >= 0]
        function = self.found.function
        options: dict[str, Any] = {}
        if function in AVERAGED:
            classes, average = sorted({*gold, *found} - {-1}), self._average
            if average == "binary":
                if classes and classes[-1] > 1:
                    raise ValueError(f"{self.metric} scores one class of two; use {self._hint}")
                classes, average = [self.positive], "macro"  # an extra class is none of two
            options = {"labels": classes, "average": average, "zero_division": 0}
        if function == "fbeta_score":
            options["beta"] = self.beta
        if function == "cohen_kappa_score":
            options = {"labels": range(-1, max(gold + found, default=0) + 1), "weights": self.weights}
        return self._call(gold, found, **options)

    def _of_logits(self, logits: Any, labels: Sequence[int | None]) -> float:
        known_rows = [(i, y) for i, y in enumerate(labels) if y is not None and y >= 0]
        rows, gold = [i for i, _ in known_rows], [y for _, y in known_rows]
        p = logits[rows].detach().double().softmax(-1).cpu().numpy()
        function, classes = self.found.function, p.shape[1]
        if function not in RANKED:
            more = {"k": self.k} if function == "top_k_accuracy_score" else {}
            second = classes == 2 and function in HALVED
            return self._call(gold, p[:, 1] if second else p, labels=range(classes), **more)
        present = sorted({*gold} & {self.positive}) if classes == 2 else sorted({*gold})
        if not present or (function == "roc_auc_score" and len({*gold}) < 2):
            return math.nan
        if self.found.pairs and classes > 2:
            return self._call(gold, p, labels=range(classes), multi_class="ovo", average=self._average)
        return self._call([[y == c for c in present] for y in gold], p[:, present], average=self._average)

    def _call(self, *given: Any, **options: Any) -> float:
        from sklearn import metrics

        return float(vars(metrics)[self.found.function](*given, **options))
