"""What a user names as an objective, made into something the core can call.

Objectives are called by keyword with only the names that they declare. A result is one number for the whole set, or a
list with one number (or None: not applicable) for each row; an objective that gives an order says for each row which of
several candidates is better. Anything else, and every exception, is an ObjectiveError: a failed score is never a
number. Several objectives make one by a weighted sum.

Knows plugins and errors; knows no model, no data format and no optimizer.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from zotune import config, plugins
from zotune.errors import ObjectiveError, OptionError, Stopped, UsageError, nearest
from zotune.scoring.calls import Cache, Calls, Meter, call, is_async, row_key, some
from zotune.types import Direction, ObjectiveInfo, Score

PROVIDED = frozenset(
    {"prompts", "completions", "completion_ids", "references", "predictions", "labels", "logits", "losses"}
    | {"chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens", "model", "batch"}
)
Spec = str | Callable[..., Any]
Goal = Spec | Sequence[Spec]
"""What may be named as an objective: one, or several to be summed."""
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


def texts(completions: Sequence[Any]) -> list[str]:
    """Completions as text: a string stays; a list of messages, as conversational data have it, gives what its last
    message says."""
    return [c if isinstance(c, str) else str(c[-1]["content"]) if c else "" for c in completions]


@dataclass(frozen=True)
class Objective:
    """A callable with what is known about it.

    name: what the user typed; wants: names it declares; open: whether it takes **kwargs, and so everything at hand;
    info: what it declares about itself; calls: how it is called; meter: what calling it has cost.
    """

    name: str
    function: Callable[..., Any]
    direction: Direction
    wants: frozenset[str]
    required: frozenset[str]
    open: bool
    info: ObjectiveInfo
    calls: Calls = field(default_factory=Calls)
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)
    cache: Cache = field(default_factory=Cache, compare=False, repr=False)

    @property
    def better(self) -> str:
        if self.ordered:
            return "share of rows won against the start"
        return "higher is better" if self.direction == "maximize" else "lower is better"

    @property
    def each(self) -> tuple[Objective, ...]:
        """Itself, or the objectives that it sums."""
        return (self,)

    @property
    def ordered(self) -> bool:
        """Whether it gives an order of candidates, and no values."""
        return self.info.gives == "order"

    def check(self, offered: frozenset[str], columns: frozenset[str]) -> None:
        """Refuse, before any model is loaded, names that neither the task nor the data can give."""
        missing = sorted(self.required - offered - columns - {"candidates" if self.ordered else ""})
        if missing:
            raise UsageError(
                f"objective {self.name!r} asks for {', '.join(missing)}, which this task does not give",
                hint=f"it gives {', '.join(sorted(offered))}; columns: {', '.join(sorted(columns)) or 'none'}",
            )
        if self.ordered and "completions" not in offered:
            raise UsageError(f"objective {self.name!r} compares completions, which this task does not give")

    def score(self, rows: int, inputs: Mapping[str, Any]) -> Score:
        """Call it and read the result. Raises ObjectiveError."""
        return read(self.name, self.said(rows, inputs), rows)

    def said(self, rows: int, inputs: Mapping[str, Any]) -> Any:
        """What calling it gives, unread, but for rows whose scores are known already. Raises ObjectiveError."""
        given = self._given(inputs)
        with self.meter.clock():
            if not self._caches():
                self.meter.rows += rows
                return self._call(given, rows)
            names = [row_key(_row(inputs, i, rows)) for i in range(rows)]
            known = self.cache.get(names)
            missing = [i for i, x in enumerate(known) if x is Cache.UNKNOWN]
            self.meter.hits += rows - len(missing)
            if missing:
                self.meter.rows += len(missing)
                part = given if len(missing) == rows else {k: some(v, missing, rows) for k, v in given.items()}
                result = read_list(self.name, self._call(part, len(missing)), len(missing))
                if result is None:
                    raise ObjectiveError(f"objective {self.name!r} gave one number where one a row belongs")
                for i, x in zip(missing, result, strict=True):
                    known[i] = x
                    self.cache.put(names[i], x)
        return known

    def compare(
        self, inputs: Mapping[str, Any], candidates: Sequence[Sequence[Any]], turned: bool = False
    ) -> list[list[float] | None]:
        """For each row of `inputs` one strength a candidate, larger is better, None where nothing can be said. An
        order's counterpart of `score`: candidates are the completions of one row at several points. Equal ones are not
        asked about, and the order in which they are given says nothing: they are sorted, turned: the other way round.
        Raises ObjectiveError."""
        rows = len(candidates)
        out: list[list[float] | None] = [None] * rows
        unique = [sorted({str(c): c for c in row}.items(), reverse=turned) for row in candidates]
        found: list[Any] = [[0.5] * len(u) if len(u) < 2 else Cache.UNKNOWN for u in unique]
        inputs = {k: v for k, v in inputs.items() if k not in ("completions", "completion_ids")}
        asked = [{**_row(inputs, i, rows), "candidates": [c for _, c in u]} for i, u in enumerate(unique)]
        names = [row_key(a) for a in asked]
        with self.meter.clock():
            if self.calls.cache is not False:
                cached = self.cache.get(names)
                self.meter.hits += sum(
                    f is Cache.UNKNOWN and c is not Cache.UNKNOWN for f, c in zip(found, cached, strict=True)
                )
                found = [c if f is Cache.UNKNOWN else f for f, c in zip(found, cached, strict=True)]
            missing = [i for i, x in enumerate(found) if x is Cache.UNKNOWN]
            if missing:
                self.meter.rows += len(missing)
                given = {k: some(v, missing, rows) for k, v in self._given(inputs).items()}
                given["candidates"] = [asked[i]["candidates"] for i in missing]
                answers = self._call(given, len(missing))
                for i, x in zip(missing, read_order(self.name, answers, given["candidates"]), strict=True):
                    found[i] = x
                    self.cache.put(names[i], x)
        for i, row in enumerate(candidates):
            if found[i] is not None:
                strength = {text: s for (text, _), s in zip(unique[i], found[i], strict=True)}
                out[i] = [strength[str(c)] for c in row]
        return out

    def close(self) -> None:
        """Let go of processes and connections."""
        release = getattr(self.function, "close", None)
        if callable(release):
            release()

    def _given(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(inputs) if self.open else {k: v for k, v in inputs.items() if k in self.wants}

    def _caches(self) -> bool:
        """Whether scores of rows are kept: where asked for, or where each row is scored by itself and that is slow."""
        if self.calls.cache is False or self.info.level == "set" or "completions" not in self.wants:
            return False
        if self.wants & {"model", "logits", "losses"}:
            return False
        slow = getattr(self.function, "cached", False) or is_async(self.function)
        return bool(self.calls.cache or slow or self.info.level == "sample")

    def _call(self, given: Mapping[str, Any], rows: int) -> Any:
        try:
            return call(self.function, given, rows, self.calls)
        except (ObjectiveError, Stopped):
            raise
        except (Exception, SystemExit) as error:  # the user's own code may raise anything, and must not end the run
            raise ObjectiveError(f"objective {self.name!r} raised {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Sum(Objective):
    """Σ w·value over several objectives, a minimized one subtracted where others are maximized. One sample a row where
    all of them give samples; rows where some say None have the sum of the others, so one may say None of all rows."""

    parts: tuple[Objective, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def each(self) -> tuple[Objective, ...]:
        return self.parts

    def score(self, rows: int, inputs: Mapping[str, Any]) -> Score:
        said = [part.said(rows, inputs) for part in self.parts]
        columns = [read_list(p.name, x, rows) for p, x in zip(self.parts, said, strict=True)]
        silent = [c is not None and all(x is None for x in c) for c in columns]
        found = [
            None if none and not all(silent) else read(p.name, x, rows)
            for p, x, none in zip(self.parts, said, silent, strict=True)
        ]
        signed = [w if p.direction == self.direction else -w for p, w in zip(self.parts, self.weights, strict=True)]
        shown = tuple((p.name, s.value) for p, s in zip(self.parts, found, strict=True) if s is not None)
        if None in columns:
            value = math.fsum(w * s.value for w, s in zip(signed, found, strict=True) if s is not None)
            return Score(value, None, shown)
        samples: list[float | None] = []
        for row in zip(*(c for c in columns if c is not None), strict=True):
            known = [w * x for w, x in zip(signed, row, strict=True) if x is not None]
            samples.append(math.fsum(known) if known else None)
        return replace(read(self.name, samples, rows), parts=shown)

    def check(self, offered: frozenset[str], columns: frozenset[str]) -> None:
        for part in self.parts:
            part.check(offered, columns)

    def close(self) -> None:
        for part in self.parts:
            part.close()


# -- results -----------------------------------------------------------------------------------------------------------


def read(name: str, result: Any, rows: int) -> Score:
    """An objective's return value as a Score. Raises ObjectiveError unless it is one finite number, or a list of
    `rows` finite numbers or Nones of which at least one is a number."""
    samples = read_list(name, result, rows)
    if samples is None:
        return Score(_number(name, _plain(result)))
    known = [x for x in samples if x is not None]
    if not known:
        raise ObjectiveError(f"objective {name!r} returned None for every row")
    return Score(math.fsum(known) / len(known), tuple(samples))


def read_list(name: str, result: Any, rows: int) -> list[float | None] | None:
    """A result that is one number (or None) a row; None where it is no list. Raises ObjectiveError."""
    result = _plain(result)
    if not isinstance(result, list | tuple):
        return None
    if len(result) != rows:
        raise ObjectiveError(f"objective {name!r} returned {len(result)} scores for {rows} rows")
    return [None if x is None else _number(name, x) for x in result]


def read_order(name: str, result: Any, candidates: Sequence[Sequence[Any]]) -> list[list[float] | None]:
    """An order objective's answer: for each row the index of the best candidate, -1 where it cannot tell, a strength
    for each candidate (larger is better), or None where the row does not count. Raises ObjectiveError."""
    result = _plain(result)
    if not isinstance(result, list | tuple) or len(result) != len(candidates):
        said = f"{len(result)} answers" if isinstance(result, list | tuple) else f"a {type(result).__name__}"
        raise ObjectiveError(f"objective {name!r} returned {said} for {len(candidates)} rows to compare")
    out: list[list[float] | None] = []
    for answer, row in zip(map(_plain, result), candidates, strict=True):
        if answer is None:
            out.append(None)
        elif isinstance(answer, list | tuple):
            if len(answer) != len(row):
                raise ObjectiveError(f"objective {name!r} returned {len(answer)} strengths for {len(row)} candidates")
            out.append([_number(name, x) for x in answer])
        else:
            best = _number(name, answer)
            if best not in (-1, *range(len(row))):
                raise ObjectiveError(f"objective {name!r} chose candidate {answer!r} of {len(row)} (-1: cannot tell)")
            out.append([0.5 if best < 0 else float(i == best) for i in range(len(row))])
    return out


def _plain(x: Any) -> Any:
    """numpy's and torch's scalars and arrays as Python's."""
    return x.tolist() if hasattr(x, "tolist") and not isinstance(x, str | bytes) else x


def _number(name: str, x: Any) -> float:
    if hasattr(x, "item"):
        x = x.item()
    if not isinstance(x, int | float):
        shown = repr(x) if len(repr(x)) < 60 else type(x).__name__
        raise ObjectiveError(f"objective {name!r} returned a {type(x).__name__} where a number belongs: {shown}")
    try:
        value = float(x)
    except OverflowError:  # a whole number may be larger than any float
        value = math.inf
    if not math.isfinite(value):
        raise ObjectiveError(f"objective {name!r} returned {value}")
    return value


def _row(inputs: Mapping[str, Any], i: int, rows: int) -> dict[str, Any]:
    """What is known of one row."""
    return {k: v[i] for k, v in inputs.items() if isinstance(v, list | tuple) and len(v) == rows}


# -- from names --------------------------------------------------------------------------------------------------------


def wrap(target: Any, name: str, direction: str | None = None, calls: Calls | None = None) -> Objective:
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
    wants = frozenset(p.name for p in named)
    return Objective(
        name=name,
        function=target,
        direction=chosen,
        wants=wants | {"completions"} if info.gives == "order" else wants,
        required=frozenset(p.name for p in named if p.default is p.empty),
        open=any(p.kind == p.VAR_KEYWORD for p in found),
        info=info,
        calls=calls or Calls(),
    )


def resolve(
    spec: Goal,
    options: Mapping[str, Any],
    direction: str | None = None,
    calls: Calls | None = None,
    weights: Sequence[float] = (),
) -> Objective:
    """One or several of `f1`, `dist/name`, `name:first-option`, `file.py:function`, `package.module:function` or a
    callable to an Objective; several to their weighted sum.

    options go to the objective that knows them, or to the one named in `name.option` or `2.option` (the second).
    Raises PluginError for unknown names, OptionError for options that do not fit.
    """
    specs: list[Any] = list(spec) if isinstance(spec, list | tuple) else [spec]
    if not specs:
        raise OptionError("no objective is named", hint="-o f1")
    if weights and len(weights) != len(specs):
        raise OptionError(f"--weight has {len(weights)} numbers for {len(specs)} objectives")
    found = resolve_each(specs, options, direction if len(specs) == 1 else None, calls)
    if len(found) == 1 and not weights:
        return found[0]
    return _sum(found, weights or [1.0] * len(found), direction)


def resolve_each(
    specs: Sequence[Spec], options: Mapping[str, Any], direction: str | None = None, calls: Calls | None = None
) -> list[Objective]:
    """Several objectives, each by itself; see `resolve`."""
    targets = [_target(s) for s in specs]
    shares = _shared(specs, targets, options, calls or Calls())
    found = []
    for one, target, own in zip(specs, targets, shares, strict=True):
        what = f"objective {one!r}" if isinstance(one, str) else "the objective"
        name = one if isinstance(one, str) else getattr(one, "__name__", "objective")
        made = config.build(target, own, what)
        found.append(wrap(made, name, direction, calls))
    return found


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
        wants=frozenset().union(*(p.wants for p in parts)),
        required=frozenset().union(*(p.required for p in parts)),
        open=any(p.open for p in parts),
        info=ObjectiveInfo(way, level),
        parts=tuple(parts),
        weights=tuple(weights),
    )


def _formula(parts: Sequence[Objective], weights: Sequence[float], way: str) -> str:
    """A sum as it is written: `f1 - 0.1 length`."""
    said = ""
    for part, w in zip(parts, weights, strict=True):
        w = w if part.direction == way else -w
        sign = (" - " if w < 0 else " + ") if said else "-" if w < 0 else ""
        said += sign + ("" if abs(w) == 1 else f"{abs(w):g} ") + part.name
    return said


def _target(spec: Spec) -> Any:
    """What a spec names; for `name:text` a plugin with its first option given."""
    if not isinstance(spec, str):
        return spec
    name, colon, text = spec.partition(":")
    if not colon:
        return plugins.default().find("objective", spec).load()
    if plugins.default().has("objective", name):
        target = plugins.default().find("objective", name).load()
        known = list(config.parameters(target)) if inspect.isclass(target) else []
        if not known:
            raise OptionError(f"objective {name!r} takes nothing after a colon, got {text!r}")
        return _Given(target, {known[0]: text})
    return plugins.by_path(spec, "objective")


@dataclass(frozen=True)
class _Given:
    """A plugin with some options given already."""

    target: Any
    options: Mapping[str, Any]


def _shared(
    specs: Sequence[Spec], targets: list[Any], options: Mapping[str, Any], calls: Calls
) -> list[dict[str, Any]]:
    """The options of each of several objectives. Unwraps `targets`. Raises OptionError for what fits none."""
    out: list[dict[str, Any]] = []
    for i, target in enumerate(targets):
        out.append(dict(target.options) if isinstance(target, _Given) else {})
        targets[i] = target.target if isinstance(target, _Given) else target
    known = [config.parameters(t) if inspect.isclass(t) else {} for t in targets]
    for key, value in options.items():
        where, dot, option = key.partition(".")
        if dot:
            places = [i for i, s in enumerate(specs) if where in (str(i + 1), _word(s), _word(s).partition(":")[0])]
            if not places:
                raise OptionError(f"--objective-arg {key}: no objective is named {where!r}", hint="a name, or 1, 2")
        else:
            option, places = key, [i for i, names in enumerate(known) if key in names]
            if not places and len(specs) > 1:
                every = {name for names in known for name in names}
                raise OptionError(f"no objective has an option {key!r}", hint=nearest(key, every))
            places = places or [0]
        for i in places:
            out[i][option] = value
    for option in ("concurrency", "batch_size", "timeout"):
        for i, names in enumerate(known):
            if option in names and getattr(calls, option) is not None:
                out[i].setdefault(option, getattr(calls, option))
    return out


def _word(spec: Spec) -> str:
    return (spec if isinstance(spec, str) else getattr(spec, "__name__", "")).replace("-", "_")


__all__ = ["PROVIDED", "Goal", "Objective", "Spec", "Sum", "objective", "read", "resolve", "texts", "wrap"]
