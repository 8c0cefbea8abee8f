"""Answers to questions that take counting and sums, as DROP compares them: F1 of tokens and exact match.

    span → tokens, parted at blanks and hyphens; each in lower case, a number as a float (7 → 7.0), from anything else
           punctuation and then a, an, the taken out; what is a number only now (1,000 or 5%) as a float too
    F1 of two spans, as sets of tokens = 2·P·R / (P + R); 0 where the right one has numbers and they share none
    F1 = the sum over the best one-to-one pairing of spans / the larger number of spans, rounded to hundredths
    exact match = the same spans, in any order, as often

The best over all right answers. Source: DROP (arXiv:1903.00161), by the rules of its evaluation script
(allennlp_models/rc/tools/drop.py). A minus sign is a hyphen, so -5 is 5; of $3.50 the point is punctuation too, so it
is 350. A right answer whose first span is empty is none; None where a row has none.

An answer of several spans is a list, where the data can hold one; or one text that `separator` parts, in completions as
in references; or, with spans=all, a row's list of right texts is one answer instead of several to choose from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import zotune
from zotune.text import texts
from zotune_objectives.answers import ARTICLES, PUNCTUATION

Answer = str | Sequence[str]
References = Sequence[str | Sequence[Answer] | None]


def is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def normal(span: str) -> list[str]:
    """A span's tokens as DROP compares them."""
    out: list[str] = []
    for token in span.lower().replace("-", " ").split(" "):
        bare = token if is_number(token) else token.translate(PUNCTUATION)
        out += [str(float(bare))] if is_number(bare) else ARTICLES.sub(" ", bare).split()
    return out


def overlap(found: list[str], right: list[str]) -> float:
    """F1 of two spans."""
    a, b = set(found), set(right)
    numbers = {t for t in b if is_number(t)}
    if numbers and not numbers & a:
        return 0.0
    common = len(a & b)
    precision, recall = common / len(a) if a else 1.0, common / len(b) if b else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def f1_of(found: Sequence[str], right: Sequence[str]) -> float:
    """F1 of two answers, each a list of spans."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    a, b = [normal(s) for s in found], [normal(s) for s in right]
    table = np.array([[overlap(x, y) for x in a] for y in b])
    pairs = table[linear_sum_assignment(table, maximize=True)]
    return float(np.round(pairs.sum() / max(len(a), len(b)), 2))  # as the script rounds; Python's own differs in ties


def same(found: Sequence[str], right: Sequence[str]) -> float:
    """1 where two answers have the same spans."""
    a, b = [" ".join(normal(s)) for s in found], [" ".join(normal(s)) for s in right]
    return float(set(a) == set(b) and len(a) == len(b))


def best(
    score: Callable[[Sequence[str], Sequence[str]], float],
    completions: Sequence[Any],
    references: References,
    separator: str,
    spans: str,
) -> list[float | None]:
    """For each row the best over its right answers; None where it has none."""

    def parted(answer: Answer) -> list[str]:
        whole = [answer] if isinstance(answer, str) else list(answer)
        return [s for text in whole for s in (text.split(separator) if separator else [text])]

    out: list[float | None] = []
    for said, right in zip(texts(completions), references, strict=True):
        several: list[Any] = [right] if isinstance(right, str) else list(right or [])
        answers = [parted(a) for a in ([several] if several and spans == "all" else several)]
        known = [a for a in answers if a and a[0].strip()]
        out.append(max((score(parted(said), a) for a in known), default=None))
    return out


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class DropF1:
    separator: str = ""  # what parts the spans of one answer; none: a text is one span
    spans: Literal["any", "all"] = "any"  # a row's list of right texts: several right answers, or the spans of one

    def __call__(self, completions: Sequence[Any], references: References) -> list[float | None]:
        """F1 with the nearest right answer, in [0, 1]."""
        return best(f1_of, completions, references, self.separator, self.spans)


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class DropExactMatch:
    separator: str = ""  # what parts the spans of one answer; none: a text is one span
    spans: Literal["any", "all"] = "any"  # a row's list of right texts: several right answers, or the spans of one

    def __call__(self, completions: Sequence[Any], references: References) -> list[float | None]:
        """1 where an answer has the spans of a right one."""
        return best(same, completions, references, self.separator, self.spans)
