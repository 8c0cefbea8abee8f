"""The wall of held-out prompts: what the model made of each at the start, during tuning and at the end.

Words that differ from the base model are marked, scores stand beside. Knows samples; knows no model.
"""

from __future__ import annotations

from collections import Counter
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


Shown = tuple[RunRecord, Sample]
"""A prompt of a run; several runs may have it."""


def wall_panel(runs: Sequence[RunRecord]) -> Markup:
    """Search, filter, and the samples of all runs. A prompt that several runs have stands once, with all outputs."""
    prompts: dict[tuple[str, str, str, int], list[Shown]] = {}
    for run in runs:
        seen = Counter[tuple[str, str, str]]()
        for sample in _with_changes(run):
            prompt = sample.part, sample.prompt, sample.reference
            seen[prompt] += 1  # data may hold a prompt twice
            prompts.setdefault((*prompt, seen[prompt]), []).append((run, sample))
    total = len(prompts)
    chosen = sorted(prompts.values(), key=_rank)[:MOST_SAMPLES]
    if not chosen:
        return tag("p", "No outputs for held-out prompts are recorded.", class_="note")
    texts = sum(2 + len(sample.versions) for prompt in chosen for _, sample in prompt)
    most = min(max(CHARACTERS // texts, SHORTEST), LONGEST)
    items = [_item(prompt, most, len(runs) > 1) for prompt in chosen]
    shown = f"{len(chosen)} held-out prompts"
    if total > len(chosen):
        shown += f" of {total:,} that are recorded; those whose output changed come first"
    legend = [tag("del", f"words of the {runs[0].start} alone"), " ", tag("ins", "words that are new")]
    dense = all(len(v.text) <= SHORT for prompt in chosen for _, sample in prompt for v in sample.versions)
    return markup(
        [
            tag("p", shown, ". ", legend, class_="note"),
            _controls({_change_of(prompt) for prompt in chosen}),
            tag("div", items, class_="wall dense" if dense and len(runs) == 1 else "wall"),
            tag("button", f"show all {len(chosen)}", type="button", id="all", hidden=True),
            tag("p", "No prompt matches.", class_="note none", hidden=True),
        ]
    )


def _with_changes(run: RunRecord) -> Sequence[Sample]:
    """The samples that have an output after the base model's; all where none has one yet."""
    later = [sample for sample in run.samples if len(sample.versions) > 1]
    return later or run.samples


def _rank(prompt: Sequence[Shown]) -> tuple[int, bool, int]:
    """The place on the wall: prompts of several runs, then those with outputs in between, then those that changed."""
    (run, sample), order = prompt[0], {"better": 0, "worse": 0, "changed": 1, "same": 2}
    return -len(prompt), sample.part != "validation", order[_change(run, sample)]


def _change_of(prompt: Sequence[Shown]) -> str:
    """How the outputs of all runs have changed: as in the first run where they changed at all."""
    changes = [_change(run, sample) for run, sample in prompt]
    return next((c for c in changes if c != "same"), "same")


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


def _item(prompt: Sequence[Shown], most: int, named: bool) -> Markup:
    (run, sample), change = prompt[0], _change_of(prompt)
    first = sample.versions[0]
    others = [other.versions[0] for _, other in prompt[1:]]
    columns = list[Markup]()
    if len(prompt) == 1 and len(sample.versions) > 1:
        before, _ = _marked(first, sample.versions[-1], most)
        columns.append(_column(first, before))
        if len(sample.versions) > 3:
            middle = sample.versions[len(sample.versions) // 2]
            columns.append(_column(middle, _marked(first, middle, most)[1]))
    elif all(other.text == first.text for other in others):  # the same base model: it stands once
        columns.append(_column(first, _cut(first.text, most)))
    for run, sample in prompt:
        own, last = sample.versions[0], sample.versions[-1]
        name = run.name if named else ""
        if own.text != first.text or len(columns) == 0:
            columns.append(_column(own, _cut(own.text, most), name=name))
        if len(sample.versions) > 1:
            columns.append(_column(last, _marked(own, last, most)[1], _change(run, sample), name))
    reference = prompt[0][1].reference
    return tag(
        "article",
        tag("h3", f"{prompt[0][1].part} prompt", tag("span", change, class_=f"badge {change}")),
        _prompt(prompt[0][1].prompt, most),
        tag("p", tag("span", "reference ", class_="what"), _cut(reference, most), class_="ref") if reference else None,
        tag("div", columns, class_="versions"),
        _during(prompt, most, named),
        data_change=change,
    )


def _during(prompt: Sequence[Shown], most: int, named: bool) -> Markup | None:
    """The outputs between the first and the last, folded."""
    columns = list[Markup]()
    for run, sample in prompt:
        first, between = sample.versions[0], sample.versions[1:-1]
        step = -(-len(between) // MOST_BETWEEN) or 1
        name = run.name if named else ""
        columns += [_column(v, _marked(first, v, most)[1], name=name) for v in between[step - 1 :: step]]
    if not columns:
        return None
    summary = tag("summary", f"{len(columns)} output{'s' * (len(columns) > 1)} during tuning")
    return tag("details", summary, tag("div", columns, class_="versions"))


def _prompt(text: str, most: int) -> Markup:
    if len(text) <= COLLAPSED:
        return tag("div", _cut(text, most), class_="prompt", dir="auto")
    head = " ".join(text[-COLLAPSED:].split())
    return tag(
        "details",
        tag("summary", tag("span", "… ", plain(head), dir="auto", class_="clip")),
        tag("div", _cut(text, most), class_="prompt", dir="auto"),
        class_="prompt-box",
    )


def _cut(text: str, most: int) -> Markup:
    shown, left = cut(text, most)
    return markup([tag("bdi", plain(shown)), left_out(left)])


def _marked(first: Version, other: Version, most: int) -> tuple[Markup, Markup]:
    (a, left_a), (b, left_b) = cut(first.text, most), cut(other.text, most)
    before, after = differences(a, b) if a != b else (markup(plain(a)), markup(plain(b)))
    return markup([before, left_out(left_a)]), markup([after, left_out(left_b)])


def _column(version: Version, text: Markup, change: str = "", name: str = "") -> Markup:
    score: Child = None
    if version.verdict or version.score is not None:
        kind = version.verdict or change
        score = tag("span", version.verdict or number(version.score or 0.0), class_=f"chip {kind}")
    body = text if text else tag("em", "empty", class_="note")
    return tag(
        "section",
        tag("h4", [tag("bdi", plain(name)), " · "] if name else None, version.label, score),
        tag("div", body, class_="output", dir="auto"),
    )


__all__ = ["wall_panel"]
