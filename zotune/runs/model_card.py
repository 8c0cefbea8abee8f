"""The model card of a run: README.md in its directory.

Knows plans and results; computes nothing.
"""

from __future__ import annotations

from typing import Any

from zotune.models.heads import AUTO_CLASSES
from zotune.runs.plan import Plan
from zotune.runs.result import Result
from zotune.runs.summary import decided_by, scored, verdict
from zotune.text import one_line


def code(text: object) -> str:
    """Foreign text in Markdown: on one line, and without effect as markup."""
    line = one_line(str(text)).replace("`", "'")
    return f"`{line}`" if line else ""


def model_card(plan: Plan, result: Result) -> str:
    """The Markdown of the model card."""
    config, probe = plan.config, result.probe
    words = plan.spec.classes.words if plan.spec.classes else ()
    rows = [
        ("base model", scored(result.base or result.before)),
        *([("linear probe, where tuning started", scored(result.before))] if result.base else []),
        ("kept weights", scored(result.after)),
        *([("linear probe on the base model's embeddings", scored(probe))] if probe and not result.base else []),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    settings: dict[str, Any] = {
        "objective": f"{plan.objective.name} ({plan.objective.better})",
        "optimizer": f"{plan.optimizer_name} {code(plan.optimizer)}",
        "tuned tensors": config.tune,
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
library_name: transformers
tags: [zotune, zeroth-order]
---

# {plan.objective.name}, tuned with forward passes only

Base model: {code(plan.model_name)}. {verdict(result)}

| test {plan.objective.name} ({result.before.rows} rows) | value ± standard error |
|---|---|
{table}

{decided_by(result)}

{lines}

{_loading(plan)} `journal.jsonl` holds every number that the weights depend on.
"""


def _loading(plan: Plan) -> str:
    """How to load the model of the directory."""
    name = AUTO_CLASSES[plan.head]
    if plan.adapter.method != "none" or plan.model_files.adapter:
        return f'Load it with `peft`: `PeftModel.from_pretrained({name}.from_pretrained("<base>"), "<this folder>")`.'
    return f'Load it with `transformers`: `{name}.from_pretrained("<this folder>")`.'


__all__ = ["code", "model_card"]
