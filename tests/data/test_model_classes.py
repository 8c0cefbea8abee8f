"""Labels matched with the classes that a model or a run has already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from zotune.data.classes import Classes
from zotune.data.model_classes import FixedClasses, match_classes, named_classes
from zotune.errors import DataError, OptionError

NLI = ("entailment", "neutral", "contradiction")
DEFAULT = ("LABEL_0", "LABEL_1", "LABEL_2")


def match(
    names: Sequence[str], records: Sequence[Any], labels: str | None = None, synonyms: Sequence[Any] = ()
) -> Classes:
    rows = [x if isinstance(x, dict) else {"label": x} for x in records]
    return match_classes({"test": rows}, named_classes(names, "the model m"), labels, synonyms)


@pytest.mark.parametrize(
    ("names", "labels", "option", "expected"),
    [
        (NLI, ["contradiction", "entailment"], None, [2, 0]),  # never sorted into numbers, never renumbered
        (NLI, ["Contradiction", "NEUTRAL"], None, [2, 1]),
        (NLI, [2, 1], None, [2, 1]),
        (NLI, ["2", "1.0", 0.0], None, [2, 1, 0]),
        (NLI, ["LABEL_2", "label_0"], None, [2, 0]),
        (DEFAULT, [2, 0], None, [2, 0]),
        (DEFAULT, ["LABEL_2", "label_0"], None, [2, 0]),
        (DEFAULT, ["c", "a"], "a,b,c", [2, 0]),
        (DEFAULT, [2, 0], "a,b,c", [2, 0]),
        (DEFAULT, [3, 1, 2], "a,b,c", [2, 0, 1]),  # as many numbers as classes: in ascending order
        (DEFAULT, ["x", "z"], "x=a,y=b,z=c", [0, 2]),
        (NLI, ["no", "yes"], "no=contradiction,yes=Entailment", [2, 0]),
        (NLI, ["b", "c"], "a,b,c", [1, 2]),
        (NLI, ["neutral"], "contradiction,entailment,neutral", [1]),  # the model's order, not the option's
        (("caf\u00e9", "th\u00e9"), ["the\u0301", "cafe\u0301"], None, [1, 0]),
        (("A", "a"), ["a", "A"], None, [1, 0]),
        (("1", "2", "3"), [3, 1], None, [2, 0]),
        (("LABEL_2", "LABEL_0", "LABEL_1"), ["LABEL_0", "label_2"], None, [1, 0]),  # names, not the default numbers
        (("1", "2", "3"), [0, 2], None, [0, 2]),
    ],
)
def test_the_class_of_each_label(
    names: Sequence[str], labels: list[Any], option: str | None, expected: list[int]
) -> None:
    classes = match(names, labels, option)
    assert [classes.index(label) for label in labels] == expected
    assert len(classes.values) == len(names)


def test_the_names_of_numbers_decide_where_the_data_or_a_task_file_has_them() -> None:
    """MNLI's own numbers are not those of a model that was trained with another order."""
    order = ("contradiction", "entailment", "neutral")
    rows = [{"label": i, "label_text": name} for i, name in enumerate(NLI)]
    classes = match(order, rows)
    assert [classes.index(i) for i in range(3)] == [1, 2, 0]
    assert "0 is entailment" in classes.notes[0]
    preset = [(("0", "entailment"), "Yes"), (("1", "neutral"), "Maybe"), (("2", "contradiction"), "No")]
    assert [match(order, [0, 1, 2], synonyms=preset).index(i) for i in range(3)] == [1, 2, 0]
    assert match(DEFAULT, ["neutral", 0], synonyms=preset).index("neutral") == 1
    assert match(DEFAULT, rows).words == NLI


def test_numbers_that_are_names_and_class_numbers_are_noted() -> None:
    assert "read as names" in match(("1", "2", "3"), [1, 2]).notes[0]
    assert "read as class numbers" in match(("1", "2", "3"), [0, 2]).notes[0]
    assert match(("0", "1"), [0, 1]).notes == match(NLI, [0, 2]).notes == ()


@pytest.mark.parametrize(
    ("names", "labels", "option", "error", "message"),
    [
        (NLI, ["neutral", "greeting"], None, DataError, "label 'greeting' is no class of the model m, which has"),
        (NLI, [0, 3], None, DataError, "label 3 is no class"),
        (NLI, [-1, 1], None, DataError, "label -1 is no class"),
        (DEFAULT, ["yes", "no"], None, DataError, "labels 'yes', 'no' are no class of the model m, which has 0, 1, 2"),
        (NLI, ["yes"], "a,b", OptionError, "--labels has 2 words, and the model m has 3 classes"),
        (NLI, ["yes"], "yes=entails", OptionError, "'entails' is no class of the model m"),
        (NLI, ["yes"], "a,b,b", OptionError, "two labels have the same word"),
        (("Aa", "aA"), ["aa"], None, DataError, "'aa' is no class"),
        (("a", "a"), ["a"], None, DataError, "'a' is no class"),
        (("1", "2", "3"), [0, 4], None, DataError, "labels 0, 4 are no class"),
        (("1", "2", "3"), [3, 4], None, DataError, "label 4 is no class"),
    ],
)
def test_labels_without_a_class_are_refused(
    names: Sequence[str], labels: list[Any], option: str | None, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        match(names, labels, option)


def test_a_runs_numbers_are_its_labels_and_no_class_numbers() -> None:
    run = FixedClasses(("1", "5"), ("bad", "good"), "the run", numbered=False)
    classes = match_classes({"test": [{"label": 5}, {"label": "bad"}]}, run)
    assert (classes.index(5), classes.index("bad")) == (1, 0)
    with pytest.raises(DataError, match="label 0 is no class of the run"):
        match_classes({"test": [{"label": 0}, {"label": 1}]}, run)
