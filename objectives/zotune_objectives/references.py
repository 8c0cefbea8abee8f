"""References: the correct completions of rows, of which a row may have one, several or none.

This module knows neither metrics nor models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Reference = str | Sequence[str] | None
"""The references of one row: a text, several texts, or None."""
References = Sequence[Reference]


def as_list(reference: Reference) -> list[str]:
    """The references of one row as a list; empty if it has none."""
    return [reference] if isinstance(reference, str) else list(reference or [])


def references_of(row: Mapping[str, Any]) -> list[str]:
    """The references of a row before a run, from its columns."""
    messages = row.get("messages")
    if isinstance(messages, list) and messages and messages[-1].get("role") == "assistant":
        return [str(messages[-1].get("content"))]
    value = row.get("completion")
    return [str(text) for text in (value if isinstance(value, list | tuple) else [value]) if text is not None]


def best_score(score: Callable[[str, str], float], completion: str, reference: Reference) -> float | None:
    """The highest `score(completion, reference)` over the references of a row; None if it has none."""
    return max((score(completion, r) for r in as_list(reference)), default=None)
