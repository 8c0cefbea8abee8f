"""A callable with its declaration, ready to score: an Objective, or a weighted sum of several.

An objective is called by keyword with only the inputs that it declares. Every exception that it raises becomes an
ObjectiveError. Knows calls and results; knows no model, no data format and no optimizer.
"""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from zotune import declarations
from zotune.errors import ObjectiveError, OptionError, SideEffectError, Stopped, UsageError
from zotune.scoring import candidates as candidates_of
from zotune.scoring import trl_arguments
from zotune.scoring.calls import Cache, Calls, Meter, call, row_key, select_rows
from zotune.scoring.isolation import Isolation, own_inputs
from zotune.scoring.partial_scores import Report, ignore, reporting
from zotune.scoring.pending_scores import MISSING, PendingSlot
from zotune.scoring.results import read, read_list, read_order, total
from zotune.types import Direction, ObjectiveInfo, RunContext, Score

OF_WEIGHTS: Final = frozenset(
    {"model", "logits", "losses", "chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens"}
)
"""Inputs that depend on the weights in another way than through the completion."""
PACKAGE: Final = Path(declarations.__file__).parent


@dataclass(frozen=True)
class Objective:
    """A callable with its declaration, its limits, its cost and its cache.

    name: what the user typed. direction: the user's, else the declared one. inputs: names of the inputs that it is
    called with. required: those without a default value. takes_all: whether it has `**kwargs` and gets every input,
    except the model if it names inputs and not the model. stand_ins: names of arguments of TRL that it gets.
    """

    name: str
    function: Callable[..., Any]
    direction: Direction
    inputs: frozenset[str]
    required: frozenset[str]
    takes_all: bool
    info: ObjectiveInfo
    calls: Calls = field(default_factory=Calls)
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)
    cache: Cache = field(default_factory=Cache, compare=False, repr=False)
    isolation: Isolation = field(default_factory=Isolation, compare=False, repr=False)
    pending: PendingSlot = field(default_factory=PendingSlot, compare=False, repr=False)
    stand_ins: frozenset[str] = frozenset()

    @property
    def better(self) -> str:
        """How its values compare, in words."""
        if self.ordered:
            return "share of rows won against the base model"
        return "higher is better" if self.direction == "maximize" else "lower is better"

    @property
    def each(self) -> tuple[Objective, ...]:
        """Itself, or the objectives that it sums."""
        return (self,)

    @property
    def ordered(self) -> bool:
        """Whether it gives an order of candidates, and no values."""
        return self.info.gives == "order"

    def repeats_calls(self, counted: bool) -> bool:
        """Whether a row may be scored again in other sets, a hundred times a step. counted: whether the user limits
        the number of scored rows; then all parts have to declare that their calls are cheap."""
        return all(p.info.fast or (p.info.fast is None and not p.info.call_options and not counted) for p in self.each)

    @contextlib.contextmanager
    def scored_again(self) -> Iterator[None]:
        """Rows that were scored before do not count again, whatever set they are scored in."""
        before = [p.meter.rows for p in self.each]
        try:
            yield
        finally:
            for part, rows in zip(self.each, before, strict=True):
                part.meter.rows = rows

    def check(self, offered: frozenset[str], columns: frozenset[str]) -> None:
        """Raise UsageError if it requires an input that is neither offered by the task nor a column of the data."""
        if "completions" in offered:  # the column of references is passed as `references`, as TRL leaves it out
            columns = columns - {"completion"}
        given = offered | columns | trl_arguments.NAMES | {"candidates" if self.ordered else ""}
        missing = sorted(self.required - given)
        if missing:
            raise UsageError(
                f"objective {self.name!r} asks for {', '.join(missing)}, which this task does not give",
                hint=f"it gives {', '.join(sorted(offered))}; columns: {', '.join(sorted(columns)) or 'none'}",
            )
        if self.ordered and "completions" not in offered:
            raise UsageError(f"objective {self.name!r} compares completions, which this task does not give")

    def score(self, rows: int, inputs: Mapping[str, Any]) -> Score:
        """The score of these rows. Raises ObjectiveError."""
        return read(self.name, self.result(rows, inputs), rows)

    def scores(self, rows: int, sets: Sequence[Mapping[str, Any]]) -> list[Score]:
        """The score of each of several sets of inputs of the same rows, such as sampled predictions.

        The values are those of `score`. Objectives that come with zotune are called for all sets in one go: their
        surroundings are put back once. Raises ObjectiveError.
        """
        return [read(self.name, result, rows) for result in self.results(rows, sets)]

    def results(self, rows: int, sets: Sequence[Mapping[str, Any]]) -> list[Any]:
        """What the function returns for each of several sets of inputs, not yet read. Raises ObjectiveError."""
        inputs, limits = self.inputs, self._limits
        separate = self.takes_all or "model" in inputs or limits.timeout or declarations.is_async(self.function)
        if separate or not declarations.is_shipped(self.function) or self.stand_ins or self._caches_rows():
            return [self.result(rows, x) for x in sets]
        with self.meter.clock():
            self.meter.rows += rows * len(sets)
            arguments = [own_inputs(self._arguments(x)) for x in sets]
            results: list[Any] = self._isolated({}, lambda: [call(self.function, x, rows, limits) for x in arguments])
            return results

    def result(self, rows: int, inputs: Mapping[str, Any]) -> Any:
        """What the function returns for these rows, not yet read; cached rows are not scored again. Raises
        ObjectiveError."""
        arguments = self._arguments(inputs)
        with self.meter.clock():
            if not self._keeps_rows():
                self.meter.rows += rows
                return self._call(arguments, rows)
            keys, caches = [row_key(_row(inputs, i, rows)) for i in range(rows)], self._caches_rows()
            scores = self.cache.get(keys) if caches else [MISSING] * rows
            missing = self._unknown(scores, keys, whole=not caches and self.info.level != "sample")
            if missing:
                if len(missing) < rows:
                    arguments = {name: select_rows(values, missing, rows) for name, values in arguments.items()}
                keeper = _Keeper(self, [keys[i] for i in missing], lambda part, at: read_list(self.name, part, len(at)))
                new = keeper.call(arguments)
                if new is None and caches:
                    raise ObjectiveError(f"objective {self.name!r} returned one number instead of one for each row")
                if new is None:
                    return keeper.result
                for i, score in zip(missing, new, strict=True):
                    scores[i] = score
        return scores

    def _unknown(self, scores: list[Any], keys: Sequence[str], whole: bool) -> list[int]:
        """Fill in the scores that an interrupted step had; the rows without any. whole: see `PendingScores.take`."""
        asked = [i for i, x in enumerate(scores) if x is MISSING]
        self.meter.hits += len(scores) - len(asked)
        self.meter.rows += len(asked)
        if self.pending.scores is not None:
            found = self.pending.scores.take(self.name, [keys[i] for i in asked], whole)
            for i, score in zip(asked, found, strict=True):
                scores[i] = score
        return [i for i in asked if scores[i] is MISSING]

    def ask(self, inputs: Mapping[str, Any], candidates: Sequence[Sequence[Any]]) -> None:
        """Hand over questions that `compare` is called with later, where the objective wants them; returns at once."""
        if self.info.ask is None:
            return
        open_rows, arguments = self._questions(inputs, candidates)
        if open_rows:
            self.info.ask(**own_inputs(arguments))

    def written(self, inputs: Mapping[str, Any], candidates: Sequence[Sequence[Any]]) -> list[str | None]:
        """For each row the text that a person has written as a better completion than those that were compared."""
        texts: list[str | None] = [None] * len(candidates)
        open_rows, arguments = self._questions(inputs, candidates)
        if self.info.written is not None and open_rows:
            for i, text in zip(open_rows, self.info.written(**own_inputs(arguments)), strict=True):
                texts[i] = text
        return texts

    def _questions(
        self, inputs: Mapping[str, Any], candidates: Sequence[Sequence[Any]]
    ) -> tuple[list[int], dict[str, Any]]:
        """The rows with different candidates, and what an objective that asks for people's answers is called with."""
        rows, distinct = len(candidates), [candidates_of.distinct(row) for row in candidates]
        open_rows = [i for i, row in enumerate(distinct) if len(row) > 1]
        inputs = {k: v for k, v in inputs.items() if k not in ("completions", "completion_ids")}
        arguments = {k: select_rows(v, open_rows, rows) for k, v in self._arguments(inputs).items()}
        return open_rows, {**arguments, "candidates": [[c for _, c in distinct[i]] for i in open_rows]}

    def compare(
        self, inputs: Mapping[str, Any], candidates: Sequence[Sequence[Any]], reverse: bool = False
    ) -> list[list[float] | None]:
        """The strength of each candidate of each row, larger is better; None for a row that does not count.

        candidates: the completions of each row at several points. An order objective is called with distinct candidates
        in sorted order, in descending order with `reverse`, so that their order carries no information; rows with one
        distinct candidate are a tie and are not asked about. Raises ObjectiveError.
        """
        rows = len(candidates)
        distinct = [candidates_of.distinct(row, reverse) for row in candidates]
        strengths: list[Any] = [[0.5] * len(d) if len(d) < 2 else MISSING for d in distinct]
        inputs = {k: v for k, v in inputs.items() if k not in ("completions", "completion_ids")}
        questions = [{**_row(inputs, i, rows), "candidates": [c for _, c in d]} for i, d in enumerate(distinct)]
        keys = [row_key(question) for question in questions]
        with self.meter.clock():
            ties = sum(x is not MISSING for x in strengths)
            if self.calls.cache is not False:
                cached = self.cache.get(keys)
                strengths = [y if x is MISSING else x for x, y in zip(strengths, cached, strict=True)]
            missing = self._unknown(strengths, keys, whole=False)
            self.meter.hits -= ties
            if missing:
                arguments = {k: select_rows(v, missing, rows) for k, v in self._arguments(inputs).items()}
                arguments["candidates"] = several = [questions[i]["candidates"] for i in missing]
                keeper = _Keeper(
                    self,
                    [keys[i] for i in missing],
                    lambda part, at: read_order(self.name, part, [several[k] for k in at]),
                )
                for i, answer in zip(missing, keeper.call(arguments) or (), strict=True):
                    strengths[i] = answer
        return [candidates_of.in_own_order(*row) for row in zip(candidates, distinct, strengths, strict=True)]

    def start(self, run: RunContext) -> None:
        """Tell it about the run, before its first score."""
        if self.info.start is not None:
            self.info.start(run)

    def faults(self) -> Mapping[str, int]:
        """Counts of what went wrong while scoring, by name."""
        return self.info.faults() if self.info.faults is not None else {}

    def close(self) -> None:
        """Release its processes, connections and memory."""
        if self.info.close is not None:
            self.info.close()

    def _arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        passed = set(inputs) - {"model"} if self.takes_all else set()
        return {name: values for name, values in inputs.items() if name in passed | self.inputs}

    def _keeps_rows(self) -> bool:
        """Whether scores of rows can be kept beyond a call. A score that depends on the weights in another way than
        through the completion cannot."""
        by_text = "completions" in self.inputs and not self.inputs & OF_WEIGHTS
        return by_text and self.info.level != "set" and (self.pending.scores is not None or self._caches_rows())

    def _caches_rows(self) -> bool:
        """Whether scores of rows are cached: where the user or the declaration asks for it, or rows are independent.

        A score that depends on the weights in another way than through the completion is never cached.
        """
        info = self.info
        if False in (self.calls.cache, info.cacheable) or info.level == "set" or "completions" not in self.inputs:
            return False
        if self.inputs & OF_WEIGHTS:
            return False
        declared = info.cacheable or declarations.is_async(self.function)
        return bool(self.calls.cache or declared or info.level == "sample")

    @property
    def _limits(self) -> Calls:
        """The limits of a call. A class that has the option `timeout` itself keeps to it; no other limit is needed."""
        own = "timeout" in self.info.call_options
        return replace(self.calls, timeout=None if own else self.calls.timeout or self.info.timeout)

    def _call(self, arguments: Mapping[str, Any], rows: int, report: Report = ignore) -> Any:
        arguments = own_inputs({**arguments, **trl_arguments.stand_ins(self.stand_ins, arguments, rows)})

        def compute() -> Any:
            with reporting(report):
                return call(self.function, arguments, rows, self._limits, report)

        return self._isolated(arguments, compute)

    def _isolated(self, arguments: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """What calls of the function return; afterwards its surroundings are as before. Raises ObjectiveError."""
        try:
            with self.isolation.around(self.name, arguments):
                return compute()
        except (ObjectiveError, SideEffectError, Stopped):
            raise
        except (Exception, SystemExit) as error:  # the user's code may raise anything and must not end the run
            message = f"objective {self.name!r} raised {type(error).__name__}: {error}"
            raise ObjectiveError(message + self._place(error)) from error

    def _place(self, error: BaseException) -> str:
        """The file and line where an exception left the objective's own file, else the last line outside zotune."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not Path(f.filename).is_relative_to(PACKAGE)]
        file = declarations.source_file(self.function)
        own = [f for f in frames if f.filename == file] or frames
        return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""


@dataclass(frozen=True)
class Sum(Objective):
    """Σ weight · value over several objectives. A minimized one is subtracted where the sum is maximized.

    It has one sample for each row if all objectives have. In a row where an objective returns None, the others are
    summed; an objective may therefore return None for every row.
    """

    parts: tuple[Objective, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def each(self) -> tuple[Objective, ...]:
        return self.parts

    def score(self, rows: int, inputs: Mapping[str, Any]) -> Score:
        return self._sum([part.result(rows, inputs) for part in self.parts], rows)

    def scores(self, rows: int, sets: Sequence[Mapping[str, Any]]) -> list[Score]:
        by_part = [part.results(rows, sets) for part in self.parts]
        return [self._sum(results, rows) for results in zip(*by_part, strict=True)]

    def _sum(self, results: Sequence[Any], rows: int) -> Score:
        """The score of the sum, from what each part returned."""
        columns = [read_list(part.name, x, rows) for part, x in zip(self.parts, results, strict=True)]
        empty = [column is not None and all(x is None for x in column) for column in columns]
        scores = [
            None if nothing and not all(empty) else read(part.name, x, rows)
            for part, x, nothing in zip(self.parts, results, empty, strict=True)
        ]
        signed = [w if p.direction == self.direction else -w for p, w in zip(self.parts, self.weights, strict=True)]
        by_part = tuple((p.name, s.value) for p, s in zip(self.parts, scores, strict=True) if s is not None)
        if None in columns:
            value = total(w * s.value for w, s in zip(signed, scores, strict=True) if s is not None)
            return replace(read(self.name, value, rows), parts=by_part)
        samples: list[float | None] = []
        for row in zip(*(c for c in columns if c is not None), strict=True):
            summands = [w * x for w, x in zip(signed, row, strict=True) if x is not None]
            samples.append(total(summands) if summands else None)
        return replace(read(self.name, samples, rows), parts=by_part)

    def check(self, offered: frozenset[str], columns: frozenset[str]) -> None:
        for part in self.parts:
            part.check(offered, columns)

    def close(self) -> None:
        for part in self.parts:
            part.close()


class _Keeper:
    """One call of an objective whose scores of rows are kept as they arrive: in the cache, where it has one, and among
    the pending scores of the run's step.

    keys: of the rows of the call. read: reads the scores of some rows, None where they are no list. result: what the
    objective returned.
    """

    def __init__(
        self, objective: Objective, keys: Sequence[str], read: Callable[[Any, Sequence[int]], list[Any] | None]
    ) -> None:
        self.objective, self.keys, self.read = objective, keys, read
        self.result: Any = None
        self._kept: set[int] = set()

    def call(self, arguments: Mapping[str, Any]) -> list[Any] | None:
        """The scores of all rows, None where the objective returned no list. Raises ObjectiveError."""
        self.result = self.objective._call(arguments, len(self.keys), self.report)
        scores = self.read(self.result, range(len(self.keys)))
        if scores is not None:
            self._keep(range(len(self.keys)), scores)
        return scores

    def report(self, first: int, scores: Sequence[Any]) -> None:
        """Scores of the rows from `first` on, before the call ends. What cannot be read is left to the call's end."""
        places = range(first, first + len(scores))
        with contextlib.suppress(ObjectiveError):
            if places.stop <= len(self.keys) and (values := self.read(list(scores), places)) is not None:
                self._keep(places, values)

    def _keep(self, places: Sequence[int], scores: Sequence[Any]) -> None:
        new = [(k, x) for k, x in zip(places, scores, strict=True) if k not in self._kept]
        self._kept.update(k for k, _ in new)
        objective = self.objective
        if objective.ordered or objective._caches_rows():
            for k, score in new:
                objective.cache.put(self.keys[k], score)
        if objective.pending.scores is not None:
            objective.pending.scores.keep(objective.name, [self.keys[k] for k, _ in new], [x for _, x in new])


def _row(inputs: Mapping[str, Any], i: int, rows: int) -> dict[str, Any]:
    """The inputs that belong to one row."""
    return {k: v[i] for k, v in inputs.items() if isinstance(v, list | tuple) and len(v) == rows}


def wrap(target: Any, name: str, direction: str | None = None, calls: Calls | None = None) -> Objective:
    """A callable as an Objective. direction: overrides the declared one. Raises UsageError for what cannot be called by
    keyword, and OptionError for other directions."""
    if not callable(target):
        raise UsageError(f"objective {name!r} is a {type(target).__name__}, not a function")
    info = declarations.objective_info(target)
    way: Any = direction or info.direction
    if way not in ("maximize", "minimize"):
        raise OptionError(f"objective {name!r}: direction must be maximize or minimize, got {way!r}")
    try:
        parameters = declarations.signature(target).parameters.values()
    except (TypeError, ValueError) as error:
        raise UsageError(f"objective {name!r}: its signature cannot be read: {error}") from None
    if any(p.kind == p.POSITIONAL_ONLY for p in parameters):
        raise UsageError(f"objective {name!r} takes positional-only arguments; it is called by keyword")
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    inputs = frozenset(p.name for p in named) if info.needs is None else frozenset(info.needs)
    takes_all = info.needs is None and any(p.kind == p.VAR_KEYWORD for p in parameters)
    if takes_all and not inputs:
        inputs = frozenset({"model"})  # it names nothing and gets everything
    open_function = takes_all and inspect.isroutine(target) and "completions" in inputs
    return Objective(
        name=name,
        function=target,
        direction=way,
        inputs=inputs | {"completions"} if info.gives == "order" else inputs,
        required=frozenset(p.name for p in named if p.default is p.empty) if info.needs is None else inputs,
        takes_all=takes_all,
        info=info,
        calls=calls or Calls(),
        stand_ins=trl_arguments.NAMES & inputs | (trl_arguments.LOGGING if open_function else frozenset()),
    )


__all__ = ["Objective", "Sum", "wrap"]
