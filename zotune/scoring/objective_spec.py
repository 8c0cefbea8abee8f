"""From what a user names as an objective to a callable Objective.

A user names a plugin, a function in a file, a function in a package, or hands one over; several make a weighted sum.
Knows plugins and options; calls no objective.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zotune import declarations, plugin_options, plugins
from zotune.errors import OptionError, UsageError, nearest
from zotune.scoring.calls import Calls
from zotune.scoring.objective import Objective, Sum, wrap
from zotune.types import Direction, Level, ObjectiveInfo

OneObjective = str | Callable[..., Any]
"""One objective as a user names it: `f1`, `dist/name`, `file.py:function`, … or a callable."""
ObjectiveSpec = OneObjective | Sequence[OneObjective]
"""One objective, or several to be summed."""


def resolve(
    spec: ObjectiveSpec,
    options: Mapping[str, Any],
    direction: str | None = None,
    calls: Calls | None = None,
    weights: Sequence[float] = (),
    defaults: Mapping[str, Any] = {},
) -> Objective:
    """One or several of `f1`, `dist/name`, `name:first-option`, `file.py:function`, `package.module:function` or a
    callable to an Objective; several to their weighted sum.

    options: each goes to the objective that has it, or to the one named in `name.option` or `2.option` (the second).
    defaults: options of the task, for each objective that has them and is given none.
    Raises PluginError for unknown names, OptionError for options that do not fit.
    """
    specs: list[Any] = list(spec) if isinstance(spec, list | tuple) else [spec]
    if not specs:
        raise OptionError("no objective is named", hint="-o f1")
    if weights and len(weights) != len(specs):
        raise OptionError(f"--weight has {len(weights)} numbers for {len(specs)} objectives")
    objectives = resolve_each(specs, options, direction if len(specs) == 1 else None, calls, defaults)
    if len(objectives) == 1 and not weights:
        return objectives[0]
    return _sum(objectives, weights or [1.0] * len(objectives), direction)


def resolve_each(
    specs: Sequence[OneObjective],
    options: Mapping[str, Any],
    direction: str | None = None,
    calls: Calls | None = None,
    defaults: Mapping[str, Any] = {},
) -> list[Objective]:
    """Several objectives, not summed; see `resolve`."""
    targets = [_target(s) for s in specs]
    arguments = _arguments(specs, targets, options, calls or Calls())
    for target, own in zip(targets, arguments, strict=True):
        own.update({name: value for name, value in defaults.items() if name in target.known and name not in own})
    out = []
    for spec, target, own in zip(specs, targets, arguments, strict=True):
        what = f"objective {spec!r}" if isinstance(spec, str) else "the objective"
        built = plugin_options.build(target.target, own, what)
        out.append(wrap(built, spec_name(spec), direction, calls))
    return out


def spec_name(spec: OneObjective) -> str:
    """What messages and the journal call an objective."""
    return spec if isinstance(spec, str) else declarations.name_of(spec, default="objective")


def _sum(parts: Sequence[Objective], weights: Sequence[float], direction: str | None) -> Sum:
    for part, w in zip(parts, weights, strict=True):
        if part.ordered:
            raise UsageError(f"objective {part.name!r} gives an order; only values can be summed")
        if not math.isfinite(w):
            raise OptionError(f"--weight must be finite numbers, got {w}")
    way: Any = direction or ("minimize" if all(p.direction == "minimize" for p in parts) else "maximize")
    levels = {p.info.level for p in parts}
    level = levels.pop() if len(levels) == 1 else "set" if "set" in levels else None
    return Sum(
        name=_formula(parts, weights, way),
        function=parts[0].function,
        direction=way,
        inputs=frozenset().union(*(p.inputs for p in parts)),
        required=frozenset().union(*(p.required for p in parts)),
        takes_all=any(p.takes_all for p in parts),
        info=_joint_info(parts, way, level),
        parts=tuple(parts),
        weights=tuple(weights),
    )


def _joint_info(parts: Sequence[Objective], direction: Direction, level: Level | None) -> ObjectiveInfo:
    """The declaration of a sum: the strictest limits of its parts."""
    infos = [p.info for p in parts]
    return ObjectiveInfo(
        direction,
        level,
        batch_size=max((i.batch_size for i in infos if i.batch_size is not None), default=None),
        validates=all(i.validates for i in infos),
        test_rows=min((i.test_rows for i in infos if i.test_rows is not None), default=None),
        max_scores=min((i.max_scores for i in infos if i.max_scores is not None), default=None),
    )


def _formula(parts: Sequence[Objective], weights: Sequence[float], direction: Direction) -> str:
    """A sum as it is written: `f1 - 0.1 length`."""
    text = ""
    for part, w in zip(parts, weights, strict=True):
        w = w if part.direction == direction else -w
        sign = (" - " if w < 0 else " + ") if text else "-" if w < 0 else ""
        text += sign + ("" if abs(w) == 1 else f"{abs(w):g} ") + part.name
    return text


@dataclass(frozen=True)
class _Target:
    """What a spec names, with the options that the spec itself holds."""

    target: Any
    options: Mapping[str, Any]

    @property
    def known(self) -> list[str]:
        """The names of its options."""
        return list(plugin_options.parameters(self.target)) if inspect.isclass(self.target) else []


def _target(spec: OneObjective) -> _Target:
    """What a spec names; in `name:text` the text is the plugin's first option."""
    if not isinstance(spec, str):
        return _Target(spec, {})
    name, colon, text = spec.partition(":")
    if not colon:
        return _Target(plugins.default().find("objective", spec).load(), {})
    if plugins.default().has("objective", name):
        target = _Target(plugins.default().find("objective", name).load(), {})
        if not target.known:
            raise OptionError(f"objective {name!r} takes nothing after a colon, got {text!r}")
        return _Target(target.target, {target.known[0]: text})
    return _Target(plugins.by_path(spec, "objective"), {})


def _arguments(
    specs: Sequence[OneObjective], targets: Sequence[_Target], options: Mapping[str, Any], calls: Calls
) -> list[dict[str, Any]]:
    """The options of each of several objectives. Raises OptionError for an option that fits none."""
    out = [dict(target.options) for target in targets]
    for key, value in options.items():
        where, dot, option = key.partition(".")
        if dot:
            places = [i for i, s in enumerate(specs) if where in (str(i + 1), _word(s), _word(s).partition(":")[0])]
            if not places:
                raise OptionError(f"--objective-arg {key}: no objective is named {where!r}", hint="a name, or 1, 2")
        else:
            option, places = key, [i for i, target in enumerate(targets) if key in target.known]
            if not places and len(specs) > 1:
                every = {name for target in targets for name in target.known}
                raise OptionError(f"no objective has an option {key!r}", hint=nearest(key, every))
            places = places or [0]
        for i in places:
            out[i][option] = value
    for name, limit in calls.limits():
        for i, target in enumerate(targets):
            if limit is not None and name in declarations.call_options(target.target):
                out[i].setdefault(name, limit)
    return out


def _word(spec: OneObjective) -> str:
    return (spec if isinstance(spec, str) else declarations.name_of(spec, default="")).replace("-", "_")


__all__ = ["ObjectiveSpec", "OneObjective", "resolve", "resolve_each", "spec_name"]
