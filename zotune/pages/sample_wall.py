"""The wall of held-out prompts: what the model made of each at the start, during tuning and at the end.

Words that differ from the base model are marked, scores stand beside. Knows samples; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from zotune.pages.markup import Child, Markup, cut, left_out, markup, tag
from zotune.pages.run_record import RunRecord, Sample, Version
from zotune.pages.word_diff import differences
from zotune.text import number, plain

MOST_SAMPLES: Final = 120
"""Prompts of a run on the page at most; those whose output changed come first."""
MOST_BETWEEN: Final = 8
"""Evaluations between the first and the last that are shown of a prompt."""
CHARACTERS: Final = 600_000
"""Characters of all texts on the wall, so that the page stays small."""
LONGEST: Final = 3000
SHORTEST: Final = 150
"""Characters of a text: what there is room for, between these."""
SHORT: Final = 60
"""Outputs of at most so many characters are short."""
COLLAPSED: Final = 280
"""Longer prompts are folded."""


def wall_panel(runs: Sequence[RunRecord]) -> Markup:
    """Search, filter, and the samples of all runs."""
    chosen = [(run, sample) for run in runs for sample in _chosen(run, MOST_SAMPLES // len(runs))]
    if not chosen:
        return tag("p", "No outputs for held-out prompts are recorded in this run.", class_="note")
    total = sum(len(run.samples) for run in runs)
    texts = sum(2 + len(sample.versions) for _, sample in chosen)
    most = min(max(CHARACTERS // texts, SHORTEST), LONGEST)
    kinds = {_change(run, sample) for run, sample in chosen}
    items = [_item(run, sample, most, len(runs) > 1, i) for i, (run, sample) in enumerate(chosen)]
    shown = f"{len(chosen)} held-out prompts"
    if total > len(chosen):
        shown += f" of {total:,} that are recorded; those whose output changed come first"
    legend = [tag("del", "words of the base model alone"), " ", tag("ins", "words that are new")]
    return markup(
        [
            tag("p", shown, ". ", legend, class_="note"),
            _controls(kinds),
            tag("div", items, class_="wall dense" if _dense([s for _, s in chosen]) else "wall"),
            tag("button", f"show all {len(chosen)}", type="button", id="all", hidden=True),
            tag("p", "No prompt matches.", class_="note none", hidden=True),
        ]
    )


def _dense(samples: Sequence[Sample]) -> bool:
    """Whether the outputs are short, so that two prompts fit beside each other."""
    return all(len(v.text) <= SHORT for s in samples for v in s.versions)


def _chosen(run: RunRecord, most: int) -> list[Sample]:
    order = {"better": 0, "worse": 0, "changed": 1, "same": 2}
    ranked = sorted(run.samples, key=lambda s: (s.part != "validation", order[_change(run, s)]))
    return ranked[:most]


def _change(run: RunRecord, sample: Sample) -> str:
    """How the last output compares with the first: "better" or "worse" by score, else "changed" or "same"."""
    first, last = sample.versions[0], sample.versions[-1]
    if first.verdict and last.verdict and first.verdict != last.verdict:
        return "better" if last.verdict == "right" else "worse"
    if first.score is not None and last.score is not None and first.score != last.score:
        return "better" if (last.score > first.score) == run.maximizes else "worse"
    return "same" if first.text == last.text else "changed"


def _controls(kinds: set[str]) -> Markup:
    names = [k for k in ("better", "worse", "changed", "same") if k in kinds]
    options = [tag("option", "all", value=""), *(tag("option", k, value=k) for k in names)]
    return tag(
        "form",
        tag("label", tag("span", "Search"), tag("input", type="search", id="search", autocomplete="off")),
        tag("label", tag("span", "Score"), tag("select", options, id="filter")),
        tag("output", "", id="count", for_="search filter"),
        class_="controls",
    )


def _item(run: RunRecord, sample: Sample, most: int, named: bool, place: int) -> Markup:
    change, versions = _change(run, sample), list(sample.versions)
    first, last = versions[0], versions[-1]
    before, after = _marked(first, last, most)
    columns = [_column(first, before)]
    if len(versions) > 1:
        columns.append(_column(last, after, change))
    where = f"{sample.part} prompt" + (f" of {plain(run.name)}" if named else "")
    between = versions[1:-1]
    step = -(-len(between) // MOST_BETWEEN) or 1
    during = [_column(v, _marked(first, v, most)[1]) for v in between[step - 1 :: step]]
    return tag(
        "article",
        tag("h3", where, tag("span", change, class_=f"badge {change}"), id=f"sample-{place}"),
        _prompt(sample.prompt, most),
        tag("p", tag("span", "reference ", class_="what"), _text(sample.reference, most)) if sample.reference else None,
        tag("div", columns, class_="versions"),
        tag("details", tag("summary", f"during tuning ({len(during)})"), tag("div", during, class_="versions"))
        if during
        else None,
        data_change=change,
    )


def _prompt(text: str, most: int) -> Markup:
    if len(text) <= COLLAPSED:
        return tag("div", _text(text, most), class_="prompt", dir="auto")
    head = " ".join(text[-COLLAPSED:].split())
    return tag(
        "details",
        tag("summary", tag("span", "… ", plain(head), dir="auto", class_="clip")),
        tag("div", _text(text, most), class_="prompt", dir="auto"),
        class_="prompt-box",
    )


def _text(text: str, most: int) -> Markup:
    shown, left = cut(text, most)
    return markup([tag("bdi", plain(shown)), left_out(left)])


def _marked(first: Version, other: Version, most: int) -> tuple[Markup, Markup]:
    (a, left_a), (b, left_b) = cut(first.text, most), cut(other.text, most)
    before, after = differences(a, b) if a != b else (markup(plain(a)), markup(plain(b)))
    return markup([before, left_out(left_a)]), markup([after, left_out(left_b)])


def _column(version: Version, text: Markup, change: str = "") -> Markup:
    score: Child = None
    if version.verdict or version.score is not None:
        score = tag("span", version.verdict or number(version.score or 0.0), class_=f"chip {change}")
    body = text if text else tag("em", "empty", class_="note")
    return tag(
        "section",
        tag("h4", version.label, score),
        tag("div", body, class_="output", dir="auto"),
    )


__all__ = ["wall_panel"]
