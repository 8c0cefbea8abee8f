"""The model card of a run: README.md in its directory.

Knows plans and results; computes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from zotune.models.heads import AUTO_CLASSES
from zotune.models.memory_model import PREFIX
from zotune.runs.plan import EMBEDDED, Plan
from zotune.runs.result import Result
from zotune.runs.summary import decided_by, number, scored, verdict
from zotune.text import one_line
from zotune.yaml_file import as_yaml

PIPELINES: Final = {"generation": "text-generation", "classification": "text-classification"}
"""The hub's name of a task by its kind."""
SAMPLES: Final = 4
"""Prompts that are shown with the completions before and after."""
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def code(text: object, most: int = 0) -> str:
    """Foreign text in Markdown: on one line, and without effect as markup. most: characters, 0 for all."""
    line = one_line(str(text), most) if most else one_line(str(text))
    line = line.replace("`", "'")
    return f"`{line}`" if line else ""


def model_card(
    plan: Plan,
    result: Result,
    header: Mapping[str, Any],
    kl: float | None = None,
    samples: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The Markdown of the model card. header: of the journal; kl: divergence of the kept weights from the base model;
    samples: lines of completions.jsonl."""
    config, probe = plan.config, result.probe
    words = plan.spec.classes.words if plan.spec.classes else ()
    rows = [
        ("base model", scored(result.base or result.before)),
        *([("linear probe, where tuning started", scored(result.before))] if result.base else []),
        ("kept weights", scored(result.after)),
        *([("linear probe on the base model's embeddings", scored(probe))] if probe and not result.base else []),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    revision = f" at revision {code(config.model_revision)}" if config.model_revision else ""
    hashes = ", ".join(map(code, header.get("objective_source", ())))
    tuned, dataset = list(header["tensors"]), _shown(config.dataset) if config.dataset else "embedded"
    settings: dict[str, Any] = {
        "base model": f"{code(_shown(plan.model_name))}{revision}, weights {code(header['base_weights'])}",
        "data": f"{code(dataset)}, rows {code(header.get('data', ''))}",
        "objective": f"{objective_name(plan.objective.name)} ({plan.objective.better}), source {hashes}",
        "optimizer": f"{plan.optimizer_name} {code(plan.optimizer)}",
        "tuned tensors": f"{len(tuned)} (`--tune` {code(config.tune)}): {_names(tuned)}",
        **({"KL divergence from the base model": f"{number(kl)} nats a token"} if kl is not None else {}),
        "steps": result.steps,
        "evaluations (one batch at one point)": result.forwards,
        "best step": result.best_step,
        **({"interpolated": f"base + {result.best_share:g} (step - base)"} if result.best_share != 1.0 else {}),
        "steps without signal": f"{100 * result.zero_share:.0f} %",
        "dropped steps": result.dropped,
        "seed": config.seed,
        **({"classes": ", ".join(map(code, words))} if words else {"task": plan.spec.kind}),
        "template": code(plan.spec.template.text),
    }
    lines = "\n".join(f"- {k}: {v}" for k, v in settings.items())
    return f"""---
{as_yaml(_metadata(plan, result))}---

# {objective_name(plan.objective.name)}, tuned with forward passes only

Base model: {code(_shown(plan.model_name))}. {verdict(result)}

| test {objective_name(plan.objective.name)} ({result.before.rows} rows) | value ± standard error |
|---|---|
{table}

{decided_by(result)}

## How it was tuned

{lines}

{_samples(samples)}## Limits

- The scores above hold for {result.before.rows} rows of this data and this objective; nothing else was measured.
- A model that is tuned for one number may get worse at everything that the number does not see.
- Limits and licence of the base model and of the data apply.

## How to load it

{_loading(plan)} `journal.jsonl` holds every number that the weights depend on.
"""


def _metadata(plan: Plan, result: Result) -> dict[str, Any]:
    """The front matter, as the hub reads it."""
    adapter = plan.adapter.method != "none" or bool(plan.model_files.adapter)
    pipeline = PIPELINES.get(plan.spec.kind)
    if plan.spec.kind == "classification" and plan.head != "classification":
        pipeline = None
    base = plan.model_name if plan.model_files.folder is None and _HUB_ID.fullmatch(plan.model_name) else None
    name, dataset = objective_name(plan.objective.name), _shown(plan.config.dataset or "embedded")
    is_hub = plan.config.dataset is not None and not Path(plan.config.dataset).exists()
    values = [("base model", result.base or result.before), ("kept weights", result.after)]
    metrics = [{"type": name, "value": score.value, "name": f"test {name}, {which}"} for which, score in values]
    entry = {
        "task": {"type": pipeline or plan.spec.kind},
        "dataset": {"name": dataset, "type": plan.config.dataset if is_hub else "local"},
        "metrics": metrics,
    }
    return {
        "library_name": "peft" if adapter else "transformers",
        **({"base_model": base} if base else {}),
        **({"pipeline_tag": pipeline} if pipeline else {}),
        "tags": ["zotune", "zeroth-order"],
        "model-index": [{"name": result.folder.name if result.folder else name, "results": [entry]}],
    }


def objective_name(name: str) -> str:
    """The name of an objective as others may read it: of a Python file's path the last part alone."""
    return re.sub(r"[^\s:]*/([^\s:/]+\.py:)", r"\1", name)


def _shown(name: str) -> str:
    """A model or data set as others may read it: of a path of this machine the last part alone."""
    if name == EMBEDDED or name.startswith(PREFIX) or (not Path(name).exists() and _HUB_ID.fullmatch(name)):
        return name
    return Path(name).name or name


def _names(tensors: Sequence[str]) -> str:
    shown = ", ".join(map(code, tensors[:8]))
    return shown + (f" and {len(tensors) - 8} more" if len(tensors) > 8 else "")


def _samples(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of test prompts with the completions of the base model and of the kept weights; "" without any."""
    before = {r["row"]: r for r in rows if r.get("set") == "test" and r.get("phase") == "before"}
    after = {r["row"]: r for r in rows if r.get("set") == "test" and r.get("phase") == "after"}
    shown = [(before[row], after[row]) for row in sorted(before.keys() & after.keys())[:SAMPLES]]
    if not shown:
        return ""
    cells = [
        " | ".join(code(text, 200).replace("|", "\\|") for text in (b["prompt"], b["completion"], a["completion"]))
        for b, a in shown
    ]
    table = "\n".join(f"| {row} |" for row in cells)
    return f"## Samples\n\n| test prompt | base model | best tuned weights |\n|---|---|---|\n{table}\n\n"


def _loading(plan: Plan) -> str:
    """How to load the model of the directory."""
    name = AUTO_CLASSES[plan.head]
    if plan.adapter.method != "none" or plan.model_files.adapter:
        return f'Load it with `peft`: `PeftModel.from_pretrained({name}.from_pretrained("<base>"), "<this folder>")`.'
    return f'Load it with `transformers`: `{name}.from_pretrained("<this folder>")`.'


__all__ = ["code", "model_card", "objective_name"]
