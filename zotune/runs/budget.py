"""The budget of a run: steps, evaluations and scores that its limits pay for, and how often it is evaluated.

Knows limits, the cost of a step and the sizes of batches and held-out sets; runs no step and scores nothing.
"""

from __future__ import annotations

from typing import Final

from zotune import declarations
from zotune.core.space import Space
from zotune.distributed import Processes
from zotune.runs.plan import Plan
from zotune.runs.set_sizes import DEFAULT_EVALS, UNLIMITED_EVALS
from zotune.runs.training_signal import TrainingSignal
from zotune.scoring.score_budget import ScoreBudget
from zotune.search.batches import Batches
from zotune.search.journal import Journal
from zotune.search.limits import Budget, cost_of, planned

VALIDATION_SHARE: Final = 0.1
"""The share of limited scores that the validation of a run with populations may take."""
DEFAULT_EVAL_STEPS: Final = 50
"""Steps between two evaluations of a run that is limited by time alone."""
EVALUATIONS: Final = 10
"""Evaluations of the validation set in a run of known length, unless `--eval-steps` says otherwise."""


class RunBudget:
    """What a plan's limits pay for. validation_rows, test_rows: sizes of the held-out sets."""

    def __init__(
        self,
        plan: Plan,
        space: Space,
        batches: Batches,
        signal: TrainingSignal,
        validation_rows: int,
        test_rows: int,
        processes: Processes,
    ) -> None:
        self._plan, self._space, self._batches, self._processes = plan, space, batches, processes
        self._recorded_eval_steps = 0
        config, objective = plan.config, plan.objective
        others = (config.max_steps, config.max_evals, config.max_time, config.max_score_calls)
        own, parts = objective.info.max_scores, len(objective.each)
        each = batches.size if objective.ordered else batches.size * signal.samples * max(signal.smooth, 1) * parts
        self._scores = ScoreBudget(
            own if own is not None and not any(others) else config.max_score_calls,
            each,
            declarations.optimizer_info(plan.optimizer).compares if objective.ordered else 1,
            parts * validation_rows if objective.info.validates else 0,
            parts * test_rows,
            1 if objective.ordered else 2,
            repeats=objective.info.ask is None,
        )

    @property
    def counts_scores(self) -> bool:
        """Whether the number of scores is limited."""
        return self._scores.limit is not None

    def limits(self) -> Budget:
        """When the run ends."""
        config = self._plan.config
        self._scores.share = VALIDATION_SHARE if self._batches.population.rows else 0.0
        none = config.max_steps is None and config.max_evals is None and config.max_time is None
        evals = DEFAULT_EVALS if none else config.max_evals
        if self.counts_scores:
            paid = self._scores.affordable(max(self.cost(), 1), config.eval_steps)
            evals = paid if evals is None or (none and config.max_score_calls is None) else min(evals, paid)
        return Budget(config.max_steps, evals, config.max_time)

    def planned(self) -> tuple[int | None, int | None]:
        """Steps and evaluations that the budget pays for; None where time alone limits them."""
        return planned(self.limits(), self.cost)

    def planned_scores(self) -> int:
        """Rows that the steps and the test set ask the objective about; of partners that are compared one a pair."""
        rows = self._batches.population.rows // (2 if self._plan.objective.ordered else 1) or self._batches.size
        return (self.planned()[0] or 0) * rows + self._scores.test_rows

    def expected_evals(self) -> int:
        """Evaluations of the whole run, as far as known before it."""
        return self.limits().evals or self.planned()[1] or UNLIMITED_EVALS

    def used(self, evaluations: int) -> float:
        """The share of the expected evaluations that so many are."""
        return evaluations / max(self.expected_evals(), 1)

    def cost(self, step: int = 0, progress: float = 0.0) -> int:
        """Evaluations that a step makes. progress: the share of the budget that is used before it."""
        return cost_of(self._plan.optimizer, self._space, self._batches, step, progress)

    def eval_steps(self) -> int:
        """Steps between two evaluations of the validation set."""
        steps = self.planned()[0]
        if steps and self._batches.population.rows and self.counts_scores:  # the first validation is one of them
            default = -(-steps // min(self._scores.validations - 1, EVALUATIONS))
        else:
            default = max(steps // EVALUATIONS, 1) if steps else DEFAULT_EVAL_STEPS
        return self._plan.config.eval_steps or self._recorded_eval_steps or default

    def resume(self, journal: Journal) -> None:
        """Keep the run's own interval of evaluations, and count, at most, the scores that earlier processes have paid
        for. The test scores of the base model are not among them: they are paid for again."""
        evaluations = max((line["evals"] for line in journal.lines if line["kind"] == "step"), default=0)
        validations = sum(line["kind"] == "eval" for line in journal.lines)
        self._recorded_eval_steps = journal.header["eval_steps"]
        self._scores.earlier = self._scores.scores(evaluations, validations)

    def scores_spent(self, evaluations: int) -> bool:
        """Whether the scores that are left do not pay for a step of so many evaluations."""
        if not self.counts_scores:
            return False
        used = self._processes.on_first(lambda: sum(part.meter.rows for part in self._plan.objective.each))
        return self._scores.exhausted(used, evaluations)


__all__ = ["RunBudget"]
