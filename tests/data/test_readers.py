"""Readers: each file format, and errors that name the file and the line."""

from __future__ import annotations

import csv
import gzip
import re
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zotune.data.readers import SUFFIXES, read_data_file, read_file
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
        ("a.tsv", 'x\ty\n"open\t1\nshut"\t2\r\n\n', [{"x": '"open', "y": "1"}, {"x": 'shut"', "y": "2"}]),
        ("a.csv", "\ufeffx, y\r\n1,2\r\n\r\n,\r\n", [{"x": "1", "y": "2"}]),
        ("a.csv", "x;y\n1,5;2\n", [{"x": "1,5", "y": "2"}]),
        ("a.json", '{"x": 1}\n{"x": 2}', [{"x": 1}, {"x": 2}]),
        ("a.json", '{\n"x": 1\n}\n{"x":\n2}', [{"x": 1}, {"x": 2}]),
        ("a.jsonl", '[\n {"x": 1},\n {"x": 2}\n]\n', [{"x": 1}, {"x": 2}]),
        ("a.jsonl", '{"x": 1}\r{"x": 2}\r', [{"x": 1}, {"x": 2}]),
        ("a.jsonl", '{"data": [{"x": 1}]}', [{"x": 1}]),
        ("a.jsonl", '{"data": ["x"], "label": 1}', [{"data": ["x"], "label": 1}]),
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
        ("a.json", '{"text": ["a"], "label": [1]}', "got an object of columns: text, label .with pandas"),
        ("a.json", '{"version": 1}', "got an object with the keys version"),
        ("a.jsonl", '{"x": 1, "x": 2}', "line 1: broken JSON: the key 'x' occurs twice"),
        ("a.jsonl", '{"x": 1}\n{"x": 1, "x": 2}', "line 2: broken JSON: the key 'x' occurs twice"),
        ("a.json", '{"train": [{"x": 1}, 2]}', "train record 2: a record must be an object, got int"),
        ("a.csv", "PK\x03\x04", "is a zip archive or an Excel workbook .unpack it"),
        ("a.csv", "\n<!DOCTYPE html>", "is a web page"),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1", "pointer of Git LFS, not the data .git lfs pull"),
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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_other_encodings_with_a_mark_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes("x,y\né,2\n".encode(encoding))
    assert read_file(tmp_path / "a.csv") == [{"x": "é", "y": "2"}]


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("latin-1", r"not UTF-8 text: .* at byte 4, line 2 .*iconv -f WINDOWS-1252 -t UTF-8 a.csv"),
        ("utf-16-le", "looks like UTF-16 without a byte order mark .iconv -f UTF-16LE"),
        ("utf-16-be", "looks like UTF-16 without a byte order mark .iconv -f UTF-16BE"),
    ],
)
def test_other_encodings_without_a_mark_are_refused(tmp_path: Path, encoding: str, message: str) -> None:
    (tmp_path / "a.csv").write_bytes("x,y\né,2\n".encode(encoding))
    with pytest.raises(DataError, match=message):
        read_file(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl.gz", '{"x": "1"}\n'), ("a.csv.gz", "x\n1\n"), ("a.tsv", "x\n1\n"), ("A.JSON.GZ", '[{"x": "1"}]')],
)
def test_compressed_files_are_read(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()))
    assert read_file(path) == [{"x": "1"}]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="broken gzip file"):
        read_file(path)


def test_cells_of_any_size(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "a.csv").write_text(f"text,label\n{'word ' * 40_000},1\n")
    assert len(read_file(tmp_path / "a.csv")[0]["text"]) == 200_000
    assert csv.field_size_limit() == limit


def test_what_was_not_plain_is_noted(tmp_path: Path) -> None:
    for name, text, note in (
        ("a.tsv", 'x\ty\n"a"\t1\nb\t"2\n', "quotation marks around cells are part of the text in 1 lines"),
        ("b.csv", "x,y\n1,2\n,\n", "1 rows have only empty cells and are left out"),
        ("c.tsv", 'x,y\n"1,5",2\n', "is separated by commas"),
        ("d.jsonl", '{"x": "half \\ud83d pair"}\n{"x": "\\ud83d\\ude00"}', "U\\+FFFD in line 1$"),
    ):
        (tmp_path / name).write_text(text)
        content = read_data_file(tmp_path / name)
        assert re.search(note, " ".join(content.notes))
    assert content.splits == {"train": [{"x": "half \ufffd pair"}, {"x": "😀"}]}


def test_one_file_with_splits(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"train": [{"x": 1}], "dev": [{"x": 2}], "test": []}')
    assert read_splits(path) == {"train": [{"x": 1}], "validation": [{"x": 2}]}
    with pytest.raises(DataError, match="has the splits train, dev where one list"):
        read_file(path)
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "train.json")
    with pytest.raises(DataError, match="has the splits train, dev itself"):
        read_splits(tmp_path / "folder")


def test_large_files_are_read_in_linear_time(tmp_path: Path) -> None:
    seconds = {}
    for rows in (4_000, 32_000):
        for name, line, head in (
            ("a.jsonl", '{"text": "a b c", "label": 1}\n', ""),
            ("a.csv", "a b c,1\n", "text,label\n"),
        ):
            (tmp_path / name).write_text(head + line * rows)
            start = time.perf_counter()
            assert len(read_file(tmp_path / name)) == rows
            seconds[name, rows] = time.perf_counter() - start
    for name in ("a.jsonl", "a.csv"):
        assert seconds[name, 32_000] < 24 * seconds[name, 4_000] + 0.1


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
