"""`zotune ls runs`: what the runs of a directory have reached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zotune.cli.command import command
from zotune.cli.shared_flags import json_flag
from zotune.options import argument, option
from zotune.text import duration, number, one_line

if TYPE_CHECKING:
    from zotune.runs.run_list import ListedRun

HEADS = ("run", "objective", "model", "before", "after", "kept", "steps", "time", "")
RIGHT = frozenset({"before", "after", "steps", "time"})
"""Columns of numbers."""
MODEL_WIDTH = 28
RUNS = "runs"
"""Where runs go by default."""


@dataclass(frozen=True)
class RunFlags:
    """What `ls runs` takes."""

    folder: str = argument("Directory with run directories, at any depth.", "[DIR]", default=RUNS, shown=RUNS)
    sort: str = option(
        "time", "By time (newest first), gain, score or name.", choices=("time", "gain", "score", "name")
    )
    as_json: bool = json_flag()


def runs(flags: RunFlags) -> None:
    """List the runs of a directory: scores before and after, what was kept, steps and time."""
    from zotune.runs.run_list import run_list

    items = run_list(flags.folder, flags.sort)
    if flags.as_json:
        print(json.dumps([item.json() for item in items], indent=1))
    elif not items:
        print(f"{flags.folder} holds no run")
    else:
        print("\n".join(table(items)))


def table(items: Sequence[ListedRun]) -> list[str]:
    """The runs as lines with columns."""
    rows = [HEADS, *map(_cells, items)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADS))]
    lines = []
    for row in rows:
        cells = zip(HEADS, row, widths, strict=True)
        lines.append("  ".join(x.rjust(w) if head in RIGHT else x.ljust(w) for head, x, w in cells).rstrip())
    return lines


def _cells(run: ListedRun) -> tuple[str, ...]:
    before, after = ("-" if x is None else number(x) for x in (run.before, run.after))
    model = one_line(run.model)
    model = model if len(model) <= MODEL_WIDTH else f"…{model[1 - MODEL_WIDTH :]}"
    took = "-" if run.seconds is None else duration(run.seconds)
    rows = "" if run.score_of == "test" else "validation scores"
    objective = one_line(run.objective, 24)
    return one_line(run.folder), objective, model, before, after, run.kept, f"{run.steps:,}", took, rows


COMMAND = command("runs", runs, RunFlags)

__all__ = ["COMMAND", "table"]
