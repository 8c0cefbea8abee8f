"""`zotune bench`: what a tuning step costs on this machine, beside the forward passes in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zotune import options
from zotune.events import Phase

if TYPE_CHECKING:
    from rich.console import Console

Opt = typer.Option
Text = str | None
Whole = int | None
WIDTH = 100
"""Columns of a table that goes to no terminal."""
MB = 1e6


def bench(
    model: Annotated[Text, Opt("--model", "-m", help="Folder, adapter or hub id. [embedded MiniLM]")] = None,
    shape: Annotated[
        Text, Opt("--config", help="Random weights of a known shape instead: opt-1.3b, opt-6.7b or llama-8b.")
    ] = None,
    optimizer: Annotated[
        list[str] | None, Opt(help="Name, file.py:Class, or all for every installed one. Repeatable. [mezo]")
    ] = None,
    optimizer_arg: Annotated[list[str] | None, Opt(help="Option of a single optimizer, name=value.")] = None,
    rows: Annotated[int, Opt(help="Rows a batch.")] = 16,
    tokens: Annotated[int, Opt(help="Tokens a row.")] = 64,
    rounds: Annotated[int, Opt(help="Rounds whose medians are shown; at least 5.")] = 9,
    warmup: Annotated[int, Opt(help="Rounds before them; as many as the window of moments that are recomputed.")] = 1,
    tune: Annotated[str, Opt(help="What is tuned, as in fit.")] = "all",
    peft: Annotated[str, Opt(help="none, lora or prefix.")] = "none",
    head: Annotated[str, Opt(help="auto, causal, masked, seq2seq, classification or embedding.")] = "auto",
    probe: Annotated[str, Opt(help="forward, copy or auto, as in fit.")] = "auto",
    compile: Annotated[bool, Opt("--compile/--no-compile", help="Compile probes and steps.")] = True,
    device: Annotated[str, Opt(help="auto, cuda, mps or cpu.")] = "auto",
    dtype: Annotated[str, Opt(help="auto, float32, bfloat16 or float16.")] = "auto",
    threads: Annotated[Whole, Opt(help="CPU threads. [torch's choice]")] = None,
    seed: Annotated[int, Opt(help="Of tokens, noise and random weights.")] = 0,
    trust_remote_code: Annotated[bool, Opt("--trust-remote-code", help="Run code that a hub model brings.")] = False,
    as_json: Annotated[bool, Opt("--json", help="JSON on standard output.")] = False,
) -> None:
    """Measure a tuning step beside the forward passes in it, a textbook MeZO loop and a copy, round by round."""
    from zotune.errors import OptionError

    if threads is not None and threads < 1:
        raise OptionError(f"--threads must be at least 1, got {threads}")
    given = options.pairs(optimizer_arg or [], "--optimizer-arg")

    from zotune.cli.terminal import Terminal

    terminal = Terminal()
    found = _measured(
        terminal,
        model=model,
        shape=shape,
        names=optimizer or ["mezo"],
        given=given,
        options={
            "rows": rows,
            "tokens": tokens,
            "rounds": rounds,
            "warmup": warmup,
            "tune": tune,
            "probe": probe,
            "compile": compile,
            "seed": seed,
        },
        peft=peft,
        head=head,
        device=device,
        dtype=dtype,
        threads=threads,
        trust_remote_code=trust_remote_code,
    )
    if as_json:
        print(json.dumps(found, indent=1))
        return
    from rich.console import Console

    console = Console(highlight=False)
    show(found, console if console.is_terminal else Console(highlight=False, width=WIDTH))


def _measured(
    terminal: Any,
    *,
    model: str | None,
    shape: str | None,
    names: Sequence[str],
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    peft: str,
    head: str,
    device: str,
    dtype: str,
    threads: int | None,
    trust_remote_code: bool,
) -> dict[str, Any]:
    """What `bench` is asked for. Options and names are looked at before a model is loaded."""
    import torch

    from zotune.bench import bench as benches
    from zotune.runs.plan import EMBEDDED

    o = benches.Options(**options)
    rules, failed = benches.resolve(names, given)
    if threads is not None:
        torch.set_num_threads(threads)
    terminal(Phase(f"loading {model or shape or EMBEDDED}"))
    loaded = benches.load(
        model,
        shape,
        device=device,
        dtype=dtype,
        peft=peft,
        head=head,
        seed=o.seed,
        trust_remote_code=trust_remote_code,
    )
    return benches.measure(loaded, rules, o, strict=benches.ALL not in names, failed=failed, emit=terminal)


# -- for a person ------------------------------------------------------------------------------------------------------


def show(found: Mapping[str, Any], console: Console) -> None:
    """What was measured, as tables."""
    for line in heading(found):
        console.print(line, markup=False)
    for title, columns, rows in tables(found):
        _table(console, title, columns, rows)
    console.print()
    for line in remarks(found):
        console.print(line, markup=False)


def heading(found: Mapping[str, Any]) -> list[str]:
    """What was measured, and a plain forward pass."""
    f, one = found["forward"], found["largest"]
    how = "compiled" if found["compiled"] else "not compiled"
    return [
        f"{found['model']} ({found['head']}, {found['dtype']}, {found['device']}, {found['threads']} threads), "
        f"{found['rows']} x {found['tokens']} tokens",
        f"{found['tuned']:,} of {found['weights']:,} weights tuned in {found['tensors']} tensors ({how})",
        f"the largest: {one['name']}, {one['weights']:,}",
        f"plain forward: {f['ms']:.1f} ms, {f['tokens_per_s']:,.0f} tokens/s; medians of {found['rounds']} rounds",
    ]


Rows = list[tuple[str, ...]]


def tables(found: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], Rows]]:
    """(title, columns, rows) of each table."""
    out: list[tuple[str, tuple[str, ...], Rows]] = []
    if found["optimizers"]:
        steps, parts, memory = _steps(found["optimizers"]), _parts(found["optimizers"]), _memory(found["optimizers"])
        out += [steps, parts, memory]
    if found["textbook"]:
        out.append(_beside(found))
    if found["skipped"]:
        reasons: Rows = [(s["name"], s["reason"]) for s in found["skipped"]]
        out.append(("not measured", ("optimizer", "why"), reasons))
    return out


def _steps(entries: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[str, ...], Rows]:
    rows: Rows = []
    for e in entries:
        c = e["compile"]
        again = f" + {c['recompilations']} again" if c["recompilations"] else ""
        kernels = f"{c['compilations'] - c['recompilations']}{again} in {c['seconds']:.1f} s" if c["seconds"] else "-"
        cells = (f"{e['forwards_ms']:.1f}", f"{e['step_ms']:.1f}", f"{e['ratio']:.2f}", kernels)
        rows.append((e["name"], f"{e['evaluations']:.4g}", *cells))
        for k in e["kinds"] if len(e["kinds"]) > 1 else ():
            cells = (f"{k['forwards_ms']:.1f}", f"{k['step_ms']:.1f}", f"{k['ratio']:.2f}", "")
            rows.append((f"  {100 * k['share']:.3g} % of steps", f"{k['evaluations']}", *cells))
    columns = ("optimizer", "evaluations", "forwards ms", "step ms", "step / forwards", "kernels compiled")
    return "a step and the forward passes in it", columns, rows


def _parts(entries: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[str, ...], Rows]:
    names = tuple(entries[0]["parts"])
    rows = [(e["name"], *(f"{p['ms']:.1f} ({p['of_two_forwards']:.2f})" for p in e["parts"].values())) for e in entries]
    return "beyond its forwards: ms (in units of two plain forwards)", ("optimizer", *names), rows


def _memory(entries: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[str, ...], Rows]:
    rows: Rows = []
    for e in entries:
        m = e["memory"]
        sizes = (m[k] / MB for k in ("probe_bytes", "field_bytes", "inference_bytes", "step_bytes"))
        rows.append((e["name"], *(f"{x:.1f}" for x in sizes), f"{m['ratio']:.2f}"))
    columns = ("optimizer", "scratch or copy", "fields", "inference", "step", "step / inference")
    return "peak memory, MB", columns, rows


def _beside(found: Mapping[str, Any]) -> tuple[str, tuple[str, ...], Rows]:
    t, w = found["textbook"], found["write"]
    name = t["beside"]
    return (
        f"in the rounds of {name}",
        ("what", "ms", "compared", ""),
        [
            ("textbook MeZO step", f"{t['step_ms']:.1f}", f"{t['over_step']:.2f}", f"steps of {name}"),
            ("", "", f"{t['ratio']:.2f}", "times two plain forwards"),
            ("write of all tuned weights", f"{w['write_ms']:.1f}", f"{w['write_gb_s']:.2f}", "GB/s, read and written"),
            ("copy of as many bytes", f"{w['copy_ms']:.1f}", f"{w['copy_gb_s']:.2f}", "GB/s, read and written"),
        ],
    )


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What is to be known of the tables."""
    out = []
    for e in found["optimizers"]:
        if len(e["kinds"]) > 1:
            out.append(f"{e['name']}: steps differ; {e['said_of']}, weighted, is shown, and each kind below it")
        if any(rows != found["rows"] for k in e["kinds"] for rows, _ in k["passes"]):
            out.append(f"{e['name']}: evaluations of single rows, beside plain passes of single rows")
        if not e["as_declared"]:
            out.append(f"{e['name']}: declares {e['declared']:.4g} evaluations a step, makes {e['evaluations']:.4g}")
        if e["copied"] and e["copied"] < found["tensors"]:
            out.append(f"{e['name']}: {e['copied']} of {found['tensors']} tensors are probed by copy")
        out += [f"{e['name']}: {note}" for note in e["notes"]]
    return list(dict.fromkeys(out))


def _table(console: Console, title: str, columns: Sequence[str], rows: Rows) -> None:
    from rich.table import Table
    from rich.text import Text as Shown

    from zotune.text import plain

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column in ("", "why", "kernels compiled") else "right")
    for row in rows:
        table.add_row(*(Shown(plain(cell)) for cell in row))
    console.print()
    console.print(Shown(title, style="bold"))
    console.print(table)


__all__ = ["bench", "show", "tables"]
