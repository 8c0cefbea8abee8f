r"""The share of completions that match a regular expression: `-o regex:'^\d+$'`.

1 or 0 a row: whether the pattern is found anywhere, or with full=true matches all of it. Python's `re` syntax. ^ and $
are the ends of the whole text unless flags say m; $ also stands before a last line break.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zotune
from zotune.errors import OptionError
from zotune.text import texts


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class Regex:
    pattern: str  # regular expression, in Python's syntax
    flags: str = ""  # letters: i ignores case, m lets ^ and $ match at lines, s lets . match line breaks, x, a
    full: bool = False  # whether the whole completion has to match

    def __post_init__(self) -> None:
        if unknown := set(self.flags) - set("imsxa"):
            raise OptionError(f"regex: flags are letters of imsxa, got {''.join(sorted(unknown))!r}")
        try:
            self._compiled()
        except re.error as error:
            raise OptionError(f"regex: {self.pattern!r} is no regular expression: {error}") from None

    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, sum(re.RegexFlag[letter.upper()] for letter in set(self.flags)))

    def __call__(self, completions: Sequence[Any]) -> list[float]:
        """1.0 where a completion matches."""
        compiled = self._compiled()  # re keeps it
        found = compiled.fullmatch if self.full else compiled.search
        return [float(bool(found(t))) for t in texts(completions)]
