"""The parts of the GPU check, most valuable first.

A part is a function of a `Check`; `@part(...)` in any module that is imported at the end of this file registers it. It
writes one row for each claim. Parts run in processes of their own (benchmarks/gpu_check.py) and know nothing of each
other.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXACT = "exact"
"""The bound of claims about bits."""


@dataclass
class Check:
    """What a part is given.

    device: "cuda" or "cpu"; tiny: whether shapes must be tiny and costs are not judged; folder: for files of its own.
    """

    device: str
    part: str
    rows: Path
    folder: Path = field(default_factory=Path.cwd)

    @property
    def tiny(self) -> bool:
        return self.device == "cpu"

    def row(self, claim: str, measured: str, *, holds: bool | None = None, bound: str = "") -> None:
        """Report one claim. holds: None where nothing is judged (costs on a CPU, figures without a promise)."""
        verdict = "measured" if holds is None else "holds" if holds else "falls short"
        line = {"part": self.part, "claim": claim, "measured": measured, "bound": bound, "verdict": verdict}
        self._write(line)

    def exact(self, claim: str, equal: int, total: int, culprits: str = "") -> None:
        """Report a claim about bits: `equal` of `total` comparisons agree in every bit."""
        text = f"{equal} of {total} equal" + (f"; not {culprits}" if culprits else "")
        self.row(claim, text, holds=equal == total and total > 0, bound=EXACT)

    def cost(self, claim: str, value: float, limit: float, unit: str = "", *, at_least: bool = False) -> None:
        """Report a cost beside the limit that the documents state. Only a GPU's costs are judged."""
        good = value >= limit if at_least else value <= limit
        bound = f"{'at least' if at_least else 'at most'} {limit:g}{unit}"
        self.row(claim, f"{value:.3g}{unit}", holds=None if self.tiny else good, bound=bound)

    def environment(self) -> None:
        """Report the device and the versions that everything else was measured with."""
        import torch
        import transformers

        card = torch.cuda.get_device_name() if self.device == "cuda" else platform.processor() or platform.machine()
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        text = f"{card}, {versions}, Python {platform.python_version()}"
        self._write({"part": self.part, "claim": "environment", "measured": text, "verdict": ""})

    def _write(self, line: dict[str, Any]) -> None:
        with self.rows.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()


@dataclass(frozen=True)
class Part:
    """name: for --only; summary: one line; seconds: its time limit; fault: whether it fails on purpose."""

    name: str
    summary: str
    seconds: float
    run: Callable[[Check], None]
    fault: bool = False


PARTS: list[Part] = []


def part(
    name: str, summary: str, *, seconds: float, fault: bool = False
) -> Callable[[Callable[[Check], None]], Callable[[Check], None]]:
    """Register a part at the end of the list. Raises ValueError where the name is taken."""

    def register(run: Callable[[Check], None]) -> Callable[[Check], None]:
        if any(p.name == name for p in PARTS):
            raise ValueError(f"two parts are called {name!r}")
        PARTS.append(Part(name, summary, seconds, run, fault))
        return run

    return register


# The order of these imports is the order of the parts.
from benchmarks.gpu_parts import exactness  # noqa: E402, I001
from benchmarks.gpu_parts import replays  # noqa: E402
from benchmarks.gpu_parts import costs  # noqa: E402
from benchmarks.gpu_parts import populations  # noqa: E402
from benchmarks.gpu_parts import processes  # noqa: E402
from benchmarks.gpu_parts import generation  # noqa: E402
from benchmarks.gpu_parts import runs  # noqa: E402
from benchmarks.gpu_parts import engines  # noqa: E402
from benchmarks.gpu_parts import faults  # noqa: E402

__all__ = [
    "PARTS",
    "Check",
    "Part",
    "costs",
    "engines",
    "exactness",
    "faults",
    "generation",
    "part",
    "populations",
    "processes",
    "replays",
    "runs",
]
