"""Candidates of a row as an order objective gets them: distinct, in an order that carries no information.

Knows texts and strengths; calls no objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def distinct(row: Sequence[Any], reverse: bool = False) -> list[tuple[str, Any]]:
    """(text, candidate) of each distinct candidate, sorted by text, in descending order with `reverse`."""
    return sorted({str(c): c for c in row}.items(), reverse=reverse)


def in_own_order(
    row: Sequence[Any], distinct: Sequence[tuple[str, Any]], strengths: Sequence[float] | None
) -> list[float] | None:
    """The strengths of distinct candidates, one for each candidate of the row in its own order."""
    if strengths is None:
        return None
    by_text = {text: strength for (text, _), strength in zip(distinct, strengths, strict=True)}
    return [by_text[str(c)] for c in row]


__all__ = ["distinct", "in_own_order"]
