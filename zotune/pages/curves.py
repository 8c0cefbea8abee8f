"""The curves of runs: validation score, batch score, KL divergence and the share of steps with signal.

Knows records of runs and charts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from zotune.pages.line_chart import Chart, Curve, Mark, Point, chart
from zotune.pages.markup import Child, Markup, markup, tag
from zotune.pages.run_record import Evaluation, RunRecord
from zotune.text import number, one_line, short_name

COLORS: Final = 8
"""Colours of the palette; further runs begin anew."""
MOST_POINTS: Final = 1000
"""Points of a curve at most; with several runs, of all of them together."""
MOST_DOTS: Final = 150
"""Evaluations that are drawn as dots; of more there are dots at every few."""
GROUPS: Final = 40
"""Groups of steps whose mean is drawn, where there are more steps."""
NORMAL_95: Final = 1.96
T = TypeVar("T")


def curve_panel(runs: Sequence[RunRecord]) -> Markup:
    """The switch of the horizontal axis and the charts."""
    objectives = list(dict.fromkeys(run.objective for run in runs))
    drawn = [chart(score_chart([r for r in runs if r.objective == name], runs)) for name in objectives]
    drawn += [chart(batch_chart([r for r in runs if r.objective == name], runs)) for name in objectives]
    drawn += [chart(kl_chart(runs)), chart(signal_chart(runs))]
    missing = _missing(runs)
    if not any(drawn):
        return tag("p", "No step and no evaluation is recorded yet.", class_="note")
    return markup(
        [_switch(runs), tag("div", drawn, class_="charts"), missing, _table(runs[0]) if len(runs) == 1 else None]
    )


def score_chart(runs: Sequence[RunRecord], every: Sequence[RunRecord]) -> Chart:
    """Validation scores. every: all runs of the page, whose places are their colours."""
    curves, marks, levels = list[Curve](), list[Mark](), list[tuple[float, str]]()
    between = []
    for run in runs:
        scored = [e for e in run.evaluations if e.score is not None]
        points = [_point(run, e) for e in _thinned(scored, MOST_POINTS // len(every), keep=run.best)]
        curve = Curve(_name(run, every), points, _scales(run), _color(run, every), dots=len(points) <= MOST_DOTS)
        curves.append(curve)
        if (best := run.best) and best.score is not None:
            marks.append(Mark("best", best.step, _best_score(run, best.score), curve, f"best: step {best.step}"))
        if len(every) == 1:
            levels += [(e.score, f"{run.start} {number(e.score)}") for e in scored[:1] if e.score is not None]
            between = [
                Point(i.step, i.score, text=f"step {i.step}, {i.share:g} of the distance: {number(i.score)}")
                for i in run.interpolations
                if i.score is not None
            ]
        marks += [
            Mark("rollback", r.step, None, curve, f"step {r.step}: {one_line(r.why)}") for r in run.rollbacks[:100]
        ]
        if between:
            curves.append(Curve("interpolated", between, _scales(run), 3, dots=True, line=False))
    banded = any(p.low is not None for c in curves for p in c.points)
    single = len(every) == 1
    legend = [*([("line c0", "validation score")] if single else _legend(runs, every))]
    legend += [("band c0", f"95 % noise of the difference from the {runs[0].start}")] if banded and single else []
    legend += [("level", runs[0].start)] if levels else []
    legend += [("ring", "best weights")] if any(m.kind == "best" for m in marks) else []
    legend += [("dot c3", "interpolated with the base model")] if between else []
    legend += [("rollback", "rolled back to the best checkpoint")] if any(m.kind == "rollback" for m in marks) else []
    return Chart(
        f"Validation {one_line(short_name(runs[0].objective), 60)}",
        runs[0].better,
        curves,
        marks,
        levels,
        legend=legend,
    )


def batch_chart(runs: Sequence[RunRecord], every: Sequence[RunRecord]) -> Chart:
    """Scores of the steps' batches: single steps, and the mean of groups of steps with its noise."""
    curves, single = list[Curve](), len(every) == 1
    grouped = False
    for run in runs:
        scored = [(s.step, s.score) for s in run.steps if s.score is not None]
        color, scales = _color(run, every), _scales(run)
        few = len(scored) < 2 * GROUPS
        if few or single:
            points = [Point(x, y, text=f"step {x}: {number(y)}") for x, y in _thinned(scored, MOST_POINTS // 2)]
            curves.append(Curve(_name(run, every), points, scales, color, dots=few, faint=not few))
        if not few:
            grouped = True
            curves.append(Curve(_name(run, every), _grouped(scored), scales, color, dots=single))
    legend = [] if single else _legend(runs, every)
    if single:
        legend = [("line c0 faint", "single steps")] if grouped else [("line c0", "single steps")]
        if grouped:
            legend += [("line c0", "mean of neighbouring steps"), ("band c0", "95 % noise of this mean")]
    about = "on the steps' training rows; not comparable with validation scores"
    return Chart(_title("Batch", runs[0]), about, curves, legend=legend)


def kl_chart(runs: Sequence[RunRecord]) -> Chart:
    """The KL divergence from the base model."""
    curves, levels = list[Curve](), list[tuple[float, str]]()
    for run in runs:
        points = [
            Point(e.step, e.kl, text=f"step {e.step}: {number(e.kl)} nats a token")
            for e in _thinned([e for e in run.evaluations if e.kl is not None], MOST_POINTS // len(runs), keep=run.best)
            if e.kl is not None
        ]
        curves.append(Curve(_name(run, runs), points, _scales(run), _color(run, runs), dots=len(points) <= MOST_DOTS))
        limit = run.config.get("max_kl")
        largest = max((p.y for p in points), default=0.0)
        if isinstance(limit, int | float) and 0 < limit < 5 * largest:
            levels.append((limit, f"--max-kl {limit:g}"))
    legend = [("line c0", "KL divergence")] if len(runs) == 1 else _legend(runs, runs)
    legend += [("level", f"{levels[0][1]}: weights above it are not kept")] if levels else []
    about = "from the base model, in nats a token"
    return Chart("KL divergence", about, curves, levels=levels[:1], bounds=(0.0, None), legend=legend)


def signal_chart(runs: Sequence[RunRecord]) -> Chart:
    """The share of steps whose points had different values."""
    curves = []
    for run in runs:
        known = [(s.step, 100.0 * s.signal) for s in run.steps if s.signal is not None]
        points = [Point(p.x, p.y, text=f"around step {p.x:g}: {p.y:.0f} %") for p in _grouped(known)]
        curves.append(Curve(_name(run, runs), points, _scales(run), _color(run, runs), dots=len(runs) == 1))
    about = "percent of steps whose perturbed points had different scores; the others could learn nothing"
    legend = [] if len(runs) == 1 else _legend(runs, runs)
    return Chart("Steps with signal", about, curves, bounds=(0.0, 100.0), legend=legend)


def _point(run: RunRecord, e: Evaluation) -> Point:
    score, reach = e.score or 0.0, NORMAL_95 * (e.error or 0.0)
    text = f"step {e.step}: {number(score)}" + (f" ± {number(e.error)}" if e.error else "")
    text += f", KL {number(e.kl)}" if e.kl is not None and e.step else ""
    text += "".join(f", {one_line(str(name), 40)} {number(value)}" for name, value in e.parts.items())
    text += ", best weights" if run.best is e else ""
    banded = e.error is not None
    return Point(e.step, score, score - reach if banded else None, score + reach if banded else None, text)


def _best_score(run: RunRecord, score: float) -> float:
    """The validation score of the best weights, which may be interpolated."""
    share = run.result["best_share"] if run.result else 1.0
    return next((i.score for i in run.interpolations if i.share == share and i.score is not None), score)


def _grouped(points: Sequence[tuple[int, float]]) -> list[Point]:
    """The mean of groups of neighbouring steps, with two standard errors around it."""
    out = list[Point]()
    size = max(-(-len(points) // GROUPS), 1)
    for first in range(0, len(points), size):
        part = points[first : first + size]
        if len(part) < size / 2 and out:
            break  # a short last group is mostly noise
        mean = math.fsum(y for _, y in part) / len(part)
        step = math.fsum(x for x, _ in part) / len(part)
        reach = NORMAL_95 * statistics.stdev([y for _, y in part]) / math.sqrt(len(part)) if len(part) > 2 else None
        ends = f"steps {part[0][0]} to {part[-1][0]}" if len(part) > 1 else f"step {part[0][0]}"
        low, high = (None, None) if reach is None else (mean - reach, mean + reach)
        out.append(Point(step, mean, low, high, f"{ends}: {number(mean)}"))
    return out


def _thinned(items: Sequence[T], most: int, keep: T | None = None) -> list[T]:
    """At most so many items, evenly spaced, the first, the last and `keep` among them."""
    if len(items) <= most:
        return list(items)
    places = {round(i * (len(items) - 1) / (most - 1)) for i in range(most)}
    places |= {i for i, item in enumerate(items) if item is keep}
    return [items[i] for i in sorted(places)]


def _scales(run: RunRecord) -> dict[str, Callable[[float], float]]:
    return {name: scale.at for name, scale in run.scales.items()}


def _color(run: RunRecord, every: Sequence[RunRecord]) -> int:
    return next(i for i, other in enumerate(every) if other is run) % COLORS


def _title(what: str, run: RunRecord) -> str:
    return f"{what} {one_line(short_name(run.objective), 60)}"


def _name(run: RunRecord, every: Sequence[RunRecord]) -> str:
    return "validation" if len(every) == 1 else one_line(run.name, 60)


def _legend(runs: Sequence[RunRecord], every: Sequence[RunRecord]) -> list[tuple[str, str]]:
    return [(f"line c{_color(run, every)}", one_line(run.name, 60)) for run in runs]


def _switch(runs: Sequence[RunRecord]) -> Markup:
    shared = [a for a in ("steps", "completions", "seconds") if all(a in r.scales for r in runs)]
    words = {"completions": "completions" if any(r.kind == "generation" for r in runs) else "scored rows"}
    items = [
        tag(
            "label",
            tag("input", type="radio", name="axis", value=axis, id=f"axis-{axis}", checked=axis == "steps"),
            tag("span", words.get(axis, axis)),
        )
        for axis in shared
    ]
    return tag("fieldset", tag("legend", "Horizontal axis"), items, class_="switch") if len(items) > 1 else Markup("")


def _missing(runs: Sequence[RunRecord]) -> Markup | None:
    notes = []
    if not any(e.kl is not None for r in runs for e in r.evaluations):
        notes.append("The KL divergence was not measured in this run.")
    if not any(s.signal is not None for r in runs for s in r.steps):
        notes.append("No step compared several points that have values of their own, so no signal is shown.")
    if not all("seconds" in r.scales for r in runs):
        notes.append("Times of steps were not recorded.")
    return tag("p", " ".join(notes), class_="note") if notes else None


def _table(run: RunRecord) -> Markup | None:
    """The evaluations as a table, for those who read numbers."""
    rows: list[Child] = []
    for e in _thinned(run.evaluations, MOST_DOTS, keep=run.best):
        cells = [
            f"{e.step:,}",
            number(e.score) if e.score is not None else "failed",
            number(e.error) if e.error else "–",
            number(e.kl) if e.kl is not None else "–",
            *([f"{scale.at(e.step):,.0f}" for name, scale in run.scales.items() if name != "steps"]),
            "best weights" if e is run.best else "diverged" if e.diverged else "",
        ]
        rows.append(tag("tr", tag("th", cells[0], scope="row"), [tag("td", c) for c in cells[1:]]))
    if not rows:
        return None
    heads = ["step", "validation score", "noise (1 σ)", "KL", *(n for n in run.scales if n != "steps"), ""]
    head = tag("tr", [tag("th", h, scope="col") for h in heads[:-1]], tag("td", ""))
    table = tag("table", tag("thead", head), tag("tbody", rows))
    return tag(
        "details", tag("summary", "All evaluations as a table"), tag("div", table, class_="scroll", tabindex="0")
    )


__all__ = ["batch_chart", "curve_panel", "kl_chart", "score_chart", "signal_chart"]
