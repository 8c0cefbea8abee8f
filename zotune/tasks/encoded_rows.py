"""Records with their prompts, token ids, options and correct answers.

Knows records and token ids; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zotune.data.records import Record


@dataclass(frozen=True)
class EncodedRows:
    """Tokenised records; every sequence has one item a record.

    options: the texts to choose from (generation: the reference completions); gold: indices of the correct options,
    empty where the record names none; tokens: what the task's forward passes read; truncated: number of rows that were
    shortened.
    """

    records: Sequence[Record]
    prompts: Sequence[str]
    gold: Sequence[Sequence[int]]
    options: Sequence[Sequence[str]]
    tokens: Sequence[Any]
    truncated: int

    def __len__(self) -> int:
        return len(self.records)


__all__ = ["EncodedRows"]
