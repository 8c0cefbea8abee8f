"""The result of a run as frozen records.

Knows how records become the JSON of result.json and come back from it; computes no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zotune.errors import RunFolderError
from zotune.runs.history import History, plot, samples
from zotune.runs.run_directory import REPORT


@dataclass(frozen=True)
class ScoreEstimate:
    """An objective's value on some rows. error: its standard error, None where the objective cannot be resampled;
    parts: (name, value) of each objective in a sum."""

    value: float
    error: float | None
    rows: int
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Difference:
    """A paired difference, tuned minus base model, on the same rows: value, standard error, 95 % bootstrap interval."""

    value: float
    error: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ScoringCost:
    """What the objective has cost.

    rows: scored; known: rows whose scores were cached; share: of the run's time; faults: counts that a scorer keeps,
    such as retries and restarts.
    """

    rows: int
    known: int
    seconds: float
    share: float
    faults: dict[str, int]


@dataclass(frozen=True)
class Result:
    """The result of a run; its fields are the keys of result.json.

    reason: why the run ended: "done", "patience", "score calls", "good enough" (a person said so), "tracker" (one asked
        for it) or "interrupted".
    kept: "tuned" or "start" (the initial weights). The validation set selects the best tuned weights; the test set then
        decides whether they are kept, by `--guard` standard errors, and gives the scores below. A kept model's test
        score is therefore slightly optimistic.
    before, tuned: test scores of the initial weights and of the best tuned weights; after: of the weights that are
        kept.
    base: the test score of the base model where tuning started from a linear probe, which is then `before` and, where
        no tuned weights are kept, stays; else None.
    difference: paired, tuned minus before. probe: the test score of a linear probe on the base model, or None.
    forwards: evaluations of one batch at one point. dropped: steps whose scores failed. zero_share: share of steps
        without any difference between their points.
    best_step, best_share: the best weights are base + best_share · (step best_step - base).
    files: the checksum of each model file in the run directory; empty where the journal alone is kept.
    optimizer: numbers by name that the optimizer gives about its last state; empty for most.
    queries: the evaluations in single rows: one row at one point. None: of an earlier version.
    """

    folder: Path | None
    reason: str
    kept: str
    before: ScoreEstimate
    tuned: ScoreEstimate
    difference: Difference
    probe: ScoreEstimate | None
    steps: int
    forwards: int
    dropped: int
    zero_share: float
    best_step: int
    best_share: float
    seconds: float
    scoring: ScoringCost
    files: Mapping[str, str] = field(default_factory=dict)
    optimizer: Mapping[str, float] = field(default_factory=dict)
    base: ScoreEstimate | None = None
    queries: int | None = None

    @property
    def after(self) -> ScoreEstimate:
        return self.tuned if self.kept == "tuned" else self.before

    @property
    def history(self) -> History:
        """The steps and validations of the run."""
        return History.of(self._folder)

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Prompts with completions before, during and after the run; empty for tasks that generate no text."""
        return samples(self._folder)

    @property
    def report(self) -> Path:
        """The page of the run, report.html."""
        return self._folder / REPORT

    def plot(self) -> Any:
        """A matplotlib figure of the run's scores. Raises OptionError without matplotlib."""
        return plot(self.history, self._folder.name, self.before.value, self.after.value)

    @property
    def _folder(self) -> Path:
        if self.folder is None:
            raise RunFolderError("this result has no run directory")
        return self.folder

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Result:
        """The inverse of `json`."""
        own: dict[str, Any] = {k: v for k, v in values.items() if k != "after"}
        for name in ("before", "tuned", "probe", "base"):
            own[name] = own.get(name) and ScoreEstimate(**{**own[name], "parts": tuple(map(tuple, own[name]["parts"]))})
        own |= {"difference": Difference(**own["difference"]), "scoring": ScoringCost(**own["scoring"])}
        return cls(**{**own, "folder": own["folder"] and Path(own["folder"])})

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder) if self.folder else None, "after": asdict(self.after)}


__all__ = ["Difference", "Result", "ScoreEstimate", "ScoringCost"]
