"""The first thing on the page: what tuning has changed, and how sure that is.

Knows records of runs; computes no score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from zotune.pages.line_chart import Ticks, label, ticks
from zotune.pages.markup import Child, Markup, foreign, markup, tag
from zotune.pages.run_record import RunRecord
from zotune.text import duration, number, one_line, short_name

WIDTH: Final = 1000


def verdict_panel(runs: Sequence[RunRecord]) -> Markup:
    """The verdict of one run, or of several in a table."""
    return _of_one(runs[0]) if len(runs) == 1 else _of_several(runs)


def _of_one(run: RunRecord) -> Markup:
    result = run.result
    if result is None:
        return tag("div", _so_far(run), class_="verdict")
    before, after = result["before"], result["tuned"]
    d = result["difference"]
    nothing = not result.get("best_step")
    scores: list[Child] = []
    if base := result.get("base"):
        scores.append(_score("base model", base))
    scores.append(_score(run.start, before, note="where tuning started" if base else ""))
    if not nothing:
        scores.append(_score("tuned weights", after, kept=result["kept"] == "tuned"))
        scores.append(_difference(d, run))
    if result.get("probe") and not base:
        scores.append(_score("linear probe", result["probe"], note="on the base model's embeddings"))
    rows = f"test {one_line(short_name(run.objective), 60)}, {before['rows']:,} rows, ± one standard error"
    sentences = [tag("p", sentence) for sentence in run.card]
    return tag(
        "div",
        tag("p", rows, class_="note"),
        tag("div", scores, class_="scores"),
        _interval(d, run) if not nothing else None,
        tag("div", sentences, class_="sentences"),
        _facts(run),
        class_="verdict",
    )


def _so_far(run: RunRecord) -> Markup:
    """The scores of a run without a result: its validation scores."""
    scored = [e for e in run.evaluations if e.score is not None]
    cards: list[Child] = []
    if scored:
        cards.append(_score(run.start, {"value": scored[0].score, "error": None, "parts": ()}))
        last, best = scored[-1], run.best
        if best is not None and best.score is not None:
            cards.append(_score(f"best so far, step {best.step:,}", {"value": best.score, "error": None}))
        if last is not scored[0] and last is not best:
            cards.append(_score(f"step {last.step:,}", {"value": last.score, "error": None}))
    why = "The run was interrupted: " if run.state == "interrupted" else "The run has not finished: "
    return markup(
        [
            tag("p", f"validation {one_line(short_name(run.objective), 60)}", class_="note"),
            tag("div", cards, class_="scores"),
            tag("div", tag("p", f"{why}the test set has not decided anything yet."), class_="sentences"),
            _facts(run),
        ]
    )


def _score(title: str, score: Mapping[str, Any], kept: bool = False, note: str = "") -> Markup:
    parts = [f"{one_line(str(name), 40)} {number(value)}" for name, value in score.get("parts") or ()]
    return tag(
        "div",
        tag("span", title, tag("b", " kept") if kept else None, class_="what"),
        tag("span", number(score["value"]), class_="value"),
        tag("span", f"± {number(score['error'])}" if score.get("error") is not None else "", class_="error"),
        [tag("span", text, class_="error") for text in (*parts, note) if text],
        class_="score kept" if kept else "score",
    )


def _difference(d: Mapping[str, Any], run: RunRecord) -> Markup:
    interval = "no interval: scores cannot be resampled"
    if d["low"] is not None and d["high"] is not None:
        interval = f"95 % interval {number(d['low'], sign=True)} to {number(d['high'], sign=True)}"
    return tag(
        "div",
        tag("span", "paired difference", class_="what"),
        tag("span", number(d["value"], sign=True), class_=f"value {_direction(d, run)}"),
        tag("span", interval, class_="error"),
        class_="score",
    )


def _direction(d: Mapping[str, Any], run: RunRecord) -> str:
    """ "better" or "worse" where the interval leaves out zero; else ""."""
    low, high = d.get("low"), d.get("high")
    if low is None or high is None or low <= 0 <= high:
        return ""
    return "better" if (low > 0) == run.maximizes else "worse"


def _interval(d: Mapping[str, Any], run: RunRecord) -> Markup:
    """The difference with its interval on a line with zero, as the only row."""
    if d["low"] is None or d["high"] is None:
        return Markup("")
    scale = ticks(min(d["low"], 0.0), max(d["high"], 0.0))
    better = "tuned is better →" if run.maximizes else "← tuned is better"
    return tag(
        "figure",
        tag("figcaption", f"difference on the test set, 95 % interval; {better}", class_="note"),
        _whisker(d, scale, _direction(d, run)),
        _axis(scale),
        class_="interval",
    )


def _whisker(d: Mapping[str, Any], scale: Ticks, direction: str) -> Markup:
    def x(value: float) -> str:
        return f"{WIDTH * scale.place(value):.1f}"

    shapes: list[Child] = [tag("path", class_="zero", d=f"M{x(0.0)} 0V40")]
    if d["low"] is not None and d["high"] is not None:
        shapes.append(tag("path", class_=f"whisker {direction}", d=f"M{x(d['low'])} 20H{x(d['high'])}"))
        shapes.append(tag("path", class_=f"whisker end {direction}", d=f"M{x(d['low'])} 11v18M{x(d['high'])} 11v18"))
    shapes.append(tag("path", class_=f"middle {direction}", d=f"M{x(d['value'])} 20h0"))
    text = f"difference {number(d['value'], sign=True)}"
    return tag("svg", shapes, viewBox=f"0 0 {WIDTH} 40", preserveAspectRatio="none", role="img", aria_label=text)


def _axis(scale: Ticks) -> Markup:
    values = scale.values
    return tag("ol", [tag("li", tag("span", label(v, values[1] - values[0]))) for v in values], class_="x")


def _facts(run: RunRecord) -> Markup:
    result, rows = run.result, []
    if tuned := run.about.get("tuned_weights"):
        rows.append(("tuned weights", f"{tuned:,} in {run.about.get('tensors', 0):,} tensors"))
    counts = [run.about.get(f"{name}_rows") for name in ("training", "validation", "test")]
    if all(isinstance(n, int) for n in counts):
        rows.append(("rows: training, validation, test", ", ".join(f"{n:,}" for n in counts)))
    rows.append(("steps", f"{result['steps'] if result else run.last_step:,}"))
    if result and result["dropped"]:
        rows.append(("dropped steps", f"{result['dropped']:,}"))
    if "completions" in run.scales:
        word = "completions" if run.kind == "generation" else "scored rows"
        rows.append((f"{word} in steps", f"{run.scales['completions'].at(run.last_step):,.0f}"))
    if (seconds := seconds_of(run)) is not None:
        rows.append(("time", duration(seconds)))
    if best := run.best:
        share = result["best_share"] if result else 1.0
        rows.append(("best step", f"{best.step:,}" + (f", {share:g} of the distance" if share != 1.0 else "")))
        if best.kl is not None:
            rows.append(("KL of the best step", f"{number(best.kl)} nats a token"))
    if result:
        rows.append(("steps without signal", f"{100 * result['zero_share']:.0f} %"))
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows], class_="facts")


def seconds_of(run: RunRecord) -> float | None:
    """Seconds of the run, those before it was resumed included; None where they are not recorded."""
    recorded = run.scales["seconds"].points[-1][1] if "seconds" in run.scales else 0.0
    return max(recorded, run.result["seconds"] if run.result else 0.0) or None


def _of_several(runs: Sequence[RunRecord]) -> Markup:
    results = [r.result for r in runs if r.result]
    ends = [v for r in results for v in (r["difference"]["low"], r["difference"]["high"]) if v is not None]
    ends += [r["difference"]["value"] for r in results] + [0.0]
    scale = ticks(min(ends), max(ends)) if any(math.fabs(v) > 0 for v in ends) else None
    heads = ["run", "before", "tuned", "difference", "95 % interval", "kept", "steps", "time", "KL"]
    body = [tag("tr", _cells(run, i, scale)) for i, run in enumerate(runs)]
    table = tag(
        "table",
        tag("thead", tag("tr", [tag("th", h, scope="col") for h in heads])),
        tag("tbody", body),
        tag("tfoot", tag("tr", tag("td", "", colspan=4), tag("td", _axis(scale)), tag("td", "", colspan=4)))
        if scale
        else None,
        class_="runs",
    )
    note = "Test scores ± one standard error; runs without a result show validation scores in italics."
    return tag("div", tag("div", table, class_="scroll", tabindex="0"), tag("p", note, class_="note"), class_="verdict")


def _cells(run: RunRecord, place: int, scale: Ticks | None) -> list[Markup]:
    result, name = run.result, tag("span", tag("i", class_=f"sign line c{place % 8}"), foreign(run.name, 60))
    seconds, best = seconds_of(run), run.best
    if result:
        d = result["difference"]
        cells: list[Child] = [
            _estimate(result["before"]),
            _estimate(result["tuned"]) if result.get("best_step") else "–",
            tag("span", number(d["value"], sign=True), class_=_direction(d, run)) if result.get("best_step") else "–",
            _whisker(d, scale, _direction(d, run)) if scale and result.get("best_step") else "",
        ]
    else:
        scored = [e for e in run.evaluations if e.score is not None]
        first = tag("em", number(scored[0].score or 0.0)) if scored else "–"
        last = tag("em", number(best.score)) if best and best.score is not None else "–"
        cells = [first, last, "–", ""]
    kl = number(best.kl) if best and best.kl is not None else "–"
    cells += [run.state_text, f"{run.last_step:,}", duration(seconds) if seconds is not None else "–", kl]
    about = tag("div", foreign(f"{short_name(run.objective)} · {run.model}", 60), class_="note")
    return [tag("th", name, about, scope="row"), *(tag("td", c) for c in cells)]


def _estimate(score: Mapping[str, Any]) -> Markup:
    error = f" ± {number(score['error'])}" if score.get("error") is not None else ""
    return markup([number(score["value"]), tag("span", error, class_="error")])


__all__ = ["seconds_of", "verdict_panel"]
