"""Text for a person at a terminal, who sees it while the terminal obeys none of it. Knows characters, nothing else."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, Final

_TURNING: Final = frozenset({*range(0x202A, 0x202F), *range(0x2066, 0x206A)})
"""Characters that turn the direction of what follows them."""


def plain(text: str) -> str:
    """Text with its control characters written out, but line ends and tabs."""
    return "".join(
        c.encode("unicode_escape").decode()
        if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or ord(c) in _TURNING
        else c
        for c in text.replace("\r\n", "\n")
    )


def one_line(text: str, most: int = 2000) -> str:
    """The same on one line of a length that can be read."""
    said = plain(" ".join(text.split()))
    return said if len(said) <= most else said[: most - 1] + "…"


def texts(completions: Sequence[Any]) -> list[str]:
    """Completions as text: a string stays; a list of messages becomes the content of its last message."""
    return [c if isinstance(c, str) else str(c[-1]["content"]) if c else "" for c in completions]


__all__ = ["one_line", "plain", "texts"]
