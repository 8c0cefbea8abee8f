"""Questions to raters, as the tuner asks them and as raters see them, and how far the rating is. Records alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from zotune.errors import OptionError, nearest

PURPOSES: Final = ("tune", "progress", "judge", "compare")
MAX_COMPLETIONS: Final = 9
"""Completions in a question at most: the rater chooses with the keys 1 to 9."""


@dataclass(frozen=True)
class Question:
    """A prompt with two to nine completions to compare. Raises OptionError if a field is out of range.

    key: unique and stable; questions with the same key are the same question.
    purpose: "tune" (a training step), "progress" (base model and present model, asked among the others), "judge" (the
        final comparison of the two) or "compare" (a win rate).
    """

    key: str
    prompt: str
    completions: tuple[str, ...]
    purpose: str = "tune"

    def __post_init__(self) -> None:
        if not self.key:
            raise OptionError("a question needs a key, got ''")
        if self.purpose not in PURPOSES:
            raise OptionError(
                f"a question's purpose must be one of {', '.join(PURPOSES)}, got {self.purpose!r}",
                hint=nearest(str(self.purpose), PURPOSES),
            )
        if not 2 <= len(self.completions) <= MAX_COMPLETIONS:
            raise OptionError(f"a question needs 2 to {MAX_COMPLETIONS} completions, got {len(self.completions)}")


@dataclass(frozen=True)
class BlindQuestion:
    """A question as a rater sees it: completions in the order of their places, without anything that identifies them.

    id: identifies this showing of the question; after an undo the question gets a new id.
    """

    id: int
    prompt: str
    completions: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """How far the rating is.

    answered, open: questions with and without a verdict. planned: questions expected in total, None if unknown.
    seconds: median time of the latest verdicts; left: seconds of rating left; None if unknown. agreed, repeated: see
    `preferences.agreement`; the other counts exclude repeats. state: what the tuner does; running: whether it runs.
    done: no question is open and none will come. report: what the tuner reports of its progress, a JSON value, or None
    (`progress_report`). stopping: whether the rater has asked to end the tuning. wish: what the rater has
    stated in words. writing: whether a completion that a rater writes is learnt from.
    """

    answered: int
    open: int
    planned: int | None
    seconds: float | None
    left: float | None
    agreed: int
    repeated: int
    state: str
    running: bool
    done: bool
    report: Any = None
    stopping: bool = False
    wish: str = ""
    writing: bool = False


__all__ = ["MAX_COMPLETIONS", "PURPOSES", "BlindQuestion", "Progress", "Question"]
