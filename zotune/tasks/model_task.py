"""The base class of all tasks: a model with a task specification turns records into outputs.

Knows models, records and the forward pass; knows no objective and no optimizer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zotune.data.records import Record, place_of
from zotune.data.task import TaskSpec
from zotune.errors import DataError, OptionError
from zotune.models.loaded_model import LINEAR_HEAD, LoadedModel
from zotune.tasks.encoded_rows import EncodedRows
from zotune.tasks.forward import Forward
from zotune.tasks.frozen_prefix import Tokens


class ModelTask:
    """A task on a loaded model.

    max_length: tokens a row at most; micro_batch: rows a forward pass at most; seed: of sampled predictions and
    completions.

    Class attributes: fields, the names of all outputs that objectives may ask for; samples_predictions, whether
    predictions can be sampled from the logits of one forward pass.
    """

    fields: frozenset[str] = frozenset()
    samples_predictions = False

    def __init__(self, loaded: LoadedModel, spec: TaskSpec, max_length: int, micro_batch: int, seed: int = 0) -> None:
        self.loaded, self.spec, self.seed = loaded, spec, seed
        self.forward = Forward(loaded, spec, max_length, micro_batch)

    @property
    def max_length(self) -> int:
        """Tokens a row at most, after the limits of the model and its tokenizer."""
        return self.forward.max_length

    def rows(self, records: Sequence[Record]) -> EncodedRows:
        """Tokenise records. Raises OptionError or DataError for a record that does not fit."""
        raise NotImplementedError

    def sequences(self, rows: EncodedRows) -> set[Tokens]:
        """All token sequences that the model reads to score these rows; empty where they are not fixed."""
        raise NotImplementedError

    def outputs(self, rows: EncodedRows, indices: Sequence[int], wants: frozenset[str]) -> dict[str, Any]:
        """The inputs of an objective for some rows, computed with the current weights.

        wants: the fields that the objective asks for. Every list has one item an index.
        """
        raise NotImplementedError

    def forward_passes(self, count: int) -> int:
        """The number of forward passes that so many rows take."""
        return -(-count // self.forward.micro_batch)

    def cache_prefix(self, tuned: Iterable[str], parts: Sequence[EncodedRows]) -> bool:
        """Cache the hidden states before the first tuned block for all rows of `parts`.

        tuned: names of the tuned tensors. Returns whether caching is possible.
        """
        # The linear head on an embedding model reads the model's output, so it comes after all blocks.
        inside = [name for name in tuned if not name.startswith(f"{LINEAR_HEAD}.")]
        return self.forward.cache_prefix(inside, set().union(*(self.sequences(p) for p in parts)))


@contextlib.contextmanager
def naming(record: Record) -> Iterator[None]:
    """Put the place of a record before the errors of tokenising it."""
    try:
        yield
    except (DataError, OptionError) as error:
        if place := place_of(record, ""):
            raise type(error)(f"{place}: {error.args[0]}", hint=error.hint) from None
        raise


def columns_of(records: Sequence[Record]) -> dict[str, list[Any]]:
    """The columns of some records, as lists; the names are those of the first record."""
    return {name: [r.get(name) for r in records] for name in records[0]} if records else {}


__all__ = ["ModelTask", "columns_of", "naming"]
