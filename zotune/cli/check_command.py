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

SETTINGS = config.select(
    *("objective", "objective_args", "weight", "direction", "model", "dataset", "head", "task", "template"),
    *("labels", "choices", "columns", "system", "max_new_tokens", "stop", "temperature", "top_p", "optimizer"),
    *("optimizer_args", "eps", "batch_size", "smooth", "tune", "peft", "score_concurrency", "score_batch_size"),
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

    found = runs.check(cfg, rows=flags.rows, emit=Terminal())
    if flags.as_json:
        print(json.dumps({**found, "advice": runs.advice(found)}, indent=1))
        return
    for line in [*lines(found), *runs.advice(found)]:
        print(line)


def lines(found: dict[str, Any]) -> list[str]:
    """The result as text."""
    row_ms = 1000 * found["seconds"] / found["rows"]
    out = [
        f"objective   {found['objective']} ({found['direction']}, {found['level']} level)",
        f"reads       {', '.join(found['asks_for'])}",
        f"speed       {found['rows']} rows in {found['seconds']:.3f} s, {row_ms:.1f} ms per row",
        f"repeatable  {'yes' if found['deterministic'] else 'NO: the same rows got another score'}",
    ]
    if found["level"] == "order":
        decided = found["rows"] - found["not_applicable"] - found["undecided"]
        out.append(f"decided     {decided} of {found['different']} different pairs")
        out.append(f"reversed    {found['swayed']} of them when the order is swapped")
    else:
        spread = f", from {found['lowest']:.4g} to {found['highest']:.4g}" if found["lowest"] is not None else ""
        out.append(f"value       {found['value']:.4f} on {found['rows']} rows{spread}")
        out += [f"            {name} {value:.4f}" for name, value in found["parts"].items()]
    if found["not_applicable"]:
        out.append(f"None        for {found['not_applicable']} rows")
    smooth = f", averaged over {found['smooth']} sampled predictions per row" if found["smooth"] else ""
    out.append(f"no signal   {found['zero_steps']} of {found['steps']} steps of {found['optimizer']}{smooth}")
    table = found.get("moved", [])
    if table:
        sizes = sorted({m["batch"] for m in table})
        out.append("share of zero differences, and change of the objective, at ±ε on all tuned weights:")
        out.append(f"  {'ε':>9} {'ε / RMS':>8}" + "".join(f"{f'{n} rows':>20}" for n in sizes))
        for relative in dict.fromkeys(m["relative"] for m in table):
            row = {m["batch"]: m for m in table if m["relative"] == relative}
            shown = "".join(f"{100 * row[n]['zero']:>9.0f} % {row[n]['change']:>+8.3f}" for n in sizes)
            out.append(f"  {row[sizes[0]]['eps']:>9.2g} {relative:>8g}{shown}")
    return out


COMMAND = command("check", check, CheckFlags, SETTINGS)

__all__ = ["COMMAND", "lines"]
