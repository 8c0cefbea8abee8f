"""Line charts as SVG in HTML: one plot for each horizontal axis, of which the page shows one.

The drawing stretches to any width, so its labels are HTML beside it and keep their size on a phone. It has no inline
style and no script. Knows numbers; knows no run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from zotune.pages.markup import Child, Markup, markup, tag

WIDTH: Final = 1000
HEIGHT: Final = 300
MOST_UNSEEN: Final = 150
"""Points of a curve without dots that can be read."""
AXES: Final = ("steps", "completions", "seconds")
"""The horizontal axes, in the order of the switch."""


class Point(NamedTuple):
    """A point of a curve: x in steps; low and high: its band; text: what is told of it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Curve:
    """Points with a line through them. color: place in the palette; dots: whether each point is drawn; faint: drawn
    behind the others, thin; line: whether there is a line; scales: for each axis, what a number of steps is there."""

    name: str
    points: Sequence[Point]
    scales: Mapping[str, Callable[[float], float]]
    color: int = 0
    dots: bool = False
    faint: bool = False
    line: bool = True


class Mark(NamedTuple):
    """A marked place. kind: "best" (a ring around a point) or "rollback" (a vertical line)."""

    kind: str
    x: float
    y: float | None
    curve: Curve
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart. levels: (value, text) of horizontal lines; bounds: values that the vertical axis must not leave."""

    title: str
    about: str
    curves: Sequence[Curve]
    marks: Sequence[Mark] = ()
    levels: Sequence[tuple[float, str]] = ()
    bounds: tuple[float | None, float | None] = (None, None)
    legend: Sequence[tuple[str, str]] = field(default_factory=list)
    """(class of the sign, text)."""


class Ticks(NamedTuple):
    """Evenly spaced ticks; the axis reaches from the first to the last."""

    low: float
    high: float
    number: int

    @property
    def values(self) -> list[float]:
        return [self.low + (self.high - self.low) * i / (self.number - 1) for i in range(self.number)]

    def place(self, value: float) -> float:
        """The share of the axis at which a value stands."""
        return (value - self.low) / (self.high - self.low)


def ticks(low: float, high: float, fewest: int = 4, most: int = 8, whole: bool = False) -> Ticks:
    """Round ticks around a range, those that leave the least of the axis empty. whole: at whole numbers alone."""
    if not high > low:
        pad = abs(low) * 0.1 or 0.5
        low, high = low - pad, high + pad
    best: tuple[float, Ticks] | None = None
    counts = range(fewest - 1, most)
    for intervals in reversed(counts) if whole else counts:
        exponent = math.floor(math.log10((high - low) / intervals))
        for factor in (1, 2, 2.5, 5, 10, 20):
            width = factor * 10.0**exponent
            if whole and width % 1:
                continue
            first = math.floor(low / width + 1e-9) * width
            if first + intervals * width >= high - 1e-9 * width:
                wasted = (intervals * width) / (high - low)
                if best is None or wasted < best[0] - 1e-9:
                    best = wasted, Ticks(first, first + intervals * width, intervals + 1)
                break
    assert best is not None
    return best[1]


def label(value: float, width: float) -> str:
    """A tick's number with as many decimals as neighbouring ticks need. width: between two ticks."""
    if abs(value) >= 1e6 or (value and abs(value) < 1e-4 and width < 1e-4):
        return f"{value:.3g}"
    decimals = max(0, -math.floor(math.log10(width) + 1e-9))
    if round(width * 10**decimals, 6) % 1:  # 0.25 needs one more than 0.2
        decimals += 1
    text = f"{value:,.{min(decimals, 6)}f}"
    return text.removeprefix("-") if not float(text.replace(",", "")) else text


def chart(c: Chart) -> Markup:
    """The chart as HTML; empty where it has no point."""
    curves = [x for x in c.curves if x.points]
    if not curves:
        return Markup("")
    vertical = _vertical(c, curves)
    axes = [a for a in AXES if all(a in x.scales for x in curves)]
    legend = [tag("li", tag("i", class_=f"sign {sign}"), text) for sign, text in c.legend]
    return tag(
        "figure",
        tag("figcaption", tag("h3", c.title), tag("p", c.about) if c.about else None),
        [_plot(c, curves, vertical, axis) for axis in axes],
        tag("p", class_="readout", aria_live="polite"),
        tag("ul", legend, class_="legend") if legend else None,
        class_="chart",
    )


def _vertical(c: Chart, curves: Sequence[Curve]) -> Ticks:
    values = [v for curve in curves for p in curve.points for v in (p.y, p.low, p.high) if v is not None]
    values += [value for value, _ in c.levels]
    least, most = c.bounds
    low, high = min(values), max(values)
    low, high = low if least is None else max(low, least), high if most is None else min(high, most)
    if least is not None and most is not None:
        low, high = least, most
    return ticks(low, high)


def _plot(c: Chart, curves: Sequence[Curve], vertical: Ticks, axis: str) -> Markup:
    last = max(curve.scales[axis](p.x) for curve in curves for p in curve.points)
    first = min(0.0, min(curve.scales[axis](p.x) for curve in curves for p in curve.points))
    whole = axis != "seconds"
    horizontal = ticks(first, last if last > first else first + 1, 2 if whole and last < 4 else 4, whole=whole)

    def x(curve: Curve, step: float) -> float:
        return WIDTH * horizontal.place(curve.scales[axis](step))

    def y(value: float) -> float:
        return HEIGHT * (1 - min(max(vertical.place(value), 0.0), 1.0))

    shapes: list[Child] = [_grid(horizontal, vertical)]
    for curve in curves:
        shapes.append(_band(curve, x, y))
    for value, text in c.levels:
        shapes.append(_line(0, y(value), WIDTH, y(value), "level", text))
    for curve in sorted(curves, key=lambda curve: not curve.faint):
        shapes += _curve(curve, x, y)
    for mark in c.marks:
        shapes.append(_mark(mark, x, y))
    shapes.append(tag("line", class_="cross", x1=-9, x2=-9, y1=0, y2=HEIGHT))
    xs, ys = horizontal.values, vertical.values
    return tag(
        "div",
        tag("ol", [tag("li", label(v, ys[1] - ys[0])) for v in reversed(ys)], class_="y"),
        tag(
            "svg",
            shapes,
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            preserveAspectRatio="none",
            role="img",
            tabindex="0",
            aria_label=_summary(c, curves, axis),
        ),
        tag("ol", [tag("li", tag("span", _tick(v, xs[1] - xs[0], axis))) for v in xs], class_="x"),
        class_=f"plot ax-{axis}",
    )


def _tick(value: float, width: float, axis: str) -> str:
    return label(value, width) + (" s" if axis == "seconds" else "")


def _summary(c: Chart, curves: Sequence[Curve], axis: str) -> str:
    ends = [f"{x.name}: {x.points[0].y:.4g} to {x.points[-1].y:.4g}" for x in curves if not x.faint]
    return f"{c.title} against {axis}. {'; '.join(ends)}. Arrow keys read single points."


def _grid(horizontal: Ticks, vertical: Ticks) -> Iterator[Markup]:
    for value in vertical.values:
        height = HEIGHT * (1 - vertical.place(value))
        yield _line(0, height, WIDTH, height, "grid")
    for value in horizontal.values:
        across = WIDTH * horizontal.place(value)
        yield _line(across, 0, across, HEIGHT, "grid")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, text: str = "") -> Markup:
    ends = f"M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}"
    return tag("path", *([tag("title", text)] if text else []), class_=kind, d=ends)


Place = Callable[[Curve, float], float]


def _band(curve: Curve, x: Place, y: Callable[[float], float]) -> Markup:
    pieces, piece = list[list[Point]](), list[Point]()
    for p in curve.points:
        if p.low is None or p.high is None:
            pieces.append(piece)
            piece = []
        else:
            piece.append(p)
    out = []
    for points in [*pieces, piece]:
        if len(points) > 1:
            upper = [f"{_n(x(curve, p.x))} {_n(y(p.high or 0.0))}" for p in points]
            lower = [f"{_n(x(curve, p.x))} {_n(y(p.low or 0.0))}" for p in reversed(points)]
            out.append(tag("path", class_=f"band c{curve.color}", d="M" + "L".join([*upper, *lower]) + "Z"))
    return markup(out)


def _curve(curve: Curve, x: Place, y: Callable[[float], float]) -> list[Child]:
    kind = f"{'faint ' if curve.faint else ''}c{curve.color}"
    path = "M" + "L".join(f"{_n(x(curve, p.x))} {_n(y(p.y))}" for p in curve.points)
    shapes: list[Child] = [tag("path", class_=f"curve {kind}", d=path)] if len(curve.points) > 1 and curve.line else []
    seen = curve.dots or len(curve.points) == 1
    if seen or not curve.faint:  # unseen dots are still read by pointer and keys
        for p in curve.points if seen else curve.points[:: -(-len(curve.points) // MOST_UNSEEN)]:
            dot, name = f"M{_n(x(curve, p.x))} {_n(y(p.y))}h0", f"dot {kind}" if seen else f"dot unseen {kind}"
            shapes.append(tag("path", tag("title", p.text), class_=name, d=dot, data_x=_n(x(curve, p.x))))
    return shapes


def _mark(mark: Mark, x: Place, y: Callable[[float], float]) -> Markup:
    across = x(mark.curve, mark.x)
    if mark.kind == "best" and mark.y is not None:
        at = f"M{_n(across)} {_n(y(mark.y))}h0"
        ring = tag("path", class_=f"ring c{mark.curve.color}", d=at)
        return markup([ring, tag("path", class_="hole", d=at), tag("path", class_=f"dot c{mark.curve.color}", d=at)])
    return _line(across, 0, across, HEIGHT, mark.kind, mark.text)


def _n(value: float) -> str:
    """A coordinate with one decimal where it has one."""
    return f"{value:.1f}".removesuffix(".0")


__all__ = ["AXES", "Chart", "Curve", "Mark", "Point", "Ticks", "chart", "label", "ticks"]
