"""Experiments, the file of finished cells, and the page with the table of claims."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Measured = dict[str, Any]
"""What a cell measured, as JSON."""
VERDICTS = ("holds", "does not hold", "cannot be told here")


@dataclass(frozen=True)
class Finding:
    """What an experiment says about its claim. ours: our numbers in a sentence; verdict: one of VERDICTS; table: rows
    of Markdown below the table of claims, or none."""

    ours: str
    verdict: str
    table: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"a verdict is {', '.join(VERDICTS)}, got {self.verdict!r}")


@dataclass(frozen=True)
class Experiment:
    """A small experiment of a paper.

    name: as the command takes it; paper: short name; place: section, figure or table; claim: what the paper says there;
    setting: what is done here, where it differs; cells: runs by name, each done once and kept; judge: the finding from
    what all cells measured; needs: why it cannot run here, or "" where it can; gpu: whether it is one of `--gpu`;
    group: experiments of a group share the cells of the same names.
    """

    name: str
    paper: str
    place: str
    claim: str
    setting: str
    cells: Mapping[str, Callable[[], Measured]]
    judge: Callable[[Mapping[str, Measured]], Finding]
    needs: Callable[[], str] = lambda: ""
    gpu: bool = False
    group: str = ""

    @property
    def kept_as(self) -> str:
        """The name under which cells are kept: experiments of a group share theirs."""
        return self.group or self.name


class Store:
    """Finished cells in a file of JSON lines, one a cell; a later line of a cell replaces an earlier one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[tuple[str, str], Measured] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                row = json.loads(line)
                self.cells[row.pop("experiment"), row.pop("cell")] = row
            except (ValueError, KeyError):
                continue  # a line that a kill cut

    def of(self, experiment: Experiment) -> dict[str, Measured]:
        """What the finished cells of an experiment measured."""
        return {c: self.cells[experiment.kept_as, c] for c in experiment.cells if (experiment.kept_as, c) in self.cells}

    def run(self, experiment: Experiment, on_cell: Callable[[str, float], None]) -> None:
        """Run the cells that are not finished."""
        for cell, run in experiment.cells.items():
            if (experiment.kept_as, cell) in self.cells:
                continue
            began = time.process_time()
            measured = {**run(), "cpu_seconds": round(time.process_time() - began, 2)}
            self.cells[experiment.kept_as, cell] = measured
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                if file.tell() and not _ends_a_line(self.path):
                    file.write(b"\n")
                line = {"experiment": experiment.kept_as, "cell": cell, **measured}
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            on_cell(cell, measured["cpu_seconds"])


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def finding(experiment: Experiment, store: Store) -> Finding | None:
    """The finding of an experiment; None where a cell is missing."""
    cells = store.of(experiment)
    return experiment.judge(cells) if len(cells) == len(experiment.cells) else None


def page(experiments: Sequence[Experiment], store: Store) -> str:
    """docs/papers.md."""
    lines = [HEAD, "| paper | where | claim | here | verdict |", "|---|---|---|---|---|"]
    details: list[str] = []
    counts = dict.fromkeys(VERDICTS, 0)
    for e in experiments:
        found = finding(e, store)
        if found is None:
            lines.append(f"| {e.paper} | {e.place} | {e.claim} | {e.setting}: not run | cannot be told here |")
            counts["cannot be told here"] += 1
            continue
        counts[found.verdict] += 1
        lines.append(f"| {e.paper} | {e.place} | {e.claim} | {e.setting}: {found.ours} | {found.verdict} |")
        if found.table:
            details += ["", f"## {e.name}", "", f"`python benchmarks/papers.py {e.name}`", "", *found.table]
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return "\n".join([*lines, "", f"Of {len(experiments)} claims: {summary}.", *details]) + "\n"


HEAD = """# The papers' experiments, repeated

```sh
python benchmarks/papers.py            # all small experiments; restartable, and this page
python benchmarks/papers.py functions  # one of them
python benchmarks/papers.py --gpu      # the real ones, where a GPU and the models are
```

Written by the command from benchmarks/results/papers.jsonl. Each experiment is small: a function of two variables,
least squares, a perceptron of 2,800 weights on scikit-learn's digits, or query and value of the embedded encoder. A
verdict is about this scale: "holds" and "does not hold" are differences of more than two standard errors over seeds, or
of the size that the row says; everything else cannot be told here. ± is one standard error. "Moved digits": a network
that has learned the digits is tuned to the same ones one pixel further right.
"""
