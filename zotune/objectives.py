"""What a user names as an objective, made into something the core can call.

Objectives are called by keyword with only the names that they declare. A result is one number for the whole set, or a
list with one number (or None: not applicable) for each row. Anything else, and every exception, is an ObjectiveError:
a failed score is never a number.

Knows plugins and errors; knows no model, no data format and no optimizer.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from zotune import config, host
from zotune.errors import ObjectiveError, OptionError, UsageError
from zotune.types import Direction, ObjectiveInfo, Score

PROVIDED = frozenset(
    {"prompts", "completions", "completion_ids", "references", "predictions", "labels", "logits", "losses"}
    | {"model", "batch"}
)
F = TypeVar("F", bound=Callable[..., Any])


def objective(
    direction: Direction = "maximize",
    *,
    level: Literal["sample", "set"] | None = None,
    gives: Literal["values", "order"] = "values",
) -> Callable[[F], F]:
    """Declare which way an objective is better: `@zotune.objective(direction="minimize")`; and, where it matters to
    an optimizer, whether it scores rows or sets, values or an order (`types.ObjectiveInfo`).

    Works on functions and on classes whose instances are callable. Without the decorator an objective is maximized,
    unless `--direction` says otherwise. Raises OptionError for other words.
    """
    for what, value, known in (
        ("direction", direction, ("maximize", "minimize")),
        ("level", level, (None, "sample", "set")),
        ("gives", gives, ("values", "order")),
    ):
        if value not in known:
            raise OptionError(f"{what} must be {' or '.join(map(repr, known))}, got {value!r}")

    def mark(target: F) -> F:
        target.zotune_objective = ObjectiveInfo(direction, level, gives)  # type: ignore[attr-defined]
        return target

    return mark


@dataclass(frozen=True)
class Objective:
    """A callable with what is known about it.

    name: what the user typed; wants: names it declares; open: whether it takes **kwargs, and so everything at hand;
    info: what it declares about itself.
    """

    name: str
    function: Callable[..., Any]
    direction: Direction
    wants: frozenset[str]
    required: frozenset[str]
    open: bool
    info: ObjectiveInfo

    @property
    def better(self) -> str:
        return "higher is better" if self.direction == "maximize" else "lower is better"

    def check(self, offered: frozenset[str], columns: frozenset[str]) -> None:
        """Refuse, before any model is loaded, names that neither the task nor the data can give."""
        missing = sorted(self.required - offered - columns)
        if missing:
            raise UsageError(
                f"objective {self.name!r} asks for {', '.join(missing)}, which this task does not give",
                hint=f"it gives {', '.join(sorted(offered))}; columns: {', '.join(sorted(columns)) or 'none'}",
            )

    def score(self, rows: int, inputs: Mapping[str, Any]) -> Score:
        """Call it and read the result. Raises ObjectiveError."""
        given = inputs if self.open else {k: v for k, v in inputs.items() if k in self.wants}
        try:
            result = self.function(**given)
            if inspect.isawaitable(result):
                result = asyncio.run(_await(result))
        except Exception as error:  # the user's own code may raise anything
            raise ObjectiveError(f"objective {self.name!r} raised {type(error).__name__}: {error}") from error
        return read(self.name, result, rows)


async def _await(x: Any) -> Any:
    return await x


def read(name: str, result: Any, rows: int) -> Score:
    """An objective's return value as a Score. Raises ObjectiveError unless it is one finite number, or a list of
    `rows` finite numbers or Nones of which at least one is a number."""
    if hasattr(result, "tolist") and not isinstance(result, str | bytes):  # numpy and torch, scalars and arrays
        result = result.tolist()
    if isinstance(result, list | tuple):
        if len(result) != rows:
            raise ObjectiveError(f"objective {name!r} returned {len(result)} scores for {rows} rows")
        samples = tuple(None if x is None else _number(name, x) for x in result)
        known = [x for x in samples if x is not None]
        if not known:
            raise ObjectiveError(f"objective {name!r} returned None for every row")
        return Score(math.fsum(known) / len(known), samples)
    return Score(_number(name, result))


def _number(name: str, x: Any) -> float:
    if hasattr(x, "item"):
        x = x.item()
    if not isinstance(x, int | float):
        shown = repr(x) if len(repr(x)) < 60 else type(x).__name__
        raise ObjectiveError(f"objective {name!r} returned a {type(x).__name__} where a number belongs: {shown}")
    if not math.isfinite(x):
        raise ObjectiveError(f"objective {name!r} returned {float(x)}")
    return float(x)


def wrap(target: Any, name: str, direction: str | None = None) -> Objective:
    """A callable as an Objective. `direction` overrides what it declares. Raises UsageError."""
    if not callable(target):
        raise UsageError(f"objective {name!r} is a {type(target).__name__}, not a function")
    info = getattr(target, "zotune_objective", ObjectiveInfo())
    chosen: Any = direction or info.direction
    if chosen not in ("maximize", "minimize"):
        raise OptionError(f"objective {name!r}: direction must be maximize or minimize, got {chosen!r}")
    try:
        found = inspect.signature(target).parameters.values()
    except (TypeError, ValueError) as error:
        raise UsageError(f"objective {name!r}: its signature cannot be read: {error}") from None
    if any(p.kind == p.POSITIONAL_ONLY for p in found):
        raise UsageError(f"objective {name!r} takes positional-only arguments; it is called by keyword")
    named = [p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Objective(
        name=name,
        function=target,
        direction=chosen,
        wants=frozenset(p.name for p in named),
        required=frozenset(p.name for p in named if p.default is p.empty),
        open=any(p.kind == p.VAR_KEYWORD for p in found),
        info=info,
    )


def resolve(spec: str | Callable[..., Any], options: Mapping[str, Any], direction: str | None = None) -> Objective:
    """`f1`, `dist/name`, `file.py:function`, `package.module:function` or a callable to an Objective.

    Raises PluginError for unknown names, OptionError for options that do not fit.
    """
    if not isinstance(spec, str):
        return wrap(config.build(spec, options, "the objective"), getattr(spec, "__name__", "objective"), direction)
    if ":" in spec:
        target = host.by_path(spec, "objective")
    else:
        target = host.default().find("objective", spec).load()
    return wrap(config.build(target, options, f"objective {spec!r}"), spec, direction)


__all__ = ["PROVIDED", "Objective", "objective", "read", "resolve", "wrap"]
