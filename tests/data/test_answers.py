"""Answers: which option a label means."""

from __future__ import annotations

from typing import Any

import pytest

from zotune.data.answers import correct_options, option_texts, reference_texts


@pytest.mark.parametrize(
    ("options", "label", "correct"),
    [
        (["1", "2", "3"], 1, [1]),
        (["1", "2", "3"], "1", [0]),
        (["x", "y"], "1", [1]),
        (["7", "8"], 8, [1]),
        (["a", "a", "b"], 2, [2]),
        (["a", "b"], 5, []),
        (["a", "b"], True, [1]),
        (["a", "b"], 1.0, [1]),
    ],
)
def test_a_number_is_an_index_and_a_text_an_option(options: list[str], label: Any, correct: list[int]) -> None:
    record = {"options": options, "label": label}
    assert correct_options(record, option_texts(record, ("options",))) == correct


def test_none_in_a_list_is_no_reference() -> None:
    assert reference_texts({"completion": ["Tom", None]}, "completion") == ["Tom"]
    assert reference_texts({"completion": 0.5}, "completion") == ["0.5"]
    assert reference_texts({"completion": None}, "completion") == []
