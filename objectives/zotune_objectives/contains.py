"""The share of completions that contain a text: `-o contains:happy`, or one of several: `-o contains:happy,glad`.

1 or 0 a row. Parts of words count too; the regex objective tells words apart (`-o regex:'\\bglad\\b'`).
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
    text: str  # what to look for; several are parted by the separator
    match: Literal["any", "all"] = "any"  # whether one of several is enough
    ignore_case: bool = True  # A is a
    separator: str = ","  # what parts several texts; none: the text is one

    def __post_init__(self) -> None:
        if not self._wanted():
            raise OptionError(f"contains: there is nothing to look for in {self.text!r}")

    def _wanted(self) -> list[str]:
        parts = [p.strip() for p in self.text.split(self.separator)] if self.separator else [self.text]
        return [p.casefold() if self.ignore_case else p for p in parts if p]

    def __call__(self, completions: Sequence[Any]) -> list[float]:
        """1.0 where a completion contains it."""
        enough, wanted = any if self.match == "any" else all, self._wanted()
        said = [t.casefold() if self.ignore_case else t for t in texts(completions)]
        return [float(enough(w in t for w in wanted)) for t in said]
