r"""The share of completions that match a regular expression: `-o regex:'^\d+$'`.

1 or 0 for each row: whether the pattern occurs in the completion or, with full=true, matches all of it. The syntax is
that of Python's `re`. ^ and $ match at the ends of the text, and at the ends of lines with the flag m; $ also matches
before a final line break.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zotune
from zotune.errors import OptionError
from zotune.text import texts

FLAGS = "imsxa"


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class Regex:
    pattern: str  # regular expression in Python's syntax
    flags: str = ""  # i: ignore case, m: ^ and $ match at lines, s: . matches line breaks; also x and a
    full: bool = False  # whether the whole completion must match

    def __post_init__(self) -> None:
        if unknown := set(self.flags) - set(FLAGS):
            raise OptionError(f"regex: flags must be letters of {FLAGS}, got {''.join(sorted(unknown))!r}")
        try:
            self._compiled()
        except re.error as error:
            raise OptionError(f"regex: pattern {self.pattern!r} is not a regular expression: {error}") from None

    def _compiled(self) -> re.Pattern[str]:
        """The compiled pattern; `re` caches it."""
        return re.compile(self.pattern, sum(re.RegexFlag[letter.upper()] for letter in set(self.flags)))

    def __call__(self, completions: Sequence[Any]) -> list[float]:
        """1.0 for each completion that matches, else 0.0."""
        pattern = self._compiled()
        match = pattern.fullmatch if self.full else pattern.search
        return [float(bool(match(t))) for t in texts(completions)]
