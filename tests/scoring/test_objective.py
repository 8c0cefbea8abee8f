"""Objectives as users name them: options after a colon, sums, orders, cached rows, time limits, async."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import zotune
from zotune.errors import ObjectiveError, OptionError, PluginError, UsageError
from zotune.runs.heldout import win_shares
from zotune.scoring import objective_spec
from zotune.scoring.calls import Calls
from zotune.text import texts


def rows(completions: Sequence[Any], **more: Any) -> dict[str, Any]:
    n = len(completions)
    return {
        "prompts": [f"p{i}" for i in range(n)],
        "completions": list(completions),
        "references": [None] * n,
        "batch": [{"id": i} for i in range(n)],
        **more,
    }


def test_text_after_a_colon_is_the_first_option() -> None:
    goal = objective_spec.resolve("contains:happy", {"ignore_case": "false"})
    assert goal.score(2, rows(["so happy", "Happy"])).samples == (1.0, 0.0)
    assert objective_spec.resolve("regex:a:b", {}).score(1, rows(["xa:bx"])).value == 1.0
    with pytest.raises(OptionError, match="takes nothing after a colon"):
        objective_spec.resolve("cross-entropy:x", {})
    with pytest.raises(PluginError, match="unknown objective"):
        objective_spec.resolve("containz", {})


def test_options_go_to_the_objective_that_is_named_or_knows_them() -> None:
    goal = objective_spec.resolve(["length", "contains:a"], {"length.target": "3", "ignore_case": "false"})
    assert [p.name for p in goal.each] == ["length", "contains:a"]
    with pytest.raises(OptionError, match="no objective is named 'f2'"):
        objective_spec.resolve(["f1", "length"], {"f2.average": "micro"})
    with pytest.raises(OptionError, match="no objective has an option 'averag'"):
        objective_spec.resolve(["f1", "length"], {"averag": "micro"})
    second = objective_spec.resolve(["contains:a", "contains:b"], {"2.ignore_case": "false"})
    assert second.score(1, rows(["A B"])).value == 1.0 + 0.0
    with pytest.raises(UsageError, match="is a int"):
        objective_spec.resolve(3, {})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no objective is named"):
        objective_spec.resolve([], {})


@zotune.objective(direction="maximize")
def words(completions: Sequence[str]) -> list[float | None]:
    return [None if c == "" else float(len(c.split())) for c in completions]


@zotune.objective(direction="minimize")
def letters(completions: Sequence[str]) -> list[float | None]:
    return [None if c in ("", "n/a") else float(len(c)) for c in completions]


def mean_length(completions: Sequence[str]) -> float:
    return sum(map(len, completions)) / len(completions)


def test_a_sum_subtracts_what_is_minimized_and_keeps_each_part() -> None:
    goal = objective_spec.resolve([words, letters], {}, weights=[1.0, 0.5])
    score = goal.score(4, rows(["a b", "abc", "n/a", ""]))
    assert goal.direction == "maximize"
    assert goal.name == "words - 0.5 letters"
    assert score.samples == (2 - 0.5 * 3, 1 - 0.5 * 3, 1.0, None)
    assert score.value == pytest.approx((0.5 - 0.5 + 1.0) / 3)
    assert dict(score.parts) == {"words": 4 / 3, "letters": 3.0}
    assert goal.inputs == {"completions"}


def test_one_part_of_a_sum_may_say_nothing_of_a_whole_batch() -> None:
    goal = objective_spec.resolve([words, letters], {})
    score = goal.score(2, rows(["n/a", "n/a"]))  # words: 1 each; letters: not applicable
    assert (score.value, score.samples, dict(score.parts)) == (1.0, (1.0, 1.0), {"words": 1.0})
    with pytest.raises(ObjectiveError, match="None for every row"):
        goal.score(2, rows(["", ""]))
    whole = objective_spec.resolve([words, letters, mean_length], {})
    assert whole.score(1, rows(["n/a"])).value == 1.0 + 3.0


def test_a_sum_with_a_set_level_part_has_one_value() -> None:
    goal = objective_spec.resolve([words, mean_length], {}, weights=[2.0, 1.0])
    score = goal.score(2, rows(["a b", "abc"]))
    assert score.samples is None
    assert score.value == pytest.approx(2 * 1.5 + 3.0)


def test_only_minimized_objectives_make_a_minimized_sum() -> None:
    goal = objective_spec.resolve(["cross-entropy", letters], {}, weights=[1.0, 0.1])
    assert goal.direction == "minimize"
    assert goal.score(1, rows(["abcd"], losses=[0.5])).value == pytest.approx(0.9)
    turned = objective_spec.resolve([letters, letters], {}, "maximize")
    assert turned.score(1, rows(["abcd"])).value == -8.0


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OptionError, match="2 numbers for 1"):
        objective_spec.resolve(["f1"], {}, weights=[1.0, 2.0])
    with pytest.raises(OptionError, match="finite"):
        objective_spec.resolve(["f1", "mcc"], {}, weights=[1.0, math.inf])
    with pytest.raises(UsageError, match="only values can be summed"):
        objective_spec.resolve(["f1", best], {}, weights=[1.0, 1.0])


def counted(**declared: Any) -> tuple[Any, list[list[str]]]:
    calls: list[list[str]] = []

    @zotune.objective(**declared)
    def longer(completions: Sequence[str], prompts: Sequence[str]) -> list[float | None]:
        calls.append(list(completions))
        return [float(len(c)) for c in completions]

    return longer, calls


def test_rows_that_are_scored_by_themselves_are_scored_once() -> None:
    longer, calls = counted(level="sample")
    goal = objective_spec.resolve(longer, {})
    assert goal.score(2, rows(["a", "bb"])).samples == (1.0, 2.0)
    assert goal.score(3, rows(["a", "cc", "ddd"])).samples == (1.0, 2.0, 3.0)
    assert calls == [["a", "bb"], ["cc", "ddd"]]
    assert (goal.meter.rows, goal.meter.hits) == (4, 1)
    assert goal.score(2, rows(["bb", "a"])).samples == (2.0, 1.0)  # other prompts: other rows
    assert len(calls) == 3


def test_what_may_depend_on_the_batch_is_called_on_all_of_it() -> None:
    longer, calls = counted()
    goal = objective_spec.resolve(longer, {})
    for _ in range(2):
        goal.score(2, rows(["a", "bb"]))
    assert calls == [["a", "bb"]] * 2
    off, calls = counted(level="sample")
    goal = objective_spec.resolve(off, {}, calls=Calls(cache=False))
    for _ in range(2):
        goal.score(1, rows(["a"]))
    assert len(calls) == 2
    on, calls = counted()
    goal = objective_spec.resolve(on, {}, calls=Calls(cache=True))
    for _ in range(2):
        goal.score(1, rows(["a"]))
    assert len(calls) == 1


def test_an_exception_shows_the_line_of_the_objective(tmp_path: Path) -> None:
    source = "import json\n\n\ndef score(completions):\n    return [json.loads(c) for c in completions]\n"
    (tmp_path / "my_metric.py").write_text(source)
    goal = objective_spec.resolve(f"{tmp_path}/my_metric.py:score", {})
    with pytest.raises(ObjectiveError, match=r"raised JSONDecodeError: .*\(my_metric.py:5\)"):
        goal.score(1, rows(["no json"]))


def test_a_failure_is_not_cached() -> None:
    state = {"broken": True}

    @zotune.objective(level="sample")
    def moody(completions: Sequence[str]) -> list[float]:
        if state["broken"]:
            raise RuntimeError("not now")
        return [1.0 for _ in completions]

    goal = objective_spec.resolve(moody, {})
    with pytest.raises(ObjectiveError, match="RuntimeError: not now"):
        goal.score(1, rows(["a"]))
    state["broken"] = False
    assert goal.score(1, rows(["a"])).value == 1.0


def test_async_functions_run_in_parts_and_at_once() -> None:
    running, most = [0], [0]

    async def slow(completions: Sequence[str], references: Any = None, **rest: Any) -> list[float]:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0.02)
        running[0] -= 1
        assert len(completions) == len(rest["prompts"]) <= 2
        return [float(len(c)) for c in completions]

    goal = objective_spec.resolve(slow, {}, calls=Calls(concurrency=3, batch_size=2))
    given = rows(["a" * k for k in range(7)])
    assert goal.score(7, given).samples == tuple(map(float, range(7)))
    assert most[0] == 3
    assert objective_spec.resolve(slow, {}, calls=Calls(batch_size=2)).score(2, rows(["a", "b"])).value == 1.0


def test_async_functions_within_a_running_loop() -> None:
    async def one(completions: Sequence[str]) -> list[float]:
        return [1.0 for _ in completions]

    async def notebook() -> float:
        return objective_spec.resolve(one, {}).score(1, rows(["a"])).value

    assert asyncio.run(notebook()) == 1.0


def test_a_slow_call_is_a_failure() -> None:
    free = threading.Event()

    async def never(completions: Sequence[str]) -> list[float]:
        await asyncio.sleep(60)
        return []

    def waits(completions: Sequence[str]) -> list[float]:
        free.wait(60)
        return []

    for slow in (never, waits):
        began = time.monotonic()
        with pytest.raises(ObjectiveError, match=r"no score within 0\.05 s"):
            objective_spec.resolve(slow, {}, calls=Calls(timeout=0.05)).score(1, rows(["a"]))
        assert time.monotonic() - began < 5
    free.set()
    with pytest.raises(OptionError, match="--score-timeout must be positive"):
        Calls(timeout=0)


def test_neither_an_exit_nor_a_number_beyond_floats_ends_the_run() -> None:
    def leaves(completions: Sequence[str]) -> list[float]:
        raise SystemExit("bye")

    with pytest.raises(ObjectiveError, match="SystemExit: bye"):
        objective_spec.resolve(leaves, {}).score(1, rows(["a"]))
    with pytest.raises(ObjectiveError, match="returned inf"):
        objective_spec.resolve(lambda completions: [10**400], {}).score(1, rows(["a"]))


def test_async_errors_are_named() -> None:
    async def broken(completions: Sequence[str]) -> list[float]:
        raise KeyError("score")

    async def short(completions: Sequence[str]) -> list[float]:
        return [1.0]

    for size, function, said in (
        (1, broken, "KeyError"),
        (2, broken, "KeyError"),
        (2, short, "must return as many scores"),
    ):
        with pytest.raises(ObjectiveError, match=said):
            objective_spec.resolve(function, {}, calls=Calls(batch_size=size)).score(3, rows(["a", "b", "c"]))


@zotune.objective(gives="order")
def best(prompts: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[Any]:
    """The longest; cannot tell between equally long ones; does not look at rows with "skip"."""
    out: list[Any] = []
    for row in candidates:
        sizes = [len(c) for c in row]
        out.append(None if "skip" in row else -1 if sizes.count(max(sizes)) > 1 else sizes.index(max(sizes)))
    return out


def test_an_order_says_which_candidate_is_best() -> None:
    goal = objective_spec.resolve(best, {})
    given = rows(["x"] * 4)
    found = goal.compare(given, [("a", "bb"), ("same", "same"), ("ab", "cd"), ("skip", "b")])
    assert found == [[0.0, 1.0], [0.5, 0.5], [0.5, 0.5], None]
    asked = goal.meter.rows
    assert asked == 3  # equal candidates are not asked about
    assert goal.compare(given, [("bb", "a"), ("x", "x"), ("cd", "ab"), ("b", "skip")]) == [
        [1.0, 0.0],
        [0.5, 0.5],
        [0.5, 0.5],
        None,
    ]
    assert goal.meter.rows == asked  # nor is the same pair asked about twice


def test_three_candidates_of_which_two_are_equal() -> None:
    goal = objective_spec.resolve(best, {})
    (found,) = goal.compare(rows(["x"]), [("a", "bb", "a")])
    assert found == [0.0, 1.0, 0.0]
    assert win_shares(found) == [0.25, 1.0, 0.25]
    assert win_shares([3.0, 1.0, 2.0]) == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("answer", [[2], [-2], ["a"], [0, 1], 0.5, [[1.0]], [[1.0, math.nan]], [0.5]])
def test_answers_that_are_no_order_are_failures(answer: Any) -> None:
    @zotune.objective(gives="order")
    def odd(candidates: Any) -> Any:
        return answer

    with pytest.raises(ObjectiveError, match="odd"):
        objective_spec.resolve(odd, {}).compare(rows(["x"]), [("a", "b")])


def test_a_judges_liking_for_the_first_place_cancels(tmp_path: Path) -> None:
    file = tmp_path / "judges.py"
    file.write_text(
        "def first(prompts, completions):\n    return [0 for _ in completions]\n"
        "def longer(completions, id):\n"
        "    assert len(id) == len(completions)\n"
        "    return [-1 if len(a) == len(b) else int(len(b) > len(a)) for a, b in completions]\n"
        "class Pairwise:\n"
        "    def judge(self, prompts, completions, shuffle_order=True):\n"
        "        return [int(len(b) > len(a)) for a, b in completions]\n"
        "async def later(completions):\n    return [int(len(b) > len(a)) for a, b in completions]\n"
        "def wrong(completions):\n    return [2 for _ in completions]\n"
    )
    n = 400
    given = {**rows(["x"] * n), "id": list(range(n))}
    biased = objective_spec.resolve(f"judge:{file}:first", {})
    found = biased.compare(given, [(f"a{i}", f"b{i}") for i in range(n)])
    won = sum(x[1] for x in found if x is not None) / n
    assert abs(won - 0.5) < 4 * 0.5 / n**0.5
    for name in ("longer", "Pairwise", "later"):
        goal = objective_spec.resolve(f"judge:{file}:{name}", {})
        (x, *_) = goal.compare(given, [("a", "bb", "ccc", "dddd")] * n)
        assert x == [0.0, 1 / 3, 2 / 3, 1.0], name
    with pytest.raises(ObjectiveError, match="0, 1 or -1"):
        objective_spec.resolve(f"judge:{file}:wrong", {}).compare(given, [("a", "b")] * n)
    with pytest.raises(PluginError, match="does not exist"):
        objective_spec.resolve(f"judge:{tmp_path}/none.py:f", {})


def test_texts_of_conversations() -> None:
    said = [{"role": "assistant", "content": "hi"}]
    assert texts(["a", said, []]) == ["a", "hi", ""]
    assert objective_spec.resolve("contains:hi", {}).score(2, rows([said, "no"])).samples == (1.0, 0.0)


def test_preference_is_the_sign_of_the_margin_a_token() -> None:
    pairs = {
        "chosen_logps": [-4.0, -9.0, -2.0],
        "rejected_logps": [-6.0, -3.0, -2.0],
        "chosen_tokens": [2, 6, 1],
        "rejected_tokens": [2, 3, 1],
    }
    share = objective_spec.resolve("preference", {})
    assert share.score(3, pairs).samples == (1.0, 0.0, 0.5)
    margin = objective_spec.resolve("preference:margin", {})
    assert margin.score(3, pairs).samples == (1.0, -0.5, 0.0)
    sums = objective_spec.resolve("preference:margin", {"length_normalized": "false"})
    assert sums.score(3, pairs).samples == (2.0, -6.0, 0.0)
