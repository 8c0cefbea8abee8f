"""The length of completions: shorter is better, or closer to a target length.

    n;  with target: |n − target|;  with at_most: max(n − at_most, 0);  one number for each row, lower is better

n counts words (split at blanks), characters (Unicode code points, for scripts without blanks), or tokens of the model.
An empty completion has length 0, the best value without a target; a sum with another objective keeps the model from
writing nothing (`-o accuracy -o length`). `--direction maximize` prefers long completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zotune.errors import OptionError
from zotune.text import texts
from zotune.types import ObjectiveInfo


@dataclass(frozen=True)
class Length:
    unit: Literal["words", "characters", "tokens"] = "words"  # what is counted
    target: int | None = None  # best length
    at_most: int | None = None  # length up to which all completions are equally good

    def __post_init__(self) -> None:
        for name, value in (("target", self.target), ("at_most", self.at_most)):
            if value is not None and value < 0:
                raise OptionError(f"length: {name} must be 0 or more, got {value}")
        if self.target is not None and self.at_most is not None:
            raise OptionError(
                f"length: target and at_most exclude each other, got {self.target} and {self.at_most}",
                hint="set one of them",
            )

    def info(self) -> ObjectiveInfo:
        needs = "completion_ids" if self.unit == "tokens" else "completions"
        return ObjectiveInfo("minimize", level="sample", needs=(needs,))

    def __call__(self, completions: Sequence[Any] = (), completion_ids: Sequence[Sequence[int]] = ()) -> list[float]:
        """The length of each completion, or its distance from the target. `info` declares which input is needed."""
        if self.unit == "tokens":
            return [self._distance(len(ids)) for ids in completion_ids]
        return [self._distance(len(t.split()) if self.unit == "words" else len(t)) for t in texts(completions)]

    def _distance(self, n: int) -> float:
        if self.target is not None:
            return float(abs(n - self.target))
        return float(max(n - (self.at_most or 0), 0))
