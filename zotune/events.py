"""The events of a run: what happens, as frozen records, in the order in which it happens.

Whoever tunes, replays or compares emits events; a terminal, a tracker or a test receives them. Events hold numbers and
text, no callables and nothing that changes later. This module knows neither who emits an event nor who receives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Phase:
    """A part of the work begins, such as loading the model; it ends with the next event.

    brief: whether it is shown only where it takes longer than two seconds.
    """

    text: str
    brief: bool = False


@dataclass(frozen=True)
class Note:
    """Something that the user should know, in one line."""

    text: str


@dataclass(frozen=True)
class RunStarted:
    """The model is loaded, the base model is scored on the test set, and the first step follows.

    better: how values of the objective compare, in words; direction: "order" where the objective only compares;
    tuned_weights: scalars in all tuned tensors, of which there are `tensors`, with the names `tensor_names`;
    max_steps, max_evals, max_time: the budget, in steps, evaluations and seconds, None where it has no such limit.
    test_score: of the base model; probe_score: of the linear probe that tuning starts from, None where it starts from
    the base model.
    """

    folder: str
    model: str
    head: str
    device: str
    objective: str
    better: str
    direction: Literal["maximize", "minimize", "order"]
    optimizer: str
    tuned_weights: int
    tensors: int
    training_rows: int
    validation_rows: int
    test_rows: int
    batch_size: int
    test_score: float
    max_steps: int | None = None
    max_evals: int | None = None
    max_time: float | None = None
    probe_score: float | None = None
    tensor_names: str = ""


@dataclass(frozen=True)
class Calibrated:
    """`--learning-rate auto` or `--eps auto` chose options of the optimizer.

    options: (name, value); perturbation: the scale of a perturbation of all weights, whose cost is its KL divergence
    from the base model in nats a token (kl) or, where that is not measured, an increase of the loss as a share of it
    (loss_increase); steps: for how many steps the learning rate was chosen. None where unknown.
    """

    options: tuple[tuple[str, float], ...]
    perturbation: float | None = None
    kl: float | None = None
    loss_increase: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Initialized:
    """The optimizer has its first state. numbers: what its method `describe` returns, as (name, number)."""

    numbers: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class PreflightDone:
    """What some steps that were evaluated but not taken say about the run to come; None where unknown.

    directions: such steps, each evaluated on two batches of batch_size rows; steps: planned for the run; zero_share:
    share of the evaluated steps without a difference; signal_share: share of a difference's variance that is signal;
    signal: expected signal of the whole run in units of its noise; wider_eps, wider_zero_share: a larger perturbation
    scale than eps, and the zero share with it; linear_probe, base_score: validation scores of a linear probe, and of
    the base model where the probe is the better one; failed: the objective's error, or "".
    """

    directions: int | None = None
    batch_size: int | None = None
    steps: int | None = None
    zero_share: float | None = None
    signal_share: float | None = None
    signal: float | None = None
    eps: float | None = None
    wider_eps: float | None = None
    wider_zero_share: float | None = None
    linear_probe: float | None = None
    base_score: float | None = None
    failed: str = ""

    def signal_share_with(self, batch_size: int) -> float | None:
        """The signal share of a larger batch: n r / (1 + (n - 1) r) with n times the rows."""
        if self.signal_share is None or self.batch_size is None:
            return None
        n, r = batch_size / self.batch_size, max(self.signal_share, 0.0)
        return n * r / (1 + (n - 1) * r)

    @property
    def signal_share_error(self) -> float | None:
        """The standard error of the signal share."""
        return 1 / math.sqrt(self.directions) if self.directions else None

    @property
    def signal_error(self) -> float | None:
        """The standard error of the signal."""
        return math.sqrt(self.steps / self.directions) if self.directions and self.steps else None


@dataclass(frozen=True)
class StepDone:
    """A step was taken, or dropped. step: steps so far, this one included.

    evaluations: of the whole run so far; loss: mean of the values that the step asked for first, smaller is better;
    difference: the largest difference between two points of one call; zero_share: share of the steps so far without
    any difference; dropped: why the weights stayed as they were, or ""; scoring_share: share of the time spent in the
    objective; seconds_left: predicted seconds until the run directory holds the result; completions: generated so far
    by this process, those of held-out rows included, None where no text is generated.
    """

    step: int
    evaluations: int
    loss: float | None = None
    difference: float | None = None
    zero_share: float | None = None
    dropped: str = ""
    scoring_share: float | None = None
    seconds_left: float | None = None
    completions: int | None = None

    def metrics(self) -> dict[str, Any]:
        """What the hook `on_step_end` receives: the values that this step has, by name."""
        values = {
            "step": self.step,
            "evaluations": self.evaluations,
            "dropped": self.dropped or None,
            "difference": self.difference,
            "zero_share": self.zero_share,
            "loss": self.loss,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Evaluated:
    """The validation set was scored after a step, or before the first (step 0).

    score: in the objective's own direction; parts: (name, value) of each objective in a sum; kl: KL divergence from the
    base model in nats a token; best: whether these are the best weights so far; diverged: why the run will restore the
    best checkpoint, or ""; failed: the objective's error, or "".
    """

    step: int
    score: float | None = None
    parts: tuple[tuple[str, float], ...] = ()
    kl: float | None = None
    best: bool = False
    diverged: str = ""
    failed: str = ""


@dataclass(frozen=True)
class Example:
    """A validation row and the model's output for it."""

    prompt: str
    reference: str
    completion: str


@dataclass(frozen=True)
class Examples:
    """Outputs of the present weights for the first validation rows; follows an `Evaluated`. generated: whether they are
    generated text, not classes or options."""

    step: int
    items: tuple[Example, ...]
    generated: bool = False


@dataclass(frozen=True)
class Interpolated:
    """The validation set was scored at base + share · (last - base)."""

    step: int
    share: float
    score: float | None = None
    best: bool = False
    failed: str = ""


@dataclass(frozen=True)
class RolledBack:
    """The best checkpoint was restored. to_step, share: which one, as base + share · (step to_step - base); damping:
    factor on the size of the steps that follow; why: in what way the run had diverged."""

    step: int
    to_step: int
    share: float
    damping: float
    why: str


@dataclass(frozen=True)
class Finished:
    """The run ended. reason: "done", "patience", "score calls", "good enough", "tracker" or "interrupted"; kept:
    "tuned" or "start", the weights that the run directory holds."""

    folder: str
    reason: str
    kept: str


Event = (
    Phase
    | Note
    | RunStarted
    | Calibrated
    | Initialized
    | PreflightDone
    | StepDone
    | Evaluated
    | Examples
    | Interpolated
    | RolledBack
    | Finished
)
Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An `Emit` that does nothing."""


__all__ = [
    "Calibrated",
    "Emit",
    "Evaluated",
    "Event",
    "Example",
    "Examples",
    "Finished",
    "Initialized",
    "Interpolated",
    "Note",
    "Phase",
    "PreflightDone",
    "RolledBack",
    "RunStarted",
    "StepDone",
    "ignore",
]
