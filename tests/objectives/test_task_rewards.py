"""The metrics of the tasks that come with zotune: countdown, final-number, json, concise, vader."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from metric_values import value_of
from zotune_objectives.countdown import value_of as evaluated
from zotune_objectives.final_number import final_number
from zotune_objectives.json_schema import fits, read_schema

from zotune.data.synthetic import MAKERS, make_splits
from zotune.errors import DataError, OptionError
from zotune.scoring import objective_spec


def rows_of(name: str, completions: list[str], options: Any = None, **columns: Any) -> Any:
    objective = objective_spec.resolve(name, options or {})
    return objective.score(len(completions), {"completions": completions, **columns}).samples


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(42 * (30 - 19))", 462),
        (" 30/4 ", Fraction(15, 2)),
        ("30 × 2 − 4", 56),
        *((x, None) for x in ("", "31 + 2", "30 + 30", "30 / (4 - 2*2)", "-30", "30 ** 2", "30 // 4", "30 +", "x")),
        *((x, None) for x in ("__import__('os')", "30.0 + 4", "True + 4", "[30]", "(" * 150 + "30", "30 if 4 else 2")),
        ("30 / (4 - 4)", None),
        ("4 % 30", None),
        ("1" * 5000, None),
    ],
)
def test_expressions_are_parsed_and_never_run(text: str, value: Any) -> None:
    assert evaluated(text, [30, 19, 42, 4, 2]) == value


def test_countdown_scores_format_and_answer() -> None:
    row = {"numbers": [[30, 19, 42]], "target": [462]}

    def score(text: str, **options: Any) -> Any:
        return rows_of("countdown", [text], options, **row)[0]

    assert score("<answer>42 * (30 - 19)</answer>") == pytest.approx(1.1)
    assert score("So <answer>(30 - 19) * 42 = 462</answer>.") == pytest.approx(1.1)
    assert score("<answer>30 + 19</answer>") == pytest.approx(0.1)
    assert score("42 * (30 - 19)") == 0.0
    assert score("<answer>1</answer><answer>42 * (30 - 19)</answer>") == 0.0
    few = {"numbers": [[30, 19, 42]], "target": [49]}
    assert rows_of("countdown", ["<answer>30 + 19</answer>"], **few)[0] == pytest.approx(1.1)
    assert rows_of("countdown", ["<answer>30 + 19</answer>"], {"all_numbers": True}, **few)[0] == pytest.approx(0.1)


def test_synthetic_rows_are_right_by_their_own_metric() -> None:
    rows = make_splits("countdown")["test"]
    answers = [f"<answer>{r['completion']}</answer>" for r in rows]
    columns = {name: [r[name] for r in rows] for name in ("numbers", "target")}
    assert rows_of("countdown", answers, {"all_numbers": True}, **columns) == pytest.approx([1.1] * len(rows))
    rows = make_splits("json")["train"]
    assert set(rows_of("json", [r["completion"] for r in rows], schema=[r["schema"] for r in rows])) == {1.0}
    rows = make_splits("concise")["train"]
    assert set(rows_of("concise", [r["completion"] for r in rows], references=[r["completion"] for r in rows])) == {1.0}


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_synthetic_splits_are_always_the_same_and_disjoint(name: str) -> None:
    splits = make_splits(name)
    assert splits == make_splits(name)
    keys = [json.dumps(r, sort_keys=True) for rows in splits.values() for r in rows]
    assert len(set(keys)) == len(keys)
    assert {n: len(rows) for n, rows in splits.items()} == {"train": 256, "validation": 40, "test": 80}


def test_an_unknown_synthetic_set_is_refused() -> None:
    with pytest.raises(DataError, match=r"no synthetic data set 'jsn' \(did you mean 'json'"):
        make_splits("jsn")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("so 3 + 4 = 7", 7), ("#### 1,200", 1200), ("7 #### 5 of 9", 5), (r"\boxed{3} and \boxed{42}", 42)),
        *((r"\boxed{x} 4", None), ("none", None), ("-2.50", Fraction(-5, 2)), ("it is 1,234.0", 1234)),
    ],
)
def test_the_final_number(text: str, value: Any) -> None:
    found = final_number(text)
    assert (None if found is None else Fraction(found)) == value


def test_final_numbers_are_compared_with_references() -> None:
    references = ["4 + 3 = 7\n#### 7", ["8", "7.0"], "no number", None]
    completions = ["It is $7.", "7", "7", "7"]
    assert rows_of("final-number", completions, references=references) == (1.0, 1.0, None, None)
    marked = rows_of("final-number", ["It is 7", "#### 7"], {"marked": True}, references=["7", "7"])
    assert marked == (0.0, 1.0)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"name": "Anna", "age": 34}', 1.0),
        (' {"age": 34.0, "name": "Anna"}\n', 1.0),
        *((x, 0.0) for x in ('{"name": "Anna"}', '{"name": "Anna", "age": "34"}', '{"name": "", "age": 34}')),
        *((x, 0.0) for x in ('{"name": "Anna", "age": 34, "x": 1}', '{"name": "Anna", "age": 34,}', "", "[]")),
        *((x, 0.0) for x in ('```{"name": "Anna", "age": 34}```', '{"name": "Anna", "age": true}')),
        *((x, 0.0) for x in ('{"name": "Anna", "age": NaN}', '{"name": "Anna", "age": -1}', "[" * 100_000)),
    ],
)
def test_json_of_a_schema(text: str, score: float, tmp_path: Path) -> None:
    assert rows_of("json", [text], schema=[SCHEMA]) == (score,)
    assert rows_of("json", [text], schema=[json.dumps(SCHEMA)]) == (score,)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    assert value_of(f"json:{tmp_path / 'schema.json'}", completions=[text]) == score


def test_json_without_a_schema_and_other_keywords() -> None:
    assert rows_of("json", ['{"a": 1}', "[1, 2]", "no"]) == (1.0, 1.0, 0.0)
    schema = {"type": ["array", "null"], "items": {"enum": [1, "a"]}, "minItems": 1, "maxItems": 2}
    assert [fits(x, schema) for x in ([1], ["a", 1], None, [], [1, 1, 1], [True], "a")] == [True] * 3 + [False] * 4
    assert fits(3, {"const": 3, "maximum": 3})
    assert not fits(True, {"const": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[1]", "must be a JSON object"),
        ('{"type": "strin"}', r"no type 'strin' \(did you mean 'string'"),
        ('{"$ref": "#/x"}', r"the keyword '\$ref' is not read"),
        ('{"requred": []}', "the keyword 'requred' is not read .did you mean 'required'"),
        ('{"properties": []}', "properties must map names"),
        ('{"properties": {"a": 1}}', "property 'a' must be a JSON object"),
        ('{"required": "a"}', "required must be a list"),
        ('{"minimum": "a"}', "minimum must be a number"),
        ('{"additionalProperties": {}}', "additionalProperties must be true or false"),
    ],
)
def test_what_is_no_schema_is_refused_in_a_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        read_schema(text, "the schema")
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(OptionError, match=message):
        objective_spec.resolve(f"json:{tmp_path / 's.json'}", {})


def test_a_missing_schema_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        objective_spec.resolve(f"json:{tmp_path / 'none.json'}", {})


def test_concise() -> None:
    completions = ["Oslo.", "She lives in Oslo now, I think.", "Bergen", "", "New York City"]
    references = ["Oslo", "Oslo", "Oslo", "Oslo", ["York", "new york"]]
    assert rows_of("concise", completions, references=references) == pytest.approx((1.0, 4 / 7, 0.0, 0.0, 1.0))
    assert rows_of("concise", ["in Oslo"], {"spare": 0}, references=["Oslo"]) == (0.5,)
    with pytest.raises(OptionError, match="spare"):
        objective_spec.resolve("concise", {"spare": -1})


def test_vader() -> None:
    pytest.importorskip("vaderSentiment")
    good, bad, empty = rows_of("vader", ["What a lovely, happy day!", "A terrible, sad day.", ""])
    assert good > 0.5
    assert bad < -0.5
    assert empty == 0.0


@pytest.mark.parametrize(
    ("name", "row", "note"),
    [
        ("concise", {"completion": "今天"}, "script without blanks"),
        ("concise", {"completion": "сегодня"}, None),
        ("vader", {"prompt": "Опиши поездку на поезде."}, "lexicon is English"),
        ("vader", {"messages": [{"role": "user", "content": "说说今天的天气"}]}, "lexicon is English"),
        ("vader", {"prompt": "Describe a café in Москва."}, None),
        ("vader", {"prompt": "3 + 4 → ?"}, None),
    ],
)
def test_a_language_that_the_metric_cannot_read_is_named(name: str, row: dict[str, Any], note: str | None) -> None:
    if name == "vader":
        pytest.importorskip("vaderSentiment")
    check = objective_spec.resolve(name, {}).info.check_row
    assert check is not None
    found = check(row)
    assert (found is None) if note is None else note in str(found)
