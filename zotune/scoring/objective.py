"""A callable with its declaration, ready to score: an Objective, or a weighted sum of several.

An objective is called by keyword with only the inputs that it declares. Every exception that it raises becomes an
ObjectiveError. Knows calls and results; knows no model, no data format and no optimizer.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from zotune import declarations
from zotune.errors import ObjectiveError, OptionError, Stopped, UsageError
from zotune.scoring.calls import Cache, Calls, Meter, call, row_key, some
from zotune.scoring.results import read, read_list, read_order
from zotune.types import Direction, ObjectiveInfo, RunContext, Score

PACKAGE: Final = Path(declarations.__file__).parent


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

    def start(self, run: RunContext) -> None:
        """Tell it about the run before its first score."""
        if self.info.start is not None:
            self.info.start(run)

    def faults(self) -> Mapping[str, int]:
        """Counts of what went wrong while scoring."""
        return self.info.faults() if self.info.faults is not None else {}

    def close(self) -> None:
        """Release its processes, connections and memory."""
        if self.info.close is not None:
            self.info.close()

    def _given(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(inputs) if self.open else {k: v for k, v in inputs.items() if k in self.wants}

    def _caches(self) -> bool:
        """Whether scores of rows are kept: where asked for, or where each row is scored by itself and that is slow."""
        info = self.info
        if False in (self.calls.cache, info.cacheable) or info.level == "set" or "completions" not in self.wants:
            return False
        if self.wants & {"model", "logits", "losses"}:
            return False
        declared = info.cacheable or declarations.is_async(self.function)
        return bool(self.calls.cache or declared or info.level == "sample")

    @property
    def _limits(self) -> Calls:
        """The limits of a call: the user's, where the objective does not honour them itself, else its own."""
        own = "timeout" in self.info.call_options
        return replace(self.calls, timeout=None if own else self.calls.timeout or self.info.timeout)

    def _call(self, given: Mapping[str, Any], rows: int) -> Any:
        try:
            return call(self.function, given, rows, self._limits)
        except (ObjectiveError, Stopped):
            raise
        except (Exception, SystemExit) as error:  # the user's own code may raise anything, and must not end the run
            message = f"objective {self.name!r} raised {type(error).__name__}: {error}"
            raise ObjectiveError(message + self._place(error)) from error

    def _place(self, error: BaseException) -> str:
        """The line of the objective's own file that an exception came through last, else of any file but zotune's."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not Path(f.filename).is_relative_to(PACKAGE)]
        file = declarations.source_file(self.function)
        own = [f for f in frames if f.filename == file] or frames
        return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""


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


def _row(inputs: Mapping[str, Any], i: int, rows: int) -> dict[str, Any]:
    """The inputs that belong to one row."""
    return {k: v[i] for k, v in inputs.items() if isinstance(v, list | tuple) and len(v) == rows}


def wrap(target: Any, name: str, direction: str | None = None, calls: Calls | None = None) -> Objective:
    """A callable as an Objective. `direction` overrides what it declares. Raises UsageError."""
    if not callable(target):
        raise UsageError(f"objective {name!r} is a {type(target).__name__}, not a function")
    info = declarations.objective_info(target)
    chosen: Any = direction or info.direction
    if chosen not in ("maximize", "minimize"):
        raise OptionError(f"objective {name!r}: direction must be maximize or minimize, got {chosen!r}")
    try:
        found = declarations.signature(target).parameters.values()
    except (TypeError, ValueError) as error:
        raise UsageError(f"objective {name!r}: its signature cannot be read: {error}") from None
    if any(p.kind == p.POSITIONAL_ONLY for p in found):
        raise UsageError(f"objective {name!r} takes positional-only arguments; it is called by keyword")
    named = [p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    wants = frozenset(p.name for p in named) if info.needs is None else frozenset(info.needs)
    return Objective(
        name=name,
        function=target,
        direction=chosen,
        wants=wants | {"completions"} if info.gives == "order" else wants,
        required=frozenset(p.name for p in named if p.default is p.empty) if info.needs is None else wants,
        open=info.needs is None and any(p.kind == p.VAR_KEYWORD for p in found),
        info=info,
        calls=calls or Calls(),
    )


__all__ = ["Objective", "Sum", "wrap"]
