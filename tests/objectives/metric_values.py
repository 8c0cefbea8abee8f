"""Scores of objectives by name, and random rows."""

from __future__ import annotations

import random
from typing import Any

import torch

from zotune.scoring import objective_spec

CHAT = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "in Paris"}]
"""A conversation."""


def value_of(name: str, options: dict[str, Any] | None = None, **inputs: Any) -> float:
    """The value of an objective on these inputs."""
    rows = len(next(iter(inputs.values())))
    return objective_spec.resolve(name, options or {}).score(rows, inputs).value


def samples_of(
    name: str, completions: list[Any], references: list[Any] | None = None, **options: Any
) -> list[float | None]:
    """The score of each row."""
    inputs = {"completions": completions} | ({} if references is None else {"references": references})
    samples = objective_spec.resolve(name, options).score(len(completions), inputs).samples
    assert samples is not None
    return list(samples)


def random_rows(seed: int, classes: int, rows: int) -> tuple[list[int], list[int], torch.Tensor]:
    """(labels, predictions, logits of shape (rows, classes))."""
    rng = random.Random(seed)
    labels = [rng.randrange(classes) for _ in range(rows)]
    predictions = [rng.randrange(classes) for _ in range(rows)]
    return labels, predictions, torch.tensor([[rng.gauss(0, 2) for _ in range(classes)] for _ in range(rows)])
