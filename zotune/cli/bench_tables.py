"""The result of `zotune bench` as tables. Knows the keys of the result and measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from zotune.text import plain

if TYPE_CHECKING:
    from rich.console import Console

WIDTH: Final = 100
"""Columns of a table that is not printed on a terminal."""
MB: Final = 1e6


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the tables. report: the result of `zotune.bench.bench.measure`."""
    for line in heading(report):
        console.print(line, markup=False)
    for title, columns, rows in tables(report):
        _table(console, title, columns, rows)
    console.print()
    for line in remarks(report):
        console.print(line, markup=False)


def heading(report: Mapping[str, Any]) -> list[str]:
    """The model, and the cost of a plain forward pass."""
    f, largest = report["forward"], report["largest"]
    how = "compiled" if report["compiled"] else "not compiled"
    return [
        f"{report['model']} ({report['head']}, {report['dtype']}, {report['device']}, {report['threads']} threads), "
        f"{report['rows']} x {report['tokens']} tokens",
        f"{report['tuned']:,} of {report['weights']:,} weights tuned in {report['tensors']} tensors ({how})",
        f"largest tensor: {largest['name']}, {largest['weights']:,}",
        f"forward pass: {f['ms']:.1f} ms, {f['tokens_per_s']:,.0f} tokens/s; medians of {report['rounds']} rounds",
    ]


Rows = list[tuple[str, ...]]


def tables(report: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], Rows]]:
    """(title, columns, rows) of each table."""
    out: list[tuple[str, tuple[str, ...], Rows]] = []
    if report["optimizers"]:
        steps, parts, memory = _steps(report["optimizers"]), _parts(report["optimizers"]), _memory(report["optimizers"])
        out += [steps, parts, memory]
    if report["textbook"]:
        out.append(_comparison(report))
    if report["skipped"]:
        reasons: Rows = [(s["name"], s["reason"]) for s in report["skipped"]]
        out.append(("not measured", ("optimizer", "reason"), reasons))
    return out


def _steps(entries: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[str, ...], Rows]:
    rows: Rows = []
    for e in entries:
        c = e["compile"]
        recompiled = f" + {c['recompilations']} recompiled" if c["recompilations"] else ""
        kernels = (
            f"{c['compilations'] - c['recompilations']}{recompiled} in {c['seconds']:.1f} s" if c["seconds"] else "-"
        )
        cells = (f"{e['forwards_ms']:.1f}", f"{e['step_ms']:.1f}", f"{e['ratio']:.2f}", kernels)
        rows.append((e["name"], f"{e['evaluations']:.4g}", *cells))
        for k in e["kinds"] if len(e["kinds"]) > 1 else ():
            cells = (f"{k['forwards_ms']:.1f}", f"{k['step_ms']:.1f}", f"{k['ratio']:.2f}", "")
            rows.append((f"  {100 * k['share']:.3g} % of steps", f"{k['evaluations']}", *cells))
    columns = ("optimizer", "evaluations", "forward passes, ms", "step, ms", "step / passes", "kernels compiled")
    return "a step and its forward passes", columns, rows


def _parts(entries: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[str, ...], Rows]:
    names = tuple(entries[0]["parts"])
    rows = [(e["name"], *(f"{p['ms']:.1f} ({p['of_two_forwards']:.2f})" for p in e["parts"].values())) for e in entries]
    return "cost beyond the forward passes: ms (in units of two forward passes)", ("optimizer", *names), rows


def _memory(entries: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[str, ...], Rows]:
    rows: Rows = []
    for e in entries:
        m = e["memory"]
        sizes = (m[k] / MB for k in ("perturb_bytes", "field_bytes", "inference_bytes", "step_bytes"))
        rows.append((e["name"], *(f"{x:.1f}" for x in sizes), f"{m['ratio']:.2f}"))
    columns = ("optimizer", "perturbation", "fields", "inference", "step", "step / inference")
    return "peak memory, MB", columns, rows


def _comparison(report: Mapping[str, Any]) -> tuple[str, tuple[str, ...], Rows]:
    t, w = report["textbook"], report["write"]
    name = t["beside"]
    return (
        f"beside {name}, in the same rounds",
        ("", "ms", "compared", ""),
        [
            ("textbook MeZO step", f"{t['step_ms']:.1f}", f"{t['over_step']:.2f}", f"steps of {name}"),
            ("", "", f"{t['ratio']:.2f}", "times two forward passes"),
            ("write of all tuned weights", f"{w['write_ms']:.1f}", f"{w['write_gb_s']:.2f}", "GB/s, read and written"),
            ("copy of as many bytes", f"{w['copy_ms']:.1f}", f"{w['copy_gb_s']:.2f}", "GB/s, read and written"),
        ],
    )


def remarks(report: Mapping[str, Any]) -> list[str]:
    """Notes below the tables."""
    out = []
    for e in report["optimizers"]:
        if len(e["kinds"]) > 1:
            out.append(f"{e['name']}: steps differ; {e['statistic']}, weighted, is shown, with each kind of step below")
        if any(rows != report["rows"] for k in e["kinds"] for rows, _ in k["passes"]):
            out.append(f"{e['name']}: evaluations of single rows, compared with forward passes of single rows")
        if not e["as_declared"]:
            out.append(
                f"{e['name']}: declares {e['declared']:.4g} evaluations per step but makes {e['evaluations']:.4g}"
            )
        if e["copied"] and e["copied"] < report["tensors"]:
            out.append(f"{e['name']}: {e['copied']} of {report['tensors']} tensors are perturbed in a copy")
        out += [f"{e['name']}: {note}" for note in e["notes"]]
    return list(dict.fromkeys(out))


def _table(console: Console, title: str, columns: Sequence[str], rows: Rows) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column in ("", "reason", "kernels compiled") else "right")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console.print()
    console.print(Text(title, style="bold"))
    console.print(table)


__all__ = ["WIDTH", "show", "tables"]
