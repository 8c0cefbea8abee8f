"""Token F1 and exact match as in SQuAD, and how the text metrics read conversations."""

from __future__ import annotations

from typing import Any

import pytest
from metric_values import CHAT, value_of

from zotune.scoring import objective_spec


@pytest.mark.parametrize(
    ("completion", "reference", "f1", "exact"),
    [
        ("the Eiffel Tower", "Eiffel Tower!", 1.0, 1.0),
        ("", "Paris", 0.0, 0.0),
        ("a", "the", 1.0, 1.0),  # both are empty after normalisation
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


@pytest.mark.parametrize("name", ["token-f1", "exact-match", "drop-f1", "drop-em", "rouge1", "rougeL", "bleu", "chrf"])
def test_conversations_are_scored_by_their_last_message(name: str) -> None:
    options = {"effective_order": True} if name == "bleu" else {}
    texts = value_of(name, options, completions=["in Paris", "Rome"], references=["in Paris", "Rome now"])
    chats = [CHAT, [{"role": "assistant", "content": "Rome"}]]
    assert value_of(name, options, completions=chats, references=["in Paris", "Rome now"]) == texts > 0
