"""How many evaluations a limited number of scores pays for, validation and test scores included.

Knows numbers; knows no model and no objective.
"""

from __future__ import annotations

from dataclasses import dataclass

from zotune.errors import OptionError

EVALUATIONS = 20
"""Validation scores in a run at most, where the score limit decides how long the run is."""


@dataclass
class ScoreBudget:
    """The scores that a run may ask for.

    limit: scores at most; None: no limit. rows: rows that `points` evaluations score at most, without the cache.
    validation_rows, test_rows: rows of these sets, summed over the objectives. test_scorings: how often the test set is
    scored. earlier: scores of an earlier process of the same run. share: of the limit that validation may take; 0:
    EVALUATIONS validations, whatever they take. repeats: whether a step may be scored twice, after a failure.
    """

    limit: int | None
    rows: int
    points: int
    validation_rows: int
    test_rows: int
    test_scorings: int
    earlier: int = 0
    share: float = 0.0
    repeats: bool = True

    @property
    def validations(self) -> int:
        """Validations in a run at most, where the score limit decides how long the run is."""
        if not self.share or self.limit is None or not self.validation_rows:
            return EVALUATIONS
        return min(max(int(self.share * self.limit / self.validation_rows), 2), EVALUATIONS)

    def scores(self, evaluations: int, validations: int = 0) -> int:
        """Scores of so many evaluations and so many validations."""
        return -(-evaluations // self.points) * self.rows + validations * self.validation_rows

    def affordable(self, cost: int, every: int | None) -> int:
        """Evaluations that the limit pays for, after the validation and test scores and, with `repeats`, one more step.

        cost: evaluations of a step; every: steps between two validations, None: as `EVALUATIONS` says. Raises
        OptionError where the limit pays for no step.
        """
        assert self.limit is not None
        step = self.scores(cost)
        held_out = self.test_scorings * self.test_rows + self.validation_rows * (2 if every else self.validations)
        left = self.limit - held_out - (step if self.repeats else 0)
        evaluations = int(left * cost / (step + (self.validation_rows / every if every else 0)))
        if evaluations < cost:
            raise OptionError(
                f"--max-score-calls {self.limit} is too low: validation and test rows take {held_out} scores, "
                f"a step takes {step}",
                hint="raise it, use fewer validation and test rows, or a smaller --batch-size",
            )
        return evaluations

    def exhausted(self, used: int, evaluations: int) -> bool:
        """Whether the limit pays for no further step of so many evaluations, made twice with `repeats`, with the
        validation and test scores after it. used: scores of this process."""
        due = (1 + self.repeats) * self.scores(evaluations) + self.validation_rows + self.test_rows
        return self.limit is not None and self.earlier + used + due > self.limit


__all__ = ["EVALUATIONS", "ScoreBudget"]
