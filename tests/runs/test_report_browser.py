"""Pages of runs in a real browser: five kinds of runs, hostile text, phone width, the axis, search, live pages.

Skipped if there is no Chromium.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import zotune
from zotune import lock
from zotune.runs.watch import serve

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not installed")
AXE = os.environ.get("ZOTUNE_AXE", "")
"""The file axe.min.js of npm's axe-core, which looks for faults of accessibility."""
HOSTILE = "</script><img src=x onerror=alert(1)><script>alert(2)</script>\u202eevil " + "w" * 3000
WIDTHS = (1280, 390)
Runs = dict[str, Path]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


def show(driver: Any, address: str | Path, width: int = 1280, scheme: str = "light") -> None:
    """Open a page at a width and with a colour scheme."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get(address.resolve().as_uri() if isinstance(address, Path) else address)


def complaints(driver: Any) -> list[str]:
    """The browser's log: blocked content and errors of the script."""
    return [line["message"] for line in driver.get_log("browser")]


def visible(driver: Any, query: str) -> list[str]:
    """The texts of the elements that are shown."""
    code = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.innerText)"
    return list(driver.execute_script(code, query))


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["classes", "text", "judge", "set", "failed"])
def test_pages_fit_and_raise_no_complaint(kind: str, finished_runs: Runs, chromium: Any) -> None:
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            show(chromium, finished_runs[kind] / "report.html", width, scheme)
            assert complaints(chromium) == []
            overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert chromium.execute_script(overflow) <= 0, (kind, width)
            assert visible(chromium, "figure.chart h3")
            assert all(height > 100 for height in plot_heights(chromium))


def plot_heights(driver: Any) -> list[float]:
    code = (
        "return [...document.querySelectorAll('.plot svg')].map(e => e.getBoundingClientRect().height).filter(Boolean)"
    )
    return list(driver.execute_script(code))


def test_the_axis_switches_and_points_are_read_by_keys(finished_runs: Runs, chromium: Any) -> None:
    show(chromium, finished_runs["text"] / "report.html")
    charts = len(visible(chromium, "figure.chart"))
    for axis in ("steps", "completions", "seconds"):
        chromium.execute_script("document.getElementById(arguments[0]).click()", f"axis-{axis}")
        assert len(visible(chromium, f".ax-{axis}")) == charts
        assert len(visible(chromium, ".plot")) == charts
    svg = chromium.find_element("css selector", ".ax-seconds svg")
    svg.send_keys("\ue014")  # right arrow: the first point
    assert "step 0" in visible(chromium, ".readout")[0]
    svg.send_keys("\ue010")  # End: the last point
    assert "step 8" in visible(chromium, ".readout")[0]
    assert complaints(chromium) == []


def test_search_and_filter(finished_runs: Runs, chromium: Any) -> None:
    show(chromium, finished_runs["classes"] / "report.html")
    every = visible(chromium, ".wall article")
    box = chromium.find_element("id", "search")
    box.send_keys("PLOT lovely")
    found = visible(chromium, ".wall article")
    assert found == [text for text in every if "plot" in text.lower() and "lovely" in text.lower()]
    assert 0 < len(found) < len(every)
    assert visible(chromium, "#count") == [f"{len(found)} found"]
    box.clear()
    box.send_keys("nothing has these words")
    assert visible(chromium, ".none")
    box.clear()
    box.send_keys(" ")
    for kind in chromium.execute_script("return [...document.querySelectorAll('#filter option')].map(o => o.value)"):
        chromium.execute_script(
            "const s = document.getElementById('filter'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('input', {bubbles: true}))",
            kind,
        )
        shown = visible(chromium, ".wall article")
        assert len(shown) == len(every) if not kind else all(kind in text for text in shown)
    assert complaints(chromium) == []


def test_hostile_text_does_nothing(finished_runs: Runs, chromium: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_runs["failed"], tmp_path / "hostile"))
    lines = [json.loads(x) for x in (folder / "completions.jsonl").read_text().splitlines()]
    changed = [{**x, "prompt": HOSTILE, "completion": HOSTILE + str(x["step"]), "reference": HOSTILE} for x in lines]
    (folder / "completions.jsonl").write_text("".join(json.dumps(x) + "\n" for x in changed))
    journal = (folder / "journal.jsonl").read_text().replace("the scorer", json.dumps(HOSTILE)[1:-1])
    (folder / "journal.jsonl").write_text(journal)
    for width in WIDTHS:
        show(chromium, zotune.report(folder), width)
        assert complaints(chromium) == []
        assert chromium.execute_script("return document.images.length + document.scripts.length") == 1
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
        assert any("onerror=alert(1)" in text for text in visible(chromium, ".output"))


def test_several_runs_and_a_fast_start(finished_runs: Runs, chromium: Any, tmp_path: Path) -> None:
    page = zotune.report(*finished_runs.values(), output=tmp_path / "all.html")
    for width in WIDTHS:
        started = time.monotonic()
        show(chromium, page, width)
        assert time.monotonic() - started < 20
        assert complaints(chromium) == []
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    timing = "return performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart"
    assert chromium.execute_script(timing) < 10_000
    assert len(visible(chromium, "table.runs tbody tr")) == 5


def test_a_live_page_follows_its_run_and_keeps_what_is_chosen(
    finished_runs: Runs, chromium: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "live"
    folder.mkdir()
    with serve([folder]) as server, lock.held(folder):
        show(chromium, server.address)
        until(lambda: visible(chromium, "main") == ["Waiting for the run to begin."])
        for name in ("config.yaml", "env.json", "journal.jsonl", "metrics.jsonl", "progress.jsonl"):
            shutil.copy(finished_runs["text"] / name, folder / name)
        until(lambda: "not finished" in visible(chromium, "header")[0])
        chromium.execute_script("document.getElementById('axis-seconds').click()")
        shutil.copy(finished_runs["text"] / "completions.jsonl", folder / "completions.jsonl")
        until(lambda: bool(visible(chromium, ".wall article")))
        assert visible(chromium, ".ax-seconds")
        assert not visible(chromium, ".ax-steps")
        assert complaints(chromium) == []


@pytest.mark.skipif(not Path(AXE).is_file(), reason="ZOTUNE_AXE names no axe.min.js")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(scheme: str, finished_runs: Runs, chromium: Any, tmp_path: Path) -> None:
    pages = [folder / "report.html" for folder in finished_runs.values()]
    pages.append(zotune.report(*finished_runs.values(), output=tmp_path / "all.html"))
    for page in pages:
        for width in WIDTHS:
            show(chromium, page, width, scheme)
            chromium.execute_script(Path(AXE).read_text())
            found = chromium.execute_async_script("axe.run().then(arguments[0])")["violations"]
            faults = [(x["id"], x["impact"], [n["html"][:200] for n in x["nodes"][:3]]) for x in found]
            assert not [x for x in faults if x[1] in ("serious", "critical")], (page, width)
