"""What the prompts of a batch begin with, read once for all of them: a system message, demonstrations, an instruction.

Its keys and values are those of the weights of the moment, and are thrown away with the batch. Padding stands after
the beginning. What comes out is what whole prompts give, to rounding.

Knows models and tokens; knows no task and no objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from zotune.models.generation_settings import generation_config, ignore_generation_defaults
from zotune.models.kv_cache import has_full_attention, new_kv_cache
from zotune.tasks.forward import Forward, Tokens, out_of_memory

MIN_PREFIX = 16
"""Tokens that are worth a pass of their own."""
SAVED = 0.25
"""Share of a batch's tokens that must be saved."""


class PromptCache:
    """Inputs of `generate` that hold the common beginning of a batch's prompts, where there is a long one."""

    def __init__(self, forward: Forward) -> None:
        self.forward, self.loaded = forward, forward.loaded
        self.supported = self.loaded.head == "causal" and not self.loaded.virtual_tokens
        self.supported &= has_full_attention(self.loaded.config, forward.max_length)
        self._verified: dict[bool, bool] = {}  # by whether several points share a pass

    def inputs(self, rows: Sequence[Tokens], points: int = 1) -> dict[str, Any]:
        """What `generate` takes for these prompts, which are those of so many points, one after the other. Whether
        the model goes on from a beginning as it should is tried the first time that there is one."""
        length = common_prefix_length(rows) if self.supported else 0
        if length < MIN_PREFIX or length * (len(rows) - points) < SAVED * sum(map(len, rows)):
            return self._whole(rows)
        several = points > 1
        if several not in self._verified:
            self._verified[several] = self._agrees(rows, length, points)
        return self._begun(rows, length, points) if self._verified[several] else self._whole(rows)

    def _whole(self, rows: Sequence[Tokens]) -> dict[str, Any]:
        return self.forward.tokenizer.pad_left(rows, self.loaded.device)

    def _begun(self, rows: Sequence[Tokens], length: int, points: int) -> dict[str, Any]:
        device, each = self.loaded.device, len(rows) // points
        begin = torch.tensor([rows[0][:length]] * points, device=device)
        cache, few = new_kv_cache(self.loaded), {"logits_to_keep": 1} if self.loaded.accepts("logits_to_keep") else {}
        with self.forward.rows_per_point(1):
            self.loaded.unwrapped(input_ids=begin, past_key_values=cache, use_cache=True, **few)
        cache.batch_repeat_interleave(each)
        begin = begin.repeat_interleave(each, 0)
        rest = self.forward.tokenizer.pad_left([row[length:] for row in rows], device)
        return {
            "input_ids": torch.cat([begin, rest["input_ids"]], 1),
            "attention_mask": torch.cat([torch.ones_like(begin), rest["attention_mask"]], 1),
            "past_key_values": cache,
        }

    def _agrees(self, rows: Sequence[Tokens], length: int, points: int) -> bool:
        """Whether two tokens of every prompt come out as without a cache; every other prompt is made longer, so that
        there is padding."""
        each = len(rows) // points
        rows = [row + row[length:] * (k % each % 2) for k, row in enumerate(rows)]
        settings = generation_config(self.loaded, 2, 0, 1)
        settings.output_logits = settings.return_dict_in_generate = True
        settings.eos_token_id = None
        try:
            with ignore_generation_defaults(self.loaded):
                whole, begun = (
                    self.loaded.model.generate(**x, generation_config=settings)
                    for x in (self._whole(rows), self._begun(rows, length, points))
                )
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            return False  # its cache is of another kind
        alike = whole.sequences[:, -2] == begun.sequences[:, -2]  # a tie may fall either way
        return _close(whole.logits[0], begun.logits[0]) and _close(whole.logits[1][alike], begun.logits[1][alike])


def common_prefix_length(rows: Sequence[Tokens]) -> int:
    """How many tokens all rows begin with; each has one more at least."""
    first, last = min(rows), max(rows)
    limit = min(map(len, rows)) - 1
    return next((k for k in range(limit) if first[k] != last[k]), limit)


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to rounding, in units of the largest."""
    if not a.numel():
        return True
    most = 1e-3 if a.dtype in (torch.float32, torch.float64) else 0.05
    a, b = a.float(), b.float()
    return bool(torch.allclose(a, b, rtol=0, atol=most * float(a.nan_to_num(0, 0, 0).abs().max()), equal_nan=True))


__all__ = ["PromptCache", "common_prefix_length"]
