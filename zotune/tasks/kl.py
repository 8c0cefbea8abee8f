"""The KL divergence of a generating model from its base model, estimated by forward passes.

Completions are sampled from the base model before tuning. Every position of them gives an unbiased estimate of KL(base
model ‖ current model), in nats a token, and the positions' mean is the estimate. Two versions exist, and the journal's
header records the second one:

    sampled   log p(x) − log q(x) of the sampled token x, on 32 texts
    expected  Σ_v p(v) f(v) over the LIKELY tokens that the base model finds most probable, and f(x) of a sampled token
              x that is none of them, on 12 texts;  f(v) = log p(v) − log q(v) + q(v) / p(v) − 1

p: the base model, q: the current one. f has the expectation of log p − log q under p, for Σ_v q(v) = 1, and is never
negative. The second version has a smaller error on fewer texts (docs/log.md), and each of its texts depends on its
prompt alone, not on the rows beside it. Source of f: Schulman 2020, Approximating KL Divergence. Knows tasks; knows no
objective and no optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from zotune.distributed import Processes
from zotune.tasks.encoded_rows import EncodedRows
from zotune.tasks.generation import GenerationTask
from zotune.tasks.model_task import ModelTask
from zotune.tasks.teacher_forcing import EncodedAnswer

EXPECTED, SAMPLED = "expected", "sampled"
PROMPTS: Final = {EXPECTED: 12, SAMPLED: 32}
"""The number of training prompts at most that completions are sampled for."""
LIKELY: Final = 64


class _Base(NamedTuple):
    """The base model at the positions of one completion.

    ids: of the tokens that are counted, (positions, LIKELY + 1), the last one being the sampled token; weights: of
    their f, 0 for a sampled token that is among the others; log_p: the same shape, 0 where the weight is 0.
    """

    ids: Tensor
    weights: Tensor
    log_p: Tensor


class KLDivergence:
    """An estimator of the KL divergence from the model as it was when this object was constructed.

    completions: sampled from that model. version: EXPECTED or SAMPLED.
    """

    def __init__(self, task: GenerationTask, completions: Sequence[EncodedAnswer], version: str = EXPECTED) -> None:
        self._task, self._completions = task, completions
        self._tokens = sum(len(answer.targets) for answer in completions)
        self._bases: list[_Base] = []
        self._sampled = 0.0
        if version == SAMPLED:
            self._sampled = self._mean_log_probability()
        else:
            self._bases = task.teacher_forcing.map_distributions(completions, self._base_of)

    @classmethod
    def for_task(
        cls, task: ModelTask, train: EncodedRows, processes: Processes, version: str = EXPECTED
    ) -> KLDivergence | None:
        """The estimator with completions of the first training prompts; None for a task without generation, and where
        all completions are empty."""
        if not isinstance(task, GenerationTask):
            return None
        with processes.local():
            rows = range(min(PROMPTS[version], len(train)))
            completions = task.sample_completions(train, rows, by_row=version == EXPECTED)
            return cls(task, completions, version) if completions else None

    def __call__(self) -> float:
        """The estimate for the current model, in nats a token."""
        if self._bases:
            total = math.fsum(self._task.teacher_forcing.map_distributions(self._completions, self._lost))
            return total / self._tokens
        return self._sampled - self._mean_log_probability()

    def _mean_log_probability(self) -> float:
        """Mean log-probability of the sampled tokens, in nats."""
        return math.fsum(self._task.log_probabilities(self._completions)) / self._tokens

    def _base_of(self, k: int, log_p: Tensor) -> _Base:
        """log_p: of every token at the positions of the k-th completion."""
        likely = log_p.topk(min(LIKELY, log_p.shape[1]), -1)
        sampled = torch.tensor(self._completions[k].targets, device=log_p.device)[:, None]
        counted = (likely.indices == sampled).any(-1, keepdim=True)
        ids = torch.cat([likely.indices, sampled], -1)
        weights = torch.cat([likely.values.exp(), torch.where(counted, 0.0, 1.0)], -1)
        own = torch.where(weights > 0, log_p.gather(1, ids), torch.zeros((), device=log_p.device))
        return _Base(ids, weights, own)

    def _lost(self, k: int, log_q: Tensor) -> float:
        """The estimate of the k-th completion's positions, summed."""
        ids, weights, log_p = self._bases[k]
        less = torch.where(weights > 0, log_p - log_q.gather(1, ids), torch.zeros((), device=log_q.device)).double()
        return float((weights.double() * (less + torch.expm1(-less))).sum())


__all__ = ["EXPECTED", "SAMPLED", "KLDivergence"]
