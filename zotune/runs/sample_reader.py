"""Completions and predictions of held-out rows as samples: each prompt with its outputs in the order of the steps.

Knows the lines of completions.jsonl and predictions.jsonl; reads no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from zotune.pages.run_record import Sample, Version
from zotune.text import texts

LONGEST: Final = 20_000
"""Characters of a text that are read; the page shows fewer."""
MOST_SAMPLES: Final = 2000


def from_completions(rows: Iterable[Mapping[str, Any]], best_step: int | None) -> list[Sample]:
    """The samples of completions.jsonl. best_step: of the weights that the test set has seen."""
    outputs: dict[tuple[str, Any], dict[int, Version]] = {}
    about: dict[tuple[str, Any], tuple[str, str]] = {}
    for row in rows:
        part, prompt = str(row.get("set", "validation")), prompt_text(row.get("prompt"))
        step = row.get("step")
        if not isinstance(step, int) or part not in ("validation", "test"):
            continue
        if row.get("set") == "test" and row.get("phase") == "after":
            step = max(step, 1)
        key = part, row.get("row", prompt)
        if key not in outputs and len(outputs) >= MOST_SAMPLES:
            continue
        about.setdefault(key, (prompt, reference_text(row.get("reference"))))
        text = _text(row.get("completion"))
        outputs.setdefault(key, {})[step] = Version(step, "", text, _score(row.get("score")))
    samples = list[Sample]()
    for key, versions in outputs.items():
        ordered = [versions[step] for step in sorted(versions)]
        if best_step and key[0] == "validation":  # the wall ends with the weights that were selected
            ordered = [v for v in ordered if v.step <= best_step] or ordered
        named = [v._replace(label=_label(v.step, best_step)) for v in ordered]
        samples.append(Sample(key[0], *about[key], named))
    return samples


def from_predictions(rows: Sequence[Mapping[str, Any]], start: str, tuned: bool) -> list[Sample]:
    """The samples of predictions.jsonl: test rows with what the weights that tuning started from, called `start`, and
    the tuned ones chose. tuned: whether there are tuned ones."""
    samples = list[Sample]()
    for row in rows:
        if not isinstance(row.get("prompt"), str) or len(samples) >= MOST_SAMPLES:
            continue
        reference = reference_text(row.get("reference"))
        versions = [
            Version(step, label, _text(row.get(key)), _score(row.get(f"score_{key}")), _verdict(row, key))
            for step, label, key in ((0, start, "before"), (1, "tuned weights", "after"))[: 1 + tuned]
        ]
        samples.append(Sample("test", row["prompt"][:LONGEST], reference, versions))
    return samples


def prompt_text(prompt: Any) -> str:
    """A prompt as text: messages with their roles, a single one without."""
    if isinstance(prompt, str):
        return prompt[:LONGEST]
    try:
        if len(prompt) == 1:
            return str(prompt[0]["content"])[:LONGEST]
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)[:LONGEST]
    except (TypeError, KeyError, IndexError):
        return str(prompt)[:LONGEST]


def reference_text(reference: Any) -> str:
    """A reference as text; several correct ones with | between them."""
    if reference is None:
        return ""
    return (reference if isinstance(reference, str) else " | ".join(map(str, reference)))[:LONGEST]


def _text(completion: Any) -> str:
    try:
        return texts([completion])[0][:LONGEST]
    except (TypeError, KeyError, IndexError):
        return str(completion)[:LONGEST]


def _score(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _verdict(row: Mapping[str, Any], key: str) -> str:
    """Whether a prediction is the correct one; "" where the row has a score of its own, or no label."""
    label = row.get("label")
    if f"score_{key}" in row or not isinstance(label, int) or label < 0:
        return ""
    return "right" if row.get(f"predicted_{key}") == label else "wrong"


def _label(step: int, best_step: int | None) -> str:
    if step == 0:
        return "base model"
    return f"best weights, step {step:,}" if step == best_step else f"step {step:,}"


__all__ = ["from_completions", "from_predictions", "prompt_text", "reference_text"]
