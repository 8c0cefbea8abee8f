"""Prompts for stories260K: openings of stories, drawn from lists of beginnings by a seed.

Each benchmark has openings of its own, so that what was chosen on one of them says nothing about the other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

MODEL = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K" / "hf"
TOKENS = 48
"""New tokens of a story, about twenty words."""
SIZES = {"train": 100, "validation": 20, "test": 120}
LARGER_VALIDATION = {"train": 100, "validation": 40, "test": 100}
"""Openings of each split; the larger validation set chooses learning rates."""

RARE_WORDS = (
    (
        *("Mia", "Leo", "Nina", "Oscar", "Ruby", "Sara", "Peter", "Kate", "The farmer", "The little boy"),
        *("A young girl", "My brother", "Her grandma", "A tiny mouse", "The brown bear", "A green frog"),
        *("The teacher", "One small fish", "An old dog", "Two friends"),
    ),
    (
        *("was looking for", "had a new", "wanted to find", "liked to", "went to see", "sat near the"),
        *("was afraid of", "could not", "saw something", "lived in", "put on a", "woke up and"),
    ),
)
"""Who and what they do: the openings of benchmarks/rare_words.py."""
HEAD_TO_HEAD = (
    (
        *("Once upon a time,", "One day,", "One morning,", "Last summer,", "In a small town,", "On a sunny day,"),
        *("After lunch,", "At night,", "In the winter,", "Far away,", "Near the lake,", "Every Sunday,"),
    ),
    (
        *("a little girl", "a boy named Max", "Anna and Tom", "an old man", "a big bear", "Lucy", "a kind woman"),
        *("the children", "a white rabbit", "Jack", "a small bird", "my uncle", "a brave knight", "Ella", "two cats"),
        *("a silly monkey", "Billy", "a young fox", "the baker", "grandpa"),
    ),
)
"""When and who: the openings of benchmarks/head_to_head.py."""


def splits(
    parts: tuple[Sequence[str], Sequence[str]], sizes: Mapping[str, int] = SIZES, seed: int = 0
) -> dict[str, list[str]]:
    """Openings by split, no two alike, in the order of a seed."""
    openings = [f"{first} {second}" for second in parts[1] for first in parts[0]]
    random.Random(seed).shuffle(openings)
    drawn: dict[str, list[str]] = {}
    for split, size in sizes.items():
        drawn[split], openings = openings[:size], openings[size:]
    return drawn


def write_splits(rows: Mapping[str, Sequence[Mapping[str, object]]], folder: Path) -> None:
    """One JSONL file for each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, records in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


__all__ = ["HEAD_TO_HEAD", "LARGER_VALIDATION", "MODEL", "RARE_WORDS", "SIZES", "TOKENS", "splits", "write_splits"]
