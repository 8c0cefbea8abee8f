"""Sampling with noise from the counter: the token of largest log-probability plus Gumbel noise.

A row's noise depends on its key, the position and the token alone, not on the rows beside it. Rows with one key share
their noise (common random numbers). Gumbel 1954; Maddison, Tarlow and Minka 2014, arXiv:1411.0030. Knows scores and
keys; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zotune.core import noise

LARGEST = 1 - 2.0**-24
"""The largest uniform number: the float32 below 1. A number that rounds to 1 would make the noise infinite, and numbers
near 0, where a float32 resolves finely, stand for the largest noise: what decides which token is drawn."""


class GumbelNoise:
    """Adds Gumbel noise to the scores of the next token, as a logits processor of transformers that a greedy `generate`
    calls.

    keys: a 63-bit key for each row. temperature: scores are divided by it. top_p: only the most probable tokens whose
    probabilities together reach it are left. start: tokens before the first new one.
    """

    def __init__(self, keys: Sequence[int], temperature: float, top_p: float, start: int, device: torch.device) -> None:
        halves = [noise.block_key(key, 0) for key in keys]
        self._k0, self._k1 = (
            torch.tensor([pair[side] for pair in halves], dtype=torch.int32, device=device)[:, None] for side in (0, 1)
        )
        self.temperature, self.top_p, self.start = temperature, top_p, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (rows, vocabulary). Returns them with noise, in float32."""
        scaled = scores.float() / self.temperature
        if self.top_p < 1.0:
            scaled = _nucleus(scaled, self.top_p)
        position, count = input_ids.shape[1] - self.start, scores.shape[1]
        tokens = torch.arange(count, dtype=torch.int64, device=scores.device) + position * count
        word = noise.hash32(tokens.to(torch.int32)[None], self._k0, self._k1)
        uniform = (word & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31).clamp_(max=LARGEST)
        return scaled - torch.log(-torch.log1p(-uniform))


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Scores with −∞ for tokens outside the smallest set of the most probable ones whose probability reaches top_p."""
    ordered, places = scores.sort(-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return scores.masked_fill((before >= top_p).scatter(-1, places, before >= top_p), -torch.inf)


__all__ = ["GumbelNoise"]
