"""The records of a run: its counters, an evaluation of the validation set, and how the run ended.

Holds numbers alone; knows no weights and no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """Counters of a run. The engine changes them; all of them follow from the journal.

    step: steps so far; evaluations: of one batch at one point; queries: of one row at one point;
    dropped: steps whose evaluation failed; compared: steps
    that compared several points; flat: those of them whose points all had the same value; seconds: spent in the loop;
    best_loss: the smallest validation loss; best_step, best_share: the best weights, as base + share · (step - base);
    stale: evaluations of the validation set since the best one; damping: factor on the size of steps; diverged: why the
    present weights are about to be left, or ""; least, most: the smallest and the largest value that a member of a
    population had; margin: the largest standard error of a validation score, in a run whose later weights are preferred
    where they are as good.
    """

    step: int = 0
    evaluations: int = 0
    queries: int = 0
    dropped: int = 0
    compared: int = 0
    flat: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_step: int = 0
    best_share: float = 1.0
    stale: int = 0
    damping: float = 1.0
    diverged: str = ""
    least: float = math.inf
    most: float = -math.inf
    margin: float = 0.0

    @property
    def zero_share(self) -> float:
        """Share of the comparing steps whose points all had exactly the same value: steps without signal."""
        return self.flat / self.compared if self.compared else 0.0

    def note_members(self, values: Sequence[float]) -> bool:
        """Whether all members of a population have the best value so far, after worse ones: such a step is at the best
        score, not without signal, and does not count as a comparison."""
        if not values:
            return False
        saturated = max(values) <= self.least < self.most
        self.least, self.most = min(self.least, *values), max(self.most, *values)
        return saturated

    def to_json(self) -> dict[str, Any]:
        """The counters as a checkpoint keeps them."""
        values = asdict(self)
        return {**values, "ruined": values.pop("diverged")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """The counters that `to_json` returned."""
        return cls(**{"diverged" if name == "ruined" else name: value for name, value in values.items()})


@dataclass(frozen=True)
class ValidationResult:
    """One evaluation of the validation set.

    score: in the objective's own direction; loss: what selects the best weights, smaller is better, None for weights
    that must not be selected; parts: (name, value) of each objective in a sum; kl: KL divergence from the base model in
    nats a token; samples: the score of each row; diverged: why the best checkpoint should be restored, or ""; failed:
    the objective's error, or "".
    """

    score: float | None = None
    loss: float | None = None
    parts: tuple[tuple[str, float], ...] = ()
    kl: float | None = None
    samples: tuple[float | None, ...] | None = None
    diverged: str = ""
    failed: str = ""
    error: float | None = None

    def to_line(self) -> dict[str, Any]:
        """The fields that have a value, under their names in journal lines."""
        line: dict[str, Any] = {}
        if self.loss is not None:
            line["loss"] = self.loss
        if self.score is not None:
            line["score"] = self.score
        if self.parts:
            line["parts"] = dict(self.parts)
        if self.kl is not None:
            line["drift"] = self.kl
        if self.samples:
            line["samples"] = list(self.samples)
        if self.diverged:
            line["ruined"] = self.diverged
        if self.failed:
            line["failed"] = self.failed
        if self.error is not None:
            line["error"] = self.error
        return line

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> ValidationResult:
        """The evaluation that a journal line holds."""
        return cls(
            score=line.get("score"),
            loss=line.get("loss"),
            parts=tuple(line.get("parts", {}).items()),
            kl=line.get("drift"),
            samples=tuple(line["samples"]) if "samples" in line else None,
            diverged=line.get("ruined", ""),
            failed=line.get("failed", ""),
            error=line.get("error"),
        )


@dataclass(frozen=True)
class Outcome:
    """How the loop ended. reason: "done", "patience", "score calls" (their budget is spent), "good enough" (a person
    said so), "tracker" (one asked for it) or "interrupted"."""

    reason: str
    progress: Progress


__all__ = ["Outcome", "Progress", "ValidationResult"]
