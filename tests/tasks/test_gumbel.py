"""Sampling by Gumbel noise from the counter."""

from __future__ import annotations

import pytest
import torch

from zotune.core import noise
from zotune.tasks.gumbel import GumbelNoise

CPU = torch.device("cpu")


def drawn(
    keys: list[int], scores: torch.Tensor, position: int, temperature: float = 1.0, top_p: float = 1.0
) -> torch.Tensor:
    ids = torch.zeros(len(keys), 3 + position, dtype=torch.long)
    return GumbelNoise(keys, temperature, top_p, 3, CPU)(ids, scores).argmax(-1)


def test_a_row_depends_on_its_key_alone() -> None:
    torch.manual_seed(0)
    scores = torch.randn(4, 50)
    together = drawn([11, 12, 13, 14], scores, 2)
    for row, key in enumerate((11, 12, 13, 14)):
        assert drawn([key], scores[row : row + 1], 2) == together[row]
    same = drawn([11, 11], scores[:1].repeat(2, 1), 2)
    assert same[0] == same[1], "partners share their noise"


def test_tokens_follow_the_probabilities() -> None:
    p = torch.tensor([0.5, 0.25, 0.15, 0.1])
    keys = list(range(40_000))
    for temperature in (1.0, 2.0):
        expected = (p.log() / temperature).softmax(0)
        counts = drawn(keys, p.log().repeat(len(keys), 1), 5, temperature).bincount(minlength=4) / len(keys)
        assert (counts - expected).abs().max() < 4 * (0.25 / len(keys)) ** 0.5
    positions = torch.stack([drawn(keys[:4000], p.log().repeat(4000, 1), k) for k in range(2)])
    both = (positions[0] == positions[1]).float().mean()
    assert abs(float(both) - float((p * p).sum())) < 0.035, "positions are independent"


def test_top_p_leaves_the_most_probable_tokens() -> None:
    p = torch.tensor([0.1, 0.5, 0.15, 0.25])
    keys = list(range(5000))
    counts = drawn(keys, p.log().repeat(len(keys), 1), 0, top_p=0.7).bincount(minlength=4)
    assert counts[0] == counts[2] == 0
    assert abs(counts[1] / len(keys) - 2 / 3) < 0.03


def test_noise_is_finite_for_every_word_of_the_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.tensor([[0, -1, 2**31 - 1, -(2**31), 0x7FFFFF, 0x7FFFFFFF - 1, 255, 256]], dtype=torch.int32)
    monkeypatch.setattr(noise, "hash32", lambda *_: words)
    found = GumbelNoise([1], 1.0, 1.0, 3, CPU)(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 8))
    assert found.isfinite().all(), "an infinite one would be drawn whatever its probability"
    assert found.max() > 20, "rare tokens are drawn in proportion"
