"""The scripted people of the studies of a sitting, and what is printed of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not beside the tests")
sys.path.insert(0, str(ROOT / "benchmarks"))

FOUR = ("a b a b a b", "a b c d", "a b c d e f a b", "a a a a")


def test_a_person_names_the_best_and_the_worst_of_four(tmp_path: Path) -> None:
    from taste_study import Person

    def verdict(taste: str, *texts: str, wrong: float = 0.0) -> tuple[str, str, str]:
        return Person(tmp_path, taste, wrong, 0).verdict(texts)

    assert verdict("bigrams", *FOUR) == ("2", "", "4")
    assert verdict("bigrams", *FOUR[:2]) == ("2", "", ""), "of two there is no worst"
    assert verdict("dog", "a dog", "x", "y", "z") == ("1", "", ""), "three are equally bad"
    assert verdict("dog", "a dog", "dogs", "dog", "z") == ("1", "", "4")
    assert verdict("dog", "x", "y") == ("bad", "", "")
    assert verdict("happy", "happy", "so happy") == ("tie", "", "")
    assert {verdict("dog", "a dog", f"x{i}", wrong=1.0)[0] for i in range(40)} == {"1", "2"}


def line(taste: str, seed: int, gain: float, *flags: str) -> dict[str, Any]:
    rest = {"before": 0.1, "after": 0.1 + gain, "error": 0.02, "kl": 0.1, "cpu_seconds": 20.0}
    return {"key": [taste, 0.1, 60, seed, *flags], "gain": gain, "answers": {"chosen": 30, "tie": 0, "bad": 30}, **rest}


def test_the_table_has_the_larger_error(tmp_path: Path) -> None:
    from taste_study import picture, table

    lines = [line("dog", 0, 0.2), line("dog", 1, 0.4), line("happy", 0, 0.5, "learn=answers")]
    head, _, *rows = table(lines).splitlines()
    assert len({row.count("|") for row in (head, *rows)}) == 1
    assert rows[0].startswith("| happy | 10% | 60 | learn=answers | 1 |")
    assert "+0.30 ± 0.10" in rows[1]
    assert "| 50% |" in rows[1]
    picture(lines, tmp_path / "gains.svg")
    assert (tmp_path / "gains.svg").read_text().count("<path") == 5 + 2


def test_waits_are_held_against_the_limits() -> None:
    from waiting_time import BATCH, summary

    first = [9.0] + [0.0] * (BATCH - 1)
    good = summary([*first, 0.1, 0.2, 1.9, 30.0])
    assert "median 0.200 s, longest 1.90 s, 0 longer than 2 s: within the limits" in good[1]
    assert good[0].startswith("first question after 9.0 s")
    assert good[-1] == "last comparison after 30.0 s"
    bad = summary([*first, 0.1, 0.2, 2.1, 30.0])
    assert "1 longer than 2 s: NOT within the limits" in bad[1]
    assert "2.10 s before answer 11" in bad[2]
    assert "NOT within" in summary([*first, 0.4, 0.4, 0.4, 1.0])[1]
