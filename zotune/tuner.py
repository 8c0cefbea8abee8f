"""`zotune.Tuner`: tune any torch module for any callable, from Python.

Knows modules, objectives and the search; knows no run directory and no transformers.
"""

from __future__ import annotations

import functools
import inspect
import secrets
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from zotune import declarations
from zotune.core.space import Space
from zotune.errors import NonFiniteScore, ObjectiveError, ObjectiveFailures, OptimizerError
from zotune.events import Emit, Evaluated, Event, Note, StepDone, ignore
from zotune.scoring.objective import wrap
from zotune.scoring.objective_spec import spec_name
from zotune.search import checkpoint, optimizer_spec
from zotune.search.batches import Batches
from zotune.search.engine import Engine
from zotune.search.hooks import Hooks, Settings
from zotune.search.journal import Journal
from zotune.search.limits import Budget
from zotune.search.oracle import Oracle
from zotune.search.progress import Outcome, ValidationResult
from zotune.search.selection import best_weights
from zotune.search.tracker_spec import check_callbacks
from zotune.search.tracking import TrackedStep, Tracking
from zotune.types import Direction, Optimizer, Score, TensorInfo, TrackedRun, Tracker

DEFAULT_BATCH_SIZE = 32
NOT_FELT = (
    "no step has changed the objective's value: enlarge eps (optimizer_args), use larger batches, or check that the "
    "objective depends on the tuned weights"
)
"""What is said where an optimizer gets no signal."""


@dataclass(frozen=True)
class Tuned(Outcome):
    """How `Tuner.fit` ended. before, after: the objective on all of `eval_data`, of the weights with which the first
    call began and of those that are kept; None without `eval_data`, or where the objective failed on it. felt: whether
    some step of this call changed the objective's value."""

    before: float | None = None
    after: float | None = None
    felt: bool = True


class Tuner:
    """Tunes the weights of a module for an objective, with forward passes only.

    module: the module that is tuned in place. Between evaluations its mode flags, buffers and requires_grad are those
        that it came with.
    objective: a function of `model` and `batch` (a list of items of `data`; empty without `data`), called by these
        names or, where its parameters have others, in this order. Returns one float for the batch, or a list of one
        float an item.
    optimizer: a name such as "mezo", or an object with `init` and `step`.
    data: training items; batches are drawn from them. None: the objective needs no data.
    eval_data: validation items. With them the weights with the best validation score are kept, else the last.
    batch_size: items a batch, at most all of `data`.
    direction: "maximize" or "minimize"; None: what `@zotune.objective` declares, else "maximize".
    select: whether a tensor is tuned; None: those that require grad.
    seed: random seed of data order and noise.
    optimizer_args: options of a named optimizer.
    emit: receives events of the run (`zotune.events`).

    Raises PluginError and OptionError for an optimizer that cannot be made, and UsageError for one that needs what the
    objective cannot give.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Callable[..., float | Sequence[float | None]],
        optimizer: str | Optimizer[Any] = "auto",
        *,
        data: Sequence[Any] | None = None,
        eval_data: Sequence[Any] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        direction: Direction | None = None,
        select: Callable[[TensorInfo], bool] | None = None,
        seed: int = 0,
        optimizer_args: Mapping[str, Any] | None = None,
        emit: Emit = ignore,
    ) -> None:
        self.module = module
        self.objective = wrap(_by_keyword(objective), spec_name(objective), direction)
        self.optimizer = optimizer_spec.resolve(optimizer, optimizer_args or {})
        optimizer_spec.check_needs(self.optimizer, self.objective)
        self.space = Space(module, seed, select)
        self.batches = Batches(len(data) if data is not None else 1, batch_size, seed)
        self.oracle = Oracle(self.space, self._evaluate, self.batches, self.objective.direction)
        self.journal = Journal.create(None, {"seed": seed})
        self._data, self._eval_data, self._emit = data, eval_data, emit
        self._store = checkpoint.MemoryStore()
        self._engine: Engine | None = None
        self._tracking, self._id = Tracking(), secrets.token_hex(4)
        self._first_budget: Budget

    def score(self, items: Sequence[Any] | None = None) -> float:
        """The objective's value of the current weights on `items`, by default on all of `data`.

        Raises ObjectiveError.
        """
        items = self._data if items is None else items
        return self._score([], 1).value if items is None else self._score(list(items), len(items)).value

    def fit(
        self,
        max_steps: int | None = None,
        max_evals: int | None = None,
        max_time: float | None = None,
        *,
        eval_steps: int = 100,
        max_failures: int = 10,
        patience: int | None = None,
        callbacks: Sequence[Tracker] = (),
    ) -> Tuned:
        """Tune until the first of the limits is reached. A second call continues, with limits of its own.

        max_steps: steps. max_evals: evaluations, each of one batch at one point. max_time: seconds.
        eval_steps: steps from one validation to the next. patience: validations without a better score after which
        the run stops. max_failures: steps that may fail. callbacks: receive steps and validations, and may end the
        call.

        With `eval_data` the module ends with the best weights, and the result has the scores before and after. Warns
        where no step changed the objective's value.

        Raises UsageError without a limit, OptimizerError where the optimizer is broken, and ObjectiveFailures after too
        many failed steps; the module then has the weights of the last good step. Where the weights diverged, so that
        they or the objective's values are not finite, these are the last weights that the objective could score, also
        where no error is raised.
        """
        if self._engine is None:
            self._first_budget = Budget(max_steps, max_evals, max_time)
            self._store.save(self.space, 0, {"progress": {"best_step": 0}}, keep=0)
            self._engine = self._new_engine(self._first_budget)
        engine = self._engine
        spent = engine.progress
        engine.budget = Budget(
            max_steps and spent.step + max_steps,
            max_evals and spent.evaluations + max_evals,
            max_time and spent.seconds + max_time,
        )
        interpolate = declarations.optimizer_info(self.optimizer).interpolates
        engine.settings = Settings(eval_steps, eval_steps, max_failures, patience, interpolate=interpolate)
        if engine.budget != self._first_budget:
            self.journal.append({"kind": "budget", **asdict(engine.budget)})  # for a replay over several calls
        compared, flat = spent.compared, spent.flat
        self._tracking = Tracking(check_callbacks(callbacks), lambda text: self._emit(Note(text)))
        config = {"objective": self.objective.name, "optimizer": type(self.optimizer).__name__, **asdict(engine.budget)}
        name = f"{type(self.module).__name__}-{self._id}"
        self._tracking.start(
            TrackedRun(name, None, config, spent.step, lambda text: self._emit(Note(text))),
            lambda: (),
            (spent.step, spent.step if spent.step else -1),
        )
        try:
            outcome = engine.run()
        except (ObjectiveFailures, OptimizerError):
            if self._diverged():
                self._restore_last_good()
            raise
        finally:
            if sys.exception() is not None:
                self._tracking.end()
        if self._eval_data is None and self._failed_last() and self._diverged():
            self._restore_last_good()
        best = outcome.progress
        if self._eval_data is not None and (best.best_step, best.best_share) != (best.step, 1.0):
            self.space.load(best_weights(self._store, best))
        steps = best.compared - compared
        felt = steps == 0 or best.flat - flat < steps
        if not felt:
            warnings.warn(NOT_FELT, stacklevel=2)
            self._emit(Note(NOT_FELT))
        tuned = Tuned(outcome.reason, best, *self._scores(), felt)
        self._tracking.end({"reason": tuned.reason, "steps": best.step, "before": tuned.before, "after": tuned.after})
        return tuned

    def _scores(self) -> tuple[float | None, float | None]:
        """The validation scores of the first weights and of the present ones."""
        if self._eval_data is None:
            return None, None
        first = next((line for line in self.journal.lines if line["kind"] == "eval"), {})
        try:
            return first.get("score"), self.score(self._eval_data)
        except ObjectiveError:
            return first.get("score"), None

    def _receive(self, event: Event) -> None:
        """Pass an event on to the user and to the trackers."""
        self._emit(event)
        match event:
            case StepDone():
                numbers = {k: v for k, v in event.metrics().items() if k in ("loss", "difference")}
                self._tracking.send(TrackedStep(event.step, numbers | ({"dropped": 1.0} if event.dropped else {})))
            case Evaluated():
                scores = {} if event.score is None else {"score": event.score}
                self._tracking.send(TrackedStep(event.step, scores, evaluates=True))

    @property
    def findings(self) -> dict[str, float]:
        """Numbers by name that the optimizer gives about its last state; empty for most, and before the first `fit`."""
        engine = self._engine
        return declarations.findings(self.optimizer, engine.state) if engine is not None else {}

    def _failed_last(self) -> bool:
        """Whether the last step was dropped."""
        steps = (line for line in reversed(self.journal.lines) if line["kind"] == "step")
        return "dropped" in next(steps, {})

    def _diverged(self) -> bool:
        """Whether the current weights, or the objective's values at them, are not finite."""
        if not all(bool(p.data.isfinite().all()) for p in self.space.params.values()):
            return True
        try:
            self._evaluate(self.batches.at(0).rows)
        except NonFiniteScore:
            return True
        except ObjectiveError:
            return False
        return False

    def _restore_last_good(self) -> None:
        """Replay up to the weights before the last step that was taken: its evaluations were the last ones that worked.
        Further calls of `fit` continue from there."""
        taken = [i for i, line in enumerate(self.journal.lines) if line["kind"] == "step" and "dropped" not in line]
        if not taken:
            return
        last = taken[-1]
        step = self.journal.lines[last]["step"]
        self.space.load(self._store.weights(0))
        self.space.fields = {}
        self.journal = Journal.of(self.journal.lines[:last])
        self._engine = self._new_engine(self._first_budget)
        self._engine.hooks.emit = ignore  # these steps have been reported
        self._engine.replay(step)
        self._engine.hooks.emit = self._receive

    def _new_engine(self, budget: Budget) -> Engine:
        hooks = Hooks(emit=self._receive, asked_to_end=lambda: bool(self._tracking.reason))
        if self._eval_data is not None:
            hooks.validate = functools.partial(self._validate, self._eval_data)
        return Engine(
            self.space, self.optimizer, self.oracle, self.batches, budget, self.journal, self._store, hooks=hooks
        )

    def _evaluate(self, indices: Sequence[int]) -> Score:
        items = [self._data[i] for i in indices] if self._data is not None else []
        return self._score(items, len(indices))

    def _validate(self, items: Sequence[Any]) -> ValidationResult:
        value = self._score(list(items), len(items)).value
        return ValidationResult(score=value, loss=-value if self.objective.direction == "maximize" else value)

    def _score(self, items: Sequence[Any], rows: int) -> Score:
        """The score of the current weights, in eval mode and without gradients. Mode flags and buffers are restored."""
        modes = {m: m.training for m in self.module.modules()}
        buffers = {name: b.clone() for name, b in self.module.named_buffers()}
        try:
            self.module.eval()
            with torch.no_grad():
                return self.objective.score(rows, {"model": self.module, "batch": items})
        finally:
            for m, training in modes.items():
                m.training = training
            for name, b in self.module.named_buffers():
                if name in buffers:
                    b.copy_(buffers[name])


def _by_keyword(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, callable by the keywords `model` and `batch` whatever its one or two required parameters are
    called; one with `**kwargs` gets both. A function with other required parameters is left as it is."""
    try:
        parameters = declarations.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins without a signature
        return function
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.kind not in variadic and p.default is p.empty]

    def of_keywords(model: nn.Module, batch: Sequence[Any]) -> Any:
        return function(model=model, batch=batch)

    if set(required) <= {"model", "batch"} and any(p.kind == p.VAR_KEYWORD for p in parameters):
        return declarations.copy_declaration(function, of_keywords)
    if not 1 <= len(required) <= 2 or set(required) <= {"model", "batch"}:
        return function

    def of_model(model: nn.Module) -> Any:
        return function(model)

    def of_both(model: nn.Module, batch: Sequence[Any]) -> Any:
        return function(model, batch)

    return declarations.copy_declaration(function, of_model if len(required) == 1 else of_both)


__all__ = ["Tuned", "Tuner"]
