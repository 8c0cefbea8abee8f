"""OpenAI grader files as objectives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zotune.errors import ObjectiveError, OptionError
from zotune.scoring import objective_spec

CHECK = {"type": "string_check", "name": "c", "input": "{{ sample.output_text }}", "reference": "{{item.label}}"}
ROUGE = {
    "type": "text_similarity",
    "name": "r",
    "input": "{{sample.output_text}}",
    "reference": "{{ item.answer.text }}",
}
PYTHON = {
    "type": "python",
    "name": "p",
    "source": "def grade(sample, item):\n    return len(sample['output_text']) / 10",
}


def score(tmp_path: Path, grader: Any, completion: str, **item: Any) -> float | None:
    path = tmp_path / "grader.json"
    path.write_text(json.dumps(grader))
    objective = objective_spec.resolve(f"grader:{path}", {})
    (value,) = objective.score(1, {"completions": [completion], "batch": [item]}).samples or (None,)
    return value


@pytest.mark.parametrize(
    ("operation", "completion", "value"),
    [
        *(("eq", "yes", 1.0), ("eq", "Yes", 0.0), ("ne", "Yes", 1.0), ("ne", "yes", 0.0)),
        *(("like", "oh yes", 1.0), ("like", "oh Yes", 0.0), ("ilike", "oh YES", 1.0), ("ilike", "no", 0.0)),
    ],
)
def test_string_checks(tmp_path: Path, operation: str, completion: str, value: float) -> None:
    assert score(tmp_path, {**CHECK, "operation": operation}, completion, label="yes") == value


def test_json_answers_and_nested_columns(tmp_path: Path) -> None:
    grader = {**CHECK, "operation": "eq", "input": "{{sample.output_json.a.0}}/{{item.x}}", "reference": "3/[1]"}
    assert score(tmp_path, grader, '{"a": [3]}', x=[1]) == 1.0
    assert score(tmp_path, grader, "no JSON", x=[1]) == 0.0


def test_similarity(tmp_path: Path) -> None:
    item = {"answer": {"text": "the cat sat"}}
    assert score(tmp_path, {**ROUGE, "evaluation_metric": "rouge_1"}, "the cat", **item) == pytest.approx(0.8)
    assert score(tmp_path, {**ROUGE, "evaluation_metric": "rouge_2"}, "the cat", **item) == pytest.approx(2 / 3)
    assert score(tmp_path, {**ROUGE, "evaluation_metric": "rouge_l"}, "sat the cat", **item) == pytest.approx(2 / 3)
    assert score(tmp_path, {**ROUGE, "evaluation_metric": "rouge_l"}, "", **item) == 0.0


def test_python_and_multi(tmp_path: Path) -> None:
    assert score(tmp_path, PYTHON, "12345") == 0.5
    multi = {
        "type": "multi",
        "graders": {"c": {**CHECK, "operation": "eq"}, "p": PYTHON},
        "calculate_output": "0.8 * c + 0.2 * min(p, 1) - (c - 1) ^ 2 * 0",
    }
    assert score(tmp_path, multi, "12345", label="12345") == pytest.approx(0.9)
    assert score(tmp_path, {**multi, "calculate_output": "c / p"}, "12345", label="") == 0.0
    none = {**PYTHON, "source": "def grade(sample, item):\n    return None"}
    both = {**multi, "graders": {"c": {**CHECK, "operation": "eq"}, "p": none}}
    with pytest.raises(ObjectiveError):  # a set whose rows all have no score
        score(tmp_path, both, "a", label="a")
    with pytest.raises(ObjectiveError, match="division by zero"):
        score(tmp_path, {**multi, "calculate_output": "c / (p - p)"}, "a", label="a")


def test_rows_that_lack_a_column_and_sources_that_fail(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match=r"a row has no 'item\.label'"):
        score(tmp_path, {**CHECK, "operation": "eq"}, "a", other=1)
    with pytest.raises(ObjectiveError, match="no finite number"):
        score(tmp_path, {**PYTHON, "source": "def grade(sample, item):\n    return 'a'"}, "a")


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ([], "must be a JSON object with a type"),
        ({"type": "score_model"}, "score_model call a hosted model and are not supported"),
        ({"type": "label_model"}, "label_model call a hosted model"),
        ({"type": "string_chek"}, r"no grader of type 'string_chek' \(did you mean 'string_check'"),
        ({**CHECK, "operation": "equals"}, "no operation 'equals'"),
        ({**CHECK, "operation": "eq", "input": 3}, "input must be text"),
        ({**CHECK, "operation": "eq", "input": "{{sample.output_tools}}"}, "a sample has no 'output_tools'"),
        ({**CHECK, "operation": "eq", "input": "{{label}}"}, "must begin with item"),
        ({**ROUGE, "evaluation_metric": "bleu"}, "the metric 'bleu' is not supported"),
        ({"type": "python"}, "source must be text"),
        ({"type": "python", "source": "def grade("}, "source cannot be run: SyntaxError"),
        ({"type": "python", "source": "x = 1"}, "defines no function grade"),
        ({"type": "multi", "graders": {}}, "has graders by name"),
        ({"type": "multi", "graders": {"p": PYTHON}, "calculate_output": "q"}, "no grader 'q'"),
        ({"type": "multi", "graders": {"p": PYTHON}, "calculate_output": "p +"}, "is no formula"),
        ({"type": "multi", "graders": {"p": PYTHON}, "calculate_output": "p.__class__"}, "is not allowed in a formula"),
        ({"type": "multi", "graders": {"p": {"type": "multi"}}, "calculate_output": "p"}, "inside another one"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, grader: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        score(tmp_path, grader, "a")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text("{")
    for name, message in (("none.json", "cannot be read"), ("torn.json", "is no JSON")):
        with pytest.raises(OptionError, match=message):
            objective_spec.resolve(f"grader:{tmp_path / name}", {})
