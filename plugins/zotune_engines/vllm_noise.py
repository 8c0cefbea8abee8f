"""zotune's Gumbel noise as a logits processor of vLLM: vLLM then takes the largest score.

A draw depends on its key, the position and the token alone, as in the run's own process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from zotune.tasks.gumbel import noisy_scores


class CounterNoise(LogitsProcessor):  # type: ignore[misc]
    """Rows whose parameters have `extra_args["zotune"]`: [key, temperature, top_p, top_k, min_p]."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[list[Any], list[int]]] = {}  # settings and the ids so far, by place in the batch

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        rows = self._rows
        for place in batch_update.removed:
            rows.pop(place, None)
        for place, parameters, _, ids in batch_update.added:
            rows.pop(place, None)
            if settings := (parameters.extra_args or {}).get("zotune"):
                rows[place] = settings, ids
        for a, b, how in batch_update.moved:
            first, second = rows.pop(a, None), rows.pop(b, None)
            if first is not None:
                rows[b] = first
            if second is not None and how == MoveDirectionality.SWAP:
                rows[a] = second

    def apply(self, logits: Tensor) -> Tensor:
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, (settings, _) in self._rows.items():
            groups.setdefault(tuple(settings[1:]), []).append(place)
        for options, places in groups.items():
            keys = [self._rows[p][0][0] for p in places]
            positions = torch.tensor([len(self._rows[p][1]) for p in places], device=logits.device)
            index = torch.tensor(places, device=logits.device)
            logits[index] = noisy_scores(logits[index], keys, positions, *options).to(logits.dtype)
        return logits


__all__ = ["CounterNoise"]
