"""F1 and exact match of answers that hold numbers or several spans, as the DROP benchmark computes them.

    tokens of a span: the parts between blanks and hyphens, in lower case; a number becomes a float (7 → 7.0); any other
           part loses its punctuation and the articles a, an, the and becomes a float if it is then a number (1,000; 5%)
    F1 of two spans, as sets of tokens = 2·P·R / (P + R); 0 if the reference has numbers and they share none
    F1 of two answers = sum over the best one-to-one pairing of spans / the larger number of spans, rounded to 0.01
    exact match = the same spans in any order, each as often

A row with several references gets the best score. A minus sign is a hyphen, so -5 equals 5; the point of $3.50 is
punctuation, so it is 350. A reference whose first span is empty is ignored; a row without references scores None.
Source: DROP (arXiv:1903.00161), by its evaluation script (allennlp_models/rc/tools/drop.py).

An answer of several spans is a list in the data; or one text that `separator` splits, in completions and references;
or, with spans=all, the row's list of references is a single answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import zotune
from zotune.text import texts
from zotune_objectives.answers import ARTICLES, PUNCTUATION

Answer = str | Sequence[str]
"""A text, or a list of spans."""
References = Sequence[str | Sequence[Answer] | None]


def is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def tokens(span: str) -> list[str]:
    """The tokens of a span as DROP compares them."""
    result: list[str] = []
    for token in span.lower().replace("-", " ").split(" "):
        bare = token if is_number(token) else token.translate(PUNCTUATION)
        result += [str(float(bare))] if is_number(bare) else ARTICLES.sub(" ", bare).split()
    return result


def span_f1(completion: list[str], reference: list[str]) -> float:
    """F1 of two spans, given as tokens."""
    a, b = set(completion), set(reference)
    numbers = {t for t in b if is_number(t)}
    if numbers and not numbers & a:
        return 0.0
    common = len(a & b)
    precision, recall = common / len(a) if a else 1.0, common / len(b) if b else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def answer_f1(completion: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of two answers, each a list of spans."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    a, b = [tokens(s) for s in completion], [tokens(s) for s in reference]
    table = np.array([[span_f1(x, y) for x in a] for y in b])
    pairs = table[linear_sum_assignment(table, maximize=True)]
    # numpy rounds as the script does; Python's round differs on ties
    return float(np.round(pairs.sum() / max(len(a), len(b)), 2))


def answer_equal(completion: Sequence[str], reference: Sequence[str]) -> float:
    """1.0 if two answers have the same spans, else 0.0."""
    a, b = [" ".join(tokens(s)) for s in completion], [" ".join(tokens(s)) for s in reference]
    return float(set(a) == set(b) and len(a) == len(b))


def best_scores(
    score: Callable[[Sequence[str], Sequence[str]], float],
    completions: Sequence[Any],
    references: References,
    separator: str,
    spans: str,
) -> list[float | None]:
    """For each row the highest score over its references; None if it has none."""

    def split(answer: Answer) -> list[str]:
        parts = [answer] if isinstance(answer, str) else list(answer)
        return [span for part in parts for span in (part.split(separator) if separator else [part])]

    scores: list[float | None] = []
    for completion, reference in zip(texts(completions), references, strict=True):
        several: list[Any] = [reference] if isinstance(reference, str) else list(reference or [])
        answers = [split(a) for a in ([several] if several and spans == "all" else several)]
        answers = [a for a in answers if a and a[0].strip()]
        scores.append(max((score(split(completion), a) for a in answers), default=None))
    return scores


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class DropF1:
    separator: str = ""  # separator of the spans of an answer; empty: a text is one span
    spans: Literal["any", "all"] = "any"  # a row's list of references: any is a correct answer, or all are its spans

    def __call__(self, completions: Sequence[Any], references: References) -> list[float | None]:
        """F1 with the best reference of each row, in [0, 1]."""
        return best_scores(answer_f1, completions, references, self.separator, self.spans)


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class DropExactMatch:
    separator: str = ""  # separator of the spans of an answer; empty: a text is one span
    spans: Literal["any", "all"] = "any"  # a row's list of references: any is a correct answer, or all are its spans

    def __call__(self, completions: Sequence[Any], references: References) -> list[float | None]:
        """1.0 for each completion with the spans of one of its references, else 0.0."""
        return best_scores(answer_equal, completions, references, self.separator, self.spans)
