"""F1 and exact match as in DROP."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from metric_values import samples_of


@pytest.mark.parametrize(
    ("completion", "reference", "f1", "exact"),
    [
        ("7", "7.0", 1.0, 1.0),  # numbers are floats
        ("1,000", "1000", 1.0, 1.0),  # numbers after the punctuation is removed
        ("5%", "5", 1.0, 1.0),
        ("-5", "5", 1.0, 1.0),  # a hyphen separates tokens
        ("12-yard", "12 yard", 1.0, 1.0),
        ("The Field-Goal!", "field goal", 1.0, 1.0),
        ("8 yards", "9 yards", 0.0, 0.0),  # the reference has numbers, and they share none
        ("9 metres", "9 yards", 0.5, 0.0),
        ("9 yards", "yards", 0.67, 0.0),  # 2·(1/2)·1 / (3/2), rounded to 0.01
        ("yards", "9 yards", 0.0, 0.0),
        ("go go go", "go", 1.0, 0.0),  # F1 compares sets of tokens, exact match all words
        ("", "Paris", 0.0, 0.0),
        ("the", "", None, None),  # an empty reference is ignored
        ("", "the", 1.0, 1.0),  # the reference is empty after normalisation
        ("", "!", 1.0, 1.0),
        ("北京 7", "北京 7.0", 1.0, 1.0),
        ("👍", "👍", 1.0, 1.0),
        ("Rome", ["Paris", "Rome"], 1.0, 1.0),
        ("x", None, None, None),
        ("x", [], None, None),
    ],
)
def test_examples(completion: str, reference: Any, f1: float | None, exact: float | None) -> None:
    assert samples_of("drop-f1", [completion, "x"], [reference, "x"]) == [f1, 1.0]
    assert samples_of("drop-em", [completion, "x"], [reference, "x"]) == [exact, 1.0]


@pytest.mark.parametrize(
    ("completion", "reference", "f1", "exact"),
    [
        ("Brady; Moss", ["Moss", "Brady"], 1.0, 1.0),  # in any order
        ("Brady", ["Moss", "Brady"], 0.5, 0.0),  # one of two
        ("Brady; Moss; Welker", ["Moss", "Brady"], 0.67, 0.0),
        ("Brady; Brady", ["Brady"], 0.5, 0.0),  # each as often
        ("Tom Brady; Tom Jones", ["Tom Jones", "Brady"], 0.83, 0.0),  # (1 + 2/3) / 2: Jones to Jones
        ("a b; a c", ["c x", "b"], 0.83, 0.0),
    ],
)
def test_several_spans(completion: str, reference: list[str], f1: float, exact: float) -> None:
    options = {"separator": "; ", "spans": "all"}
    assert samples_of("drop-f1", [completion], [reference], **options) == [f1]
    assert samples_of("drop-em", [completion], [reference], **options) == [exact]
    assert samples_of("drop-f1", [completion], ["; ".join(reference)], separator="; ") == [f1]
    assert samples_of("drop-f1", [completion], [["nothing", reference]], separator="; ") == [
        f1
    ]  # one of two references is a list of spans


def test_the_pairing_of_spans_is_the_best_of_all() -> None:
    from zotune_objectives.drop import answer_f1, span_f1, tokens

    rng = random.Random(5)
    for _ in range(60):
        spans = [" ".join(rng.choices(["red", "blue", "green", "7", "9"], k=2)) for _ in range(8)]
        completion, reference = spans[: rng.randint(1, 4)], spans[4 : rng.randint(5, 8)]
        size = max(len(completion), len(reference))
        padded = [*completion, *[None] * (size - len(completion))]
        best = max(
            sum(span_f1(tokens(a), tokens(b)) for a, b in zip(order, reference, strict=False) if a is not None)
            for order in itertools.permutations(padded)
        )
        assert answer_f1(completion, reference) == pytest.approx(best / size, abs=0.0051)
