"""Sources: paths, folders and the names of their splits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import numbered, rows, write_jsonl

from zotune.data.readers import read_file
from zotune.data.sources import load_source, read_splits
from zotune.data.splits import load_splits
from zotune.errors import DataError


def test_missing_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_splits(tmp_path / "none")
    with pytest.raises(DataError, match="has no data file"):
        read_splits(tmp_path)


def test_the_embedded_data_is_what_the_readme_says() -> None:
    from zotune.runs.plan import embedded_data

    by_name = read_splits(embedded_data())
    assert {k: len(v) for k, v in by_name.items()} == {"train": 400, "validation": 200, "test": 300}
    texts = [r["text"] for part in by_name.values() for r in part]
    assert len({t.lower() for t in texts}) == 900
    labels = {r["label"] for part in by_name.values() for r in part}
    assert labels == {"billing", "delivery", "technical problem", "cancellation", "praise", "other question"}
    words = {name: [set(r["text"].lower().split()) for r in part] for name, part in by_name.items()}
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        worst = max(len(x & y) / len(x | y) for x in words[a] for y in words[b])
        assert worst < 0.6, f"near-duplicates between {a} and {b}"
    for part in by_name.values():
        counts = {x: sum(r["label"] == x for r in part) for x in labels}
        assert max(counts.values()) > 2 * min(counts.values())
    json.dumps(by_name)


def test_empty_and_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", rows(8))  # an empty path must not mean the working folder
    for empty in ("", "  "):
        with pytest.raises(DataError, match="path of the data is empty"):
            read_splits(empty)
    with pytest.raises(DataError, match="File name too long"):
        read_splits("a" * 5000 + ".jsonl")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        read_splits(os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_splits("~/train.jsonl") == read_splits("train.jsonl")


def test_folders_named_like_files(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(DataError, match=r"train\.jsonl is a folder, but named like a data file"):
        read_splits(tmp_path)
    with pytest.raises(DataError, match="has no data file"):
        read_splits(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match="Is a directory"):
        read_file(tmp_path / "train.jsonl")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"train\.csv is missing"):
        read_splits(tmp_path / "broken")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_and_folders(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in" / "train.jsonl", rows(8))
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read_splits(path)
    path.chmod(0o600)
    path.parent.chmod(0)
    try:
        for source in (path, path.parent):
            with pytest.raises(DataError, match="cannot be read: Permission denied"):
                read_splits(source)
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize("method", ["read_bytes", "iterdir", "exists"])
def test_a_refusal_of_the_operating_system_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", rows(8))

    def refuse(*args: object, **kw: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read_splits(path.parent if method == "iterdir" else path)


def test_two_files_for_one_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "extra.jsonl", rows(8))
    (tmp_path / "extra.json").write_text("[]")
    with pytest.raises(DataError, match=r"more than one extra file: extra\.json, extra\.jsonl"):
        read_splits(tmp_path)


def test_a_second_validation_split_keeps_its_own_name(tmp_path: Path) -> None:
    for name, n in (("train", 12), ("dev", 4), ("validation_matched", 6), ("validation_mismatched", 8)):
        write_jsonl(tmp_path / f"{name}.jsonl", numbered(n))
    by_name = read_splits(tmp_path)
    assert {k: len(v) for k, v in by_name.items()} == {
        "train": 12,
        "validation": 6,
        "dev": 4,
        "validation_mismatched": 8,
    }
    assert len(load_splits(tmp_path, seed=0, eval_split="validation_matched").validation) == 3
    assert len(load_splits(tmp_path, seed=0, eval_split="dev").validation) == 2


@pytest.mark.parametrize(
    "names",
    [
        ("test_0.jsonl", "test_1.jsonl", "test_10.jsonl"),
        ("test.part1.jsonl", "test.part2.jsonl", "test.part10.jsonl"),
        ("test-00000-of-00003.jsonl", "test-00001-of-00003.jsonl", "test-00002-of-00003.jsonl"),
    ],
)
def test_several_files_of_a_split_are_read_as_one(names: tuple[str, ...], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        (tmp_path / name).write_text(json.dumps({"text": f"row {number}", "label": 1}) + "\n")
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 0}\n')
    source = load_source(tmp_path)
    assert [r["text"] for r in source.splits["test"]] == ["row 0", "row 1", "row 2"]
    assert "test: 3 files are read as one split" in source.notes
    (tmp_path / "test.jsonl").write_text('{"text": "b", "label": 0}\n')
    with pytest.raises(DataError, match="more than one test file"):
        load_source(tmp_path)
