"""Token rows through a model, padded and in batches, with what lies before the first tuned block computed once.

Knows models and tokens; knows no task and no objective.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zotune.models import Loaded
from zotune.prefix import Prefix, find_blocks
from zotune.prompts import Spec
from zotune.tokens import Coder

Tokens = tuple[int, ...]
NO_LIMIT = 10**6
"""Tokenizers without a limit say so with a very large number."""


class Forward:
    """A model that is run on rows of tokens. micro: rows a pass at most; max_length: tokens a row at most, less where
    the model or its tokenizer takes fewer."""

    def __init__(self, loaded: Loaded, spec: Spec, max_length: int, micro: int) -> None:
        self.loaded, self.micro = loaded, micro
        config = loaded.config
        limits = [max_length, getattr(loaded.tokenizer, "model_max_length", None)]
        limits.append(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None))
        if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "longformer"):
            limits[-1] = (limits[-1] or NO_LIMIT) - 2  # their positions start after the padding's
        self.max_length = min(x for x in limits if isinstance(x, int) and x > 0) - loaded.virtual_tokens
        self.coder = Coder(loaded.tokenizer, self.max_length, spec.cut)
        self.coder.pad = loaded.padding()
        takes = inspect.signature(loaded.plain.forward).parameters
        several = (getattr(config, "type_vocab_size", None) or 0) > 1  # GPT-2 would take words as types
        self.coder.typed = self.coder.typed and several and "token_type_ids" in takes
        self.prefix: Prefix | None = None

    def run(self, rows: Sequence[Tokens], **more: Tensor) -> Any:
        """The model on these rows, padded on the right."""
        stored = self.prefix is not None and all(r in self.prefix for r in rows)
        inputs = self.coder.pad_right(rows, self.loaded.device)
        with self.prefix.feeding(rows) if self.prefix and stored else contextlib.nullcontext():
            return self.loaded.model(**inputs, **more)

    def chunks(self, lengths: Sequence[int], micro: int | None = None) -> Iterator[list[int]]:
        """Places in order of length, so many at a time: little padding is computed."""
        order = sorted(range(len(lengths)), key=lambda k: lengths[k])
        size = micro or self.micro
        for start in range(0, len(order), size):
            yield order[start : start + size]

    @torch.no_grad()
    def cache_prefix(self, tuned: Iterable[str], rows: Iterable[Tokens]) -> bool:
        """Compute what lies before the first tuned block once for all these rows. Whether that was possible: the
        blocks must be one list, their states fit in memory, and the fed model agree with the plain one."""
        found = find_blocks(self.loaded.model, tuned)
        if found is None or self.loaded.head == "seq2seq":
            return False
        wanted = set(rows)
        prefix = Prefix(*found)
        few = sorted(wanted, key=len)[:: max(1, len(wanted) // 4)]
        plain = self._first(few)
        try:
            if not prefix.fill(wanted, self.run, self.micro):
                return False
            self.prefix = prefix
            fed = self._first(few)
            mask = self.coder.pad_right(few, self.loaded.device)["attention_mask"].bool()
            mask = mask if plain.dim() == 3 else torch.ones(len(few), dtype=torch.bool, device=mask.device)
            same = torch.allclose(plain[mask].float(), fed[mask].float(), rtol=1e-3, atol=1e-4)
        except (IndexError, KeyError, TypeError, AttributeError, ValueError, RuntimeError):  # called in another way
            same = False
        if not same:
            self.prefix = None
        return same

    def _first(self, rows: Sequence[Tokens]) -> Tensor:
        out: Tensor = self.run(rows)[0]
        return out


__all__ = ["Forward", "Tokens"]
