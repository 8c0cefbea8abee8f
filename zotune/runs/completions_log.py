"""completions.jsonl: what the model writes for held-out prompts at each evaluation of a run.

A line holds step, set ("validation" or "test"), phase ("before", "during" or "after" tuning), row (the place in its
set), prompt, completion, reference, and score, which is null where the row has none. Knows outputs and scores; knows no
optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from zotune.runs.heldout import Outputs
from zotune.runs.json_lines import append_lines, keep_lines, read_lines
from zotune.runs.run_directory import COMPLETIONS
from zotune.text import texts
from zotune.types import Score

Set = Literal["validation", "test"]
Phase = Literal["before", "during", "after"]

ROWS: Final = 8
"""Rows of each evaluation of the validation set."""
TEST_ROWS: Final = 64
"""Rows of each evaluation of the test set: there are two."""
CHARACTERS: Final = 4000
"""Longer texts lose their middle."""
MAX_BYTES: Final = 8 * 2**20
"""A file that is larger gets no further evaluations of the validation set."""


class CompletionsLog:
    """The file of one run directory."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / COMPLETIONS

    def resume(self, evaluated: Iterable[int]) -> None:
        """Keep the lines of the base model and of the recorded evaluations: those that the resumed run does not write
        again. evaluated: the steps of the recorded evaluations."""
        if not self._path.exists():
            return
        steps = set(evaluated)

        def wanted(row: Mapping[str, Any]) -> bool:
            if row.get("set") == "test":
                return row.get("phase") == "before"
            return row.get("step") in steps

        keep_lines(self._path, wanted)

    def add(self, step: int, part: Set, phase: Phase, outputs: Outputs, score: Score) -> None:
        """Append the completions of an evaluation, once; of a task without completions there are none."""
        if "completion_ids" not in outputs:  # classes and options are no generated text
            return
        if part == "test":
            if phase == "before" and self._has_base():
                return
        elif self._path.exists() and self._path.stat().st_size > MAX_BYTES:
            return
        rows = completion_rows(outputs, score.samples, TEST_ROWS if part == "test" else ROWS)
        append_lines(self._path, [{"step": step, "set": part, "phase": phase, **row} for row in rows])

    def _has_base(self) -> bool:
        """Whether the base model's completions for the test set are written; they are the first lines."""
        return next(read_lines(self._path), {}).get("set") == "test"


def completion_rows(
    outputs: Outputs, scores: Sequence[float | None] | None, most: int | None = None
) -> list[dict[str, Any]]:
    """A row for each of the first `most` completions (None: all), with its place, texts and score."""
    completions = texts(outputs["completions"][:most])
    references = outputs.get("references") or [None] * len(completions)
    return [
        {
            "row": i,
            "prompt": _cut(prompt_text(outputs["prompts"][i])),
            "completion": _cut(completion),
            "reference": references[i],
            "score": scores[i] if scores else None,
        }
        for i, completion in enumerate(completions)
    ]


def prompt_text(prompt: Any) -> str:
    """A prompt as text: messages with their roles, a single one without."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _cut(text: str) -> str:
    half = CHARACTERS // 2
    return text if len(text) <= CHARACTERS else f"{text[:half]} … {text[-half:]}"


__all__ = ["CompletionsLog", "Phase", "completion_rows", "prompt_text"]
