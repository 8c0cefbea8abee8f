"""How prompts are written in a run: the chat template, demonstrations and the length of rows, chosen or recorded.

Joins tasks, data and objectives; tunes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from zotune import declarations
from zotune.config import RunConfig
from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.errors import DataError, ObjectiveError, OptionError
from zotune.models.loaded_model import LoadedModel
from zotune.runs.heldout import HeldOutSet
from zotune.runs.run_directory import CONFIG, JOURNAL
from zotune.scoring.objective import Objective
from zotune.tasks import build
from zotune.tasks.resolve_task import MAX_NEW_TOKENS
from zotune.yaml_file import read_yaml

REFERENCE_ROWS: Final = 200
"""Rows whose references are looked at."""
TRIED_ROWS: Final = 16
"""Rows that are scored with and without the chat template."""


def with_recorded_prompts(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with the chat template and the largest KL divergence that a run directory records, where the
    user gave none. A run from before these were recorded has no chat template around plain prompts and the default
    length."""
    path = folder / CONFIG
    if not path.is_file():
        return config
    saved = read_yaml(path)
    if config.chat_template == "auto":
        config = replace(config, chat_template=str(saved.get("chat_template", "off")))
    if config.max_kl is None and isinstance(saved.get("max_kl"), int | float):  # a default of new runs alone
        config = replace(config, max_kl=float(saved["max_kl"]))
    return config


def with_recorded_rows(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with the numbers of held-out rows that a run directory records, where the user gave none."""
    path = folder / CONFIG
    saved = read_yaml(path) if path.is_file() else {}
    names = [
        n for n in ("validation_rows", "test_rows") if getattr(config, n) is None and isinstance(saved.get(n), int)
    ]
    return replace(config, **{name: saved[name] for name in names})


def with_recorded_length(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with the length of rows in the header of a run's journal, where the user gave none."""
    header = _header(folder)
    length = header.get("max_length")
    if config.max_length is not None or not isinstance(length, int):
        return config
    adapter = header.get("task", {}).get("adapter", {})
    virtual = adapter.get("tokens", 0) if adapter.get("method") == "prefix" else 0
    return replace(config, max_length=length + virtual)


def is_before_chat_templates(folder: Path) -> bool:
    """Whether a run directory was written before chat templates around plain prompts were recorded."""
    path = folder / CONFIG
    return path.is_file() and "chat_template" not in read_yaml(path)


def recorded_demonstrations(folder: Path) -> dict[str, Any]:
    """Fields of a TaskSpec: the demonstrations that a run's journal records; empty where it records none."""
    recorded = _header(folder).get("task", {}).get("demonstrations")
    if not recorded:
        return {}
    return {"demonstrations": recorded["text"], "example_messages": tuple(recorded["messages"])}


def note_on_new_tokens(config: RunConfig, task: build.Task, rows: build.EncodedRows, objective: Objective) -> list[str]:
    """A note where completions may be much longer than the references of the first rows, or shorter than one of them:
    the length is then worth a thought. None where the user or the task gives it, or no reference counts."""
    if config.max_new_tokens or not isinstance(task, build.GenerationTask) or "references" not in objective.inputs:
        return []
    if task.spec.max_new_tokens != MAX_NEW_TOKENS:  # the task file's
        return []
    first = [rows.tokens[i][1] for i in range(min(len(rows), REFERENCE_ROWS))]
    longest = max((len(reference[0].targets) for reference in first if reference), default=0)
    if not longest:
        return []
    if longest > MAX_NEW_TOKENS:
        return [f"a reference has {longest} tokens, and completions end after {MAX_NEW_TOKENS} (--max-new-tokens)"]
    if longest <= MAX_NEW_TOKENS // 4:
        short = max(8, 2 * longest)
        return [
            f"references have at most {longest} tokens: --max-new-tokens {short} would be faster than {MAX_NEW_TOKENS}"
        ]
    return []


def _header(folder: Path) -> dict[str, Any]:
    path = folder / JOURNAL
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8") as lines:
            header = json.loads(lines.readline())
    except (OSError, ValueError):
        return {}
    body = header.get("body") if isinstance(header, dict) else None
    return body if isinstance(body, dict) else {}


def cheap(objective: Objective) -> bool:
    """Whether an objective may be called a few times more: it comes with zotune, and asks no person and no server."""
    parts = objective.each
    return not objective.ordered and all(
        p.info.validates
        and p.info.fast is not False
        and not p.info.call_options
        and declarations.is_shipped(p.function)
        for p in parts
    )


def better_of_both(
    loaded: LoadedModel, spec: TaskSpec, config: RunConfig, objective: Objective, rows: Sequence[Record], length: int
) -> tuple[TaskSpec, str]:
    """The task with or without the chat template, by its score on a few rows; a tie keeps the template. Also a text for
    the user, empty where the rows could not be scored."""
    values = {}
    for state in ("on", "off"):
        try:
            task = build.build(loaded, replace(spec, chat_template=state), length, config.eval_batch_size, config.seed)
            values[state] = HeldOutSet(task, task.rows(rows[:TRIED_ROWS]), objective).score()[1].value
        except (ObjectiveError, OptionError, DataError):
            return spec, ""
    sign = -1.0 if objective.direction == "minimize" else 1.0
    worse = sign * values["on"] < sign * values["off"]
    count = min(TRIED_ROWS, len(rows))
    text = f"{objective.name} on {count} rows: {values['on']:.4f} with it, {values['off']:.4f} without"
    return (replace(spec, chat_template="off") if worse else spec), text


__all__ = [
    "better_of_both",
    "cheap",
    "is_before_chat_templates",
    "note_on_new_tokens",
    "recorded_demonstrations",
    "with_recorded_length",
    "with_recorded_prompts",
    "with_recorded_rows",
]
