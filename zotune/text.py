"""Text for a terminal: control characters are written out, so that the terminal shows them and obeys none.

Knows characters, nothing else.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

_BIDIRECTIONAL: Final = frozenset({*range(0x202A, 0x202F), *range(0x2066, 0x206A)})
"""Characters that change the direction of the text after them."""

_ASCII: Final = dict(
    pair.split()
    for pair in (  # noqa: SIM905
        "± +-|− -|– -|— -|· -|… ...|→ ->|← <-|× x|≥ >=|≤ <=|≠ !=|≈ ~|∞ inf|√ sqrt|“ \"|” \"|‘ '|’ '|« <<|» >>|"
        "ε eps|σ sigma|θ theta|η eta|β beta|λ lambda|μ mu|Δ Delta|Σ sum|∇ grad|∈ in"
    ).split("|")
)
"""ASCII that reads like a character which a terminal may lack."""


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


def short_name(objective: str) -> str:
    """The name of an objective in lines of text: of a function in a file, the function."""
    return re.sub(r"[^\s:]+\.py:(?=\w)", "", objective)


def duration(seconds: float) -> str:
    """Seconds as text, in the two largest units that matter: 45 s, 12 min, 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: characters that an encoding lacks as ASCII that reads alike, else as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(_ASCII.get(c) or _ascii(c) for c in part), error.end


def _ascii(character: str) -> str:
    """An accented letter without its accent; any other character as an escape."""
    base = unicodedata.normalize("NFKD", character)[:1]
    return base if base.isascii() and base.isalpha() else character.encode("unicode_escape").decode()


codecs.register_error("zotune", replace_unencodable)


def texts(completions: Sequence[Any]) -> list[str]:
    """Completions as text: a string stays; a list of messages becomes the content of its last message."""
    return [c if isinstance(c, str) else str(c[-1]["content"]) if c else "" for c in completions]


__all__ = ["duration", "number", "one_line", "plain", "short_name", "texts"]
