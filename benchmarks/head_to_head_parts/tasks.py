"""The tasks of benchmarks/head_to_head.py: prompts and a reward each, the same for every method.

Imports neither zotune nor torch, so that the rivals' environment can read it.
"""

from __future__ import annotations

import functools
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from head_to_head_parts import smollm2, stories

Record = Mapping[str, Any]
"""A prompt with the columns that the reward needs."""
SET_SIZE = 20
"""Completions that are judged together where the reward belongs to a set."""
WISHED = "there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball."
WORD = "bird"


@dataclass(frozen=True)
class Task:
    """Prompts by split, and what a completion is worth.

    model: "stories" or "smollm2". tokens: new tokens of a completion. rewards: the reward of each completion, from its
    text and its record. value: the reward of a set of completions, where rewards is None. columns: of the records that
    the reward reads. right: another measure of a completion that is reported, not rewarded.
    """

    name: str
    model: str
    tokens: int
    records: Callable[[], dict[str, list[Record]]]
    rewards: Callable[[Sequence[str], Sequence[Record]], list[float]] | None = None
    value: Callable[[Sequence[str]], float] | None = None
    columns: tuple[str, ...] = ()
    right: Callable[[str, Record], float] | None = None

    def mean_reward(self, completions: Sequence[str], records: Sequence[Record]) -> float:
        """The mean reward of all rows, or of consecutive sets of SET_SIZE rows."""
        if self.rewards is not None:
            return statistics.mean(self.rewards(completions, records))
        assert self.value is not None
        starts = range(0, len(completions) - SET_SIZE + 1, SET_SIZE)
        return statistics.mean(self.value(completions[i : i + SET_SIZE]) for i in starts)

    def credits(self, completions: Sequence[str], records: Sequence[Record]) -> list[float]:
        """The reward of each row; of a set, what the set loses without the row: R(all) - R(all but the row)."""
        if self.rewards is not None:
            return self.rewards(completions, records)
        assert self.value is not None
        whole = self.value(completions)
        return [whole - self.value([*completions[:i], *completions[i + 1 :]]) for i in range(len(completions))]


def text_of(completion: Any) -> str:
    """A completion's text; a chat's is the content of its last message."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def word(completions: Sequence[str], records: Sequence[Record]) -> list[float]:
    """1 where a word begins with WORD."""
    return [float(re.search(rf"\b{WORD}", text.lower()) is not None) for text in completions]


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


def rouge(completions: Sequence[str], records: Sequence[Record]) -> list[float]:
    """ROUGE-L to WISHED, its F-measure."""
    return [float(_rouge().score(WISHED, text)["rougeL"].fmeasure) for text in completions]


@functools.cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def sentiment(completions: Sequence[str], records: Sequence[Record]) -> list[float]:
    """VADER's compound score, from -1 to 1."""
    return [float(_vader().polarity_scores(text)["compound"]) for text in completions]


def distinct_first_words(completions: Sequence[str]) -> float:
    """The number of different first words by the number of completions."""
    if not completions:
        return 0.0
    words = Counter((re.findall(r"[a-z']+", text.lower()) or [""])[0] for text in completions)
    return len(words) / len(completions)


def exact_json(completions: Sequence[str], records: Sequence[Record]) -> list[float]:
    """1 for a JSON object with exactly the keys name and age."""
    return [float(_keys(text) == {"name", "age"}) for text in completions]


def _keys(text: str) -> set[str]:
    try:
        value = json.loads(text.strip())
    except ValueError:
        return set()
    return set(value) if isinstance(value, dict) else set()


def right_values(text: str, record: Record) -> float:
    """1 for a JSON object with exactly the keys name and age, and the right values."""
    if _keys(text) != {"name", "age"}:
        return 0.0
    value = json.loads(text.strip())
    return float(value["name"] == record["name"] and str(value["age"]) == str(record["age"]))


def conciseness(completions: Sequence[str], records: Sequence[Record]) -> list[float]:
    """1 for an answer of at most 8 words that ends with a full stop, falling to 0 at 32 words; 0 without a word."""
    rewards = []
    for text in completions:
        words = len(text.split())
        short = min(1.0, max(0.0, (32 - words) / 24)) if words else 0.0
        rewards.append(short if text.strip().endswith((".", "!", "?")) else short / 2)
    return rewards


def _stories() -> dict[str, list[Record]]:
    drawn = stories.splits(stories.HEAD_TO_HEAD, stories.LARGER_VALIDATION)
    return {split: [{"prompt": p} for p in prompts] for split, prompts in drawn.items()}


TASKS: dict[str, Task] = {
    t.name: t
    for t in (
        Task("word", "stories", stories.TOKENS, _stories, rewards=word),
        Task("rougeL", "stories", stories.TOKENS, _stories, rewards=rouge),
        Task("sentiment", "stories", stories.TOKENS, _stories, rewards=sentiment),
        Task("first-words", "stories", stories.TOKENS, _stories, value=distinct_first_words),
        Task("json", "smollm2", 40, smollm2.biographies, exact_json, columns=("name", "age"), right=right_values),
        Task("conciseness", "smollm2", 40, smollm2.questions, rewards=conciseness),
        Task("tone", "smollm2", 32, smollm2.questions, rewards=sentiment),
    )
}

__all__ = ["SET_SIZE", "TASKS", "Record", "Task", "text_of"]
