"""Files to records: what is wrong is named with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import rows, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from zotune import data
from zotune.errors import DataError


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"x": 1}\n\n{"x": 2}\n', [{"x": 1}, {"x": 2}]),
        ("a.jsonl", '\ufeff{"x": "é\u2028"}', [{"x": "é\u2028"}]),
        ("a.json", '[{"x": 1}]', [{"x": 1}]),
        ("a.json", '{"data": [{"x": 1}]}', [{"x": 1}]),
        ("a.csv", 'x,y\n1,"a, b"\n2,"line\nbreak"\n', [{"x": "1", "y": "a, b"}, {"x": "2", "y": "line\nbreak"}]),
        ("a.tsv", "x\ty\n1\tb c\n", [{"x": "1", "y": "b c"}]),
    ],
)
def test_formats(tmp_path: Path, name: str, text: str, expected: list[dict[str, object]]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert data.read_file(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", "", "holds no records"),
        ("a.jsonl", '{"x": 1}\n{"x": \n', "line 2: broken JSON"),
        ("a.jsonl", '{"x": 1}\n[1]\n', "line 2: a record must be an object, got list"),
        ("a.json", '{"x": 1}', "must hold a list"),
        ("a.json", "[1]", "record 1: a record must be an object"),
        ("a.csv", "x,y\n1\n", "line 2: 1 cells where the header has 2"),
        ("a.csv", "x,x\n1,2\n", "occurs twice"),
        ("a.csv", "x,y\n", "holds no records"),
        ("a.csv", 'x,y\n1,"2\n', "line 2"),
        ("a.txt", "hello", "unknown kind of file '.txt'"),
    ],
)
def test_broken_files_name_the_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said) as error:
        data.read_file(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"x": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8"):
        data.read_file(tmp_path / "a.jsonl")


def test_missing_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        data.read(tmp_path / "none")
    with pytest.raises(DataError, match="holds no data file"):
        data.read(tmp_path)


def test_validation_selects_and_test_judges(toy: Path) -> None:
    found = data.split(toy, seed=0)
    assert (len(found.train), len(found.select), len(found.judge)) == (64, 20, 20)
    assert "20 test rows judge" in found.note


def test_one_held_out_split_is_halved(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(30))
    write_jsonl(tmp_path / "dev.jsonl", [{"text": str(i), "label": 0} for i in range(11)])
    found = data.split(tmp_path, seed=0)
    assert (len(found.select), len(found.judge)) == (5, 6)
    assert {r["text"] for r in found.select}.isdisjoint({r["text"] for r in found.judge})


@pytest.mark.parametrize(("n", "held"), [(1000, 200), (300, 100), (60, 30), (5, 2)])
def test_without_an_evaluation_split_a_fifth_is_held_out(tmp_path: Path, n: int, held: int) -> None:
    path = write_jsonl(tmp_path / "all.jsonl", [{"text": str(i), "label": i % 2} for i in range(n)])
    found = data.split(path, seed=1)
    parts = [{r["text"] for r in part} for part in (found.train, found.select, found.judge)]
    assert len(found.select) + len(found.judge) == held
    assert sum(map(len, parts)) == n == len(set.union(*parts))
    assert f"{held} of {n} rows held out" in found.note
    assert data.split(path, seed=1) == found
    assert data.split(path, seed=2).train != found.train


def test_too_few_rows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "all.jsonl", rows(3))
    with pytest.raises(DataError, match="at least 4"):
        data.split(path, seed=0)


def test_columns_are_renamed_and_checked(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"sentence": "x", "gold": 1}] * 8)
    found = data.split(path, seed=0, columns={"text": "sentence", "label": "gold"})
    assert found.train[0] == {"sentence": "x", "gold": 1, "text": "x", "label": 1}
    with pytest.raises(DataError, match="columns found: sentence, gold"):
        data.split(path, seed=0, columns={"text": "sentense"})


def test_unknown_split_offers_the_nearest(toy: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'validation'"):
        data.split(toy, seed=0, eval_split="validaton")
    with pytest.raises(DataError, match="cannot also be held out"):
        data.split(toy, seed=0, eval_split="train")


def test_limit_takes_a_seeded_sample(toy: Path) -> None:
    a, b = data.split(toy, seed=0, limit=10), data.split(toy, seed=1, limit=10)
    assert len(a.train) == len(b.train) == 10
    assert a.train != b.train
    assert a.judge == b.judge


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([".jsonl", ".json", ".csv", ".tsv"]), st.binary(max_size=120))
def test_any_bytes_are_records_or_one_clear_error(suffix: str, raw: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(raw)
        try:
            found = data.read_file(path)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert found
            assert all(isinstance(r, dict) for r in found)


def test_the_embedded_data_is_what_the_readme_says() -> None:
    from zotune.plan import embedded_data

    found = data.read(embedded_data())
    assert {k: len(v) for k, v in found.items()} == {"train": 400, "validation": 200, "test": 300}
    texts = [r["text"] for part in found.values() for r in part]
    assert len({t.lower() for t in texts}) == 900
    labels = {r["label"] for part in found.values() for r in part}
    assert labels == {"billing", "delivery", "technical problem", "cancellation", "praise", "other question"}
    words = {name: [set(r["text"].lower().split()) for r in part] for name, part in found.items()}
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        worst = max(len(x & y) / len(x | y) for x in words[a] for y in words[b])
        assert worst < 0.6, f"near-duplicates between {a} and {b}"
    for part in found.values():
        counts = {x: sum(r["label"] == x for r in part) for x in labels}
        assert max(counts.values()) > 2 * min(counts.values())
    json.dumps(found)
