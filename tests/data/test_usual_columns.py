"""Columns under their usual names: pairs, empty labels, unwanted completions, unused columns."""

from __future__ import annotations

from typing import Any

import pytest

from zotune.data.usual_columns import (
    alike_labels,
    is_unpaired_preference,
    text_pair,
    unused_columns,
    wanted_completions,
    without_empty_labels,
)
from zotune.errors import DataError


def test_pairs_have_usual_names_in_every_record() -> None:
    row = {"premise": "a", "hypothesis": "b", "label": 0}
    assert text_pair({"train": [row], "test": []}) == ("premise", "hypothesis")
    assert text_pair({"train": [{"text": "a", "text_pair": "b"}]}) == ("text", "text_pair")
    assert text_pair({"train": [row], "test": [{**row, "hypothesis": None}]}) is None
    assert text_pair({"train": [{"text": "a", "label": 0}]}) is None


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ([1, None, float("nan"), "", 0], [1, 0]),
        (["1.0", "nan", "0", "NULL"], ["1.0", "0"]),
        (["yes", "none", "no"], ["yes", "none", "no"]),
        (["nan", "none"], ["nan", "none"]),
        ([None, None], [None, None]),
    ],
)
def test_records_without_a_label_are_left_out_and_counted(labels: list[Any], kept: list[Any]) -> None:
    records = [{"text": f"row {i}", "label": label} for i, label in enumerate(labels)]
    parts, notes = without_empty_labels({"train": records, "test": [{"text": "x", "label": labels[0]}]})
    assert [record["label"] for record in parts["train"]] == kept
    count = len(labels) - len(kept)
    assert len(notes) == bool(count)
    assert not count or f"{count} of {len(labels)} train records have no label and are left out: 'row 1'" in notes[0]


def test_labels_that_differ_in_case_are_noted() -> None:
    records = [{"label": x} for x in ("Positive", "positive", "negative", 1)]
    assert alike_labels({"train": records}) == [
        "labels that differ only in case are classes of their own: 'Positive' and 'positive'"
    ]
    assert not alike_labels({"train": [{"label": "cafe\u0301"}, {"label": "caf\u00e9"}]})  # one class


def test_completions_that_are_rated_false_are_no_references() -> None:
    rows = [
        {"prompt": "p", "completion": str(i), "label": label} for i, label in enumerate((True, False, "true", "False"))
    ]
    assert all(map(is_unpaired_preference, rows))
    parts, (note,) = wanted_completions({"train": rows, "test": []})
    assert parts == {"train": [rows[0], rows[2]], "test": []}
    assert note == "label rates completions: 2 of 4 records have label false and are left out"
    assert not is_unpaired_preference({"prompt": "p", "completion": "c", "label": 1})
    with pytest.raises(DataError, match="test record 1: label must be true or false"):
        wanted_completions({"train": rows, "test": [{**rows[0], "label": 3}]})
    with pytest.raises(DataError, match="no test record has a completion with label true"):
        wanted_completions({"train": rows, "test": rows[1:2]})


def test_unused_columns_are_named() -> None:
    rows = [{"id": i, "text": "a", "copy": f"x {i}", "more": "b", "empty": None, "label": 0} for i in range(3)]
    rows = [{**row, "input": row["copy"]} for row in rows]
    assert unused_columns(rows, {"text", "label", "input"}) == ["columns that nothing uses: more"]
    assert unused_columns(rows, {"text", "label", "input", "more"}) == []
