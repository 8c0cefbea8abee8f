"""`zotune check`: an objective on a few rows, before any tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zotune import config
from zotune.cli.command import command
from zotune.cli.shared_flags import json_flag
from zotune.errors import UsageError
from zotune.options import option
from zotune.text import number

SETTINGS = config.select(
    *("objective", "objective_args", "weight", "direction", "model", "dataset", "head", "task", "template"),
    *("labels", "choices", "columns", "system", "max_length", "max_new_tokens"),
    *("stop", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "optimizer"),
    *("optimizer_args", "eps", "batch_size", "smooth", "tune", "peft", "score_concurrency", "score_batch_size"),
    *("chat_template", "chat_args", "shots", "calibrate"),
    *("score_timeout", "seed", "device", "dtype", "threads", "trust_remote_code", "allow_pickle"),
    optimizer="Optimizer whose differences are evaluated.",
    objective="Objective to check. Repeatable: several are summed.",
)


@dataclass(frozen=True)
class CheckFlags:
    """What `check` takes beside options of a run."""

    rows: int = option(16, "Rows that are scored twice.", least=1, group="Data")
    as_json: bool = json_flag()


def check(flags: CheckFlags, settings: Mapping[str, Any]) -> None:
    """Try an objective on a few rows: speed, range, determinism, and whether a tuning step would see a difference."""
    if "objective" not in settings:
        raise UsageError("zotune check: --objective is missing", hint="zotune check -o NAME")
    cfg = config.resolve(settings, None)

    from zotune.cli.terminal import Terminal
    from zotune.runs import check as runs

    with Terminal() as terminal:
        report = runs.check(cfg, rows=flags.rows, emit=terminal)
    if flags.as_json:
        print(json.dumps({**report, "advice": runs.advice(report)}, indent=1))
        return
    for line in [*lines(report), *runs.advice(report)]:
        print(line)


def lines(report: dict[str, Any]) -> list[str]:
    """The result as text."""
    row_ms = 1000 * report["seconds"] / report["rows"]
    out = [
        f"objective   {report['objective']} ({report['direction']}, {report['level']} level)",
        f"reads       {', '.join(report['asks_for'])}",
        f"speed       {report['rows']} rows in {report['seconds']:.3f} s, {row_ms:.1f} ms per row",
        f"repeatable  {'yes' if report['deterministic'] else 'NO: the same rows got another score'}",
    ]
    if chat := report.get("chat_template"):
        out.append(f"chat        {chat['plain_prompts']} for plain prompts, template {chat['hash']}")
    if report["level"] == "order":
        decided = report["rows"] - report["not_applicable"] - report["undecided"]
        out.append(f"decided     {decided} of {report['different']} different pairs")
        out.append(f"reversed    {report['swayed']} of them when the order is swapped")
    else:
        spread = f", from {report['lowest']:.4g} to {report['highest']:.4g}" if report["lowest"] is not None else ""
        out.append(f"value       {number(report['value'])} on {report['rows']} rows{spread}")
        out += [f"            {name} {number(value)}" for name, value in report["parts"].items()]
    if report["not_applicable"]:
        out.append(f"None        for {report['not_applicable']} rows")
    smooth = f", averaged over {report['smooth']} sampled predictions per row" if report["smooth"] else ""
    out.append(f"no signal   {report['zero_steps']} of {report['steps']} steps of {report['optimizer']}{smooth}")
    table = report.get("moved", [])
    if table:
        sizes = sorted({m["batch"] for m in table})
        out.append("share of batches without a difference, and change of the objective, with ±ε in all tuned weights:")
        out.append(f"  {'ε':>9} {'ε / RMS':>8}" + "".join(f"{f'{n} rows':>20}" for n in sizes))
        for relative in dict.fromkeys(m["relative"] for m in table):
            row = {m["batch"]: m for m in table if m["relative"] == relative}
            shown = "".join(f"{100 * row[n]['zero']:>9.0f} % {row[n]['change']:>+8.3f}" for n in sizes)
            out.append(f"  {row[sizes[0]]['eps']:>9.2g} {relative:>8g}{shown}")
    return out


COMMAND = command("check", check, CheckFlags, SETTINGS)

__all__ = ["COMMAND", "lines"]
