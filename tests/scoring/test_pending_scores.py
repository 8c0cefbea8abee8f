"""Scores of an interrupted step are found again, for every kind of scorer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zotune
from zotune.errors import ObjectiveError
from zotune.scoring.calls import Calls
from zotune.scoring.objective import Objective, wrap
from zotune.scoring.partial_scores import reporter
from zotune.scoring.pending_scores import MISSING, PendingScores

TEXTS = [f"text {k}" for k in range(6)]
INPUTS = {"completions": TEXTS, "prompts": ["p"] * 6}


class Killed(BaseException):
    """What a kill is to a test."""


def opened(objective: Objective, path: Path, after: str = "abc") -> Objective:
    objective.pending.scores = PendingScores(path)
    objective.pending.scores.begin(after)
    return objective


def test_a_step_has_its_scores_until_the_journal_has_it(tmp_path: Path) -> None:
    path = tmp_path / "pending.jsonl"
    store = PendingScores(path)
    store.keep("mine", ["a"], [1.0])
    assert not path.exists(), "outside of a step nothing is kept"
    store.begin("abc")
    store.keep("mine", ["a", "b", "a"], [1.0, None, 3.0])
    with path.open("ab") as file:
        file.write(b'{"after":"abc","objec')  # torn
    again = PendingScores(path)
    again.begin("abc")
    again.keep("mine", ["c"], [5.0])
    third = PendingScores(path)
    third.begin("abc")
    assert third.take("other", ["a"], whole=False) == [MISSING]
    assert third.take("mine", ["a", "b", "d"], whole=False) == [1.0, None, MISSING]
    assert third.take("mine", ["a", "a", "c"], whole=False) == [3.0, MISSING, 5.0], "each is given once"
    changed = PendingScores(path)
    changed.begin("another journal")
    assert changed.take("mine", ["a"], whole=False) == [MISSING]
    again.end()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["async", "generator", "reports"])
def test_what_was_scored_before_a_kill_is_not_asked_again(kind: str, tmp_path: Path) -> None:
    asked: list[str] = []
    dies = [True]

    def one(text: str) -> float:
        if text == TEXTS[4] and dies[0]:
            raise Killed
        asked.append(text)
        return float(text.split()[1])

    async def in_parts(completions: Any) -> list[float]:
        await asyncio.sleep(0)
        return [one(x) for x in completions]

    @zotune.objective(level="sample")
    def row_by_row(completions: Any) -> Iterator[float]:
        for x in completions:
            yield one(x)

    @zotune.objective(level="sample")
    def reports(completions: Any) -> list[float]:
        report, scores = reporter(), []
        for k, x in enumerate(completions):
            scores.append(one(x))
            report(k, scores[-1:])
        return scores

    target = {"async": in_parts, "generator": row_by_row, "reports": reports}[kind]

    def objective() -> Objective:
        made = wrap(target, "mine", calls=Calls(batch_size=1))
        return opened(made, tmp_path / "pending.jsonl")

    with pytest.raises(BaseException):  # noqa: B017 - Killed, or a group that holds it
        objective().score(6, INPUTS)
    assert asked == TEXTS[:4]
    dies[0] = False
    resumed = objective()
    assert resumed.score(6, INPUTS).samples == tuple(map(float, range(6)))
    assert asked == TEXTS, "a score was paid twice"
    assert resumed.meter.rows == 6, "a score limit counts what the run has paid"


def test_a_function_of_unknown_level_is_asked_about_all_rows_or_none(tmp_path: Path) -> None:
    sizes: list[int] = []

    def centred(completions: Any) -> list[float]:  # a row's score depends on the others
        sizes.append(len(completions))
        values = [float(x.split()[1]) for x in completions]
        return [v - sum(values) / len(values) for v in values]

    path = tmp_path / "pending.jsonl"
    first = opened(wrap(centred, "mine"), path).score(6, INPUTS)
    assert opened(wrap(centred, "mine"), path).score(6, INPUTS) == first
    assert sizes == [6]
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(lines[:-1]))
    assert opened(wrap(centred, "mine"), path).score(6, INPUTS) == first
    assert sizes == [6, 6]


def test_scores_of_sets_and_of_weights_are_not_kept(tmp_path: Path) -> None:
    @zotune.objective(level="set")
    def whole(completions: Any) -> float:
        return float(len(set(completions)))

    def of_weights(completions: Any, losses: Any) -> list[float]:
        return list(losses)

    path = tmp_path / "pending.jsonl"
    assert opened(wrap(whole, "mine"), path).score(6, INPUTS).value == 6
    for losses in ([1.0] * 6, [2.0] * 6):
        found = opened(wrap(of_weights, "mine"), path).score(6, {**INPUTS, "losses": losses})
        assert found.samples == tuple(losses)
    assert not path.exists()


def test_verdicts_are_kept_and_ties_of_equal_texts_are_none(tmp_path: Path) -> None:
    asked: list[Any] = []

    @zotune.objective(gives="order", cacheable=True)
    def longer(prompts: Any, candidates: Any) -> list[int]:
        asked.extend(candidates)
        return [int(len(b) > len(a)) for a, b in candidates]

    pairs = [["a", "bbb"], ["same", "same"], ["cccc", "dd"]]
    inputs = {"prompts": ["p", "q", "r"]}
    expected = [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    for _ in range(2):
        objective = opened(wrap(longer, "judge"), tmp_path / "pending.jsonl")
        assert objective.compare(inputs, pairs) == expected
        assert (objective.meter.rows, objective.meter.hits) == (2, 0)
    assert len(asked) == 2


def test_rows_that_were_scored_before_a_failure_are_cached(tmp_path: Path) -> None:
    asked: list[str] = []

    @zotune.objective(level="sample")
    def fails_once(completions: Any) -> Iterator[float]:
        for x in completions:
            asked.append(x)
            if x == TEXTS[3] and asked.count(x) == 1:
                raise ValueError("busy")
            yield 1.0

    objective = wrap(fails_once, "mine")
    with pytest.raises(ObjectiveError, match="busy"):
        objective.score(6, INPUTS)
    assert objective.score(6, INPUTS).value == 1.0
    assert asked == [*TEXTS[:4], *TEXTS[3:]]


def test_reports_come_from_any_thread_and_unreadable_ones_wait_for_the_end(tmp_path: Path) -> None:
    @zotune.objective(level="sample")
    def threaded(completions: Any) -> list[float]:
        report = reporter()
        report(0, ["no number"])
        report(5, [1.0, 2.0, 3.0])  # beyond the end
        thread = threading.Thread(target=report, args=(2, [7.0]))
        thread.start()
        thread.join()
        assert [json.loads(x)["score"] for x in path.read_text().split("\n") if x] == [7.0]
        return [7.0] * len(completions)

    path = tmp_path / "pending.jsonl"
    assert opened(wrap(threaded, "mine"), path).score(6, INPUTS).value == 7.0
    assert len([x for x in path.read_text().split("\n") if x]) == 6
