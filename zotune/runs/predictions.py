"""predictions.jsonl: what base model and tuned weights choose for each test row, of tasks that choose an option.

A line holds row, label, predicted_before and predicted_after (places of options, label -1 where the row has none); for
some rows, those whose prediction changed before the others, also prompt, reference, before, after, score_before and
score_after. Knows outputs and scores; computes neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from zotune import files
from zotune.runs.heldout import Outputs
from zotune.runs.run_directory import PREDICTIONS
from zotune.types import Score

MOST_TEXTS: Final = 200
"""Rows whose texts are kept."""
CHARACTERS: Final = 2000
"""Characters of a prompt that are kept."""


def write_predictions(folder: Path, before: tuple[Outputs, Score], after: tuple[Outputs, Score]) -> None:
    """Write the file; nothing where the task predicts no option. before, after: outputs and scores of the test set."""
    old, new = before[0], after[0]
    if "predictions" not in old or "predictions" not in new:
        return
    count = len(old["predictions"])
    changed = [old["predictions"][i] != new["predictions"][i] for i in range(count)]
    told = set(sorted(range(count), key=lambda i: not changed[i])[:MOST_TEXTS])
    lines = []
    for i in range(count):
        line: dict[str, Any] = {
            "row": i,
            "label": old["labels"][i],
            "predicted_before": old["predictions"][i],
            "predicted_after": new["predictions"][i],
        }
        if i in told:
            line |= {"prompt": str(old["prompts"][i])[:CHARACTERS], "reference": old["references"][i]}
            line |= {"before": old["completions"][i], "after": new["completions"][i]}
            scores = {"score_before": _score(before[1].samples, i), "score_after": _score(after[1].samples, i)}
            line |= {name: x for name, x in scores.items() if x is not None}
        lines.append(line)
    files.write(folder / PREDICTIONS, "".join(_text(line) for line in lines))


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"


def _score(samples: Sequence[float | None] | None, row: int) -> float | None:
    return samples[row] if samples is not None else None


__all__ = ["write_predictions"]
