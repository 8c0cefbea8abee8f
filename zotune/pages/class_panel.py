"""Per-class scores and confusion matrices on the test set. Knows counts of predictions; knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from zotune.pages.markup import Child, Markup, foreign, markup, tag
from zotune.pages.run_record import Predictions
from zotune.text import number

MOST_CLASSES: Final = 30
"""The matrices are drawn for at most so many classes; the table of classes has all."""
SHADES: Final = 9


class Rates(NamedTuple):
    """Precision, recall and F1 of a class in [0, 1]; 0 where nothing is predicted or correct."""

    precision: float
    recall: float
    f1: float


def counts(correct: Sequence[int], predicted: Sequence[int], classes: int) -> list[list[int]]:
    """The confusion matrix: a row for each correct class; the last column counts predictions of no class."""
    matrix = [[0] * (classes + 1) for _ in range(classes)]
    for c, p in zip(correct, predicted, strict=True):
        if 0 <= c < classes:
            matrix[c][p if 0 <= p < classes else classes] += 1
    return matrix


def rates(matrix: Sequence[Sequence[int]], k: int) -> Rates:
    """The rates of class k."""
    hit = matrix[k][k]
    predicted, support = sum(row[k] for row in matrix), sum(matrix[k])
    precision, recall = hit / predicted if predicted else 0.0, hit / support if support else 0.0
    return Rates(precision, recall, 2 * precision * recall / (precision + recall) if hit else 0.0)


def class_panel(p: Predictions, start: str, tuned: bool) -> Markup:
    """The table of classes and the matrices of the weights that tuning started from and of the tuned ones.

    start: what these are called; tuned: whether there are tuned ones.
    """
    n = len(p.names)
    before, after = counts(p.correct, p.before, n), counts(p.correct, p.after, n)
    rows: list[Child] = []
    for k, name in enumerate(p.names):
        old, new = rates(before, k), rates(after, k)
        gain = new.f1 - old.f1
        kind = "better" if gain > 0.005 else "worse" if gain < -0.005 else ""
        pairs = [number(a) + (f" → {number(b)}" if tuned else "") for a, b in zip(old, new, strict=True)]
        cells: list[Child] = [f"{sum(before[k]):,}", *pairs]
        if tuned:
            cells.append(tag("span", number(gain, sign=True), class_=kind))
        rows.append(tag("tr", tag("th", foreign(name, 60), scope="row"), [tag("td", c) for c in cells]))
    heads = ["class", "test rows", "precision", "recall", "F1", *(["change of F1"] if tuned else [])]
    table = tag(
        "table", tag("thead", tag("tr", [tag("th", h, scope="col") for h in heads])), tag("tbody", rows), class_="wide"
    )
    parts: list[Child] = [tag("div", table, class_="scroll", tabindex="0")]
    if n <= MOST_CLASSES:
        most = max((x for m in (before, after) for row in m for x in row), default=1) or 1
        pair = [_matrix(start, p.names, before, most)]
        if tuned:
            pair.append(_matrix("tuned weights", p.names, after, most))
        parts.append(tag("div", pair, class_="pair"))
    else:
        parts.append(tag("p", f"The confusion matrices of {n} classes are left out.", class_="note"))
    return markup(parts)


def _matrix(title: str, names: Sequence[str], matrix: Sequence[Sequence[int]], most: int) -> Markup:
    """A confusion matrix as a table whose cells are shaded by the square root of their count."""
    none = any(row[-1] for row in matrix)
    columns = [*names, *(["no class"] if none else [])]
    numbers = [tag("th", str(i + 1), scope="col", title=name) for i, name in enumerate(columns)]
    body = []
    for k, row in enumerate(matrix):
        cells = [
            tag("td", x or "", class_=f"h{round((SHADES - 1) * (x / most) ** 0.5)}" + (" hit" if i == k else ""))
            for i, x in enumerate(row[: len(columns)])
        ]
        body.append(tag("tr", tag("th", f"{k + 1} ", foreign(names[k], 24), scope="row"), cells))
    head = tag("tr", tag("td", "correct ↓ predicted →", class_="corner"), numbers)
    table = tag("table", tag("caption", title), tag("thead", head), tag("tbody", body), class_="matrix")
    return tag("div", table, class_="scroll", tabindex="0")


__all__ = ["Rates", "class_panel", "counts", "rates"]
