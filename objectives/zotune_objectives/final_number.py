r"""The final number of a completion, compared with that of the reference: the metric of GSM8K.

The final number is the last one in `\boxed{…}`, else the first one after the last `####`, else the last number of the
text. Numbers are equal if their values are: 1,000 = 1000.0, $5 = 5. 1 or 0 for each row; None for a row whose reference
has no number.

Source: GSM8K (arXiv:2110.14168), whose references end in `#### number`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import zotune
from zotune.text import texts
from zotune_objectives.references import References, as_list

NUMBER: Final = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
BOXED: Final = re.compile(r"\\boxed\{([^{}]*)\}")
MARK: Final = "####"


def final_number(text: str, marked: bool = False) -> Decimal | None:
    """The final number of a text; None where it has none. marked: only one after `####` or in a box counts."""
    if boxes := BOXED.findall(text):
        numbers = NUMBER.findall(boxes[-1])
        return _decimal(numbers[-1]) if numbers else None
    if MARK in text:
        numbers = NUMBER.findall(text.rpartition(MARK)[2])
        return _decimal(numbers[0]) if numbers else None
    numbers = [] if marked else NUMBER.findall(text)
    return _decimal(numbers[-1]) if numbers else None


def _decimal(number: str) -> Decimal:
    return Decimal(number.replace(",", ""))


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class FinalNumber:
    marked: bool = False  # whether only a number after #### or in \boxed{} counts in a completion

    def __call__(self, completions: Sequence[Any], references: References) -> list[float | None]:
        """1.0 if the final number of a completion is that of one of its references, else 0.0."""
        return [self._score(c, as_list(r)) for c, r in zip(texts(completions), references, strict=True)]

    def _score(self, completion: str, references: Sequence[str]) -> float | None:
        wanted = [n for r in references if (n := final_number(r)) is not None]
        return float(final_number(completion, self.marked) in wanted) if wanted else None
