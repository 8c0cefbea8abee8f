"""The share of completions that contain a text: `-o contains:happy`, or one of several: `-o contains:happy,glad`.

1 or 0 for each row. Parts of words match too; use the regex objective for whole words (`-o regex:'\\bglad\\b'`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import zotune
from zotune.errors import OptionError
from zotune.text import texts


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class Contains:
    text: str  # text to search for, or several with the separator between them
    match: Literal["any", "all"] = "any"  # whether one of several texts must match, or all
    ignore_case: bool = True  # whether upper and lower case are equal
    separator: str = ","  # separator of several texts; empty: the text is a single one

    def __post_init__(self) -> None:
        if not self._patterns():
            raise OptionError(
                f"contains: text must hold something besides blanks and separators, got {self.text!r}",
                hint="-o contains:happy",
            )

    def _patterns(self) -> list[str]:
        parts = [p.strip() for p in self.text.split(self.separator)] if self.separator else [self.text]
        return [p.casefold() if self.ignore_case else p for p in parts if p]

    def __call__(self, completions: Sequence[Any]) -> list[float]:
        """1.0 for each completion that contains the text, else 0.0."""
        quantifier, patterns = any if self.match == "any" else all, self._patterns()
        folded = [t.casefold() if self.ignore_case else t for t in texts(completions)]
        return [float(quantifier(p in t for p in patterns)) for t in folded]
