"""Accuracy or margin of preference pairs (`prompt`, `chosen`, `rejected`) under the tuned model; no reward model.

    m = log p(chosen | prompt) / |chosen| − log p(rejected | prompt) / |rejected|      in nats a token
    accuracy = 1 if m > 0, ½ if m = 0, else 0;   margin = m

Log-probabilities are by teacher forcing; prompt tokens do not count. Dividing by the lengths removes the disadvantage
of long completions. With length_normalized=false, m is the implicit reward of DPO (arXiv:2305.18290), up to the
constant of the reference model. One score for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import zotune


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class Preference:
    measure: Literal["accuracy", "margin"] = "accuracy"  # share of pairs ranked correctly, or mean difference
    length_normalized: bool = True  # whether log-probabilities are divided by the number of tokens

    def __call__(
        self,
        chosen_logps: Sequence[float],
        rejected_logps: Sequence[float],
        chosen_tokens: Sequence[int],
        rejected_tokens: Sequence[int],
    ) -> list[float]:
        """One score for each pair."""
        rows = zip(chosen_logps, rejected_logps, chosen_tokens, rejected_tokens, strict=True)
        margins = [c / n - r / m if self.length_normalized else c - r for c, r, n, m in rows]
        if self.measure == "margin":
            return margins
        return [0.5 if m == 0 else float(m > 0) for m in margins]
