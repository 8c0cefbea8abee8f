"""What people answered, how far they agree with themselves, and how far with each other. Knows counts of ratings; knows
no questions and no texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from zotune.pages.markup import Markup, foreign, markup, tag
from zotune.pages.run_record import RatingsRecord, RunRecord

VERDICTS: Final = {
    "chosen": "chose one",
    "tie": "tie",
    "bad": "none is good",
    "written": "wrote a better one",
    "skip": "skipped",
}
"""Verdicts in words, in the order of the table."""


def ratings_panel(runs: Sequence[RunRecord]) -> Markup | None:
    """The answers of each run; None where people were asked nothing."""
    parts = [
        [tag("h3", foreign(run.name, 60)) if len(runs) > 1 else None, _ratings(run.ratings)]
        for run in runs
        if run.ratings is not None
    ]
    return markup(parts) if parts else None


def _ratings(ratings: RatingsRecord) -> Markup:
    counts = [(word, ratings.verdicts.get(name, 0)) for name, word in VERDICTS.items()]
    total = sum(count for _, count in counts)
    answers = ", ".join(f"{word} {count:,}" for word, count in counts if count)
    parts = [tag("p", f"{total:,} {'question' if total == 1 else 'questions'} rated: {answers}.")]
    if ratings.repeated:
        share = _share(ratings.agreed, ratings.repeated, ratings.interval)
        parts.append(tag("p", f"Questions that were shown again, sides swapped, got the same rating: {share}."))
    else:
        parts.append(tag("p", "No question was shown again.", class_="note"))
    if ratings.raters:
        parts.append(_raters(ratings))
    return markup(parts)


def _raters(ratings: RatingsRecord) -> Markup:
    """A row for each person with a name."""
    several = len(ratings.raters) > 1
    heads = ["rater", "ratings", *(["same rating as another rater"] if several else [])]
    rows = [
        tag(
            "tr",
            tag("th", foreign(x.name, 60), scope="row"),
            tag("td", f"{x.ratings:,}"),
            tag("td", _share(x.agreed, x.shared, x.interval) if x.shared else "no shared question")
            if several
            else None,
        )
        for x in ratings.raters
    ]
    head = tag("tr", [tag("th", h, scope="col") for h in heads])
    return tag(
        "div", tag("table", tag("thead", head), tag("tbody", rows), class_="wide"), class_="scroll", tabindex="0"
    )


def _share(agreed: int, count: int, interval: tuple[float, float]) -> str:
    """A count with its share and interval."""
    share, low, high = (f"{100 * x:.0f}" for x in (agreed / count, *interval))
    return f"{agreed:,} of {count:,} ({share} %, 95 % interval {low} to {high} %)"


__all__ = ["ratings_panel"]
