"""The result lines of benchmarks/language_model.py as a Markdown table. Knows result lines alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]
COLUMNS = (
    *("task", "metric", "test rows", "completions", "seeds", "before", "after", "difference (95 % interval)"),
    *("right before → after", "KL", "CPU s", "clock s: all / steps / held-out", "MiB"),
)

FACTOR = 1.5
"""A ratio of shown and true times within this factor counts as right."""


def interval(rows: Sequence[Line], name: str) -> str:
    """The mean of the paired differences with its 95 % interval: a run's own, or that of the larger one of the errors
    over test rows and over seeds."""
    differences = [row[name] for row in rows]
    value = statistics.mean(d["value"] for d in differences)
    if len(differences) == 1:
        low, high = differences[0]["low"], differences[0]["high"]
    else:
        over_seeds = statistics.stdev(d["value"] for d in differences) / math.sqrt(len(differences))
        reach = 1.96 * max(over_seeds, statistics.mean(d["error"] or 0.0 for d in differences))
        low, high = value - reach, value + reach
    return f"{value:+.3f}" + (f" ({low:+.3f} to {high:+.3f})" if low is not None else "")


def table(lines: Sequence[Line], tasks: Sequence[tuple[str, str]]) -> str:
    """A row for each task and budget. tasks: name and metric."""
    text = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for name, metric in tasks:
        of_task = [line for line in lines if line["key"][0] == name]
        for budget in sorted({line["key"][2] for line in of_task}):
            rows = [line for line in of_task if line["key"][2] == budget]
            text.append("| " + " | ".join(_cells(name, metric, rows)) + " |")
    return "\n".join(text)


def time_left(lines: Sequence[Line]) -> str:
    """The seconds left that were shown from the tenth step on, divided by those that the run then took."""
    text = []
    for line in lines:
        ratios = [shown / true for _, shown, true in line.get("left", ()) if true]
        if ratios:
            right = sum(1 / FACTOR <= ratio <= FACTOR for ratio in ratios)
            text.append(
                f"{line['key'][0]}, seed {line['key'][1]}: {ratios[0]:.2f} at step {line['left'][0][0]}, "
                f"{min(ratios):.2f} to {max(ratios):.2f}, {right} of {len(ratios)} within {FACTOR}"
            )
    return "\n".join(["seconds left, shown / true:", *text]) if text else ""


def _cells(name: str, metric: str, rows: Sequence[Line]) -> list[str]:
    right = ""
    if "right" in rows[0]:
        before, after = (statistics.mean(row[f"right_{x}"] for row in rows) for x in ("before", "after"))
        right = f"{before:.3f} → {after:.3f}, {interval(rows, 'right')}"
    clock = (statistics.mean(row["clock"][part] for row in rows) for part in ("all", "steps", "held-out"))
    kept = sum(row["kept"] == "tuned" for row in rows)
    return [
        name,
        metric,
        str(rows[0]["test_rows"]),
        f"{statistics.mean(row['completions'] for row in rows):.0f}",
        f"{len(rows)} ({kept} kept)",
        *(f"{statistics.mean(row[part] for row in rows):.3f}" for part in ("before", "after")),
        interval(rows, "difference"),
        right,
        f"{statistics.mean(row['kl'] for row in rows):.3f}" if rows[0]["kl"] is not None else "",
        f"{statistics.mean(row['cpu_seconds'] for row in rows):.0f}",
        " / ".join(f"{seconds:.0f}" for seconds in clock),
        f"{max(row['peak_mib'] for row in rows):.0f}",
    ]


__all__ = ["interval", "table", "time_left"]
