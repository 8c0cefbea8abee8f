"""Linear probing: scikit-learn's logistic regression on a model's features, as a rival and as a start (LP-MeZO).

Knows tasks; knows no objective.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zotune.errors import DataError, OptionError
from zotune.models.loaded_model import LoadedModel, add_linear_head
from zotune.tasks.build import EncodedRows, HeadClassification, Task

STRENGTHS = (1.0, 10.0, 100.0)


def fit(task: HeadClassification, train: EncodedRows, intercept: bool = True) -> Any | None:
    """A fitted grid search over the strength of regularisation, by cross-validation on the training rows; None where a
    class has fewer than two rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    gold = [g[0] for g in train.gold if g]
    rarest = min((gold.count(g) for g in set(gold)), default=0)
    if len(set(gold)) < 2 or rarest < 2:
        return None
    regression = LogisticRegression(max_iter=2000, fit_intercept=intercept)
    search = GridSearchCV(regression, {"C": list(STRENGTHS)}, cv=min(5, rarest))
    known = [i for i, g in enumerate(train.gold) if g]
    search.fit(task.features(train)[known].numpy(), gold)
    return search


def log_probabilities(task: HeadClassification, search: Any, rows: EncodedRows) -> Tensor:
    """Log-probabilities of all classes: (rows, classes); a class that was not trained on gets -30."""
    out = torch.full((len(rows), len(rows.options[0])), -30.0)
    found = torch.tensor(search.decision_function(task.features(rows).numpy()))
    if found.dim() == 1:  # two classes have one number: the second's against the first's
        found = torch.stack([-found, found], dim=1) / 2
    out[:, [int(c) for c in search.classes_]] = torch.log_softmax(found, -1).float()
    return out


def head_layer(loaded: LoadedModel, classes: int) -> nn.Linear:
    """The layer that a probe is written into: a classification head's last one; over embeddings a new one, of zeros."""
    return loaded.last_linear() if loaded.head == "classification" else add_linear_head(loaded, classes)


def write(task: Task, train: EncodedRows) -> nn.Linear:
    """Write the probe into the head that the model's scores come from, so that tuning starts where the probe ends.

    An embedding model gets a linear head over its embeddings in place of label descriptions. The layer that was
    written. Raises OptionError for a head of words, DataError where a class has fewer than two rows.
    """
    if not isinstance(task, HeadClassification):
        raise OptionError(
            f"--init linear-probe writes a linear head; the head {task.loaded.head!r} has none",
            hint="--head classification or embedding",
        )
    layer = head_layer(task.loaded, len(task.spec.classes.words) if task.spec.classes else 0)
    search = fit(task, train, intercept=layer.bias is not None)
    if search is None:
        raise DataError("--init linear-probe needs two classes, and two training rows of each")
    best = search.best_estimator_
    weight, bias = torch.tensor(best.coef_), torch.tensor(best.intercept_)
    if len(weight) == 1:  # two classes have one row of coefficients: the second's against the first's
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    with torch.no_grad():
        layer.weight.zero_()
        rows = torch.tensor([int(c) for c in search.classes_])
        layer.weight[rows] = weight.to(layer.weight)
        if layer.bias is not None:
            layer.bias.fill_(-30.0)
            layer.bias[rows] = bias.expand(len(rows)).to(layer.bias)
    return layer


__all__ = ["fit", "head_layer", "log_probabilities", "write"]
