"""Readers: each file format, and errors that name the file and the line."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zotune.data.readers import SUFFIXES, read_file
from zotune.data.sources import read_splits
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
    assert read_file(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "has no records"),
        ("a.jsonl", '{"x": 1}\n{"x": \n', "line 2: broken JSON"),
        ("a.jsonl", '{"x": 1}\n[1]\n', "line 2: a record must be an object, got list"),
        ("a.json", '{"x": 1}', "must hold a list"),
        ("a.json", "[1]", "record 1: a record must be an object"),
        ("a.csv", "x,y\n1\n", "line 2: 1 cells where the header has 2"),
        ("a.csv", "x,x\n1,2\n", "occurs twice"),
        ("a.csv", "x,y\n", "has no records"),
        ("a.csv", "x,y\n1,2\n3\n", "line 3: 1 cells"),
        ("a.tsv", "", "has no records"),
        ("a.json", "[]", "has no records"),
        ("a.json", '[{"x": 1}, null]', "record 2: a record must be an object, got NoneType"),
        ("a.csv", 'x,y\n1,"2\n', "line 2"),
        ("a.txt", "hello", "unknown file type '.txt'"),
    ],
)
def test_broken_files_name_the_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_file(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"x": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8"):
        read_file(tmp_path / "a.jsonl")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SUFFIXES), st.binary(max_size=120))
def test_any_bytes_are_records_or_one_clear_error(suffix: str, raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(raw)
        try:
            records = read_file(path)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert records
            assert all(isinstance(r, dict) for r in records)


def test_parquet_values_are_plain(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    records = [
        {"text": "é", "label": 1, "spans": ["a", "b"], "nested": {"x": [1.5]}, "none": None},
        {"text": "b", "label": 0, "spans": [], "nested": {"x": []}, "none": "y"},
    ]
    folder = tmp_path / "label=7"  # a folder name that other readers take for a column
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(records), folder / "train-00000-of-00001.parquet")
    by_name = read_splits(folder)
    assert by_name == {"train": records}
    assert type(by_name["train"][0]["label"]) is int
    coded = pa.table({"label": pa.array(["x", "y", "x"]).dictionary_encode()})
    pq.write_table(coded, tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet") == [{"label": "x"}, {"label": "y"}, {"label": "x"}]


def test_broken_parquet(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [str(i) for i in range(100)]}), path)
    whole = path.read_bytes()
    for raw in (b"", b"PAR1", b"x" * 50, whole[:-20], whole[:4] + b"\xff" * 60 + whole[64:]):
        path.write_bytes(raw)
        with pytest.raises(DataError, match="broken parquet: ") as error:
            read_file(path)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match="has no records"):
        read_file(path)
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), path)
    with pytest.raises(DataError, match="a column name occurs twice: x, x"):
        read_file(path)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"pip install 'zotune\[parquet\]'"):
        read_file(tmp_path / "a.parquet")
