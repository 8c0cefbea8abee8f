"""The table of a language model on its tasks: data with disjoint splits, right answers, and intervals over seeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not beside the tests")
sys.path.insert(0, str(ROOT / "benchmarks"))


def test_no_prompt_of_the_second_schema_is_in_two_splits() -> None:
    from language_model_parts.tasks import orders

    rows = orders()
    prompts = [row["prompt"] for some in rows.values() for row in some]
    assert len(set(prompts)) == len(prompts)
    assert len(rows["test"]) == 200
    assert rows == orders()
    assert all(str(row["quantity"]) in row["prompt"] for row in rows["test"])


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"product": "lamps", "quantity": 7, "city": "Oslo"}', 1.0),
        ('{"product": "lamps", "quantity": "7", "city": "Oslo"}', 0.0),
        ('{"product": "lamps", "quantity": 7, "city": "Oslo", "more": 1}', 0.0),
        ('{"product": "lamps"', 0.0),
    ],
)
def test_an_order_is_right_with_its_keys_values_and_types(answer: str, right: float) -> None:
    from language_model_parts.tasks import right_order

    assert right_order(answer, {"prompt": "", "product": "lamps", "quantity": 7, "city": "Oslo"}) == right


def test_a_task_writes_its_data_and_names_them_in_its_flags(tmp_path: Path) -> None:
    from language_model_parts.tasks import SCHEMA, TASKS

    flags = TASKS["orders"].prepare(tmp_path / "orders")
    assert flags[flags.index("-d") + 1] == str(tmp_path / "orders")
    assert len((tmp_path / "orders" / "train.jsonl").read_text().splitlines()) == 100
    schema = Path(flags[flags.index("-o") + 1].removeprefix("json:"))
    assert json.loads(schema.read_text()) == SCHEMA


def test_the_kl_divergence_is_that_of_the_best_weights(tmp_path: Path) -> None:
    import language_model

    bodies = [
        {"kind": "eval", "step": 0, "drift": 0.0},
        {"kind": "eval", "step": 4, "drift": 0.2},
        {"kind": "between", "step": 4, "share": 0.5, "drift": 0.05},
    ]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps({"body": body}) + "\n" for body in bodies))
    assert [language_model.divergence(tmp_path, 4, share) for share in (1.0, 0.5)] == [0.2, 0.05]
    assert language_model.divergence(tmp_path, 3, 1.0) is None


def test_an_interval_over_seeds_uses_the_larger_error() -> None:
    from language_model_parts.report import interval

    def line(value: float, error: float) -> dict[str, object]:
        return {"difference": {"value": value, "error": error, "low": value - 0.1, "high": value + 0.2}}

    assert interval([line(0.5, 0.01)], "difference") == "+0.500 (+0.400 to +0.700)"
    assert interval([line(0.4, 0.0), line(0.6, 0.0)], "difference") == "+0.500 (+0.304 to +0.696)"
    assert interval([line(0.5, 0.1), line(0.5, 0.1)], "difference") == "+0.500 (+0.304 to +0.696)"


def test_the_time_left_is_compared_with_the_time_taken() -> None:
    from language_model_parts.report import time_left

    line = {"key": ["json", 0, 384], "left": [[10, 40.0, 20.0], [11, 12.0, 10.0]]}
    assert "json, seed 0: 2.00 at step 10, 1.20 to 2.00, 1 of 2 within 1.5" in time_left([line])
    assert time_left([{"key": ["json", 0, 384]}]) == ""
