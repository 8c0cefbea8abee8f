"""How sparse each tensor is: one share for all, or shares by name, and the kinds that are tuned whole (Sparse-MeZO)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from zotune.types import Theta
from zotune_optimizers.option_checks import fraction, require

KINDS = ("bias", "norm", "embedding", "linear", "other")


@dataclass(frozen=True)
class Sparsity:
    """default: share of a tensor's weights that is frozen; patterns: "REGEX=SHARE,…", where the first that matches a
    name decides. Raises OptionError for what is none."""

    default: float
    patterns: str = ""

    def __post_init__(self) -> None:
        fraction("sparse-mezo", sparsity=self.default)
        _ = self.shares

    @property
    def shares(self) -> list[tuple[re.Pattern[str], float]]:
        """Each pattern with its share."""
        out = []
        for item in filter(None, (part.strip() for part in self.patterns.split(","))):
            pattern, equals, share = item.rpartition("=")
            message = f"sparse-mezo: patterns takes REGEX=SHARE, with commas between several, got {item!r}"
            try:
                require(bool(equals and pattern), message, "q_proj|v_proj=0.8,mlp=0.6")
                out.append((re.compile(pattern), float(share)))
            except (ValueError, re.error) as error:
                require(False, f"{message}: {error}")
            fraction("sparse-mezo", patterns=out[-1][1])
        return out

    def of(self, name: str) -> float:
        """The share of one tensor, by name."""
        return next((share for pattern, share in self.shares if pattern.search(name)), self.default)

    def check(self, theta: Theta) -> None:
        """Raises OptionError for a pattern that matches none of the tuned tensors."""
        for pattern, _ in self.shares:
            some = ", ".join(t.name for t in theta.tensors[:3])
            found = any(pattern.search(t.name) for t in theta.tensors)
            require(found, f"sparse-mezo: {pattern.pattern!r} matches none of the tuned tensors, such as {some}")


def check_kinds(dense: str) -> list[str]:
    """Kinds of tensors in a text with commas. Raises OptionError for one that there is not."""
    kinds = [kind.strip() for kind in dense.split(",") if kind.strip()]
    known = f"{', '.join(KINDS[:-1])} and {KINDS[-1]}"
    require(not set(kinds) - set(KINDS), f"sparse-mezo: dense takes {known}, got {dense!r}")
    return kinds
