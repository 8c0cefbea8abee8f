"""Differences of two texts in HTML."""

from __future__ import annotations

import html
import re

import pytest

from zotune.pages.word_diff import MOST_WORDS, differences


def shown(markup: str) -> str:
    return html.unescape(re.sub(r"</?(ins|del)>", "", markup))


def marked(markup: str, name: str) -> list[str]:
    return [html.unescape(x).strip() for x in re.findall(rf"<{name}>(.*?)</{name}>", markup)]


@pytest.mark.parametrize(
    ("before", "after", "gone", "new"),
    [
        ("the cat sat", "the dog sat", ["cat"], ["dog"]),
        ("", "a", [], ["a"]),
        ("same", "same", [], []),
        ("a, b", "a; b", [","], [";"]),
        ("<b>x</b>", "<i>x</i>", ["b", "b"], ["i", "i"]),
        ("猫 が いる", "犬 が いる", ["猫"], ["犬"]),
    ],
)
def test_words_are_marked_and_texts_stay_whole(before: str, after: str, gone: list[str], new: list[str]) -> None:
    first, second = differences(before, after)
    assert (shown(first), shown(second)) == (before, after)
    assert (marked(first, "del"), marked(second, "ins")) == (gone, new)


def test_long_texts_are_compared_up_to_a_word() -> None:
    before, after = "a " * MOST_WORDS + "b " * 5000, "a " * MOST_WORDS + "c " * 5000
    first, second = differences(before, after)
    assert (shown(first), shown(second)) == (before, after)
    assert "<" not in first + second
