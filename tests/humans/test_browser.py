"""The page in a real browser: keys, phone width, hostile text, undo, reopening. Skipped if there is no Chromium."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zotune.humans.page import ADDRESS, Server, serve
from zotune.humans.preferences import verdict_counts
from zotune.humans.progress_report import progress_report
from zotune.humans.ratings import ALL_ASKED, DONE, Question, Ratings

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not installed")

LONG = "A sentence of some length that has to wrap somewhere. " * 40
WORD = "unbreakable" * 60
CODE = "def f(x):\n\treturn  x\n\n\nprint(f(1))"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,800",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Ratings]:
    with Ratings(tmp_path) as ratings:
        yield ratings


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path) as page:
        yield page


class Page:
    """What a person sees and does."""

    def __init__(self, driver: Any, server: Server) -> None:
        self.driver, self.server = driver, server
        self.open()

    def open(self) -> None:
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(self.server.address)

    def run(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(code, *arguments)

    def text(self, id: str) -> str:
        """The text of an element; empty if it is not visible."""
        return str(
            self.run(
                "const e = document.getElementById(arguments[0]); return e.checkVisibility() ? e.innerText : ''", id
            )
        )

    def raw(self, query: str) -> list[str]:
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", query))

    def until(self, true: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 10
        while not true():
            assert time.monotonic() < end, (
                f"{what}; the page says:\n{self.driver.find_element('tag name', 'body').text}"
            )
            time.sleep(0.02)

    def shows(self, prompt: str) -> None:
        """Wait for this question, and until the page accepts keys."""
        self.until(lambda: self.text("prompt") == prompt, f"waiting for the question {prompt!r}")
        time.sleep(0.2)

    def says(self, id: str, text: str) -> None:
        self.until(lambda: text in self.text(id), f"waiting for {text!r} in {id}")

    def rests(self, id: str, text: str) -> None:
        """Wait for a text shown while no question is open; polls at once, as a page that becomes visible does."""
        self.run("document.dispatchEvent(new Event('visibilitychange'))")
        self.says(id, text)

    def press(self, keys: str) -> None:
        self.driver.find_element("tag name", "body").send_keys(keys)

    def complaints(self) -> list[str]:
        """The browser's log: blocked content and errors of the script."""
        return [line["message"] for line in self.driver.get_log("browser")]


def simple(count: int, completions: int = 2) -> list[Question]:
    """Questions before which no repeat is due."""
    from zotune.seeds import derive

    keys = [k for k in (f"k{i}" for i in range(100)) if derive(0, "repeat", k) % 10][:count]
    return [Question(k, f"prompt {k}", tuple(f"{k} answer {i}" for i in range(completions))) for k in keys]


def test_keys(chromium: Any, server: Server, store: Ratings) -> None:
    page = Page(chromium, server)
    page.rests("pause-title", "Waiting for the tuner")
    assert not page.text("dock")
    asked = simple(6, completions=3)
    keys = [q.key for q in asked]
    store.set_planned(6)
    store.ask(asked)
    wanted = {"1": 0, "2": 1, "3": 2}
    for question, key in zip(asked, ("2", "t", "b", "s", "3"), strict=False):
        page.shows(question.prompt)
        shown = page.raw("article .text")
        assert sorted(shown) == list(question.completions)
        page.press("4xnz")  # keys without a meaning
        page.press(key)
        if key in wanted:  # of three answers: no worst one
            page.says("heading", "And the worst?")
            page.press("\ue007")
        page.until(lambda k=question.key: not store.count_open([k]), f"waiting for the rating {key} of {question.key}")
        if key in wanted:
            chosen = question.completions.index(shown[wanted[key]])
            assert store.scores([question.key]) == {question.key: tuple(float(i == chosen) for i in range(3))}
    assert [store.scores(keys)[k] for k in keys[1:4]] == [(0.5,) * 3, (0.5,) * 3, None]
    assert verdict_counts(store) == {"chosen": 2, "tie": 1, "bad": 1, "skip": 1}
    page.shows(asked[5].prompt)
    assert "5 of 6" in page.text("status")
    assert "All bad" in page.text("dock")
    assert page.run("return [bar.value, bar.max]") == [5, 6]
    page.press("1\ue007")
    page.rests("pause-title", "Waiting for the next question")
    store.set_state("generating for step 3")
    page.rests("pause-text", "generating for step 3")
    store._set_heartbeat(0)
    page.rests("pause-title", "The tuner is not running")
    store.set_state(DONE)
    page.rests("pause-title", "All done")
    assert "6 questions" in page.text("pause-text")
    assert not page.text("dock")
    assert page.complaints() == []


def test_buttons_and_undo(chromium: Any, server: Server, store: Ratings) -> None:
    asked = simple(3)
    store.ask(asked)
    page = Page(chromium, server)
    page.shows(asked[0].prompt)
    before = page.raw("article .text")
    chromium.find_elements("css selector", ".choose")[1].click()
    page.shows(asked[1].prompt)
    assert store.scores([asked[0].key]) == {asked[0].key: tuple(float(a == before[1]) for a in asked[0].completions)}
    page.press("u")
    page.shows(asked[0].prompt)
    page.says("message", "Undone")
    assert page.raw("article .text") == before
    assert store.count_open([asked[0].key]) == 1
    chromium.find_element("id", "tie").click()
    page.shows(asked[1].prompt)
    store.take_scores([asked[0].key])
    chromium.find_element("id", "undo").click()
    page.says("message", "The tuner has used the old rating")
    page.shows(asked[0].prompt)
    page.press("t")
    page.shows(asked[1].prompt)
    page.press("s")
    page.shows(asked[2].prompt)
    assert store.scores([asked[0].key, asked[1].key]) == {asked[0].key: (0.5, 0.5), asked[1].key: None}
    assert page.complaints() == []


def test_double_presses_and_two_pages_rate_once(chromium: Any, server: Server, store: Ratings) -> None:
    asked = simple(4)
    store.ask(asked)
    page = Page(chromium, server)
    page.shows(asked[0].prompt)
    page.run("for (let i = 0; i < 5; i++) document.dispatchEvent(new KeyboardEvent('keydown', { key: '1' }))")
    page.shows(asked[1].prompt)
    page.run("document.dispatchEvent(new KeyboardEvent('keydown', { key: '1', repeat: true }))")
    page.run("document.dispatchEvent(new KeyboardEvent('keydown', { key: '1', ctrlKey: true }))")
    assert store.progress().answered == 1
    elsewhere = store.next_question()
    assert elsewhere
    store.record(elsewhere.id, "tie")
    page.press("1")
    page.says("message", "already rated")
    page.shows(asked[2].prompt)
    assert store.scores([asked[1].key]) == {asked[1].key: (0.5, 0.5)}


def test_a_reopened_page_asks_nothing_twice(chromium: Any, tmp_path: Path, store: Ratings) -> None:
    asked = simple(4)
    store.ask(asked)
    with serve(tmp_path) as server:
        page = Page(chromium, server)
        page.shows(asked[0].prompt)
        page.press("1")
        page.shows(asked[1].prompt)
        page.open()
        page.shows(asked[1].prompt)
        page.press("2")
        page.shows(asked[2].prompt)
    page.press("1")
    page.says("message", "Not saved")
    assert page.text("prompt") == asked[2].prompt, "the question stays until its rating is saved"
    (tmp_path / ADDRESS).unlink()  # another token
    with serve(tmp_path, server.port) as again:
        page.press("1")
        page.rests("pause-title", "no longer valid")
        assert page.text("command") == f"zotune rate {tmp_path}"
        page.server = again
        page.open()
        page.shows(asked[2].prompt)
        page.press("1")
        page.shows(asked[3].prompt)
    assert store.progress().answered == 3


def test_the_last_screen_stays_when_the_server_ends(chromium: Any, tmp_path: Path, store: Ratings) -> None:
    asked = simple(1)
    store.ask(asked)
    store.set_state(ALL_ASKED)
    with serve(tmp_path) as server:
        page = Page(chromium, server)
        page.shows(asked[0].prompt)
        assert page.text("tuner") == "comparing"
        page.press("1")
        page.says("pause-title", "All done")
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    time.sleep(0.5)
    assert "All done" in page.text("pause-title")


def test_hostile_text_is_shown_as_text(chromium: Any, server: Server, store: Ratings) -> None:
    hostile = (
        "<img src=x onerror=\"document.title='owned'\">",
        "<script>document.title='owned'</script><style>body{display:none}</style>",
        "\"'></div><iframe srcdoc='<script>parent.document.title=1</script>'></iframe>&lt;b&gt;${1+1}",
        "</article><svg/onload=document.title='owned'><a href=javascript:alert(1)>x</a>",
    )
    store.ask([Question("a", hostile[0], hostile[1:])])
    page = Page(chromium, server)
    page.shows(hostile[0])
    assert sorted(page.raw("article .text")) == sorted(hostile[1:])
    for tag in ("img", "script", "style", "iframe", "svg", "a"):
        assert page.raw(f"main {tag}") == []
    assert chromium.title == "Which answer is better?"
    assert page.complaints() == []
    blocked = "try { prompt.innerHTML = '<img src=x onerror=1>'; return '' } catch (error) { return error.name }"
    assert page.run("const prompt = document.getElementById('prompt');" + blocked) == "TypeError"
    page.run("const s = document.createElement('img'); s.src = 'https://example.org/x.png'; document.body.append(s)")
    page.until(lambda: "Content Security Policy" in str(page.complaints()), "waiting for the policy to speak")


WIDEST = """
const parts = [...document.querySelectorAll('body *')].filter(e => getComputedStyle(e).overflowX !== 'hidden');
return Math.max(...parts.map(e => e.scrollWidth));
"""
PLACES = """
const boxes = [...document.querySelectorAll('article')].map(e => e.getBoundingClientRect());
return boxes.map(box => [box.left, box.top]);
"""
ABOVE = """
const [button, dock] = ['.choose', '#dock'].map(q => document.querySelector(q).getBoundingClientRect());
return button.top > 0 && button.bottom <= dock.top + 1;
"""


@pytest.mark.parametrize(("width", "answers"), [(390, 2), (320, 3), (1200, 2), (1200, 3)])
def test_widths(chromium: Any, server: Server, store: Ratings, width: int, answers: int) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 700}
    store.ask([Question("long", LONG + WORD, (LONG + WORD, CODE, "short")[:answers])])
    store.set_planned(1000)
    store.set_report(REPORT)
    store.set_state("generating " + "x" * 80)
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page = Page(chromium, server)
        page.shows((LONG + WORD).strip())
        assert page.run("return innerWidth") == width
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert page.run(WIDEST) <= width
        boxes = page.run(PLACES)
        lefts, tops = {b[0] for b in boxes}, {b[1] for b in boxes}
        stacked = width < 700
        assert (len(lefts), len(tops)) == ((1, answers) if stacked else (answers, 1))
        assert CODE in page.raw("article .text")
        assert page.run("return getComputedStyle(document.querySelector('.text')).whiteSpaceCollapse") == "preserve"
        for button in filter(lambda b: b.is_displayed(), chromium.find_elements("css selector", "button")):
            box = button.rect
            assert box["height"] >= 44
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width
        assert page.run(ABOVE), "the button of a long answer is in view"
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_keyboard_and_screen_reader(chromium: Any, server: Server, store: Ratings) -> None:
    from selenium.webdriver.common.keys import Keys

    asked = simple(2)
    store.ask(asked)
    page = Page(chromium, server)
    page.shows(asked[0].prompt)
    for _ in range(12):
        chromium.switch_to.active_element.send_keys(Keys.TAB)
        if page.run("return document.activeElement.classList.contains('choose')"):
            break
    focus = (
        "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth) >= 2]"
    )
    assert page.run(focus) == ["solid", True]
    chromium.switch_to.active_element.send_keys(Keys.ENTER)
    page.shows(asked[1].prompt)
    assert page.run("return document.activeElement.id") == "heading", "the focus moves to the heading"
    assert page.raw("[aria-live]")[1] == "New question with 2 answers"
    buttons = [b for b in chromium.find_elements("css selector", "button") if b.is_displayed()]
    names = [b.accessible_name for b in buttons]
    assert all(names)
    assert len(set(names)) == len(names) > 6
    assert [b.aria_role for b in buttons] == ["button"] * len(names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(chromium: Any, server: Server, store: Ratings, scheme: str) -> None:
    """The contrast of text is at least 4.5, as WCAG 2.2 requires."""
    chromium.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        page = Page(chromium, server)
        colours = page.run(
            "const s = getComputedStyle(document.documentElement);"
            "return Object.fromEntries(['paper', 'card', 'ink', 'soft', 'tint', 'accent', 'on-accent', 'warn']"
            ".map(n => [n, s.getPropertyValue('--' + n).trim()]))"
        )
    finally:
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def light(name: str) -> float:
        parts = [int(colours[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    assert (light("paper") > 0.5) == (scheme == "light")
    pairs = [("ink", "paper"), ("ink", "card"), ("soft", "paper"), ("soft", "card"), ("soft", "tint")]
    for text, background in [*pairs, ("on-accent", "accent"), ("warn", "paper"), ("paper", "ink")]:
        low, high = sorted((light(text), light(background)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, background)


REPORT = {
    "predicted": {"rate": 0.7, "low": 0.55, "high": 0.8, "answers": 40, "accuracy": 0.8},
    "blind": {"wins": 3, "losses": 1, "ties": 0, "rate": 0.75, "low": 0.3, "high": 0.95},
    "changed": 9,
    "prompts": 12,
    "enough": True,
    "samples": [{"prompt": "a <b>prompt</b>", "before": "before <i>", "now": ""}],
}


def test_differences_are_marked_on_demand(chromium: Any, server: Server, store: Ratings) -> None:
    texts = ("she saw a red ball\n\nand ran", "she saw a blue ball\n\nand  ran home")
    store.ask([Question("p", "p", texts), Question("q", "q", ("the cat sat", "the dog sat", "the cat ran", ""))])
    page = Page(chromium, server)
    page.shows("p")
    assert page.raw("mark") == []
    page.press("d")
    assert set(page.raw("mark")) == {"red", "blue", "home"}
    assert sorted(page.raw("article .text")) == sorted(texts), "the text itself stays as it is"
    assert page.run("return document.getElementById('differences').getAttribute('aria-pressed')") == "true"
    page.press("1")
    page.shows("q")
    assert sorted(page.raw("mark")) == ["dog", "ran"], "the words that no other answer has"
    assert page.raw("article .text.empty") == ["(empty)"]
    page.press("d")
    assert page.raw("mark") == []


def test_what_was_learnt_and_the_end_of_the_tuning(chromium: Any, server: Server, store: Ratings) -> None:
    store.ask(simple(2))
    store.ask([Question("z", "the last one", ("x", "y"), "judge")])
    store.set_planned(40)
    store.set_report(REPORT)
    page = Page(chromium, server)
    page.shows("prompt " + simple(1)[0].key)
    said = page.text("rate")
    assert "would win 70 % (55 to 80 %)" in said
    assert "75 % of 4" in said
    assert not page.text("samples")
    page.press("n")
    page.says("samples", "a <b>prompt</b>")
    assert page.raw("#samples b") == ["Then: the base model", "Now"]
    assert page.raw("#samples i") == []
    page.press("x")
    page.says("message", "Press X again")
    assert not store.progress().stopping
    page.press("x")
    page.shows("the last one")
    assert store.progress().stopping
    assert not page.text("stop")
    page.press("1")
    store.set_state(DONE)
    page.rests("pause-title", "All done")
    assert page.run("return [bar.value, bar.max]") == [3, 3], "the end is 100 %"
    assert not page.text("report")


@pytest.mark.parametrize("width", [1200, 390])
def test_a_wish_is_stated_in_words(chromium: Any, server: Server, store: Ratings, width: int) -> None:
    chromium.set_window_size(width, 800)
    store.ask([replace(q, completions=("first", "second", "third", "fourth")) for q in simple(2)])
    with store.heartbeat():
        page = Page(chromium, server)
        page.says("heading", "Which answer is the best?")
        assert page.text("wish") == "", "nothing is asked before most answers are bad"
        store.set_report(progress_report(store, ["p"], [("a", "b")], 0, 0, wider=True))
        page.run("document.dispatchEvent(new Event('visibilitychange'))")
        page.says("advice", "four answers")
        field = chromium.find_element("id", "wish-text")
        field.send_keys("a story about a dog, 1 tbs ux")
        assert store.progress().answered == 0, "keys that are typed into the field rate nothing"
        field.send_keys("\n")
        page.says("wish-now", "a story about a dog")
        assert store.wish() == "a story about a dog, 1 tbs ux"
        overflow = page.run("return document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0
        page.press("1")
        page.says("heading", "And the worst?")
        page.press("\ue007")
        page.until(lambda: store.progress().answered == 1, "the keys rate again")
        assert page.complaints() == []
    chromium.set_window_size(1200, 800)


def test_a_page_goes_on_with_the_next_server(chromium: Any, store: Ratings, tmp_path: Path) -> None:
    store.ask(simple(2))
    first, second = simple(2)
    with serve(tmp_path) as server:
        page = Page(chromium, server)
        page.shows(first.prompt)
    page.press("1")
    page.says("message", f"Type zotune rate {tmp_path}")
    page.until(lambda: not store.scores([first.key]), "nothing is stored")
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    page.says("pause-title", "This page's server is not running")
    assert page.text("command") == f"zotune rate {tmp_path}"
    with serve(tmp_path):
        page.run("document.dispatchEvent(new Event('visibilitychange'))")
        page.shows(first.prompt)
        page.press("1")
        page.shows(second.prompt)
        assert first.key in store.scores([first.key])


def test_the_tuner_is_gone(chromium: Any, server: Server, store: Ratings, tmp_path: Path) -> None:
    store.set_state("generating")
    with store.heartbeat():
        pass
    page = Page(chromium, server)
    page.says("pause-title", "The tuner is not running")
    assert page.text("command") == f"zotune resume {tmp_path}"


def test_undo_goes_back_across_the_border_of_a_batch(chromium: Any, server: Server, store: Ratings) -> None:
    first, second = simple(2)
    store.ask([first, second])
    page = Page(chromium, server)
    page.shows(first.prompt)
    page.press("1")
    page.shows(second.prompt)
    store.take_scores([first.key])  # the tuner goes on
    page.press("u")
    page.shows(first.prompt)
    page.says("message", "The tuner has used the old rating")
    page.press("t")
    page.shows(second.prompt)
    assert store.scores([first.key]) == {first.key: (0.5, 0.5)}
