"""The length of completions: shorter is better, or nearer to a length.

    n;  with target: |n − target|;  with at_most: max(n − at_most, 0);  one number a row, lower is better

n is counted in words (parted by blanks), characters (Unicode code points, for text without blanks between words), or
tokens of the model. An empty completion has length 0, the best without a target; a sum with another objective keeps a
model from saying nothing (`-o accuracy -o length`). `--direction maximize` asks for longer ones.
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
    target: int | None = None  # the length wanted
    at_most: int | None = None  # the length up to which all are equally good

    def __post_init__(self) -> None:
        for name, value in (("target", self.target), ("at_most", self.at_most)):
            if value is not None and value < 0:
                raise OptionError(f"length: {name} must be 0 or more, got {value}")
        if self.target is not None and self.at_most is not None:
            raise OptionError(f"length: target={self.target} and at_most={self.at_most} exclude each other")

    def info(self) -> ObjectiveInfo:
        needs = "completion_ids" if self.unit == "tokens" else "completions"
        return ObjectiveInfo("minimize", level="sample", needs=(needs,))

    def __call__(self, **given: Any) -> list[float]:
        """The length of each completion, or how far it is from the one wanted."""
        return [self._distance(n) for n in self._score(**given)]

    @property
    def _score(self) -> Any:
        return self._tokens if self.unit == "tokens" else self._texts

    def _tokens(self, completion_ids: Sequence[Sequence[int]]) -> list[int]:
        return [len(ids) for ids in completion_ids]

    def _texts(self, completions: Sequence[Any]) -> list[int]:
        return [len(t.split()) if self.unit == "words" else len(t) for t in texts(completions)]

    def _distance(self, n: int) -> float:
        if self.target is not None:
            return float(abs(n - self.target))
        return float(max(n - (self.at_most or 0), 0))
