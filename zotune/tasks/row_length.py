"""The sets of a run as tokenised rows, and how many tokens of a row are read.

The length is the default, or what the model can read where rows are longer. Of a large set a part is tokenised, the
longest rows among it, and the others when they are first read. Knows tasks and records; knows no objective.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, TypeVar

from zotune.data.records import Record
from zotune.errors import OptionError
from zotune.tasks.encoded_rows import EncodedRows, on_demand
from zotune.tasks.model_task import ModelTask

TaskT = TypeVar("TaskT", bound=ModelTask)
EAGER_ROWS: Final = 5000
"""Sets of up to so many rows are tokenised at once."""
CHECKED_ROWS: Final = 500
"""Of a larger set so many of its longest rows, and as many drawn ones, are tokenised before a run."""
ANSWERS: Final = ("messages", "prompt", "completion", "chosen", "rejected")
"""Columns that a task reads beside those of its template."""


def encode_sets(
    make_task: Callable[[int], TaskT],
    length: int,
    fixed: bool,
    sets: Sequence[Sequence[Record]],
    large: Collection[int] = (),
    note: Callable[[str], None] = lambda text: None,
) -> tuple[TaskT, list[EncodedRows], list[str]]:
    """A task with its encoded record sets, and notes on rows that are longer than the default length.

    make_task: builds the task for a length; length: the default, or the user's if `fixed`. A default grows to the
    model's own limit where rows would be shortened otherwise. large: the places of sets whose rows are tokenised when
    they are first read, where they are more than EAGER_ROWS; note: shows a line to the user during the run. Raises
    OptionError.
    """
    lazily = {k for k in large if len(sets[k]) > EAGER_ROWS}
    task, notes = make_task(length), []
    checked = [_checked(task, rows) if k in lazily else rows for k, rows in enumerate(sets)]
    limit = task.forward.model_length
    grows = not fixed and limit is not None and limit > length
    try:
        encoded = [task.rows(records) for records in checked]
    except OptionError:  # an answer that is longer than the default, or a fault that the second try repeats
        if not grows:
            raise
        encoded = []
    shortened, least = sum(rows.truncated for rows in encoded), "at least " if lazily else ""
    if grows and limit is not None and (shortened or not encoded):
        task = make_task(limit)
        encoded = [task.rows(records) for records in checked]
        count = f"{least}{shortened} rows" if shortened else "rows"
        notes.append(f"{count} are longer than {length} tokens: rows are read up to {task.max_length} (--max-length)")
        shortened = sum(rows.truncated for rows in encoded)
    longer = limit is not None and task.max_length + task.loaded.virtual_tokens >= limit
    remedy = "all that the model reads" if longer else "--max-length"
    if shortened:
        total = sum(map(len, sets))
        notes.append(
            f"{least}{shortened} of {total} rows are longer than {task.max_length} tokens and were shortened ({remedy})"
        )
    reported = [bool(shortened)]

    def report(index: int) -> None:
        if not reported[0]:
            reported[0] = True
            note(f"row {index + 1} is longer than {task.max_length} tokens and is shortened ({remedy})")

    for k in lazily:
        encoded[k] = on_demand(sets[k], task.rows, report)
    return task, encoded, notes


def _checked(task: ModelTask, records: Sequence[Record]) -> list[Record]:
    """The longest rows by their bytes, and drawn ones."""
    columns = {*task.spec.template.columns, *task.spec.choices, *ANSWERS}
    order = sorted(range(len(records)), key=lambda k: -sum(_bytes(records[k].get(c)) for c in columns))
    drawn = random.Random(len(records)).sample(order[CHECKED_ROWS:], CHECKED_ROWS)
    return [records[k] for k in [*order[:CHECKED_ROWS], *drawn]]


def _bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list) else 0


__all__ = ["encode_sets"]
