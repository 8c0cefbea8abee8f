"""Every metric of scikit-learn by name, against scikit-learn itself."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from metric_values import random_rows, value_of

from zotune import plugins
from zotune.errors import ObjectiveError, OptionError
from zotune.scoring import objective_spec


def official(name: str, labels: list[int], predicted: list[int], logits: torch.Tensor) -> float:
    """The number computed with scikit-learn as its user guide shows."""
    from sklearn import metrics as m

    p = logits.double().softmax(-1).numpy()
    classes = list(range(p.shape[1]))
    table: dict[str, Any] = {
        "accuracy": lambda: m.accuracy_score(labels, predicted),
        "balanced_accuracy": lambda: m.balanced_accuracy_score(labels, predicted),
        "cohen_kappa": lambda: m.cohen_kappa_score(labels, predicted),
        "matthews_corrcoef": lambda: m.matthews_corrcoef(labels, predicted),
        "hamming_loss": lambda: m.hamming_loss(labels, predicted),
        "zero_one_loss": lambda: m.zero_one_loss(labels, predicted),
        "log_loss": lambda: m.log_loss(labels, p, labels=classes),
        "d2_log_loss": lambda: m.d2_log_loss_score(labels, p, labels=classes),
        "top_k_accuracy": lambda: m.top_k_accuracy_score(
            labels, p if len(classes) > 2 else p[:, 1], k=2, labels=classes
        ),
    }
    for average in ("macro", "micro", "weighted"):
        table[f"f1_{average}"] = lambda a=average: m.f1_score(labels, predicted, average=a, zero_division=0)
        table[f"jaccard_{average}"] = lambda a=average: m.jaccard_score(labels, predicted, average=a, zero_division=0)
        table[f"recall_{average}"] = lambda a=average: m.recall_score(labels, predicted, average=a, zero_division=0)
        table[f"precision_{average}"] = lambda a=average: m.precision_score(
            labels, predicted, average=a, zero_division=0
        )
        table[f"fbeta_{average}"] = lambda a=average: m.fbeta_score(
            labels, predicted, beta=1, average=a, zero_division=0
        )
    if len(classes) == 2:
        table |= {
            "f1": lambda: m.f1_score(labels, predicted, zero_division=0),
            "precision": lambda: m.precision_score(labels, predicted, zero_division=0),
            "recall": lambda: m.recall_score(labels, predicted, zero_division=0),
            "jaccard": lambda: m.jaccard_score(labels, predicted, zero_division=0),
            "fbeta": lambda: m.fbeta_score(labels, predicted, beta=1, zero_division=0),
            "roc_auc": lambda: m.roc_auc_score(labels, p[:, 1]),
            "average_precision": lambda: m.average_precision_score(labels, p[:, 1]),
            "brier_score_loss": lambda: m.brier_score_loss(labels, p[:, 1]),
        }
    else:
        ovr = lambda average: m.roc_auc_score(labels, p, multi_class="ovr", average=average)  # noqa: E731
        ovo = lambda average: m.roc_auc_score(labels, p, multi_class="ovo", average=average)  # noqa: E731
        table |= {
            "roc_auc": lambda: ovr("macro"),
            "roc_auc_ovr": lambda: ovr("macro"),
            "roc_auc_ovr_weighted": lambda: ovr("weighted"),
            "roc_auc_ovo": lambda: ovo("macro"),
            "roc_auc_ovo_weighted": lambda: ovo("weighted"),
            "average_precision": lambda: m.average_precision_score(labels, p),
            "brier_score_loss": lambda: m.brier_score_loss(labels, p, labels=classes),
        }
    if hasattr(m, "d2_brier_score"):
        table["d2_brier"] = lambda: m.d2_brier_score(labels, p if len(classes) > 2 else p[:, 1], labels=classes)
    return float(table[name]()) if name in table else math.nan


def short_names() -> list[str]:
    from zotune_objectives.scikit_learn import metrics_by_name

    return sorted(metrics_by_name())


@pytest.mark.parametrize("name", short_names())
def test_metrics_by_name_equal_scikit_learn(name: str) -> None:
    compared = 0
    for trial, classes in enumerate((2, 3, 5, 2, 3)):
        labels, predicted, logits = random_rows(trial, classes, 60)
        loss = name.removeprefix("neg_").replace("brier_score", "brier_score_loss") if "neg_" in name else name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # top 2 of 2 classes
            expected = official(loss.replace("_loss_loss", "_loss"), labels, predicted, logits)
        if math.isnan(expected):
            continue
        value = value_of(f"sklearn:{name}", predictions=predicted, labels=labels, logits=logits)
        assert value == pytest.approx(-expected if name.startswith("neg_") else expected, abs=1e-12)
        compared += 1
    assert compared >= 2, "the official value was computed at least twice"


def test_classification_scorers_are_supported_and_others_refused() -> None:
    from sklearn.metrics import get_scorer_names

    refused = set()
    for name in get_scorer_names():
        try:
            objective_spec.resolve(f"sklearn:{name}", {})
        except OptionError:
            refused.add(name)
    kept = set(get_scorer_names()) - refused
    assert {"f1_macro", "balanced_accuracy", "neg_log_loss", "roc_auc", "neg_brier_score", "jaccard_weighted"} <= kept
    regression = {"r2", "explained_variance", "neg_max_error", "d2_absolute_error_score"}
    regression |= {n for n in refused if "mean_" in n or "median_" in n}
    clustering = {"completeness_score", "fowlkes_mallows_score", "homogeneity_score", "v_measure_score", "rand_score"}
    clustering |= {n for n in refused if "mutual_info" in n or "adjusted_rand" in n}
    several_labels = {n for n in refused if n.endswith("_samples")}
    ratios = {"positive_likelihood_ratio", "neg_negative_likelihood_ratio"}  # without a value on many small batches
    assert refused == regression | clustering | several_labels | ratios


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("balanced_accuracy", "maximize"),
        ("balanced-accuracy", "maximize"),
        ("log_loss", "minimize"),
        ("log", "minimize"),
        ("zero_one_loss", "minimize"),
        ("brier", "minimize"),
        ("brier_score_loss", "minimize"),
        ("neg_brier_score", "maximize"),
        ("neg_log_loss", "maximize"),
        ("roc_auc_score", "maximize"),
        ("d2_log_loss_score", "maximize"),
    ],
)
def test_the_direction_follows_from_the_name(metric: str, direction: str) -> None:
    objective = objective_spec.resolve(f"sklearn:{metric}", {})
    assert objective.direction == direction
    assert objective.info.level == "set"
    other = "minimize" if direction == "maximize" else "maximize"
    assert objective_spec.resolve(f"sklearn:{metric}", {}, other).direction == other


def test_inputs_that_metrics_ask_for() -> None:
    """Metrics of logits are not smoothed, so only metrics of probabilities ask for them."""
    assert objective_spec.resolve("sklearn:f1_macro", {}).inputs == {"predictions", "labels"}
    assert objective_spec.resolve("sklearn:roc_auc", {}).inputs == {"logits", "labels"}
    assert objective_spec.resolve("sklearn:roc_auc", {}).required == {"logits", "labels"}
    assert not objective_spec.resolve("sklearn:roc_auc", {}).takes_all


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 3 / 4),
        ("balanced_accuracy", 3 / 4),
        ("zero_one_loss", 1 / 4),
        ("f1_macro", 5 / 6),
        ("f1_micro", 6 / 7),
        ("f1", 1.0),  # class 1
        ("recall_macro", 3 / 4),
        ("precision_macro", 1.0),  # the outside prediction is no false positive
        ("jaccard_macro", 3 / 4),
        ("matthews_corrcoef", 6 / math.sqrt(80)),
        ("cohen_kappa", (3 / 4 - 6 / 16) / (1 - 6 / 16)),  # at chance 1·2/16 + 2·2/16
    ],
)
def test_a_prediction_outside_the_classes_is_wrong(metric: str, expected: float) -> None:
    rows = {"predictions": [0, None, 1, 1], "labels": [0, 0, 1, 1]}
    assert value_of(f"sklearn:{metric}", **rows) == pytest.approx(expected)


@pytest.mark.parametrize("name", [n for n in short_names() if "_loss" not in n and "d2" not in n and "auc" not in n])
def test_all_predictions_may_be_outside_the_classes(name: str) -> None:
    labels, _, logits = random_rows(0, 2, 8)
    assert math.isfinite(value_of(f"sklearn:{name}", {"k": 1}, predictions=[None] * 8, labels=labels, logits=logits))


def test_rows_without_a_label_are_left_out() -> None:
    labels, predicted, logits = random_rows(1, 3, 20)
    for name in ("f1_macro", "accuracy", "cohen_kappa", "log_loss", "roc_auc"):
        whole = value_of(f"sklearn:{name}", predictions=predicted, labels=labels, logits=logits)
        more = torch.cat([logits, torch.zeros(2, 3)])
        assert whole == value_of(
            f"sklearn:{name}", predictions=[*predicted, 0, None], labels=[*labels, -1, -1], logits=more
        )


def test_classes_without_a_row() -> None:
    """A batch may lack classes; the other classes are scored as scikit-learn scores them."""
    from sklearn.metrics import cohen_kappa_score, log_loss, roc_auc_score

    labels, predicted, logits = (
        [0, 0, 2, 2],
        [0, 2, 2, 2],
        torch.tensor([[2.0, 0, 1], [0.5, 0, 0.6], [0, 1, 3], [0.6, 0, 0.1]]),
    )
    p = logits.double().softmax(-1).numpy()
    each = [roc_auc_score([y == c for y in labels], p[:, c]) for c in (0, 2)]
    assert value_of("sklearn:roc_auc", logits=logits, labels=labels) == pytest.approx(sum(each) / 2)
    assert value_of("sklearn:log_loss", logits=logits, labels=labels) == pytest.approx(
        log_loss(labels, p, labels=[0, 1, 2])
    )
    weighted = value_of("sklearn:cohen_kappa", {"weights": "quadratic"}, predictions=predicted, labels=labels)
    assert weighted == pytest.approx(cohen_kappa_score(labels, predicted, labels=[0, 1, 2], weights="quadratic"))
    with pytest.raises(ObjectiveError, match="roc_auc has no value on these 2 rows"):
        value_of("sklearn:roc_auc", logits=logits[:2], labels=labels[:2])
    assert value_of("sklearn:brier", logits=torch.zeros(2, 2), labels=[0, 0]) == pytest.approx(0.25)


def test_options_of_metrics() -> None:
    from sklearn.metrics import fbeta_score, top_k_accuracy_score

    labels, predicted, logits = random_rows(3, 4, 40)
    expected = fbeta_score(labels, predicted, beta=2, average="macro")
    options = {"beta": "2", "average": "macro"}
    assert value_of("sklearn:fbeta", options, predictions=predicted, labels=labels) == pytest.approx(expected)
    top = value_of("sklearn:top_k_accuracy", {"k": 3}, logits=logits, labels=labels)
    assert top == pytest.approx(top_k_accuracy_score(labels, logits.numpy(), k=3))
    labels, predicted, _ = random_rows(4, 2, 40)
    zero = value_of("sklearn:precision", {"positive": 0}, predictions=predicted, labels=labels)
    assert zero == pytest.approx(sum(p == y == 0 for p, y in zip(predicted, labels, strict=True)) / predicted.count(0))


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        ("balanced_acuracy", {}, "did you mean 'balanced_accuracy'"),
        ("r2", {}, "'r2' is not a classification metric"),
        ("adjusted_rand_score", {}, "not a classification metric"),
        ("mean_squared_error", {}, "not a classification metric"),
        ("", {}, "not a classification metric"),
        ("accuracy", {"average": "macro"}, "accuracy does not support average='macro'"),
        ("roc_auc", {"average": "micro"}, "roc_auc does not support average='micro'"),
        ("accuracy", {"weights": "linear"}, "does not support weights"),
        ("fbeta", {"beta": 0}, "beta must be positive, got 0"),
        ("top_k_accuracy", {"k": 0}, "k must be 1 or more, got 0"),
    ],
)
def test_refused_options(metric: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        objective_spec.resolve(f"sklearn:{metric}", options)


def test_refused_numbers_of_classes() -> None:
    check = lambda metric, classes, **o: objective_spec.resolve(f"sklearn:{metric}", o).info.check(classes)  # noqa: E731
    with pytest.raises(OptionError, match=r"f1 scores one of two classes; the task has 3 \(-o sklearn:f1_macro\)"):
        check("f1", 3)
    with pytest.raises(OptionError, match="positive must be a class index from 0 to 1, got 5"):
        check("recall", 2, positive=5)
    with pytest.raises(OptionError, match="k must be below the number of classes, 2, got 2"):
        check("top_k_accuracy", 2)
    check("f1", 2)
    check("f1_macro", 7)
    with pytest.raises(ObjectiveError, match="use -o sklearn:f1_macro"):
        value_of("sklearn:f1", predictions=[0, 1, 2], labels=[0, 1, 2])


def test_the_metric_is_required() -> None:
    with pytest.raises(OptionError, match="metric"):
        objective_spec.resolve("sklearn", {})
    assert plugins.default().find("objective", "sklearn").load().__name__ == "Sklearn"
