"""`zotune check`: an objective on a few rows, before any tuning."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from zotune import config, options

Opt = typer.Option
Text = str | None
Whole = int | None
Real = float | None


def check(
    objective: Annotated[list[str], Opt("--objective", "-o", help="What to try; several are summed.")],
    model: Annotated[Text, Opt("--model", "-m", help="Folder or hub id. [embedded MiniLM]")] = None,
    dataset: Annotated[Text, Opt("--dataset", "-d", help="File, or folder of splits. [embedded]")] = None,
    objective_arg: Annotated[list[str] | None, Opt(help="Option of the objective, name=value.")] = None,
    weight: Annotated[Text, Opt(help="Weights of several objectives.")] = None,
    direction: Annotated[Text, Opt(help="maximize or minimize.")] = None,
    rows: Annotated[int, Opt(help="Rows that are scored twice.", min=1)] = 16,
    optimizer: Annotated[Text, Opt(help="Whose differences are looked at. [auto]")] = None,
    eps: Annotated[Real, Opt(help="The optimizer's perturbation scale.")] = None,
    batch_size: Annotated[Whole, Opt(help="Rows a batch. [16]")] = None,
    smooth: Annotated[Whole, Opt(help="As in fit. [64]")] = None,
    tune: Annotated[Text, Opt(help="As in fit. [auto]")] = None,
    peft: Annotated[Text, Opt(help="none, lora or prefix.")] = None,
    head: Annotated[Text, Opt(help="causal, masked, seq2seq, classification or embedding.")] = None,
    task: Annotated[Text, Opt(help="A preset, a YAML file, or classification, choice, generation.")] = None,
    template: Annotated[Text, Opt(help="Prompt with {column} places.")] = None,
    labels: Annotated[Text, Opt(help="Label words.")] = None,
    choices: Annotated[Text, Opt(help="Columns of the options.")] = None,
    column: Annotated[list[str] | None, Opt(help="wanted=found.")] = None,
    max_new_tokens: Annotated[Whole, Opt(help="Tokens to generate at most.")] = None,
    stop: Annotated[list[str] | None, Opt(help="Text that ends a completion.")] = None,
    temperature: Annotated[Real, Opt(help="0: greedy.")] = None,
    system: Annotated[Text, Opt(help="First message of every chat.")] = None,
    score_concurrency: Annotated[Whole, Opt(help="Calls of a scorer at a time.")] = None,
    score_batch_size: Annotated[Whole, Opt(help="Rows a call of a scorer.")] = None,
    score_timeout: Annotated[Real, Opt(help="Seconds that a call of a scorer may take.")] = None,
    seed: Annotated[Whole, Opt(help="[0]")] = None,
    device: Annotated[Text, Opt(help="auto, cuda, mps or cpu.")] = None,
    dtype: Annotated[Text, Opt(help="auto, float32, bfloat16 or float16.")] = None,
    trust_remote_code: Annotated[bool, Opt("--trust-remote-code", help="Run code that a hub model brings.")] = False,
    as_json: Annotated[bool, Opt("--json", help="JSON on standard output.")] = False,
) -> None:
    """Try an objective on a few rows: speed, range, determinism, and whether a tuning step would see a difference."""
    said = dict(locals())
    for name in ("rows", "objective_arg", "column", "as_json"):
        said.pop(name)
    said |= {"trust_remote_code": trust_remote_code or None, "stop": tuple(stop or ()) or None}
    said["objective"] = objective[0] if len(objective) == 1 else tuple(objective)
    said["weight"] = options.convert(weight, tuple[float, ...], "--weight") if weight else None
    said["objective_args"] = options.pairs(objective_arg or [], "--objective-arg")
    said["columns"] = options.pairs(column or [], "--column", "wanted=found")
    cfg = config.resolve(said, None)

    from zotune.cli.terminal import Terminal
    from zotune.runs import check as checking

    terminal = Terminal()
    found = checking.check(cfg, rows=rows, emit=terminal)
    if as_json:
        print(json.dumps({**found, "advice": checking.advice(found)}, indent=1))
        return
    for line in lines(found):
        print(line)
    for line in checking.advice(found):
        print(line)


def lines(found: dict[str, Any]) -> list[str]:
    """What was found, for a person."""
    each = 1000 * found["seconds"] / found["rows"]
    out = [
        f"objective   {found['objective']} ({found['direction']}, {found['level']} level)",
        f"asks for    {', '.join(found['asks_for'])}",
        f"speed       {found['rows']} rows in {found['seconds']:.3f} s, {each:.1f} ms a row",
        f"repeatable  {'yes' if found['deterministic'] else 'NO: another score for the same rows'}",
    ]
    if found["level"] == "order":
        decided = found["rows"] - found["not_applicable"] - found["undecided"]
        out.append(f"decides     {decided} of {found['different']} different pairs")
        out.append(f"swayed      {found['swayed']} of them say otherwise when shown the other way round")
    else:
        spread = f", from {found['lowest']:.4g} to {found['highest']:.4g}" if found["lowest"] is not None else ""
        out.append(f"value       {found['value']:.4f} on {found['rows']} rows{spread}")
        out += [f"            {name} {value:.4f}" for name, value in found["parts"].items()]
    if found["not_applicable"]:
        out.append(f"None        for {found['not_applicable']} rows")
    smooth = f", averaged over {found['smooth']} sampled predictions a row" if found["smooth"] else ""
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
