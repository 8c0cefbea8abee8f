"""The tone of completions by VADER's lexicon: from -1, negative, to 1, positive. One score for each row, in English.

`--direction minimize` prefers negative tone. An empty completion has the tone 0. Needs the package vaderSentiment:
`pip install 'zotune[text]'`.

Source: Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text".
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zotune
from zotune.errors import OptionError
from zotune.text import texts


@functools.cache
def _analyzer() -> Any:
    return importlib.import_module("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer()


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class Vader:
    def __post_init__(self) -> None:
        if importlib.util.find_spec("vaderSentiment") is None:
            raise OptionError("the objective vader needs the package vaderSentiment", hint="pip install 'zotune[text]'")

    def __call__(self, completions: Sequence[Any]) -> list[float]:
        """The compound score of each completion."""
        return [float(_analyzer().polarity_scores(text)["compound"]) for text in texts(completions)]
