"""Answers to questions against the right ones: token F1 and exact match, with SQuAD's normalisation.

    text → lower case, without punctuation, without a, an, the, blanks joined
    F1 = 2·|common tokens| / (|tokens found| + |tokens of the right answer|), the best over all right answers

Source: SQuAD (arXiv:1606.05250), section 6.1 and its evaluation script. Two empty answers are equal; an empty one
against another has F1 0. One score in [0, 1] a row.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import zotune
from zotune.text import texts

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
References = Sequence[str | Sequence[str] | None]


def normal(text: str) -> str:
    """Text as SQuAD compares it."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def f1_of(found: str, right: str) -> float:
    a, b = normal(found).split(), normal(right).split()
    if not a or not b:
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b))


def best(score: Callable[[str, str], float], found: str, right: str | Sequence[str] | None) -> float | None:
    """The best over all right answers; None where there is none."""
    known = [right] if isinstance(right, str) else list(right or [])
    return max((score(found, r) for r in known), default=None)


@zotune.objective(direction="maximize", level="sample")
def token_f1(completions: Sequence[Any], references: References) -> list[float | None]:
    """F1 of the tokens that an answer shares with the nearest right one."""
    return [best(f1_of, c, r) for c, r in zip(texts(completions), references, strict=True)]


@zotune.objective(direction="maximize", level="sample")
def exact_match(completions: Sequence[Any], references: References) -> list[float | None]:
    """1 where an answer equals a right one."""
    return [
        best(lambda a, b: float(normal(a) == normal(b)), c, r)
        for c, r in zip(texts(completions), references, strict=True)
    ]
