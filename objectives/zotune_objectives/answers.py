"""Token F1 and exact match of completions with references, normalised as in SQuAD.

    normalised text: lower case, without punctuation and the articles a, an, the; whitespace collapsed
    F1 = 2·|common tokens| / (|tokens of the completion| + |tokens of the reference|)

A row with several references gets the best score. Two empty texts are equal; an empty text and another have F1 0. One
score in [0, 1] for each row. Source: SQuAD (arXiv:1606.05250), section 6.1, and its evaluation script.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import zotune
from zotune.text import texts
from zotune_objectives.references import References, best_score

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """The text as SQuAD compares it."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def f1(completion: str, reference: str) -> float:
    """F1 of the tokens that two texts have in common."""
    a, b = normalize(completion).split(), normalize(reference).split()
    if not a or not b:
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b))


def equal(completion: str, reference: str) -> float:
    """1.0 if two texts are equal after normalisation, else 0.0."""
    return float(normalize(completion) == normalize(reference))


@zotune.objective(direction="maximize", level="sample")
def token_f1(completions: Sequence[Any], references: References) -> list[float | None]:
    """Token F1 with the best reference of each row; None if it has none."""
    return [best_score(f1, c, r) for c, r in zip(texts(completions), references, strict=True)]


@zotune.objective(direction="maximize", level="sample")
def exact_match(completions: Sequence[Any], references: References) -> list[float | None]:
    """1.0 if a completion equals one of the row's references, else 0.0; None if it has none."""
    return [best_score(equal, c, r) for c, r in zip(texts(completions), references, strict=True)]
