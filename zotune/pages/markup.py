"""HTML from values: everything that is not `Markup` is escaped.

Text of models and data goes through `foreign`, which also writes control characters out, keeps it from changing the
direction of what stands around it, and cuts it. Knows HTML; knows no run.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Final

from zotune.text import plain

EMPTY: Final = frozenset({"br", "input", "link", "meta", "path", "line", "rect", "polyline"})
"""Elements that are written without an end."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]
"""What an element holds: text, markup, or several of them; None is nothing."""


def markup(child: Child) -> Markup:
    """A child as HTML: text is escaped, markup stays."""
    if child is None:
        return Markup("")
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int | float):
        return Markup(html.escape(str(child), quote=False))
    return Markup("".join(map(markup, child)))


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """An element. attributes: `class_` is class, `data_x` is data-x; None and False leave one out, True is one without
    a value."""
    text = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in EMPTY and not children:
        return Markup(f"<{name}{text}>" if name in ("br", "input", "link", "meta") else f"<{name}{text}/>")
    return Markup(f"<{name}{text}>{markup(children)}</{name}>")


def _attribute(key: str, value: str | int | float | bool | None) -> str:
    if value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


def cut(text: str, most: int) -> tuple[str, int]:
    """At most so many characters of a text, without half of a pair, and how many are left out."""
    return (text, 0) if len(text) <= most else (text[:most], len(text) - most)


def foreign(text: str, most: int = 400) -> Markup:
    """Text of a model, of data or of a user, in one run of text."""
    shown, left = cut(text, most)
    return tag("bdi", plain(shown), left_out(left))


def left_out(count: int) -> Markup | None:
    """A note that so many characters are not shown."""
    return tag("span", f" … {count:,} more characters", class_="cut") if count else None


__all__ = ["Child", "Markup", "cut", "foreign", "left_out", "markup", "tag"]
