"""The tone of completions by VADER's lexicon: from -1, negative, to 1, positive. One score for each row, in English.

`--direction minimize` prefers negative tone. An empty completion has the tone 0. Needs the package vaderSentiment:
`pip install 'zotune[text]'`.

Source: Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text".
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from zotune.errors import OptionError
from zotune.text import texts
from zotune.types import ObjectiveInfo


@functools.cache
def _analyzer() -> Any:
    return importlib.import_module("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer()


LAST_LATIN: Final = 0x24F
"""Letters beyond are of other scripts."""


def _other_script(text: str) -> bool:
    """Whether most letters of a text are not Latin."""
    letters = [ord(char) > LAST_LATIN for char in text if char.isalpha()] if not text.isascii() else []
    return 2 * sum(letters) > len(letters)


@dataclass(frozen=True)
class Vader:
    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo("maximize", level="sample", check_row=self._check)

    def _check(self, row: Mapping[str, Any]) -> str | None:
        text = "vader's lexicon is English, and prompts are in another script: answers in it score 0"
        turns = row.get("messages") or [{"content": row.get("prompt")}]
        return text if any(_other_script(str(turn.get("content"))) for turn in turns) else None

    def __post_init__(self) -> None:
        if importlib.util.find_spec("vaderSentiment") is None:
            raise OptionError("the objective vader needs the package vaderSentiment", hint="pip install 'zotune[text]'")

    def __call__(self, completions: Sequence[Any]) -> list[float]:
        """The compound score of each completion."""
        return [float(_analyzer().polarity_scores(text)["compound"]) for text in texts(completions)]
