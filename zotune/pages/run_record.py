"""What a page shows of a run, as records. Holds values alone; reads no file."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

State = Literal["running", "interrupted", "tuned", "start"]
"""Running, interrupted or killed, or ended: with the tuned weights or with the base model kept."""


class Step(NamedTuple):
    """A step. score: the batch's mean over the points, in the objective's own direction; signal: whether its points
    had different values. None where unknown."""

    step: int
    score: float | None
    signal: bool | None


class Evaluation(NamedTuple):
    """An evaluation of the validation set. error: the standard error of its difference from the base model's score,
    or where that is unknown of the score itself; kl: nats a token."""

    step: int
    score: float | None
    kl: float | None = None
    error: float | None = None
    best: bool = False
    diverged: str = ""
    failed: str = ""
    parts: Mapping[str, float] = {}


class Interpolation(NamedTuple):
    """The validation score of base + share · (step - base)."""

    step: int
    share: float
    score: float | None


class Rollback(NamedTuple):
    """The best checkpoint was restored after a step."""

    step: int
    to_step: int
    why: str


class Version(NamedTuple):
    """What the model wrote, or chose, after a step. verdict: "right" or "wrong" where that is all there is to say, else
    the score is shown."""

    step: int
    label: str
    text: str
    score: float | None
    verdict: str = ""


@dataclass(frozen=True)
class Sample:
    """A held-out prompt and what the model made of it, from the base model on. part: "validation" or "test"."""

    part: str
    prompt: str
    reference: str
    versions: Sequence[Version]


@dataclass(frozen=True)
class Predictions:
    """Classes of the test rows, as places in `names` (-1: none of them): the correct ones, those that the base model
    predicts and those of the tuned weights."""

    names: Sequence[str]
    correct: Sequence[int]
    before: Sequence[int]
    after: Sequence[int]


class RaterRecord(NamedTuple):
    """A person's ratings, repeats included. agreed, shared: of the questions that another person has rated, too, how
    many got the same rating; interval: the 95 % interval of that share."""

    name: str
    ratings: int
    agreed: int
    shared: int
    interval: tuple[float, float]


class RatingsRecord(NamedTuple):
    """What people have answered. verdicts: how often each was given; agreed, repeated: of the questions that were shown
    again, how many got the same rating; interval: the 95 % interval of that share; raters: those with a name."""

    verdicts: Mapping[str, int]
    agreed: int
    repeated: int
    interval: tuple[float, float]
    raters: Sequence[RaterRecord]


@dataclass(frozen=True)
class Scale:
    """A quantity that grows with the steps: (step, value) pairs in rising order, linear between them."""

    points: Sequence[tuple[float, float]]

    def at(self, step: float) -> float:
        """The value after so many steps."""
        steps = [s for s, _ in self.points]
        i = bisect.bisect_left(steps, step)
        if i == 0:
            return self.points[0][1]
        if i == len(steps):
            return self.points[-1][1]
        (s0, v0), (s1, v1) = self.points[i - 1], self.points[i]
        return v0 + (v1 - v0) * (step - s0) / (s1 - s0) if s1 > s0 else v1


@dataclass(frozen=True)
class RunRecord:
    """A run as its directory records it; what an older run did not record is empty or None.

    folder: as the user named it; header: of the journal; config: of config.yaml; result: of result.json; environment:
    of env.json. about: what the options do not tell, such as rows and tuned weights. spent: seconds by kind of work.
    dropped: (step, why) of steps whose scores failed. command: repeats the run, "" where no command does. scales: by
    "steps", "completions" and "seconds". written: when the directory was last written, as text. problems: files
    that could not be read whole.
    """

    folder: str
    name: str
    state: State
    header: Mapping[str, Any]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    result: Mapping[str, Any] | None
    card: Sequence[str] = ()
    steps: Sequence[Step] = ()
    evaluations: Sequence[Evaluation] = ()
    interpolations: Sequence[Interpolation] = ()
    rollbacks: Sequence[Rollback] = ()
    dropped: Sequence[tuple[int, str]] = ()
    samples: Sequence[Sample] = ()
    predictions: Predictions | None = None
    ratings: RatingsRecord | None = None
    scales: Mapping[str, Scale] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)
    calibrated: Mapping[str, float] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    written: str = ""
    problems: Sequence[str] = ()

    @property
    def objective(self) -> str:
        """The objective as the user named it; those of a sum with + between them."""
        names = self.about.get("objective") or self.config.get("objective", self.header.get("objective", ""))
        return names if isinstance(names, str) else " + ".join(map(str, names or ()))

    @property
    def maximizes(self) -> bool:
        return bool(self.header.get("direction") != "minimize")

    @property
    def model(self) -> str:
        """The model as a short name: of a path the last two parts."""
        name = str(self.header.get("model", ""))
        return "/".join(name.rstrip("/").split("/")[-2:]) if name.startswith(("/", ".", "~")) else name

    @property
    def start(self) -> str:
        """What tuning started from: "base model" or "linear probe"."""
        return start_of(self.header, self.result)

    @property
    def tuned(self) -> bool:
        """Whether the validation set has selected tuned weights."""
        return bool((self.result or {}).get("best_step"))

    @property
    def state_text(self) -> str:
        """The state in words."""
        words = {"tuned": "tuned weights kept", "start": f"{self.start} kept", "running": "not finished"}
        return words.get(self.state, self.state)

    @property
    def better(self) -> str:
        """How values of the objective compare, in words."""
        usual = "higher is better" if self.maximizes else "lower is better"
        return str(self.about.get("better", usual))

    @property
    def kind(self) -> str:
        """The task: "classification", "choice" or "generation"; "" where unknown."""
        return str((self.header.get("task") or {}).get("kind", ""))

    @property
    def last_step(self) -> int:
        """The last step that is recorded."""
        steps = [self.steps[-1].step] if self.steps else []
        return max([*steps, *(e.step for e in self.evaluations), 0])

    @property
    def best(self) -> Evaluation | None:
        """The evaluation that selects the best weights so far; None where there is none after the base model's."""
        if self.result and not self.result.get("best_step"):
            return None
        wanted = self.result["best_step"] if self.result else None
        for e in reversed(self.evaluations):
            if e.step and (e.step == wanted if wanted else e.best):
                return e
        return None


def start_of(header: Mapping[str, Any], result: Mapping[str, Any] | None) -> str:
    """What tuning started from: "base model" or "linear probe"."""
    probe = (result or {}).get("base") or (header.get("task") or {}).get("init") == "linear-probe"
    return "linear probe" if probe else "base model"


__all__ = [
    "Evaluation",
    "Interpolation",
    "Predictions",
    "RaterRecord",
    "RatingsRecord",
    "Rollback",
    "RunRecord",
    "Sample",
    "Scale",
    "State",
    "Step",
    "Version",
    "start_of",
]
