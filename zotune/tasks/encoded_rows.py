"""Records with their prompts, token ids, options and correct answers: all at once, or each when it is first read.

Knows records and token ids; knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from zotune.data.records import Record

KEPT: Final = 65_536
"""Records read on demand that are kept at most; the oldest are tokenised again where they are read again."""


@dataclass(frozen=True)
class EncodedRows:
    """Tokenised records; every sequence has one item a record.

    options: the texts to choose from (generation: the reference completions); gold: indices of the correct options,
    empty where the record names none; tokens: what the task's forward passes read; truncated: number of rows that were
    shortened, of rows that are read on demand 0.
    """

    records: Sequence[Record]
    prompts: Sequence[str]
    gold: Sequence[Sequence[int]]
    options: Sequence[Sequence[str]]
    tokens: Sequence[Any]
    truncated: int

    def __len__(self) -> int:
        return len(self.records)

    def subset(self, indices: Sequence[int]) -> EncodedRows:
        """Some of the rows, in the order of the indices."""

        def some(values: Sequence[Any]) -> list[Any]:
            return [values[i] for i in indices]

        return EncodedRows(
            some(self.records), some(self.prompts), some(self.gold), some(self.options), some(self.tokens), 0
        )


Encode = Callable[[Sequence[Record]], EncodedRows]
"""Tokenises records."""


def on_demand(records: Sequence[Record], encode: Encode, shortened: Callable[[int], None]) -> EncodedRows:
    """Records that are tokenised one by one when they are first read.

    shortened: called with the index of each row that is shortened. Errors of `encode` come when a row is read.
    """
    cache = _Cache(records, encode, shortened)
    prompts, gold, options, tokens = (_Column(cache, name) for name in ("prompts", "gold", "options", "tokens"))
    return EncodedRows(records, prompts, gold, options, tokens, 0)


class _Cache:
    """The rows that were read."""

    def __init__(self, records: Sequence[Record], encode: Encode, shortened: Callable[[int], None]) -> None:
        self.records, self._encode, self._shortened = records, encode, shortened
        self._rows: dict[int, EncodedRows] = {}

    def row(self, index: int) -> EncodedRows:
        """One record, encoded."""
        row = self._rows.get(index)
        if row is None:
            row = self._encode([self.records[index]])
            if len(self._rows) >= KEPT:
                del self._rows[next(iter(self._rows))]
            self._rows[index] = row
            if row.truncated:
                self._shortened(index)
        return row


class _Column(Sequence[Any]):
    """One field of all rows."""

    def __init__(self, cache: _Cache, name: str) -> None:
        self._cache, self._name = cache, name

    def __len__(self) -> int:
        return len(self._cache.records)

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self._item(i) for i in places]
        return self._item(places)

    def __iter__(self) -> Iterator[Any]:
        return (self._item(i) for i in range(len(self)))

    def _item(self, index: int) -> Any:
        return getattr(self._cache.row(index), self._name)[0]


__all__ = ["EncodedRows", "on_demand"]
