"""Token F1 and exact match, their normalisations, and how the text metrics read conversations."""

from __future__ import annotations

from typing import Any

import pytest
from metric_values import CHAT, value_of

from zotune.data import presets
from zotune.scoring import objective_spec


@pytest.mark.parametrize(
    ("completion", "reference", "f1", "exact"),
    [
        ("the Eiffel Tower", "Eiffel Tower!", 1.0, 1.0),
        ("", "Paris", 0.0, 0.0),
        ("a", "the", 0.0, 0.0),
        ("in Paris, France", ["Lyon", "Paris"], 0.5, 0.0),
        ("to be or not to be", "to be", 0.5, 0.0),  # a token counts as often as both texts have it
        ("北京", "北京", 1.0, 1.0),
        ("yes 👍", "yes", 2 / 3, 0.0),
        ("x", None, None, None),
        ("x", [], None, None),
    ],
)
def test_examples(completion: str, reference: Any, f1: float | None, exact: float | None) -> None:
    inputs = {"completions": [completion, "x"], "references": [reference, "x"]}
    for name, expected in (("token-f1", f1), ("exact-match", exact)):
        samples = objective_spec.resolve(name, {}).score(2, inputs).samples
        assert samples is not None
        assert samples[0] == pytest.approx(expected) if expected is not None else samples[0] is None


@pytest.mark.parametrize(
    ("completion", "reference", "number", "squad", "none"),
    [
        ("", "A", 0.0, 1.0, 0.0),
        ("The", "A", 0.0, 1.0, 0.0),
        ("!!!", "a", 0.0, 1.0, 0.0),
        ("C", "C#", 0.0, 1.0, 0.0),
        ("C", "C++", 0.0, 1.0, 0.0),
        ("vitamin A", "vitamin", 0.0, 1.0, 0.0),
        ("35", "3.5", 0.0, 1.0, 0.0),
        ("5", "-5", 0.0, 1.0, 0.0),
        ("1,5", "15", 0.0, 1.0, 0.0),
        ("5²", "52", 0.0, 0.0, 0.0),
        ("9007199254740993", "9007199254740992", 0.0, 0.0, 0.0),  # the same float
        ("1,000", "1000.0", 1.0, 0.0, 0.0),
        ("\u22125", "-5", 1.0, 0.0, 0.0),  # a minus sign and a hyphen
        ("$5.00", "5", 1.0, 0.0, 0.0),
        ("50%", "50", 1.0, 1.0, 0.0),
        ("1e5", "100000", 1.0, 0.0, 0.0),
        ("(A).", "a", 1.0, 1.0, 0.0),  # squad: both are empty
        ("（3）", "3", 1.0, 0.0, 0.0),
        ("«Paris»", "Paris", 1.0, 0.0, 0.0),
        ("The Beatles", "beatles", 1.0, 1.0, 0.0),
        ("北京。", "北京", 1.0, 0.0, 0.0),
        (" Paris ", "Paris", 1.0, 1.0, 1.0),
    ],
)
def test_normalisations(completion: str, reference: str, number: float, squad: float, none: float) -> None:
    for options, expected in ({}, number), ({"normalize": "squad"}, squad), ({"normalize": "none"}, none):
        for name in "exact-match", "token-f1":
            value = value_of(name, options, completions=[completion], references=[reference])
            assert (value == 1.0) == (expected == 1.0), (name, options)


def test_no_text_becomes_empty_and_no_numbers_are_joined() -> None:
    texts = [
        "A",
        "the",
        "!!!",
        "-",
        "#",
        "5",
        "-5",
        "3.5",
        "35",
        "1,5",
        "15",
        "0.5",
        "5²",
        "½",
        "C",
        "C#",
        ".NET",
        "NET",
    ]
    objective = objective_spec.resolve("exact-match", {})
    for text in texts:
        scores = objective.score(len(texts), {"completions": [text] * len(texts), "references": texts}).samples
        assert scores == tuple(float(text == other) for other in texts), text
        assert objective.score(1, {"completions": [""], "references": [text]}).value == 0.0


def test_a_task_sets_options_of_objectives_unless_the_user_does() -> None:
    same = {"completions": ["C"], "references": ["C#"]}
    defaults = presets.load("squad").objective_args
    assert objective_spec.resolve("exact-match", {}, defaults=defaults).score(1, same).value == 1.0
    assert objective_spec.resolve("exact-match", {"normalize": "number"}, defaults=defaults).score(1, same).value == 0.0
    assert objective_spec.resolve("rouge1", {}, defaults=defaults).name == "rouge1"


@pytest.mark.parametrize("name", ["token-f1", "exact-match", "drop-f1", "drop-em", "rouge1", "rougeL", "bleu", "chrf"])
def test_conversations_are_scored_by_their_last_message(name: str) -> None:
    options = {"effective_order": True} if name == "bleu" else {}
    texts = value_of(name, options, completions=["in Paris", "Rome"], references=["in Paris", "Rome now"])
    chats = [CHAT, [{"role": "assistant", "content": "Rome"}]]
    assert value_of(name, options, completions=chats, references=["in Paris", "Rome now"]) == texts > 0
