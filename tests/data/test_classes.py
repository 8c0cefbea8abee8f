"""Classes: what labels and --labels mean, and labels that do not fit."""

from __future__ import annotations

from typing import Any

import pytest

from zotune.data.classes import find_classes
from zotune.errors import DataError, OptionError


@pytest.mark.parametrize(
    ("labels", "option", "values", "words"),
    [
        ([0, 1, 1], "bad,good", ("0", "1"), ("bad", "good")),
        (["1", "0"], "bad,good", ("0", "1"), ("bad", "good")),
        (["neg", "pos"], None, ("neg", "pos"), ("neg", "pos")),
        (["neg", "pos"], "pos=good,neg=bad", ("neg", "pos"), ("bad", "good")),
        (["b", "a"], "b,a,c", ("b", "a", "c"), ("b", "a", "c")),
        ([10, 9, 2], "x,y,z", ("2", "9", "10"), ("x", "y", "z")),
        ([0, 1], "a,b,c", ("0", "1", "2"), ("a", "b", "c")),
        ([True, False], "no,yes", ("0", "1"), ("no", "yes")),
        ([1.0, 0.0], "no,yes", ("0", "1"), ("no", "yes")),
        (["1.0", "0.0"], "no,yes", ("0", "1"), ("no", "yes")),
        (["②", "①"], None, ("①", "②"), ("①", "②")),
        ([0, 1], '"no, sir",yes', ("0", "1"), ("no, sir", "yes")),
        ([0, 1], ("no, sir", "yes"), ("0", "1"), ("no, sir", "yes")),
        ([0, 1], ("no,yes",), ("0", "1"), ("no", "yes")),
        ([0, 1], '1="yes, sir",0=it "is" no', ("0", "1"), ('it "is" no', "yes, sir")),
        (["the\u0301", "cafe\u0301"], "café,thé", ("café", "thé"), ("café", "thé")),
    ],
)
def test_labels_and_words_in_class_order(
    labels: list[Any], option: str | tuple[str, ...] | None, values: tuple[str, ...], words: tuple[str, ...]
) -> None:
    classes = find_classes({"train": [{"label": x} for x in labels]}, option, needs_words=True)
    assert (classes.values, classes.words) == (values, words)


def test_label_text_gives_numbers_their_words() -> None:
    records = [{"label": 1, "label_text": "positive"}, {"label": 0, "label_text": "negative"}]
    assert find_classes({"train": records}, None, True).words == ("negative", "positive")


@pytest.mark.parametrize(
    ("labels", "option", "error", "message"),
    [
        ([0, 1], None, OptionError, "this model needs a word for each"),
        ([0, 1, 2], "bad,good", OptionError, "do not fit the 3 labels found: 0, 1, 2"),
        (["x", "y"], "bad,good", OptionError, "do not fit"),
        (["x", "y"], "x=bad", OptionError, "no word for y"),
        ([0, 1], "same,same", OptionError, "same word"),
        ([0, 1], '"no, sir,yes', OptionError, "quotation mark that is not closed"),
        ([0, 0], "bad,good", None, ""),
        (["x"], None, DataError, "only one label"),
        ([[1], 2], None, DataError, "must be a number or a text"),
        ([None, 1], None, DataError, "train record 1 has an empty label; columns found: label"),
    ],
)
def test_labels_that_do_not_fit(labels: list[Any], option: str | None, error: Any, message: str) -> None:
    records = {"train": [{"label": x} for x in labels]}
    if error is None:
        find_classes(records, option, True)
    else:
        with pytest.raises(error, match=message):
            find_classes(records, option, True)
