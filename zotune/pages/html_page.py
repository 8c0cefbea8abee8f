"""The page: panels in their order, with style and script inside and a policy that allows nothing else.

Knows panels; knows no run directory and no server.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from zotune.pages.class_panel import class_panel
from zotune.pages.curves import curve_panel
from zotune.pages.detail_panels import config_panel, failure_panel, repeat_panel, time_panel
from zotune.pages.markup import Markup, foreign, markup, tag
from zotune.pages.ratings_panel import ratings_panel
from zotune.pages.run_record import RunRecord
from zotune.pages.sample_wall import wall_panel
from zotune.pages.verdict_panel import verdict_panel
from zotune.palette import palette
from zotune.text import one_line, short_name
from zotune.version import __version__

_FILES: Final = Path(__file__).parent / "page_files"


def html_page(runs: Sequence[RunRecord], live: bool = False) -> str:
    """The page of one run, or of several beside each other. live: whether it asks its server for a newer one."""
    title = ", ".join(one_line(run.name, 40) for run in runs[:4]) + (" …" if len(runs) > 4 else "")
    return _document(title, [_header(runs), *_parts(runs), _footer()], live)


def waiting_page() -> str:
    """The page of a run that has not begun; it asks its server for a newer one."""
    text = tag("p", "Waiting for the run to begin.", class_="note")
    return _document("waiting", [tag("header", tag("h1", "zotune")), tag("nav"), tag("main", text), _footer()], True)


def policy(live: bool) -> str:
    """The content security policy of a page: its own style and script, and where it is live its own server."""
    style, script = _sources(live)
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_source_hash(style)}'",
            f"script-src '{_source_hash(script)}'",
            *(["connect-src 'self'", "img-src 'self'"] if live else []),
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _sources(live: bool) -> tuple[str, str]:
    """Style and script of a page."""
    style, script, more = (
        (_FILES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js", "live.js")
    )
    return palette() + style, script + more if live else script


def _document(title: str, parts: Sequence[Markup], live: bool) -> str:
    style, script = _sources(live)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy(live)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{title} · zotune"),
        tag("link", rel="icon", href="icon.svg", type="image/svg+xml") if live else None,
        tag("style", Markup(style)),
    )
    body = tag("body", parts, tag("script", Markup(script)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _source_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _header(runs: Sequence[RunRecord]) -> Markup:
    if len(runs) > 1:
        title, under, badge = markup(f"{len(runs)} runs"), "", None
    else:
        run = runs[0]
        title, badge = foreign(run.name, 80), tag("span", run.state_text, class_=f"badge {run.state}")
        parts = [short_name(run.objective), run.model, str(run.header.get("rule", "")), run.written]
        under = " · ".join(one_line(p, 80) for p in parts if p)
    return tag(
        "header", tag("p", "zotune", class_="brand"), tag("h1", title, badge), tag("p", foreign(under), class_="note")
    )


def _parts(runs: Sequence[RunRecord]) -> list[Markup]:
    classes = [r for r in runs if r.predictions is not None]
    failures = failure_panel(runs)
    panels: list[tuple[str, str, Markup | None]] = [
        ("result", "Result", verdict_panel(runs)),
        ("curves", "Curves", curve_panel(runs)),
        ("outputs", "Outputs for held-out prompts", wall_panel(runs)),
        ("ratings", "Ratings by people", ratings_panel(runs)),
        ("classes", "Classes", _classes(classes, len(runs) > 1)),
        ("time", "Where the time went", time_panel(runs)),
        ("failures", "Failures", failures),
        ("configuration", "Configuration", config_panel(runs)),
        ("repeat", "Repeat it", repeat_panel(runs)),
    ]
    shown = [(name, title, panel) for name, title, panel in panels if panel]
    links = [tag("li", tag("a", title, href=f"#{name}")) for name, title, _ in shown]
    sections = [
        tag("section", tag("h2", title, id=f"{name}-title"), panel, id=name, aria_labelledby=f"{name}-title")
        for name, title, panel in shown
    ]
    return [tag("nav", tag("ul", links), aria_label="Parts of the page"), tag("main", sections)]


def _classes(runs: Sequence[RunRecord], named: bool) -> Markup | None:
    parts = [
        [tag("h3", foreign(run.name, 60)) if named else None, class_panel(run.predictions, run.start, run.tuned)]
        for run in runs
        if run.predictions is not None
    ]
    return markup(parts) if parts else None


def _footer() -> Markup:
    return tag("footer", tag("p", f"written by zotune {__version__}"))


__all__ = ["html_page", "policy", "waiting_page"]
