"""Best and worst of four, and an answer that the rater writes, on the page in Chromium: by keys, by buttons, on a
phone, for screen readers, and with a server that is gone. Skipped if there is no Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_browser import PLACES, Page, chromium, pytestmark, server, simple, store

from zotune.humans.page import Server, serve
from zotune.humans.preferences import export_preferences
from zotune.humans.ratings import Question, Ratings

Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
__all__ = ["chromium", "pytestmark", "server", "store"]

FOUR = ("the first answer", "the second one", "a third", "the fourth and last answer")
WIDE = "return document.documentElement.scrollWidth > innerWidth"
BOXES = """
const shown = [...document.querySelectorAll('button')].filter(e => e.checkVisibility());
return shown.map(e => e.getBoundingClientRect()).map(b => [b.height, b.left, b.right]);
"""


def four(count: int) -> list[Question]:
    return [Question(q.key, q.prompt, FOUR) for q in simple(count)]


def at(page: Page, text: str) -> str:
    """The place of a text, as its key."""
    return str(page.raw("article .text").index(text) + 1)


def test_best_and_worst_by_keys(chromium: Any, server: Server, store: Ratings) -> None:
    first, second, third = four(3)
    store.ask([first, second, third])
    page = Page(chromium, server)
    page.shows(first.prompt)
    assert page.text("heading") == "Which answer is the best?"
    page.press(at(page, FOUR[3]))
    page.says("heading", "And the worst?")
    assert page.raw("article.best .text") == [FOUR[3]]
    assert page.raw("[aria-live]")[1].endswith("is the best. Name the worst, or press Enter")
    assert not page.text("tie")
    assert page.text("no-worst")
    page.press("u")  # takes back what is not stored yet
    page.says("heading", "Which answer is the best?")
    assert page.text("tie")
    assert store.progress().answered == 0
    page.press(at(page, FOUR[0]) + at(page, FOUR[2]))
    page.shows(second.prompt)
    assert store.scores([first.key]) == {first.key: (1.0, 0.5, 0.0, 0.5)}
    page.press(at(page, FOUR[1]) + Keys.ENTER)
    page.shows(third.prompt)
    assert store.scores([second.key]) == {second.key: (0.0, 1.0, 0.0, 0.0)}
    page.press("u")
    page.shows(second.prompt)
    assert page.text("heading") == "Which answer is the best?"
    page.press("b")
    page.shows(third.prompt)
    assert store.scores([second.key]) == {second.key: (0.5,) * 4}
    assert page.complaints() == []


@pytest.mark.parametrize("width", [1200, 320])
def test_best_and_worst_by_buttons_in_every_layout(chromium: Any, server: Server, store: Ratings, width: int) -> None:
    size = {"width": width, "height": 760, "deviceScaleFactor": 1, "mobile": width < 700}
    store.ask(four(2))
    store.set_writing()
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page = Page(chromium, server)
        page.shows(four(1)[0].prompt)
        boxes = page.run(PLACES)
        assert len({tuple(box) for box in boxes}) == 4
        assert len({left for left, _ in boxes}) == (2 if width > 700 else 1)
        buttons = chromium.find_elements("css selector", ".choose")
        best, worst = (page.raw("article .text").index(FOUR[k]) for k in (2, 0))
        assert buttons[best].accessible_name.endswith(f"Choose answer {best + 1} as the best")
        buttons[best].click()
        page.says("heading", "And the worst?")
        names = [b.accessible_name for b in chromium.find_elements("css selector", "button") if b.is_displayed()]
        assert len({*names}) == len(names)
        assert any("No worst one" in name for name in names)
        assert buttons[worst].accessible_name.endswith(f"Choose answer {worst + 1} as the worst")
        assert buttons[best].accessible_name.endswith("is the best: take back")
        for height, left, right in page.run(BOXES):
            assert height >= 44
            assert 0 <= left <= right <= width
        assert not page.run(WIDE)
        buttons[worst].click()
        page.shows(four(2)[1].prompt)
        assert store.scores([four(1)[0].key]) == {four(1)[0].key: (0.0, 0.5, 1.0, 0.5)}
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [1200, 320])
def test_an_answer_of_ones_own(chromium: Any, server: Server, store: Ratings, tmp_path: Path, width: int) -> None:
    size = {"width": width, "height": 760, "deviceScaleFactor": 1, "mobile": width < 700}
    first, second, third = simple(3)
    store.ask([first, second, third])
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page = Page(chromium, server)
        page.shows(first.prompt)
        assert not page.text("write"), "nothing is offered that is not learnt from"
        store.set_writing()
        page.run("document.dispatchEvent(new Event('visibilitychange'))")
        page.says("write", "Write a better answer")
        page.press("e")
        page.says("editor", "Use this answer")
        assert page.run("return document.activeElement.id") == "written"
        field = chromium.find_element("id", "written")
        assert field.accessible_name == "Your answer, which is preferred to those above"
        for height, left, right in page.run(BOXES):
            assert height >= 44
            assert 0 <= left <= right <= width
        assert not page.run(WIDE)
        field.send_keys("1 tbs ux e: no key rates")
        assert store.progress().answered == 0
        field.send_keys(Keys.ESCAPE)
        assert not page.text("editor")
        page.press("e")
        assert field.get_property("value") == "1 tbs ux e: no key rates", "what was typed is kept"
        chromium.find_elements("css selector", "#begin button")[0].click()
        begun = page.raw("article .text")[0]
        assert field.get_property("value") == begun
        field.send_keys(", and <b>more</b>")
        field.send_keys(Keys.CONTROL, Keys.ENTER)
        page.shows(second.prompt)
        assert store.written([first.key]) == {first.key: begun + ", and <b>more</b>"}
        assert not page.text("editor")
        page.press("u")
        page.shows(first.prompt)
        page.press("e")
        assert field.get_property("value") == begun + ", and <b>more</b>", "an undo loses no text"
        field.send_keys("!")
        chromium.find_element("id", "use").click()
        page.shows(second.prompt)
        assert store.written([first.key]) == {first.key: begun + ", and <b>more</b>!"}
        page.press("e")
        field.send_keys(Keys.CONTROL, Keys.ENTER)
        page.says("message", "Write an answer first")
        assert export_preferences(store, tmp_path / "pairs") == 2
        assert page.complaints() == []
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_written_text_outlives_the_server(chromium: Any, store: Ratings, tmp_path: Path) -> None:
    first, second = simple(2)
    store.ask([first, second])
    store.set_writing()
    with serve(tmp_path) as server:
        page = Page(chromium, server)
        page.shows(first.prompt)
    page.press("e")
    field = chromium.find_element("id", "written")
    field.send_keys("long work")
    field.send_keys(Keys.CONTROL, Keys.ENTER)
    page.says("message", "Not saved")
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    page.says("pause-title", "This page's server is not running")
    with serve(tmp_path):
        page.run("document.dispatchEvent(new Event('visibilitychange'))")
        page.shows(first.prompt)
        page.press("e")
        assert field.get_property("value") == "long work"
        field.send_keys(Keys.CONTROL, Keys.ENTER)
        page.shows(second.prompt)
    assert store.written([first.key]) == {first.key: "long work"}
