"""Right and short: a completion that holds the reference's words scores by how few others it has.

    score = 0 where the reference's words do not occur in a row;  else min(1, (r + spare) / n)

r, n: words of the reference and of the completion; spare: further words that cost nothing. Case and punctuation around
words do not count, and numbers are equal by value, as in `token-f1`. A row with several references gets the best score
in [0, 1]; None for a row without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zotune.errors import OptionError
from zotune.text import texts
from zotune.types import ObjectiveInfo
from zotune_objectives.answers import tokens
from zotune_objectives.references import References, best_score, references_of
from zotune_objectives.rouge import without_blanks


@dataclass(frozen=True)
class Concise:
    spare: int = 3  # further words that cost nothing

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo("maximize", level="sample", check_row=self._check)

    def _check(self, row: Mapping[str, Any]) -> str | None:
        text = (
            "concise looks for a reference between blanks, and references are in a script without blanks between words"
        )
        return text if any(without_blanks(r, 0) for r in references_of(row)) else None

    def __post_init__(self) -> None:
        if self.spare < 0:
            raise OptionError(f"concise: spare must be 0 or more, got {self.spare}")

    def __call__(self, completions: Sequence[Any], references: References) -> list[float | None]:
        """The score of each completion with its best reference."""
        return [best_score(self._score, c, r) for c, r in zip(texts(completions), references, strict=True)]

    def _score(self, completion: str, reference: str) -> float:
        said, wanted = tokens(completion, "number"), tokens(reference, "number")
        places = range(len(said) - len(wanted) + 1)
        if not wanted or not any(said[i : i + len(wanted)] == wanted for i in places):
            return 0.0
        return min(1.0, (len(wanted) + self.spare) / len(said))
