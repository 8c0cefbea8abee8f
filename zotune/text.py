"""Text for a terminal: control characters are written out, so that the terminal shows them and obeys none.

Knows characters, nothing else.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, Final

_BIDIRECTIONAL: Final = frozenset({*range(0x202A, 0x202F), *range(0x2066, 0x206A)})
"""Characters that change the direction of the text after them."""


def plain(text: str) -> str:
    """The text with its control characters escaped, except line ends and tabs."""
    return "".join(
        c.encode("unicode_escape").decode()
        if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or ord(c) in _BIDIRECTIONAL
        else c
        for c in text.replace("\r\n", "\n")
    )


def one_line(text: str, most: int = 2000) -> str:
    """The text on one line of at most `most` characters, with its control characters escaped."""
    line = plain(" ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def number(value: float, sign: bool = False) -> str:
    """A score with four decimals, or four digits from 1000 on; -0.0000 is 0.0000. sign: with + for positive values."""
    shown = f"{value:+.4f}" if sign else f"{value:.4f}"
    if abs(value) >= 1000:
        return f"{value:+.4g}" if sign else f"{value:.4g}"
    return "0.0000" if float(shown) == 0 else shown


def texts(completions: Sequence[Any]) -> list[str]:
    """Completions as text: a string stays; a list of messages becomes the content of its last message."""
    return [c if isinstance(c, str) else str(c[-1]["content"]) if c else "" for c in completions]


__all__ = ["number", "one_line", "plain", "texts"]
