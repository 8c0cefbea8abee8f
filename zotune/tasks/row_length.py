"""How many tokens of a row a task reads: the default, or what the model can read where rows are longer.

Knows tasks and records; knows no objective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from zotune.data.records import Record
from zotune.errors import OptionError
from zotune.tasks.encoded_rows import EncodedRows
from zotune.tasks.model_task import ModelTask

TaskT = TypeVar("TaskT", bound=ModelTask)


def encode_sets(
    make_task: Callable[[int], TaskT], length: int, fixed: bool, sets: Sequence[Sequence[Record]]
) -> tuple[TaskT, list[EncodedRows], list[str]]:
    """A task with its encoded record sets, and notes on rows that are longer than the default length.

    make_task: builds the task for a length; length: the default, or the user's if `fixed`. A default grows to the
    model's own limit where rows would be shortened otherwise. Raises OptionError.
    """
    task, notes = make_task(length), []
    limit = task.forward.model_length
    grows = not fixed and limit is not None and limit > length
    try:
        encoded = [task.rows(records) for records in sets]
    except OptionError:  # an answer that is longer than the default, or a fault that the second try repeats
        if not grows:
            raise
        encoded = []
    shortened = sum(rows.truncated for rows in encoded)
    if grows and limit is not None and (shortened or not encoded):
        task = make_task(limit)
        encoded = [task.rows(records) for records in sets]
        count = f"{shortened} rows" if shortened else "rows"
        notes.append(f"{count} are longer than {length} tokens: rows are read up to {task.max_length} (--max-length)")
        shortened = sum(rows.truncated for rows in encoded)
    if shortened:
        total = sum(map(len, encoded))
        longer = limit is not None and task.max_length + task.loaded.virtual_tokens >= limit
        remedy = "all that the model reads" if longer else "--max-length"
        notes.append(
            f"{shortened} of {total} rows are longer than {task.max_length} tokens and were shortened ({remedy})"
        )
    return task, encoded, notes


__all__ = ["encode_sets"]
