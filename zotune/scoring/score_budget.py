"""What a run may ask its objective, where scores are counted: rows that are scored, held-out ones too.

Knows numbers; knows no model and no objective.
"""

from __future__ import annotations

from dataclasses import dataclass

from zotune.errors import OptionError

EVALUATIONS = 20
"""Times that the selection rows are scored in a run, at most, where its length follows from a budget of scores."""


@dataclass
class ScoreBudget:
    """limit: scores that may be asked for; None: any number. rows: what `points` evaluations score, at most: without
    what is known already. select, judge: held-out rows; judgings: how often the latter are scored. earlier: what an
    earlier process has scored for the same run."""

    limit: int | None
    rows: int
    points: int
    select: int
    judge: int
    judgings: int
    earlier: int = 0

    def of(self, evaluations: int, assessed: int = 0) -> int:
        """Rows scored in so many evaluations, and in scoring the selection rows so often."""
        return -(-evaluations // self.points) * self.rows + assessed * self.select

    def paid(self, cost: int, every: int | None) -> int:
        """Evaluations that the limit pays for, beside the held-out rows and one step that is to be made again. cost:
        evaluations of a step; every: steps between two scorings of the selection rows. Raises OptionError where it
        pays for none."""
        assert self.limit is not None
        step = self.of(cost)
        held = self.judgings * self.judge + self.select * (2 if every else EVALUATIONS)
        paid = int((self.limit - held - step) * cost / (step + (self.select / every if every else 0)))
        if paid < cost:
            raise OptionError(
                f"{self.limit} scores are too few: held-out rows take {held}, a step {step}",
                hint="--max-score-calls more, fewer held-out rows, or a smaller --batch-size",
            )
        return paid

    def spent(self, used: int, evaluations: int) -> bool:
        """Whether what is left does not pay for a step of so many evaluations, made twice, and for the held-out rows
        after it. used: scored by this process."""
        due = 2 * self.of(evaluations) + self.select + self.judge
        return self.limit is not None and self.earlier + used + due > self.limit


__all__ = ["EVALUATIONS", "ScoreBudget"]
