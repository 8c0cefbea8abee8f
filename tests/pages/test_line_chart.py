"""Ticks, labels and curves of charts."""

from __future__ import annotations

import random
import re

import pytest

from zotune.pages.line_chart import Chart, Curve, Mark, Point, chart, label, ticks


def test_ticks_are_round_and_hold_the_range() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        low = rng.choice([0.0, rng.uniform(-5, 5), rng.uniform(-1e6, 1e6)])
        high = low + 10 ** rng.uniform(-6, 7)
        t = ticks(low, high)
        width = (t.high - t.low) / (t.number - 1)
        assert t.low <= low + 1e-6 * width
        assert t.high >= high - 1e-6 * width
        assert 4 <= t.number <= 8
        assert high - low > 0.3 * (t.high - t.low), "most of the axis is used"
        assert len({label(v, width) for v in t.values}) == t.number or width < 1e-4


@pytest.mark.parametrize(
    ("high", "values"), [(1, [0, 1]), (1.5, [0, 1, 2]), (2, [0, 1, 2]), (3, [0, 1, 2, 3]), (8, [0, 2, 4, 6, 8])]
)
def test_steps_are_whole_numbers(high: float, values: list[int]) -> None:
    assert ticks(0.0, high, 2 if high < 4 else 4, whole=True).values == values


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [(0.25, 0.25, "0.25"), (-0.0, 0.5, "0.0"), (2000.0, 500.0, "2,000"), (3e7, 1e7, "3e+07"), (0.1, 0.1, "0.1")],
)
def test_labels(value: float, width: float, text: str) -> None:
    assert label(value, width) == text


def test_a_range_without_extent_has_ticks() -> None:
    assert ticks(0.0, 0.0).low < 0 < ticks(0.0, 0.0).high
    assert ticks(3.0, 3.0).low < 3 < ticks(3.0, 3.0).high


def drawn(*points: Point, marks: tuple[str, ...] = ()) -> str:
    scales = {"steps": lambda s: s, "seconds": lambda s: 10 * s}
    curve = Curve("<name>", points, scales, dots=True)
    return chart(Chart("<b>", "", [curve], [Mark(m, 1.0, 0.5, curve, m) for m in marks]))


def test_points_stand_where_their_numbers_say() -> None:
    text = drawn(Point(0, 0.0), Point(5, 1.0), Point(10, 0.5, 0.25, 0.75), marks=("best", "rollback"))
    places = re.findall(r'class="dot c0" d="M([\d.]+) ([\d.]+)h0" data-x', text)
    assert places == [("0", "300"), ("500", "0"), ("1000", "150")] * 2, "one plot for each axis"
    assert text.count('class="ring c0" d="M100 150h0"') == text.count('class="rollback" d="M100 0L100 300"') == 2
    assert "<b>" not in text
    assert "&lt;b&gt;" in text


def test_a_single_point_is_a_dot_and_no_point_no_chart() -> None:
    assert "dot" in drawn(Point(0, 1.0))
    assert 'class="curve' not in drawn(Point(0, 1.0))
    assert drawn() == ""
