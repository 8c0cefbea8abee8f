"""The validation set during a run: which weights are the best, and whether the run has diverged.

Knows the validation rows, the base model's score on them and the KL divergence from it; knows no optimizer and no
step.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from zotune import seeds
from zotune.config import RunConfig
from zotune.core.space import Space
from zotune.distributed import Processes
from zotune.events import Example
from zotune.runs.heldout import HeldOutSet, Outputs
from zotune.search.journal import Journal
from zotune.search.progress import ValidationResult
from zotune.tasks import build
from zotune.tasks.kl import KLDivergence
from zotune.text import texts
from zotune.types import Score

EXAMPLES: Final = 4
"""Rows of each evaluation that an event shows."""


class Validation:
    """Evaluates the present weights on the validation set.

    kl: measures the KL divergence from the base model, or None. prefers_later: whether later weights are selected where
    their score is within a standard error of the best one: in runs whose steps have a sure direction and a bounded KL
    divergence, the smallest of many losses of few rows is mostly luck. paired_error: the standard error of the latest
    score's difference from the base model's, None where it was not needed or is unknown. bytes_sent: what these
    evaluations have sent to other processes.
    """

    def __init__(
        self, held_out: HeldOutSet, config: RunConfig, space: Space, kl: KLDivergence | None, processes: Processes
    ) -> None:
        self.held_out, self.bytes_sent, self.prefers_later = held_out, 0, False
        self._config, self._space, self._kl, self._processes = config, space, kl, processes
        self.paired_error: float | None = None
        self._base: tuple[Outputs, Score] | None = None
        self._latest: tuple[Outputs, Score] | None = None

    @property
    def base(self) -> Score | None:
        """The base model's score; None before the first evaluation."""
        return None if self._base is None else self._base[1]

    def evaluate(self) -> ValidationResult:
        """Score the validation set.

        The result has no loss where the KL divergence is above `--max-kl`, for such weights are never kept. It holds
        the score of each row the first time. Raises ObjectiveError.
        """
        sent = self._processes.sent
        try:
            return self._evaluate()
        finally:
            self.bytes_sent += self._processes.sent - sent

    def resume(self, journal: Journal) -> None:
        """Take the base model's score from the journal, or score it again where the journal lacks the scores of rows
        that are needed. The present weights must be the initial ones."""
        first = next((line for line in journal.lines if line["kind"] == "eval"), None)
        if first and "samples" in first:
            self._base = {}, Score(first["score"], tuple(first["samples"]))
        elif first and self.held_out.resamples:
            self._base = self.held_out.score()

    def within_max_kl(self) -> bool:
        """Whether the present weights lie within `--max-kl`."""
        kl, limit = self._divergence(), self._config.max_kl
        return kl is None or not limit or kl <= limit

    @property
    def completions_generated(self) -> int | None:
        """How many completions the task has generated, those of training rows included; None where it generates no
        text."""
        task = self.held_out.task
        return task.generated if isinstance(task, build.GenerationTask) else None

    @property
    def latest(self) -> tuple[Outputs, Score] | None:
        """Outputs and score of the latest evaluation, until its examples are taken; None where it was read from the
        journal."""
        return self._latest

    def take_examples(self) -> tuple[Example, ...]:
        """Outputs for the first rows at the latest evaluation, once; empty where it was read from the journal."""
        if self._latest is None:
            return ()
        (outputs, _), self._latest = self._latest, None
        if "completions" not in outputs:
            rows = self.held_out.rows
            outputs = self.held_out.task.outputs(rows, range(min(EXAMPLES, len(rows))))
        references = [r if isinstance(r, str) else " | ".join(r or []) for r in outputs["references"][:EXAMPLES]]
        prompts = [p if isinstance(p, str) else p[-1]["content"] for p in outputs["prompts"][:EXAMPLES]]
        return tuple(map(Example, prompts, references, texts(outputs["completions"][:EXAMPLES])))

    def _evaluate(self) -> ValidationResult:
        if not self._processes.alone:
            self._processes.check_equal("the weights", self._space.digest())
        outputs, score = self._latest = self.held_out.score()
        self.paired_error = None
        sign = -1.0 if self.held_out.objective.direction == "maximize" else 1.0
        kl, limit, samples = self._divergence(), self._config.max_kl, None
        if self._base is None:
            self._base, samples = (outputs, score), score.samples
        value = self.held_out.comparable_value(self._base[1], score)
        return ValidationResult(
            score=score.value,
            loss=None if kl is not None and limit and kl > limit else sign * value,
            parts=score.parts,
            kl=kl,
            samples=samples,
            diverged=self._diverged(outputs, score, kl),
            error=_standard_error(score.samples) if self.prefers_later else None,
        )

    def _diverged(self, outputs: Mapping[str, Any], score: Score, kl: float | None) -> str:
        """Why the run should restore the best checkpoint; "" where it should go on."""
        config = self._config
        if not config.rollback or self._base is None:
            return ""
        if kl is not None and config.max_kl and kl > config.max_kl:
            return f"KL divergence {kl:.3g} nats a token, above --max-kl {config.max_kl:g}"
        pair, seed = (self._base, (outputs, score)), seeds.derive(config.seed, "ruined")
        self.paired_error = self.held_out.paired_error(*pair, seed)
        errors = self.held_out.standard_errors_below(*pair, self.paired_error)
        below = errors is not None and errors > config.rollback
        return f"{errors:.1f} paired standard errors below the base model" if below else ""

    def _divergence(self) -> float | None:
        return self._kl() if self._kl else None


def _standard_error(samples: Sequence[float | None] | None) -> float | None:
    """The standard error of the mean of scores; None where there are no two."""
    scores = [x for x in samples or () if x is not None]
    return statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None


__all__ = ["Validation"]
