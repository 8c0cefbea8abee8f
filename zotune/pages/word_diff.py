"""Which words of two texts differ. Knows text; knows no run."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Final

from zotune.pages.markup import Markup, markup, tag
from zotune.text import plain

MOST_WORDS: Final = 400
"""Longer texts are compared up to this word."""
_WORDS: Final = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")


def differences(before: str, after: str) -> tuple[Markup, Markup]:
    """Both texts as HTML: words of the first that the second lacks as `<del>`, words that it has anew as `<ins>`."""
    a, b = _WORDS.findall(before), _WORDS.findall(after)
    first, second = a[:MOST_WORDS], b[:MOST_WORDS]
    old, new = list[Markup](), list[Markup]()
    for kind, i, j, k, m in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        old.append(_part(first[i:j], "" if kind == "equal" else "del"))
        new.append(_part(second[k:m], "" if kind == "equal" else "ins"))
    return markup([*old, _part(a[MOST_WORDS:], "")]), markup([*new, _part(b[MOST_WORDS:], "")])


def _part(words: Sequence[str], name: str) -> Markup:
    text = plain("".join(words))
    if not text:
        return Markup("")
    return tag(name, text) if name else markup(text)


__all__ = ["differences"]
