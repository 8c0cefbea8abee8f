"""Options of plugins: names and strings checked against the plugin's own dataclass or constructor.

Unknown names are refused with the nearest known one, values are converted by annotation, and an error that the plugin
raises is reported with the plugin's name. Knows no particular plugin and imports neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import tokenize
import typing
from collections.abc import Mapping
from typing import Any

from zotune.errors import OptionError, ZotuneError, nearest
from zotune.options import convert


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The options of a plugin target by name. Positional-only parameters, *args and **kwargs are not options."""
    if not callable(target):
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p for p in inspect.signature(target).parameters.values() if p.kind in named}


def build(target: Any, options: Mapping[str, Any], what: str) -> Any:
    """`target(**options)` with every option converted and checked. what: names the plugin in messages.

    Raises OptionError for an unknown option, a value of the wrong type, and for what the plugin itself refuses.
    """
    if not inspect.isclass(target):
        if options:
            raise OptionError(f"{what} takes no options, got {', '.join(sorted(options))}")
        return target
    own = parameters(target)
    hints = _hints(target)
    for name in options:
        if name not in own:
            raise OptionError(f"{what} has no option {name!r:.80}", hint=nearest(name, own))
    values = {k: convert(v, hints.get(k, Any), f"{what}: option {k!r}") for k, v in options.items()}
    try:
        return target(**values)
    except ZotuneError:
        raise
    except (TypeError, ValueError) as error:
        raise OptionError(f"{what}: {error}") from error


def comments(target: Any) -> dict[str, str]:
    """The comment beside each option in the plugin's source, inherited options included."""
    if inspect.isclass(target):
        classes = [c for c in reversed(target.__mro__) if c is not object]
        return {name: comment for c in classes for name, comment in _own_comments(c).items()}
    return _own_comments(target)


def _own_comments(target: Any) -> dict[str, str]:
    try:
        source = inspect.getsource(target)
        tokens = list(tokenize.generate_tokens(io.StringIO(inspect.cleandoc(source)).readline))
    except (OSError, TypeError, tokenize.TokenError, IndentationError):
        return {}
    by_line = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    out: dict[str, str] = {}
    for t in tokens:
        name, colon, _ = t.line.strip().partition(":")
        if t.start[0] in by_line and colon and name.isidentifier():
            out.setdefault(name, by_line[t.start[0]])
    return out


def _hints(target: Any) -> dict[str, Any]:
    source = target if dataclasses.is_dataclass(target) else target.__init__
    try:
        return typing.get_type_hints(source)
    except Exception:  # annotations of a user's class may name what does not exist; then values stay as they are
        return {}


__all__ = ["build", "comments", "parameters"]
