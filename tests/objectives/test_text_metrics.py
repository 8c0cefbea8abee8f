"""Length, regular expressions and contained texts."""

from __future__ import annotations

from typing import Any

import pytest
from metric_values import CHAT, samples_of

from zotune.errors import OptionError
from zotune.scoring import objective_spec


def test_length() -> None:
    completions = ["one two  three\nfour", "", "我爱北京", "👍 ok", CHAT]
    assert samples_of("length", completions) == [4, 0, 1, 2, 2]
    assert samples_of("length", completions, unit="characters") == [19, 0, 4, 4, 8]
    assert samples_of("length", completions, target=2) == [2, 2, 1, 0, 0]
    assert samples_of("length", completions, at_most="2") == [2, 0, 0, 0, 0]
    objective = objective_spec.resolve("length:tokens", {"target": 3})
    assert objective.inputs == {"completion_ids"}
    assert objective.direction == "minimize"
    assert objective.score(2, {"completion_ids": [[5, 6], [1, 2, 3, 4, 5]]}).samples == (1, 2)
    assert objective_spec.resolve("length", {}).inputs == {"completions"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "lines"}, "must be one of words, characters, tokens, got 'lines'"),
        ({"target": -1}, "target must be 0 or more, got -1"),
        ({"target": 5, "at_most": 7}, "target and at_most exclude each other, got 5 and 7"),
    ],
)
def test_refused_lengths(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        objective_spec.resolve("length", options)


def test_regex() -> None:
    completions = ["42", "it is 42", "", "Forty\ntwo", [{"role": "assistant", "content": "42"}]]
    assert samples_of(r"regex:^\d+$", completions) == [1, 0, 0, 0, 1]
    assert samples_of(r"regex:\d", completions) == [1, 1, 0, 0, 1]
    assert samples_of(r"regex:\d+", completions, full=True) == [1, 0, 0, 0, 1]
    assert samples_of("regex:^TWO$", completions, flags="im") == [0, 0, 0, 1, 0]
    assert samples_of("regex:forty.two", completions, flags="is", full="true") == [0, 0, 0, 1, 0]
    assert samples_of("regex:北京|👍", ["我爱北京", "👍", "no"]) == [1, 1, 0]
    assert objective_spec.resolve("regex:a:b", {}).score(1, {"completions": ["xa:by"]}).value == 1
    with pytest.raises(OptionError, match=r"'\(' is not a regular expression"):
        objective_spec.resolve("regex:(", {})
    with pytest.raises(OptionError, match="flags must be letters of imsxa, got 'q'"):
        objective_spec.resolve("regex:x", {"flags": "iq"})


def test_contains() -> None:
    completions = ["I am HAPPY", "glad and happy", "", "unhappy", CHAT]
    assert samples_of("contains:happy", completions) == [1, 1, 0, 1, 0]
    assert samples_of("contains:happy", completions, ignore_case=False) == [0, 1, 0, 1, 0]
    assert samples_of("contains:glad, happy", completions) == [1, 1, 0, 1, 0]
    assert samples_of("contains:glad, happy", completions, match="all") == [0, 1, 0, 0, 0]
    assert samples_of("contains:Paris", completions) == [0, 0, 0, 0, 1]
    assert samples_of("contains:a, b", ["a, b", "a b"], separator="") == [1, 0]
    assert samples_of("contains:STRASSE,👍", ["Straße", "👍🏽"]) == [1, 1]
    with pytest.raises(OptionError, match="something besides blanks and separators, got ' ,'"):
        objective_spec.resolve("contains: ,", {})
