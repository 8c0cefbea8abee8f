"""Records and protocols that the core shares with plugins.

A plugin may import this module for its annotations and declarations; it needs neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

from zotune.errors import OptionError

Direction = Literal["maximize", "minimize"]
Level = Literal["sample", "set"]
Gives = Literal["values", "order"]
CallOption = Literal["concurrency", "batch_size", "timeout"]
PROVIDED: Final = frozenset(
    {"prompts", "completions", "completion_ids", "references", "predictions", "labels", "logits", "losses"}
    | {"chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens", "model", "batch"}
)
"""Inputs of an objective that tasks provide; every other input is a column of the data."""


@dataclass(frozen=True)
class RunContext:
    """What an objective's `start` learns about the run.

    folder: the run directory. message: shows one line to the user. stopping: whether the run is to end; an objective
    that waits asks it and raises `zotune.errors.Stopped`. seed: the run seed. planned: rows that the run is going to
    score, as far as its budget tells.
    """

    folder: Path
    message: Callable[[str], None]
    stopping: Callable[[], bool]
    seed: int
    planned: int


@dataclass(frozen=True)
class ObjectiveInfo:
    """The declaration of an objective: all that the core reads from it besides calling it.

    `@zotune.objective(...)` takes the same fields, except the callables, for a function or a class. Where the
    declaration depends on an instance's options, the class has a method `info()` that returns an ObjectiveInfo; it
    replaces the decorator's declaration. Raises OptionError for values that no field takes.

    direction: which values are better.
    level: "sample" where the objective scores each row by itself, "set" where it scores all rows together, None where
        that is unknown; its first result decides then.
    gives: "values", or "order" where it compares completions and has no values.
    needs: names of the inputs that it is called with; None: the parameters of the function.
    batch_size: training rows a step, where the user gives none.
    cacheable: whether the score of a row may be reused; None: for sample-level and async objectives.
    fast: False where a call takes long or costs money, so that test scores get no bootstrap interval.
    timeout: seconds that a call may take, where the user gives no limit.
    candidates: completions of a prompt that an order objective compares at a time.
    validates: False where it scores no validation rows, so that the last weights are kept.
    test_rows: test rows that it scores at most; None: all.
    max_scores: scores that a run may ask for, where the user limits nothing.
    call_options: options of the class that `--score-concurrency`, `--score-batch-size` and `--score-timeout` set. The
        class honours them itself. The core reads this field from the decorator, for it sets options before there is an
        instance.

    check: called with the number of classes of a classification task before the model is loaded; raises OptionError
        where the objective cannot score so many.
    start: called once before the run's first score.
    faults: counts of what went wrong while scoring, such as {"retries": 3}, for the run's summary.
    close: called at the end of the run; releases processes, connections and memory.
    """

    direction: Direction = "maximize"
    level: Level | None = None
    gives: Gives = "values"
    needs: tuple[str, ...] | None = None
    batch_size: int | None = None
    cacheable: bool | None = None
    fast: bool | None = None
    timeout: float | None = None
    candidates: int = 4
    validates: bool = True
    test_rows: int | None = None
    max_scores: int | None = None
    call_options: tuple[CallOption, ...] = ()
    check: Callable[[int], None] | None = None
    start: Callable[[RunContext], None] | None = None
    faults: Callable[[], Mapping[str, int]] | None = None
    close: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        for name, value, words in (
            ("direction", self.direction, ("maximize", "minimize")),
            ("level", self.level, (None, "sample", "set")),
            ("gives", self.gives, ("values", "order")),
        ):
            if value not in words:
                raise OptionError(f"{name} must be {' or '.join(map(repr, words))}, got {value!r}")
        for option in self.call_options:
            if option not in ("concurrency", "batch_size", "timeout"):
                raise OptionError(f"call_options are concurrency, batch_size and timeout, got {option!r}")
        for name, number, least in (
            ("batch_size", self.batch_size, 1),
            ("candidates", self.candidates, 2),
            ("test_rows", self.test_rows, 1),
            ("max_scores", self.max_scores, 1),
        ):
            if number is not None and (not isinstance(number, int) or number < least):
                raise OptionError(f"{name} must be a whole number of at least {least}, got {number!r}")
        if self.timeout is not None and not self.timeout > 0:
            raise OptionError(f"timeout must be positive, got {self.timeout!r}")


Needs = Literal["values", "comparisons", "order", "per_sample"]


@dataclass(frozen=True)
class OptimizerInfo:
    """The declared capabilities of an optimizer: class attributes, properties or methods of these names.

    A dataclass field or a parameter of `__init__` is an option of the user and never a capability.

    needs: what it asks the oracle for. "values"; "comparisons" where it evaluates several points in one call and uses
        their differences alone; "order" where ranks are enough; "per_sample" where it asks for one value a row.
    fields: tensors that its state stores, in multiples of the tuned weights.
    compares: points that it compares in one call, where the objective gives an order.
    calibrates: whether it finds its own step size and perturbation scale, so that `--learning-rate auto` and
        `--eps auto` add nothing.
    stratifies: whether its batches of labelled rows hold the classes in proportion, unless the user decides.
    interpolates: whether weights between the base model and the last step are evaluated at the end, unless the user
        decides.
    """

    needs: Needs = "values"
    fields: float = 0
    compares: int = 2
    calibrates: bool = False
    stratifies: bool = False
    interpolates: bool = False


@dataclass(frozen=True)
class Score:
    """One evaluation of an objective over some rows.

    value: the scalar, in the objective's own direction; samples: one float (or None: not applicable) a row for
    sample-level objectives, None for set-level ones; parts: (name, value) of each objective in a
    sum.
    """

    value: float
    samples: tuple[float | None, ...] | None = None
    parts: tuple[tuple[str, float], ...] = ()


@runtime_checkable
class Optimizer(Protocol):
    """A zeroth-order update rule: usually a frozen dataclass whose fields are its options.

    init(theta) -> state, or init(theta, oracle, at) where it wants to probe before step 0. The state is plain data; a
    recipe in it becomes a stored field.

    step(theta, oracle, state, at) -> (next theta, next state). Pure: the same arguments and oracle values give the same
    result, which is what makes replay exact. It may call the oracle as often as it likes; every value it sees is
    journaled. A step may be taken back: after a rollback it is asked to go on from an earlier state at a later `at.t`.

    Capabilities that it may declare: see `OptimizerInfo`; and `forwards`, evaluations of one batch at one point that a
    step costs, or, where steps differ, a method `cost(theta, at)` that returns them for the step to come.
    """

    def init(self, theta: Any) -> Any: ...

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> tuple[Any, Any]: ...


class Objective(Protocol):
    """Anything callable that scores. It is called by keyword with the names that it declares: `prompts`,
    `completions`, `references`, `predictions`, `labels`, `logits`, `model`, `batch`, and every column of the data. It
    returns one float for the set, or one float or None for each row."""

    def __call__(self, **inputs: Any) -> float | Sequence[float | None]: ...
