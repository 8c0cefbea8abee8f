"""What the steps of a run know about its populations: how many rows they score, and how far the model may drift.

Fixed before the first step and recorded in the journal's header, so that a replay knows the same. Holds records alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from zotune.types import Learning, PopulationSize

IN_PASS = 128
"""Rows of a forward pass at most, where the header does not tell."""

QUESTIONS_ALONE: Final = Learning()


@dataclass(frozen=True)
class PopulationPlan:
    """rows: training rows that all members together score in a step; 0 where rows of one pass cannot have directions
    of their own. each: rows a member. without: names of tuned matrices that stay as they are, for they read all rows
    alike. max_kl: the KL divergence from the base model that kept weights may have, in nats a token; 0: no limit.
    in_pass: rows of a forward pass at most; bits depend on it. logit_scales: names of tuned tensors by which all logits
    are multiplied, where completions are sampled: members then decode at `decoding`, a temperature, instead of the
    run's own. compiled: whether kernels from C++ add what a member changes; bits depend on it, too. ahead: whether the
    completions of a step come from the weights and sizes of the step before, so that people answer while the next ones
    are generated. learning: what steps learn from, where people answer ahead."""

    rows: int = 0
    each: int = 1
    without: frozenset[str] = frozenset()
    max_kl: float = 0.0
    in_pass: int = IN_PASS
    logit_scales: frozenset[str] = frozenset()
    decoding: float = 0.0
    compiled: bool = False
    ahead: bool = False
    learning: Learning = QUESTIONS_ALONE

    @property
    def size(self) -> PopulationSize:
        return PopulationSize(self.rows, self.each)

    def to_json(self) -> dict[str, Any] | None:
        """The plan as the journal's header holds it; None where there are no populations."""
        if not self.rows:
            return None
        plan: dict[str, Any] = {
            "rows": self.rows,
            "each": self.each,
            "without": sorted(self.without),
            "max_kl": self.max_kl,
        }
        if self.in_pass != IN_PASS:
            plan["in_pass"] = self.in_pass
        if self.logit_scales:
            plan |= {"logit_scales": sorted(self.logit_scales), "decoding": self.decoding}
        if self.ahead:
            plan["ahead"] = True
        if self.learning.pairs:
            plan["learning"] = self.learning._asdict()
        return plan | ({"compiled": True} if self.compiled else {})

    @classmethod
    def from_json(cls, recorded: Mapping[str, Any] | None) -> PopulationPlan:
        """The plan that a header holds; without one there are no populations."""
        if not recorded:
            return cls()
        return cls(
            recorded["rows"],
            recorded["each"],
            frozenset(recorded["without"]),
            recorded["max_kl"],
            recorded.get("in_pass", IN_PASS),
            recorded_logit_scales(recorded),
            recorded.get("decoding", 0.0),
            recorded.get("compiled", False),
            recorded.get("ahead", False),
            Learning(**recorded.get("learning", {})),
        )


def recorded_logit_scales(recorded: Mapping[str, Any] | None) -> frozenset[str]:
    """The tensors by which all logits are multiplied, of a plan that a header holds; empty without one."""
    return frozenset((recorded or {}).get("logit_scales", ()))


__all__ = ["PopulationPlan", "recorded_logit_scales"]
