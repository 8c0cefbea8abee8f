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

    keys: a 63-bit key for each row. temperature: scores are divided by it. top_k, top_p, min_p: which tokens are left,
    as in `zotune.data.task.Sampling`. start: tokens before the first new one.
    """

    def __init__(
        self,
        keys: Sequence[int],
        temperature: float,
        top_p: float,
        start: int,
        device: torch.device,
        top_k: int = 0,
        min_p: float = 0.0,
    ) -> None:
        self._halves = _halves(keys, device)
        self.temperature, self.top_p, self.start = temperature, top_p, start
        self.top_k, self.min_p = top_k, min_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (rows, vocabulary). Returns them with noise, in float32."""
        scaled = _left(scores.float() / self.temperature, self.top_p, self.top_k, self.min_p)
        return scaled + _gumbel(self._halves, input_ids.shape[1] - self.start, scores.shape[1])


def noisy_scores(
    scores: Tensor,
    keys: Sequence[int],
    positions: Tensor,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
) -> Tensor:
    """As `GumbelNoise`, for rows at positions of their own: the new tokens so far, int64 (rows,). scores: (rows,
    vocabulary)."""
    scaled = _left(scores.float() / temperature, top_p, top_k, min_p)
    return scaled + _gumbel(_halves(keys, scores.device), positions[:, None], scores.shape[1])


def _halves(keys: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The 32-bit halves of 63-bit keys: int32 (rows, 1)."""
    pairs = torch.tensor([noise.block_key(key, 0) for key in keys], dtype=torch.int32, device=device).view(-1, 2)
    return pairs[:, :1], pairs[:, 1:]


def _left(scaled: Tensor, top_p: float, top_k: int, min_p: float) -> Tensor:
    """Scores with −∞ for the tokens that the options leave out."""
    if 0 < top_k < scaled.shape[1]:
        least = scaled.topk(top_k, -1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    if top_p < 1.0:
        scaled = _nucleus(scaled, top_p)
    if min_p > 0.0:
        shares = scaled.softmax(-1)
        scaled = scaled.masked_fill(shares < min_p * shares.amax(-1, keepdim=True), -torch.inf)
    return scaled


def _gumbel(halves: tuple[Tensor, Tensor], position: int | Tensor, count: int) -> Tensor:
    """Gumbel noise of `count` tokens at a position of each row: float32 (rows, count)."""
    tokens = torch.arange(count, dtype=torch.int64, device=halves[0].device)[None] + position * count
    word = noise.hash32(tokens.to(torch.int32), *halves)
    uniform = (word & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31).clamp_(max=LARGEST)
    return -torch.log(-torch.log1p(-uniform))


class RepetitionPenalty:
    """Lowers the scores of tokens that a row has already, in its prompt or in its new tokens, as a logits processor.

    Padding is not part of a row, so that a row's scores do not depend on the rows beside it. prompts: the token ids of
    each row, without padding; start: tokens before the first new one, padding included. Source: CTRL, arXiv:1909.05858.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], penalty: float, start: int) -> None:
        self._prompts, self.penalty, self.start = prompts, penalty, start
        self._seen: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (rows, vocabulary)."""
        if self._seen is None:
            self._seen = torch.zeros_like(scores, dtype=torch.bool)
            for row, prompt in enumerate(self._prompts):
                self._seen[row, list(prompt)] = True
        new = input_ids[:, self.start :]
        if new.shape[1]:
            self._seen.scatter_(1, new[:, -1:], True)
        lower = torch.where(scores > 0, scores / self.penalty, scores * self.penalty)
        return torch.where(self._seen, lower, scores)


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Scores with −∞ for tokens outside the smallest set of the most probable ones whose probability reaches top_p."""
    ordered, places = scores.sort(-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return scores.masked_fill((before >= top_p).scatter(-1, places, before >= top_p), -torch.inf)


__all__ = ["GumbelNoise", "RepetitionPenalty", "noisy_scores"]
