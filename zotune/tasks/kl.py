"""The KL divergence of a generating model from its base model, estimated by forward passes.

Completions are sampled from the base model before tuning; the mean drop of their log-probability is an unbiased
estimate of KL(base model ‖ current model), in nats a token. Knows tasks; knows no objective and no optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from zotune.distributed import Processes
from zotune.tasks.encoded_rows import EncodedRows
from zotune.tasks.generation import GenerationTask
from zotune.tasks.model_task import ModelTask
from zotune.tasks.teacher_forcing import EncodedAnswer

PROMPTS = 32
"""The number of training prompts at most that completions are sampled for."""


class KLDivergence:
    """An estimator of the KL divergence from the model as it was when this object was constructed.

    completions: sampled from that model.
    """

    def __init__(self, task: GenerationTask, completions: Sequence[EncodedAnswer]) -> None:
        self._task, self._completions = task, completions
        self._base = self._mean_log_probability()

    @classmethod
    def for_task(cls, task: ModelTask, train: EncodedRows, processes: Processes) -> KLDivergence | None:
        """The estimator with completions of the first training prompts; None for a task without generation, and where
        all completions are empty."""
        if not isinstance(task, GenerationTask):
            return None
        with processes.local():
            completions = task.sample_completions(train, range(min(PROMPTS, len(train))))
            return cls(task, completions) if completions else None

    def __call__(self) -> float:
        """The estimate for the current model, in nats a token."""
        return self._base - self._mean_log_probability()

    def _mean_log_probability(self) -> float:
        """Mean log-probability of the completions' tokens, in nats."""
        total = math.fsum(self._task.log_probabilities(self._completions))
        return total / sum(len(answer.targets) for answer in self._completions)


__all__ = ["KLDivergence"]
