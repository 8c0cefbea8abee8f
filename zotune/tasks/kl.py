"""How far a model that generates text has moved from where it began, measured with forward passes alone.

What it said before anything was tuned, sampled on some training prompts, and how much less likely the model as it is
now finds that: an unbiased estimate of KL(start ‖ now), in nats a token.

Knows tasks; knows no objective and no optimizer.
"""

from __future__ import annotations

import math

from zotune.distributed import Processes
from zotune.tasks import build
from zotune.tasks.classification import Option

PROMPTS = 32
"""Training prompts whose completions it is measured on."""


class KLDivergence:
    """Call it for how far the model has moved since this was made; `of` makes it."""

    def __init__(self, task: build.GenerationTask, words: list[Option]) -> None:
        self._task, self._words = task, words
        self._before = self._likelihood()

    @classmethod
    def for_task(cls, task: build.Task, train: build.EncodedRows, processes: Processes) -> KLDivergence | None:
        """None where the model generates nothing."""
        if not isinstance(task, build.GenerationTask):
            return None
        with processes.local():
            words = task.sample_completions(train, range(min(PROMPTS, len(train))))
            return cls(task, words) if words else None

    def __call__(self) -> float:
        """Nats a token."""
        return self._before - self._likelihood()

    def _likelihood(self) -> float:
        """Mean log-probability of the words, in nats a token."""
        return math.fsum(self._task.log_probabilities(self._words)) / sum(len(o.targets) for o in self._words)


__all__ = ["KLDivergence"]
