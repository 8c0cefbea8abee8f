"""Tune any torch module for any callable, from Python. No transformers here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from zotune import declarations
from zotune.core.space import Space
from zotune.events import Emit, ignore
from zotune.scoring.objective import wrap
from zotune.scoring.objective_spec import spec_name
from zotune.search import checkpoint, optimizer_spec
from zotune.search.batches import Batches
from zotune.search.engine import Engine, Hooks, Settings
from zotune.search.journal import Journal
from zotune.search.limits import Budget
from zotune.search.oracle import Oracle
from zotune.search.progress import Outcome, ValidationResult
from zotune.search.selection import best_weights
from zotune.types import Optimizer, Score, TensorInfo

DEFAULT_BATCH = 32


class Tuner:
    """Tune any torch module for any callable.

    objective: called with `model` and `batch` (a list of items of `data`), by the names that it declares or in this
    order; returns a float for the batch or a list of one float an item. Without `data`, `batch` is an empty list.
    optimizer: a name, or an object with init and step. direction: overrides what the objective declares
    (`@zotune.objective`; maximize where nothing is said). select: which tensors (TensorInfo -> bool) are tuned; by
    default those that require grad. The module's mode flags, buffers and requires_grad are left as they were.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Callable[..., Any],
        optimizer: str | Optimizer = "auto",
        *,
        data: Sequence[Any] | None = None,
        eval_data: Sequence[Any] | None = None,
        batch_size: int = DEFAULT_BATCH,
        direction: str | None = None,
        select: Callable[[TensorInfo], bool] | None = None,
        seed: int = 0,
        optimizer_args: Mapping[str, Any] | None = None,
        emit: Emit = ignore,
    ) -> None:
        self.module, self._items = module, data
        self._eval_items = eval_data
        self.objective = wrap(_by_position(objective), spec_name(objective), direction)
        self.optimizer = optimizer_spec.resolve(optimizer, optimizer_args or {})
        optimizer_spec.check_needs(self.optimizer, self.objective)
        self.space = Space(module, seed, select)
        self.batches = Batches(len(data) if data is not None else 1, batch_size, seed)
        self.oracle = Oracle(self.space, self._evaluate, self.batches, self.objective.direction)
        self.journal = Journal.create(None, {"seed": seed})
        self._store, self._emit = checkpoint.MemoryStore(), emit
        self._engine: Engine | None = None

    def _evaluate(self, indices: Sequence[int]) -> Score:
        items = [self._items[i] for i in indices] if self._items is not None else []
        return self._score(items, len(indices))

    def _score(self, items: Sequence[Any], rows: int) -> Score:
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

    def score(self, items: Sequence[Any] | None = None) -> float:
        """The objective on `items` (all of `data` by default) with the weights as they are."""
        chosen = self._items if items is None else items
        return self._score(list(chosen or []), len(chosen) if chosen is not None else 1).value

    def fit(
        self,
        max_steps: int | None = None,
        max_evals: int | None = None,
        max_time: float | None = None,
        *,
        eval_steps: int = 100,
        max_failures: int = 10,
        patience: int | None = None,
    ) -> Outcome:
        """Tune until the budget ends; a second call goes on. With `eval_data` the best weights seen there are kept.
        Raises ObjectiveFailures, with the weights of the last good step in the module."""
        done = self._engine.progress if self._engine else None
        budget = Budget(
            max_steps + (done.step if done else 0) if max_steps else None,
            max_evals + (done.evaluations if done else 0) if max_evals else None,
            max_time + (done.seconds if done else 0.0) if max_time else None,
        )
        if self._engine is None:
            self._engine = Engine(
                self.space,
                self.optimizer,
                self.oracle,
                self.batches,
                budget,
                self.journal,
                self._store,
                hooks=Hooks(emit=self._emit),
            )
        engine = self._engine
        engine.budget = budget
        engine.settings = Settings(
            eval_steps,
            eval_steps,
            max_failures,
            patience,
            interpolate=declarations.optimizer_info(self.optimizer).interpolates,
        )
        if self._eval_items is not None:
            engine.hooks.validate = functools.partial(self._validate, self._eval_items)
        outcome = engine.run()
        p = outcome.progress
        if self._eval_items is not None and (p.best_step, p.best_share) != (p.step, 1.0):
            self.space.load(best_weights(self._store, p))
        return outcome

    def _validate(self, items: Sequence[Any]) -> ValidationResult:
        value = self._score(list(items), len(items)).value
        return ValidationResult(score=value, loss=-value if self.objective.direction == "maximize" else value)


def _by_position(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A callable whose parameters are not named model and batch is called with them in that order."""
    try:
        found = [
            p for p in declarations.signature(fn).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return fn
    required = [p for p in found if p.default is p.empty]
    if not required or {p.name for p in required} <= {"model", "batch"} or len(required) > 2:
        return fn
    if len(required) == 1:
        call: Callable[..., Any] = lambda model: fn(model)  # noqa: E731
    else:
        call = lambda model, batch: fn(model, batch)  # noqa: E731
    return declarations.copy_declaration(fn, call)
