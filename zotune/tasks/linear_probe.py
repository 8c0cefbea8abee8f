"""The linear probe: scikit-learn's logistic regression on a model's features.

It is a baseline for tuned weights, and with `--init linear-probe` it initialises the head (LP-MeZO). Knows
classification tasks; knows no objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zotune.errors import DataError, ModelError, OptionError
from zotune.models.loaded_model import LINEAR_HEAD, LoadedModel, add_linear_head
from zotune.tasks.build import EncodedRows, HeadClassification, Task

INVERSE_STRENGTHS = (1.0, 10.0, 100.0)
"""Values of C, the inverse regularisation strength, that cross-validation chooses from."""
UNSEEN_LOG_P = -30.0
"""Log-probability, and bias in a head, of a class without training rows."""


def fit(task: HeadClassification, train: EncodedRows, intercept: bool = True) -> Any | None:
    """Fit the probe to the training rows; its regularisation strength is chosen by cross-validation.

    intercept: whether the probe has a bias. Returns scikit-learn's GridSearchCV, or None where there is one class only
    or a class has fewer than two rows.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    gold = [g[0] for g in train.gold if g]
    rarest = min((gold.count(g) for g in set(gold)), default=0)
    if len(set(gold)) < 2 or rarest < 2:
        return None
    regression = LogisticRegression(max_iter=2000, fit_intercept=intercept)
    search = GridSearchCV(regression, {"C": list(INVERSE_STRENGTHS)}, cv=min(5, rarest))
    labelled = [i for i, g in enumerate(train.gold) if g]
    search.fit(task.features(train)[labelled].numpy(), gold)
    return search


def log_probabilities(task: HeadClassification, search: Any, rows: EncodedRows) -> Tensor:
    """Log-probabilities of all classes under a fitted probe: (rows, classes), in nats; UNSEEN_LOG_P for a class without
    training rows."""
    out = torch.full((len(rows), len(rows.options[0])), UNSEEN_LOG_P)
    decision = torch.tensor(search.decision_function(task.features(rows).numpy()))
    if decision.dim() == 1:  # two classes have one number, the log-odds of the second
        decision = torch.stack([-decision, decision], dim=1) / 2
    out[:, [int(c) for c in search.classes_]] = torch.log_softmax(decision, -1).float()
    return out


def head_layer(loaded: LoadedModel, classes: int) -> nn.Linear:
    """The layer for a probe: the last one of a classification head, or a new zero layer on an embedding model."""
    return loaded.last_linear() if loaded.head == "classification" else add_linear_head(loaded, classes)


def load(loaded: LoadedModel, head: Mapping[str, Tensor]) -> None:
    """Write a fitted probe into a model's head. Raises ModelError where the head has another shape."""
    layer = head_layer(loaded, len(head["weight"]))
    shapes = {name: x.shape for name, x in layer.state_dict().items()}
    if shapes != {name: x.shape for name, x in head.items()}:
        raise ModelError(f"the head of {loaded.source} does not have the shape of the run's linear probe")
    layer.load_state_dict(dict(head))


def undo(loaded: LoadedModel) -> Callable[[], None]:
    """A function that gives the model the head that it has now."""
    config, added = loaded.unwrapped.config, loaded.head == "embedding" and loaded.linear_head is None
    names = dict(config.id2label), dict(config.label2id)
    layer = None if loaded.head == "embedding" else loaded.last_linear()
    before = None if layer is None else {name: x.detach().clone() for name, x in layer.state_dict().items()}

    def restore() -> None:
        config.id2label, config.label2id = names
        if added and loaded.linear_head is not None:
            delattr(loaded.unwrapped, LINEAR_HEAD)
        if layer is not None and before is not None:
            layer.load_state_dict(before)

    return restore


def write(task: Task, train: EncodedRows) -> nn.Linear:
    """Fit a probe and write it into the model's head: tuning then starts from the probe. Returns the written layer.

    An embedding model gets a linear head in place of label descriptions. Raises OptionError for a language model
    head, DataError where there is one class only or a class has fewer than two training rows.
    """
    if not isinstance(task, HeadClassification):
        raise OptionError(
            f"--init linear-probe writes a linear head; the head {task.loaded.head!r} has none",
            hint="--head classification or embedding",
        )
    layer = head_layer(task.loaded, len(task.spec.classes.words) if task.spec.classes else 0)
    search = fit(task, train, intercept=layer.bias is not None)
    if search is None:
        raise DataError("--init linear-probe needs at least two classes with two training rows of each")
    best = search.best_estimator_
    weight, bias = torch.tensor(best.coef_), torch.tensor(best.intercept_)
    if len(weight) == 1:  # two classes have one row of coefficients, for the log-odds of the second
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    with torch.no_grad():
        layer.weight.zero_()
        rows = torch.tensor([int(c) for c in search.classes_])
        layer.weight[rows] = weight.to(layer.weight)
        if layer.bias is not None:
            layer.bias.fill_(UNSEEN_LOG_P)
            layer.bias[rows] = bias.expand(len(rows)).to(layer.bias)
    return layer


__all__ = ["fit", "head_layer", "load", "log_probabilities", "undo", "write"]
