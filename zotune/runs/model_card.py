"""What a finished run says about itself: the run folder's README.md (a model card).

Knows results; computes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zotune.text import one_line

if TYPE_CHECKING:
    from zotune.runs.fit import Result
    from zotune.runs.heldout import Scored
    from zotune.runs.plan import Plan


def number(x: float) -> str:
    return f"{x:.4f}" if abs(x) < 1000 else f"{x:.4g}"


def scored(s: Scored) -> str:
    return number(s.value) + (f" ± {number(s.error)}" if s.error is not None else "")


def verdict(plan_better: str, result: Result) -> str:
    """One sentence: what was kept and why."""
    d = result.difference
    interval = f", 95 % interval {d.low:+.4f} to {d.high:+.4f}" if d.low is not None and d.high is not None else ""
    if result.kept == "tuned":
        sure = d.low is None or d.high is None or d.low > 0 or d.high < 0
        doubt = "" if sure else "; the interval holds zero, so this may be chance"
        return f"The tuned weights are kept: {d.value:+.4f}{interval}{doubt}."
    if result.best_step == 0:
        return "The start is kept: no evaluation on the selection rows was better than it."
    why = ""
    if d.error is not None and abs(d.value) < 2 * d.error:
        why = f", within two standard errors ({2 * d.error:.4f})"
    return f"The start is kept: on the judging rows the tuned weights gave {d.value:+.4f}{interval}{why}."


def code(text: object) -> str:
    """Text from elsewhere in Markdown: on one line, and nothing in it is markup."""
    said = one_line(str(text)).replace("`", "'")
    return f"`{said}`" if said else ""


def model_card(plan: Plan, result: Result) -> str:
    """Markdown for the run folder."""
    cfg, probe = plan.config, result.probe
    words = plan.spec.classes.words if plan.spec.classes else ()
    rows = [
        ("before", scored(result.before)),
        ("after (kept weights)", scored(result.after)),
        *([("linear probe on the untuned embeddings", scored(probe))] if probe else []),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    settings: dict[str, Any] = {
        "objective": f"{plan.objective.name} ({plan.objective.better})",
        "optimizer": f"{plan.rule} {code(plan.optimizer)}",
        "tuned": cfg.tune,
        "steps": result.steps,
        "forwards (one batch at one point)": result.forwards,
        "best step": result.best_step,
        **({"of the way there from the start": f"{result.best_share:g}"} if result.best_share != 1.0 else {}),
        "steps without signal": f"{100 * result.zero_share:.0f} %",
        "dropped steps": result.dropped,
        "seed": cfg.seed,
        **({"classes": ", ".join(map(code, words))} if words else {"task": plan.spec.kind}),
        "template": code(plan.spec.template.text),
    }
    lines = "\n".join(f"- {k}: {v}" for k, v in settings.items())
    return f"""---
library_name: transformers
tags: [zotune, zeroth-order]
---

# {plan.objective.name}, tuned with forward passes only

Base model: {code(plan.model_name)}. {verdict(plan.objective.better, result)}

| {plan.objective.name} on {result.before.rows} judging rows | value ± standard error |
|---|---|
{table}

{lines}

{_loading(plan)} `journal.jsonl` holds every number that the weights depend on.
"""


def _loading(plan: Plan) -> str:
    """How to load the folder."""
    from zotune.models.heads import AUTO_CLASSES

    name = AUTO_CLASSES[plan.head]
    if plan.adapter.method != "none" or plan.found.adapter:
        return f'Load it with `peft`: `PeftModel.from_pretrained({name}.from_pretrained("<base>"), "<this folder>")`.'
    return f'Load it with `transformers`: `{name}.from_pretrained("<this folder>")`.'
