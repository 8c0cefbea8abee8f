"""Answers: which option a label means."""

from __future__ import annotations

from typing import Any

import pytest

from zotune.data.answers import correct_options, find_reading, option_texts, reference_texts


@pytest.mark.parametrize(
    ("options", "label", "correct"),
    [
        (["1", "2", "3"], 1, [1]),
        (["1", "2", "3"], "1", [1]),
        (["x", "y"], "1", [1]),
        (["7", "8"], 8, [1]),
        (["7", "8"], "8", [1]),
        (["x", "y"], "y", [1]),
        (["x", "y"], "B", [1]),
        (["x", "y"], "(b)", [1]),
        (["x", "y"], "C", []),
        (["x", "y"], "①", []),
        (["B", "A"], "A", [1]),
        (["a", "a", "b"], 2, [2]),
        (["a", "b"], 5, []),
        (["a", "b"], True, [1]),
        (["a", "b"], 1.0, [1]),
    ],
)
def test_a_number_is_an_index_and_a_text_an_option(options: list[str], label: Any, correct: list[int]) -> None:
    record = {"options": options, "label": label}
    reading, _ = find_reading({"test": [record]}, ("options",))
    assert correct_options(record, ("options",), reading) == correct


@pytest.mark.parametrize(
    ("labels", "reading", "correct", "note"),
    [
        ([0, 2], "index", [0, 2], "could be an option's text"),
        ([6, 7], "text", [1, 2], ""),
        (["A", "d"], "letter", [0, 3], "read as an option's letter"),
        ([1, 4], "count", [0, 3], "read as an option's number from 1"),
        ([0, "four"], "mixed", [0, 3], "index from 0 where it is a number, else its text"),
        ([1] * 8, "index", [1] * 8, "no label is 0, so if they count from 1, write letters"),
    ],
)
def test_labels_are_read_the_same_way_in_all_records(
    labels: list[Any], reading: str, correct: list[int], note: str
) -> None:
    options = {"index": ["1", "2", "3", "0"], "text": ["5", "6", "7", "8"]}.get(
        reading, ["one", "two", "three", "four"]
    )
    for write in (lambda x: x, str):  # the labels of a JSON file, and those of a CSV file
        records = [{"options": options, "label": write(label)} for label in labels]
        found, notes = find_reading({"train": records[:1], "test": records[1:]}, ("options",))
        assert found == reading
        assert [correct_options(r, ("options",), found) for r in records] == [[i] for i in correct]
        assert note in " ".join(notes)
        assert bool(notes) == bool(note)


def test_marks_of_the_data_name_the_options() -> None:
    records = [
        {"choices": {"text": ["x", "y"], "label": ["A", "B"]}, "label": "B"},
        {"choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "label": "2"},
        {"choices": {"text": ["x", "y"], "label": ["1", "2"]}, "label": 1},
    ]
    assert find_reading({"test": records}, ("choices",)) == ("mark", [])
    assert [correct_options(r, ("choices",), "mark") for r in records] == [[1], [1], [0]]


def test_a_cell_may_hold_the_list_of_options() -> None:
    assert option_texts({"o": '["a, b", 2]', "label": "1"}, ("o",)) == ["a, b", "2"]
    assert option_texts({"o": "[a] b", "label": "1"}, ("o",)) == ["[a] b"]


def test_none_in_a_list_is_no_reference() -> None:
    assert reference_texts({"completion": ["Tom", None]}, "completion") == ["Tom"]
    assert reference_texts({"completion": 0.5}, "completion") == ["0.5"]
    assert reference_texts({"completion": None}, "completion") == []
