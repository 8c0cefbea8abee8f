"""The style that all pages share: colours in light and dark, fonts, and the reset of the browser's own style.

Knows no page.
"""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def palette() -> str:
    """The style sheet that stands before a page's own."""
    return Path(__file__).with_suffix(".css").read_text(encoding="utf-8")


__all__ = ["palette"]
