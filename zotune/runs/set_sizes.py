"""How many held-out rows, and how many rows for a linear probe, the budget of a run affords.

A run's work beside its steps, validation, test and probe, is bounded by its budget and not by its data. Knows
configurations and records; loads no model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from zotune import seeds
from zotune.config import RunConfig
from zotune.data.records import Record

DEFAULT_BATCH_SIZE: Final = 16
DEFAULT_EVALS: Final = 2400
UNLIMITED_EVALS: Final = 600
"""Evaluations that are assumed where a run is limited by time alone."""
EVALS_A_STEP: Final = 2
"""Evaluations of a step that are assumed before the optimizer is known."""
EVALS_A_SECOND: Final = 2
"""Evaluations in a second that a longer limit on time pays for at least."""
FEWEST_ROWS: Final = 300
"""Held-out rows that every budget affords."""
SHARE: Final = 1 / 32
"""Rows of a held-out set as a share of the rows that all steps evaluate: a dozen validations and two test scores take
less than half as many rows as the steps."""


def affordable_rows(config: RunConfig, batch_size: int | None = None) -> int:
    """Rows of a held-out set that the budget pays for. batch_size: the objective's own, where it has one."""
    size = config.batch_size or batch_size or DEFAULT_BATCH_SIZE
    ends = [config.max_evals] if config.max_evals else []
    ends += [config.max_steps * EVALS_A_STEP] if config.max_steps else []
    ends += [max(UNLIMITED_EVALS, int(config.max_time * EVALS_A_SECOND))] if config.max_time else []
    ends += [-(-config.max_score_calls // size)] if config.max_score_calls else []
    return max(FEWEST_ROWS, int(SHARE * size * min(ends, default=DEFAULT_EVALS)))


def draw(records: list[Record], count: int, seed: int, purpose: str) -> list[Record]:
    """So many of the records, drawn by seed, in their order; all of them where there are no more."""
    return records if count >= len(records) else [records[i] for i in drawn_places(len(records), count, seed, purpose)]


def drawn_places(total: int, count: int, seed: int, purpose: str) -> list[int]:
    """`count` of the numbers below `total`, drawn by seed and purpose, in ascending order."""
    return sorted(random.Random(seeds.derive(seed, purpose)).sample(range(total), min(count, total)))


def note_on_sets(before: Sequence[int], after: Sequence[int], asked: bool = False) -> list[str]:
    """A note on the validation and test sets that were reduced. before, after: their numbers of rows; asked: whether
    the user gave one."""
    parts = [
        f"{name} set: {few:,} of {all_rows:,} rows"
        for name, all_rows, few in zip(("validation", "test"), before, after, strict=True)
        if few < all_rows
    ]
    why = "" if asked else ", as the budget affords"
    return [f"{', '.join(parts)} are drawn{why} (--validation-rows, --test-rows)"] if parts else []


__all__ = [
    "DEFAULT_BATCH_SIZE",
    "DEFAULT_EVALS",
    "UNLIMITED_EVALS",
    "affordable_rows",
    "draw",
    "drawn_places",
    "note_on_sets",
]
