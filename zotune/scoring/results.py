"""What an objective returned, read as numbers.

A result is one number for the whole set, or a list with one number (or None: not applicable) for each row; an order
objective returns for each row which of several candidates is better. Anything else is an ObjectiveError: a failed score
is never a number. Knows results; calls no objective.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, Final

from zotune.declarations import plain, scalar
from zotune.errors import NonFiniteScore, ObjectiveError
from zotune.types import Score

LARGEST: Final = 1e100
"""The largest absolute value of a score. Sums, squares and differences of scores divided by ε stay finite."""


def read(name: str, result: Any, rows: int) -> Score:
    """The result of the objective `name` on so many rows as a Score. Raises ObjectiveError unless it is one finite
    number, or a list of `rows` finite numbers or Nones of which at least one is a number."""
    samples = read_list(name, result, rows)
    if samples is None:
        return Score(_number(name, plain(result)))
    scores = [x for x in samples if x is not None]
    if not scores:
        raise ObjectiveError(f"objective {name!r} returned None for every row")
    return Score(math.fsum(scores) / len(scores), tuple(samples))


def total(values: Iterable[float]) -> float:
    """The exact sum, rounded once; infinite where it is no finite number, also for infinities of both signs."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.inf


def read_list(name: str, result: Any, rows: int) -> list[float | None] | None:
    """A result that is one number (or None) a row; None where it is no list. Raises ObjectiveError."""
    result = plain(result)
    if not isinstance(result, list | tuple):
        return None
    if len(result) != rows:
        raise ObjectiveError(f"objective {name!r} returned {len(result)} scores for {rows} rows")
    return [None if x is None else _number(name, x) for x in result]


def read_order(name: str, result: Any, candidates: Sequence[Sequence[Any]]) -> list[list[float] | None]:
    """The result of an order objective as one strength for each candidate of each row; larger is better.

    For a row it may return the index of the best candidate, -1 where it cannot tell, one strength for each candidate,
    or None where the row does not count. Raises ObjectiveError for anything else.
    """
    result = plain(result)
    if not isinstance(result, list | tuple) or len(result) != len(candidates):
        returned = f"{len(result)} answers" if isinstance(result, list | tuple) else f"a {type(result).__name__}"
        raise ObjectiveError(f"objective {name!r} returned {returned} for {len(candidates)} rows to compare")
    out: list[list[float] | None] = []
    for answer, row in zip(map(plain, result), candidates, strict=True):
        if answer is None:
            out.append(None)
        elif isinstance(answer, list | tuple):
            if len(answer) != len(row):
                raise ObjectiveError(f"objective {name!r} returned {len(answer)} strengths for {len(row)} candidates")
            out.append([_number(name, x) for x in answer])
        else:
            best = _number(name, answer)
            if best not in (-1, *range(len(row))):
                raise ObjectiveError(f"objective {name!r} chose candidate {answer!r} of {len(row)} (-1: cannot tell)")
            out.append([0.5 if best < 0 else float(i == best) for i in range(len(row))])
    return out


def _number(name: str, x: Any) -> float:
    x = scalar(x)
    if not isinstance(x, Real | Decimal):
        shown = repr(x) if len(repr(x)) < 60 else type(x).__name__
        raise ObjectiveError(f"objective {name!r} returned a {type(x).__name__} where a number belongs: {shown}")
    try:
        value = float(x)
    except OverflowError:  # a whole number may be larger than any float
        value = math.inf
    if not math.isfinite(value):
        raise NonFiniteScore(f"objective {name!r} returned {value}")
    if abs(value) > LARGEST:
        raise NonFiniteScore(f"objective {name!r} returned {value}; scores lie between -{LARGEST:g} and {LARGEST:g}")
    return value


__all__ = ["LARGEST", "read", "read_list", "read_order", "total"]
