"""Resolves what the user names as trackers to objects with the methods of `zotune.types.Tracker`.

Knows plugins and options; starts no tracker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zotune import declarations, plugin_options, plugins
from zotune.errors import OptionError
from zotune.types import Tracker


def resolve(specs: Sequence[str]) -> list[tuple[str, Tracker]]:
    """Names of trackers as (name, tracker): `trackio`, `dist/name`, `name:first-option`, `file.py:Class` or
    `package.module:Class`. Raises PluginError for unknown names, OptionError for what a tracker refuses."""
    trackers = [(spec, _tracker(spec)) for spec in specs if spec != "none"]
    names = [_name(spec) for spec, _ in trackers]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"--report-to names {name!r} twice")
    return trackers


def check_callbacks(callbacks: Sequence[Tracker]) -> list[tuple[str, Tracker]]:
    """Objects that are used as trackers, each with a name for messages. Raises OptionError for other objects."""
    for callback in callbacks:
        if isinstance(callback, type):
            raise OptionError(f"{declarations.name_of(callback)} is a class; pass an instance as a callback")
        if problem := declarations.plugin_problem("tracker", callback):
            raise OptionError(f"a callback has no such method: {problem}")
    return [(type(callback).__name__, callback) for callback in callbacks]


def _tracker(spec: str) -> Tracker:
    name, colon, text = spec.partition(":")
    host, options = plugins.default(), {}
    if not colon:
        target = host.find("tracker", spec).load()
    elif host.has("tracker", name):
        target = host.find("tracker", name).load()
        known = list(plugin_options.parameters(target))
        if not known:
            raise OptionError(f"tracker {name!r} takes nothing after a colon, got {text!r}")
        options = {known[0]: text}
    else:
        target = plugins.by_path(spec, "tracker")
    tracker: Any = plugin_options.build(target, options, f"tracker {spec!r}")
    if problem := declarations.plugin_problem("tracker", tracker):
        raise OptionError(f"tracker {spec!r}: {problem}")
    return tracker  # type: ignore[no-any-return]


def _name(spec: str) -> str:
    """The plugin's name in `name:first-option`; a path as it is."""
    name = spec.partition(":")[0]
    return name if plugins.default().has("tracker", name) else spec


__all__ = ["check_callbacks", "resolve"]
