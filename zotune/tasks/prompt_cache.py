"""A cache of the common prefix of a batch's prompts: a system message, demonstrations, an instruction.

The model reads the common prefix once, and its keys and values are repeated for all rows. They are computed with the
current weights and belong to one batch. Padding stands between the prefix and the rest of each prompt. The completions
equal those of whole prompts up to rounding. Knows models and tokens; knows no task and no objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from zotune.models.generation_settings import generation_config, ignore_generation_defaults
from zotune.models.kv_cache import growing_kv_cache, has_full_attention, new_kv_cache
from zotune.tasks.forward import Forward, out_of_memory
from zotune.tasks.frozen_prefix import Tokens

MIN_PREFIX = 16
"""The shortest prefix, in tokens, that is worth a forward pass of its own."""
MIN_SAVED = 0.25
"""The smallest share of a batch's tokens that the cache must save."""


class PromptCache:
    """Builds the inputs of `generate`, with a cache where the prompts have a long common prefix.

    supported: whether the model's cache can be repeated; only causal models with full attention are supported.
    """

    def __init__(self, forward: Forward) -> None:
        self.forward, self.loaded = forward, forward.loaded
        self.supported = self.loaded.head == "causal" and not self.loaded.virtual_tokens
        self.supported &= has_full_attention(self.loaded.config, forward.max_length)
        self._verified: dict[bool, bool] = {}  # by whether points share a pass: whether completions are the same

    def inputs(self, rows: Sequence[Tokens], points: int = 1) -> dict[str, Any]:
        """The arguments of the model's `generate`.

        rows: the prompts, repeated once for each point where several points share a forward pass. The first time that
        a cache is worth it, its completions are compared with those of whole prompts.
        """
        length = common_prefix_length(rows) if self.supported and not self.forward.in_one_pass else 0
        if length < MIN_PREFIX or length * (len(rows) - points) < MIN_SAVED * sum(map(len, rows)):
            return self._whole(rows)
        joint = points > 1
        if joint not in self._verified:
            self._verified[joint] = self._agrees(rows, length, points)
        return self._cached(rows, length, points) if self._verified[joint] else self._whole(rows)

    def _whole(self, rows: Sequence[Tokens]) -> dict[str, Any]:
        return self.forward.tokenizer.pad_left(rows, self.loaded.device)

    def _cached(self, rows: Sequence[Tokens], length: int, points: int) -> dict[str, Any]:
        device, per_point = self.loaded.device, len(rows) // points
        prefix = torch.tensor([rows[0][:length]] * points, device=device)
        cache = growing_kv_cache(self.loaded) or new_kv_cache(self.loaded)
        arguments = {"logits_to_keep": 1} if self.loaded.accepts("logits_to_keep") else {}
        with self.forward.rows_per_point(1):
            self.loaded.unwrapped(input_ids=prefix, past_key_values=cache, use_cache=True, **arguments)
        cache.batch_repeat_interleave(per_point)
        prefix = prefix.repeat_interleave(per_point, 0)
        rest = self.forward.tokenizer.pad_left([row[length:] for row in rows], device)
        return {
            "input_ids": torch.cat([prefix, rest["input_ids"]], 1),
            "attention_mask": torch.cat([torch.ones_like(prefix), rest["attention_mask"]], 1),
            "past_key_values": cache,
        }

    def _agrees(self, rows: Sequence[Tokens], length: int, points: int) -> bool:
        """Whether two generated tokens of every prompt are the same with and without the cache. Every second prompt is
        lengthened, so that the batch has padding."""
        per_point = len(rows) // points
        rows = [row + row[length:] * (k % per_point % 2) for k, row in enumerate(rows)]
        settings = generation_config(self.loaded, 2, 0, 1)
        settings.output_logits = settings.return_dict_in_generate = True
        settings.eos_token_id = None
        try:
            with ignore_generation_defaults(self.loaded):
                whole, cached = (
                    self.loaded.model.generate(**x, generation_config=settings)
                    for x in (self._whole(rows), self._cached(rows, length, points))
                )
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            return False  # the model has a cache of another kind
        same = whole.sequences[:, -2] == cached.sequences[:, -2]  # rounding may break a tie either way
        return _close(whole.logits[0], cached.logits[0]) and _close(whole.logits[1][same], cached.logits[1][same])


def common_prefix_length(rows: Sequence[Tokens]) -> int:
    """The number of tokens that all rows begin with; at most one less than the shortest row has."""
    first, last = min(rows), max(rows)
    limit = min(map(len, rows)) - 1
    return next((k for k in range(limit) if first[k] != last[k]), limit)


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal up to rounding, relative to the largest entry."""
    if not a.numel():
        return True
    tolerance = 1e-3 if a.dtype in (torch.float32, torch.float64) else 0.05
    a, b = a.float(), b.float()
    return bool(torch.allclose(a, b, rtol=0, atol=tolerance * float(a.nan_to_num(0, 0, 0).abs().max()), equal_nan=True))


__all__ = ["PromptCache", "common_prefix_length"]
