"""Scores and the outcome of a run in words, for the terminal and the model card.

Knows results; computes nothing.
"""

from __future__ import annotations

from zotune.runs.result import Result, ScoreEstimate
from zotune.text import number


def scored(score: ScoreEstimate) -> str:
    """A score with its standard error, where it has one."""
    return number(score.value) + (f" ± {number(score.error)}" if score.error is not None else "")


def verdict(result: Result) -> str:
    """One sentence: which weights are kept, and why."""
    d, start = result.difference, "base model" if result.base is None else "linear probe"
    change, interval = number(d.value, sign=True), ""
    if d.low is not None and d.high is not None:
        interval = f", 95 % interval {number(d.low, sign=True)} to {number(d.high, sign=True)}"
    if result.kept == "tuned":
        sure = d.low is None or d.high is None or d.low > 0 or d.high < 0
        doubt = "" if sure else "; the interval contains zero, so this may be chance"
        return f"The tuned weights are kept: {change} on the test set{interval}{doubt}."
    if result.best_step == 0:
        return f"The {start} is kept: no evaluation on the validation set was better, so nothing was tuned."
    why = ""
    if d.error is not None and abs(d.value) < 2 * d.error:
        why = f", within two standard errors ({2 * d.error:.4f})"
    return f"The {start} is kept: the tuned weights changed the test score by {change}{interval}{why}."


def decided_by(result: Result) -> str:
    """One sentence: which rows decided between the tuned weights and the base model."""
    if result.best_step == 0:
        return "The validation set decided; the test set gives the scores and decided nothing."
    decided = f"The test set ({result.before.rows} rows) decided whether the tuned weights are kept"
    return decided + ("; their test score is therefore slightly optimistic." if result.kept == "tuned" else ".")


__all__ = ["decided_by", "number", "scored", "verdict"]
