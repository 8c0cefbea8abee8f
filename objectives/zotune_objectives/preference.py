"""Preference data (`prompt`, `chosen`, `rejected`): how often the model prefers the chosen completion, with no reward
model.

    m = log p(chosen | prompt) / |chosen| − log p(rejected | prompt) / |rejected|      per row, in nats a token
    accuracy = 1 where m > 0, ½ where m = 0, else 0;   margin = m

Division by the lengths keeps long completions from losing by length alone (length_normalized=false leaves it out, as
the implicit reward of DPO, Rafailov et al. 2023, arXiv:2305.18290, does, up to the reference model's constant).
Log-probabilities are by teacher forcing, without the prompt's tokens. One score a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import zotune


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class Preference:
    measure: Literal["accuracy", "margin"] = "accuracy"  # share of pairs, or the mean difference
    length_normalized: bool = True  # per token, or whole sums

    def __call__(
        self,
        chosen_logps: Sequence[float],
        rejected_logps: Sequence[float],
        chosen_tokens: Sequence[int],
        rejected_tokens: Sequence[int],
    ) -> list[float]:
        """One score a pair."""
        rows = zip(chosen_logps, rejected_logps, chosen_tokens, rejected_tokens, strict=True)
        margins = [c / n - r / m if self.length_normalized else c - r for c, r, n, m in rows]
        if self.measure == "margin":
            return margins
        return [0.5 if m == 0 else float(m > 0) for m in margins]
