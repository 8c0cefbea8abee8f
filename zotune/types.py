"""The protocols between the core and its plugins. A plugin needs to import none of them: shape is all that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class ObjectiveInfo:
    """What an objective declares about itself (`@zotune.objective(...)`).

    level: "sample" where it scores each row, "set" where only all of them together, None where it does not say. gives:
    "values", or "order" where it can only say which of several candidates is better.
    """

    direction: Direction = "maximize"
    level: Literal["sample", "set"] | None = None
    gives: Literal["values", "order"] = "values"


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
    journaled.

    Optional attributes: `forwards` (evaluations of one batch at one point that a step costs) or, where steps differ, a
    method `cost(theta, at)` that says it of the step to come; and `fields` (extra memory in multiples of the tuned
    weights): all are checked by the contract tests; `needs`: "values" (the default), "comparisons" where several points
    are asked for at once and their differences alone count, "order" where ranks are enough, "per_sample" where it asks
    for one value a row. What the objective cannot give is refused before anything is loaded. `interpolates`: at the end
    weights between the start and the last are assessed too; `calibrates`: it finds its own step and perturbation sizes,
    so that `--learning-rate auto` and `--eps auto` add nothing; `stratifies`: batches of labelled rows hold the classes
    in proportion. A step may be taken back: after a rollback it is asked
    to go on from an earlier state at a later `at.t`.
    """

    def init(self, theta: Any) -> Any: ...

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> tuple[Any, Any]: ...


class Objective(Protocol):
    """Anything callable that scores. It is called by keyword with the names that it declares: `prompts`,
    `completions`, `references`, `predictions`, `labels`, `logits`, `model`, `batch`, and every column of the data. It
    returns one float for the set, or one float or None for each row."""

    def __call__(self, **inputs: Any) -> float | Sequence[float | None]: ...
