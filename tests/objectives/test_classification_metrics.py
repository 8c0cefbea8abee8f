"""Accuracy, F1, MCC, cross-entropy and perplexity against scikit-learn or numbers worked by hand."""

from __future__ import annotations

import math
import random

import pytest
from metric_values import random_rows, value_of

from zotune.errors import ObjectiveError
from zotune.scoring import objective_spec
from zotune.types import Score


def test_perplexity_of_a_uniform_choice() -> None:
    assert value_of("perplexity", losses=[math.log(4), math.log(4)]) == pytest.approx(4)
    assert value_of("perplexity", losses=[math.log(2), None, math.log(8)]) == pytest.approx(4)
    assert value_of("perplexity", losses=[0.0]) == 1
    assert objective_spec.resolve("perplexity", {}).direction == "minimize"


@pytest.mark.parametrize(("losses", "message"), [([None, None], "no row has a label"), ([1e4], "OverflowError")])
def test_perplexity_without_a_value_is_an_error(losses: list[float | None], message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        value_of("perplexity", losses=losses)


def test_mcc_equals_scikit_learn() -> None:
    from sklearn.metrics import matthews_corrcoef

    for trial in range(50):
        labels, predicted, _ = random_rows(trial, 2 + trial % 4, 2 + trial % 30)
        assert value_of("mcc", predictions=predicted, labels=labels) == pytest.approx(
            matthews_corrcoef(labels, predicted), abs=1e-12
        )


def test_mcc_of_predictions_outside_the_classes() -> None:
    assert value_of("mcc", predictions=[0, 1, 0, 1], labels=[0, 1, 0, 1]) == 1
    assert value_of("mcc", predictions=[1, 0, 1, 0], labels=[0, 1, 0, 1]) == -1
    # s = 4, c = 3, predicted 1 and 2 times and one None, labels 2 and 2: (12 − 6) / √((16 − 6)(16 − 8))
    assert value_of("mcc", predictions=[0, None, 1, 1], labels=[0, 0, 1, 1]) == pytest.approx(6 / math.sqrt(80))
    assert value_of("mcc", predictions=[0, 7, 1, 1], labels=[0, 0, 1, 1]) == pytest.approx(6 / math.sqrt(80))
    assert value_of("mcc", predictions=[None, None], labels=[0, 1]) == 0  # one class only
    assert value_of("mcc", predictions=[0, 1, 1], labels=[0, 1, -1]) == 1  # a row without a label
    with pytest.raises(ObjectiveError, match="no row has a label"):
        value_of("mcc", predictions=[0], labels=[-1])


def test_averages_of_f1_with_a_prediction_outside_the_classes() -> None:
    """Class 0: TP 1, FN 1, F1 2/3. Class 1: TP 2, F1 1."""
    rows = {"predictions": [0, None, 1, 1], "labels": [0, 0, 1, 1]}
    assert value_of("f1", {"average": "macro"}, **rows) == pytest.approx(5 / 6)
    assert value_of("f1", {"average": "weighted"}, **rows) == pytest.approx(5 / 6)
    assert value_of("f1", {"average": "micro"}, **rows) == pytest.approx(6 / 7)
    assert value_of("f1", {"average": "weighted"}, predictions=[None], labels=[2]) == 0


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "binary"])
def test_f1_equals_scikit_learn(average: str) -> None:
    from sklearn.metrics import f1_score

    objective = objective_spec.resolve("f1", {"average": average})
    rng = random.Random(0)
    for trial in range(50):
        classes = 2 if average == "binary" else rng.randint(2, 6)
        n = rng.randint(1, 30)
        labels = [rng.randrange(classes) for _ in range(n)]
        predicted = [rng.randrange(classes) for _ in range(n)]
        expected = f1_score(labels, predicted, average=average, zero_division=0)
        score = objective.score(n, {"predictions": predicted, "labels": labels})
        assert score.value == pytest.approx(expected, abs=1e-12), trial
        assert score.samples is None


def test_predictions_outside_the_classes_are_wrong() -> None:
    objective = objective_spec.resolve("f1", {})
    assert objective.score(4, {"predictions": [0, None, 1, 1], "labels": [0, 0, 1, 1]}).value == pytest.approx(
        (2 / 3 + 1.0) / 2
    )
    accuracy = objective_spec.resolve("accuracy", {})
    assert accuracy.score(2, {"predictions": [None, 1], "labels": [0, 1]}).value == 0.5


def test_cross_entropy_is_the_loss_of_each_row() -> None:
    objective = objective_spec.resolve("cross-entropy", {})
    score = objective.score(3, {"losses": [0.25, None, 0.75]})
    assert objective.direction == "minimize"
    assert score == Score(0.5, (0.25, None, 0.75))


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("accuracy", {}),
        ("mcc", {}),
        ("f1", {}),
        ("f1", {"average": "micro"}),
        ("f1", {"average": "weighted"}),
        ("f1", {"average": "binary"}),
        ("f1,accuracy", {}),
    ],
)
def test_scores_of_many_sets_are_those_of_each(spec: str, arguments: dict[str, object]) -> None:
    """The same bits, and those of scikit-learn; predictions outside the classes included."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    calls = objective_spec.Calls()
    names = spec.split(",")
    objective = objective_spec.resolve(
        names if len(names) > 1 else spec, arguments, None, calls, (0.7, 0.3) if len(names) > 1 else ()
    )
    expected = {
        "accuracy": accuracy_score,
        "mcc": matthews_corrcoef,
        "f1": lambda y, p: f1_score(y, p, average=arguments.get("average", "macro"), zero_division=0.0),
        "f1,accuracy": lambda y, p: 0.7 * f1_score(y, p, average="macro") + 0.3 * accuracy_score(y, p),
    }[spec]
    for trial in range(12):
        rng = random.Random(trial)
        classes = 2 if arguments.get("average") == "binary" else 2 + trial % 5
        labels = [rng.randrange(classes) for _ in range(1 + 3 * trial)] + [0, 1]
        sets = [
            {
                "predictions": [rng.randrange(classes) for _ in labels],
                "labels": labels,
                "completions": ["x"] * len(labels),
            }
            for _ in range(6)
        ]
        found = objective.scores(len(labels), sets)
        assert found == [objective.score(len(labels), x) for x in sets]
        assert [x.value for x in found] == pytest.approx([expected(labels, x["predictions"]) for x in sets], abs=1e-12)
        sets.append({"predictions": [None, *labels[1:]], "labels": labels, "completions": ["x"] * len(labels)})
        assert objective.scores(len(labels), sets) == [objective.score(len(labels), x) for x in sets]


def test_a_failure_in_one_of_many_sets_is_named() -> None:
    objective = objective_spec.resolve("mcc", {})
    with pytest.raises(ObjectiveError, match=r"mcc.*no row has a label"):
        objective.scores(
            2, [{"predictions": [0, 1], "labels": [0, 1]}, {"predictions": [0, 1], "labels": [None, None]}]
        )
