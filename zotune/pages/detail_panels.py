"""Where the time went, what failed, how the run was configured, and how it is repeated.

Knows records of runs; knows no option by name but those that say where output goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from zotune.pages.markup import Child, Markup, foreign, markup, tag
from zotune.pages.run_record import RunRecord
from zotune.pages.verdict_panel import seconds_of
from zotune.text import duration, one_line

WORK: Final = {
    "model": "forward passes",
    "scoring": "scoring in steps",
    "update": "weight updates",
    "preparation": "calibration and preflight",
    "validation": "validation set",
    "test": "test set",
    "checkpoint": "checkpoints",
    "other": "loading and the rest",
}
"""Kinds of work, in the order of the bar."""
PLACES: Final = ("output_dir", "run_name")
"""Options that differ between any two runs."""
MOST_FAILURES: Final = 50


def time_panel(runs: Sequence[RunRecord]) -> Markup:
    """A bar of the kinds of work for each run."""
    timed = [run for run in runs if run.spent]
    if not timed:
        return tag("p", "Times of the parts were not recorded.", class_="note")
    return markup([_bar(run, len(runs) > 1) for run in timed])


def _bar(run: RunRecord, named: bool) -> Markup:
    total = max(seconds_of(run) or 0.0, sum(run.spent.values()))
    spent = {**run.spent, "other": max(total - sum(run.spent.values()), 0.0)}
    x, shapes, items = 0.0, list[Markup](), list[Markup]()
    for i, (kind, name) in enumerate(WORK.items()):
        seconds = spent.get(kind, 0.0)
        share = seconds / total if total else 0.0
        title = "generating text" if kind == "model" and run.kind == "generation" else name
        if share > 0.0005:
            shapes.append(tag("rect", x=f"{1000 * x:.1f}", y=0, width=f"{1000 * share:.1f}", height=10, class_=f"t{i}"))
            sign = tag("i", class_=f"sign t{i}")
            items.append(tag("li", sign, f"{title} {100 * share:.0f} % ({_short(seconds)})"))
        x += share
    return tag(
        "figure",
        tag("figcaption", foreign(run.name, 60) if named else f"{_short(total)} in all"),
        tag("svg", shapes, viewBox="0 0 1000 10", preserveAspectRatio="none", aria_hidden="true", class_="bar"),
        tag("ul", items, class_="legend"),
        class_="times",
    )


def _short(seconds: float) -> str:
    """Seconds as text, with one decimal where there are few."""
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def failure_panel(runs: Sequence[RunRecord]) -> Markup | None:
    """What failed while scoring; None where nothing did."""
    parts = [p for run in runs if (p := _failures(run, len(runs) > 1))]
    return markup(parts) if parts else None


def _failures(run: RunRecord, named: bool) -> Markup | None:
    rows: list[Child] = []
    counted = Counter(why for _, why in run.dropped)
    for why, count in counted.most_common(MOST_FAILURES):
        steps = [s for s, reason in run.dropped if reason == why]
        where = f"step {steps[0]:,}" if count == 1 else f"steps {steps[0]:,} to {steps[-1]:,}"
        rows.append(_row("dropped step, weights unchanged", f"{count:,}", where, why))
    for e in run.evaluations:
        if e.failed and len(rows) < 2 * MOST_FAILURES:
            rows.append(_row("evaluation failed", "1", f"step {e.step:,}", e.failed))
        if e.diverged and len(rows) < 2 * MOST_FAILURES:
            rows.append(_row("diverged", "1", f"step {e.step:,}", e.diverged))
    faults = ((run.result or {}).get("scoring") or {}).get("faults") or {}
    rows += [_row(f"scorer: {name}", f"{count:,}", "", "") for name, count in faults.items() if count]
    rows += [_row("file not read whole", "", "", text) for text in run.problems]
    if not rows:
        return None
    heads = tag("tr", [tag("th", h, scope="col") for h in ("what", "count", "where", "why")])
    table = tag("table", tag("thead", heads), tag("tbody", rows))
    title = tag("h3", foreign(run.name, 60)) if named else None
    return markup([title, tag("div", table, class_="scroll", tabindex="0")])


def _row(what: str, count: str, where: str, why: str) -> Markup:
    cells = [tag("td", count), tag("td", where), tag("td", foreign(one_line(why), 600))]
    return tag("tr", tag("th", one_line(what, 80), scope="row"), cells)


def config_panel(runs: Sequence[RunRecord]) -> Markup:
    """Options that differ between the runs, options other than the defaults, and all options."""
    parts: list[Child] = []
    names = [n for n in dict.fromkeys(n for run in runs for n in run.config) if n not in PLACES]
    if len(runs) > 1:
        different = [n for n in names if len({_value(run.config.get(n)) for run in runs}) > 1]
        note = "Options that differ between these runs." if different else "These runs have the same options."
        parts += [tag("p", note, class_="note"), _options(runs, different) if different else None]
    changed = [n for n in names if any(n in run.changed for run in runs)]
    parts.append(
        tag("p", "Options other than the defaults." if changed else "All options have their defaults.", class_="note")
    )
    parts.append(_options(runs, changed) if changed else None)
    chosen = {name: value for run in runs for name, value in run.calibrated.items()}
    if chosen and len(runs) == 1:
        text = ", ".join(f"{one_line(name, 40)} = {value:.3g}" for name, value in chosen.items())
        parts.append(tag("p", f"Chosen by the calibration: {text}."))
    parts.append(tag("details", tag("summary", f"All {len(names)} options"), _options(runs, names)) if names else None)
    return markup(parts)


def _options(runs: Sequence[RunRecord], names: Sequence[str]) -> Markup:
    heads = ["option", *(run.name for run in runs)] if len(runs) > 1 else ["option", "value"]
    rows = [
        tag(
            "tr",
            tag("th", foreign(name, 60), scope="row"),
            [tag("td", foreign(_value(run.config.get(name)), 600)) for run in runs],
        )
        for name in names
    ]
    head = tag("tr", [tag("th", foreign(h, 60), scope="col") for h in heads])
    return tag(
        "div", tag("table", tag("thead", head), tag("tbody", rows), class_="options"), class_="scroll", tabindex="0"
    )


def _value(value: Any) -> str:
    """A value as a person writes it."""
    if value is None or value in ("", [], {}, ()):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_value(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return str(value)


def repeat_panel(runs: Sequence[RunRecord]) -> Markup:
    """Commands, environment and hashes of each run."""
    return markup([_repeat(run, len(runs) > 1) for run in runs])


def _repeat(run: RunRecord, named: bool) -> Markup:
    env = run.environment
    versions = {k: v for k, v in (env.get("versions") or {}).items() if v}
    machine = {k: env[k] for k in ("python", "platform", "cores", "threads", "device") if env.get(k) is not None}
    hashes = {**run.hashes}
    commands = [("repeat the run", run.command)] if run.command else []
    by_hand = None
    if not run.command:
        text = f"The objective {one_line(run.objective, 60)} is a Python object: zotune.fit with it repeats the run."
        by_hand = tag("p", text, class_="note")
    commands += [
        ("rebuild the weights from the journal, without scoring", f"zotune replay {run.folder} -o DIRECTORY"),
        ("check every file against the journal", f"zotune verify {run.folder}"),
    ]
    if run.state in ("running", "interrupted"):
        commands.insert(1, ("continue it", f"zotune resume {run.folder}"))
    body = [
        [tag("p", tag("span", text, class_="what")), tag("pre", tag("code", foreign(command, 4000)), tabindex="0")]
        for text, command in commands
    ]
    tables = [("Environment", {**machine, **versions}), ("Hashes", hashes)]
    shown = [tag("details", tag("summary", title), _pairs(values)) for title, values in tables if values]
    title = tag("h3", foreign(run.name, 60)) if named else None
    return markup([title, by_hand, body, shown])


def _pairs(values: Mapping[str, Any]) -> Markup:
    rows = [
        tag("tr", tag("th", foreign(k, 80), scope="row"), tag("td", foreign(str(v), 200))) for k, v in values.items()
    ]
    return tag("div", tag("table", tag("tbody", rows), class_="options"), class_="scroll", tabindex="0")


__all__ = ["WORK", "config_panel", "failure_panel", "repeat_panel", "time_panel"]
