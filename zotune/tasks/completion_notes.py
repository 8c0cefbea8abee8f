"""Notes on the completions of a set: cut, empty, or all of them empty, with the reason.

Knows outputs of generation; runs no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zotune.data.task import TaskSpec
from zotune.text import texts


def completion_notes(spec: TaskSpec, outputs: Mapping[str, Any]) -> list[str]:
    """Notes on completions that are empty, and on those that `max_new_tokens` ended before the model did."""
    ids, completions = outputs.get("completion_ids"), outputs.get("completions")
    if spec.kind != "generation" or ids is None or completions is None:
        return []
    notes, total = [], len(ids)
    cut = sum(len(x) >= spec.max_new_tokens for x in ids)
    if cut:
        notes.append(f"{cut} of {total} completions were cut at {spec.max_new_tokens} tokens (--max-new-tokens)")
    if silence := reason_for_silence(spec, outputs):
        notes.append("{} ({})".format(*silence))
    elif empty := sum(not text.strip() for text in texts(completions)):
        notes.append(f"{empty} of {total} completions are empty")
    return notes


def reason_for_silence(spec: TaskSpec, outputs: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why all completions are empty, and what to do; None where one is not, or where there are none."""
    ids, completions = outputs.get("completion_ids"), outputs.get("completions")
    if spec.kind != "generation" or not ids or not completions or any(text.strip() for text in texts(completions)):
        return None
    count = f"{len(ids)} of {len(ids)} completions are empty"
    form = "write prompts as the model was trained: --chat-template, --template, --system; or take another model"
    if not any(ids):
        return f"{count}: the model ends each with its first token", form
    if spec.stop:
        return f"{count}: they begin with a stop string ({', '.join(map(repr, spec.stop))})", "another --stop, or none"
    return f"{count}: the model writes blanks or special tokens alone", form


__all__ = ["completion_notes", "reason_for_silence"]
