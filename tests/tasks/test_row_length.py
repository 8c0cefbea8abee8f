"""Large sets are tokenised on demand: the same rows, the same length, and no row that nobody reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from zotune.data.classes import Classes
from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.errors import OptionError
from zotune.models import loading
from zotune.models.model_files import find_model
from zotune.tasks import build, encoded_rows, row_length
from zotune.tasks.encoded_rows import EncodedRows
from zotune.tasks.row_length import encode_sets

MANY = [{"text": f"the {'film' if k % 3 else 'cat'} ran" + " very" * (k % 5), "label": k % 2} for k in range(300)]


class Counted:
    """Makes tasks that count the records that they tokenise."""

    def __init__(self, folder: Path) -> None:
        files = find_model(str(folder))
        self.loaded = loading.load(files.source, files.folder, files.head, classes=2)
        self.count = 0

    def __call__(self, length: int) -> Any:
        spec = TaskSpec("classification", Template("{text}"), Classes(("0", "1"), ("bad", "good")))
        task = build.build(self.loaded, spec, length, 16)
        rows = task.rows

        def counted(records: Sequence[Record]) -> EncodedRows:
            self.count += len(records)
            return rows(records)

        task.rows = counted  # type: ignore[method-assign]
        return task


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_length, "EAGER_ROWS", 100)
    monkeypatch.setattr(row_length, "CHECKED_ROWS", 10)


@pytest.mark.usefixtures("small")
def test_rows_read_on_demand_equal_rows_read_at_once(tiny_encoder: Path) -> None:
    make = Counted(tiny_encoder)
    _, (eager,), _ = encode_sets(make, 32, True, [MANY])
    before = make.count
    _, (lazy, held_out), notes = encode_sets(make, 32, True, [MANY, MANY[:5]], large=(0, 1))
    assert make.count - before == 20 + 5
    assert (len(lazy), len(held_out), notes) == (300, 5, [])
    for name in ("prompts", "gold", "options", "tokens"):
        expected, column = getattr(eager, name), getattr(lazy, name)
        assert column[7] == expected[7]
        assert column[-1] == expected[-1]
        assert column[10:13] == expected[10:13]
        assert list(column) == list(expected)
    assert make.count - before == 25 + 300
    assert lazy.subset([3, 1]).tokens == [eager.tokens[3], eager.tokens[1]]
    with pytest.raises(IndexError):
        lazy.tokens[300]


@pytest.mark.usefixtures("small")
def test_one_long_row_among_many_is_found(tiny_encoder: Path) -> None:
    make = Counted(tiny_encoder)
    many = [*MANY, {"text": "cat " * 30, "label": 0}]
    task, (rows,), notes = encode_sets(make, 20, False, [many], large=(0,))
    assert task.max_length > 20
    assert notes == [f"at least 1 rows are longer than 20 tokens: rows are read up to {task.max_length} (--max-length)"]
    assert len(rows.tokens[300]) == 32
    _, _, notes = encode_sets(make, 20, True, [many], large=(0,))
    assert notes == ["at least 1 of 301 rows are longer than 20 tokens and were shortened (--max-length)"]


@pytest.mark.usefixtures("small")
def test_a_row_that_is_shortened_during_the_run_is_reported_once(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_length, "_bytes", lambda value: 0)  # the longest rows are not known
    make = Counted(tiny_encoder)
    said: list[str] = []
    many = [*MANY, *({"text": "cat " * 40, "label": 0} for _ in range(3))]
    monkeypatch.setattr(row_length.random.Random, "sample", lambda self, population, k: population[:k])
    _, (rows,), notes = encode_sets(make, 20, True, [many], large=(0,), note=said.append)
    assert (notes, said) == ([], [])
    assert [len(rows.tokens[k]) for k in (300, 301, 302)] == [20, 20, 20]
    assert said == ["row 301 is longer than 20 tokens and is shortened (--max-length)"]


@pytest.mark.usefixtures("small")
def test_a_fault_in_a_long_row_is_found_before_the_run(tiny_llama: Path) -> None:
    files = find_model(str(tiny_llama))
    loaded = loading.load(files.source, files.folder, files.head)
    spec = TaskSpec("generation", Template("{prompt} {completion}"), max_new_tokens=4)
    records = [{"prompt": "the cat", "completion": "ran"} for _ in range(200)]
    records[150]["completion"] = "ran " * 90
    with pytest.raises(OptionError, match="longer than --max-length"):
        encode_sets(lambda n: build.build(loaded, spec, n, 4), 24, True, [records], large=(0,))


def test_few_rows_are_kept(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_rows, "KEPT", 3)
    task = Counted(tiny_encoder)(32)
    read: list[str] = []

    def encode(records: Sequence[Record]) -> EncodedRows:
        read.extend(r["text"] for r in records)
        return EncodedRows(records, ["p"], [[0]], [["a"]], [len(read)], 0)

    rows = encoded_rows.on_demand(MANY[:5], encode, lambda index: None)
    assert [rows.tokens[k] for k in (0, 1, 2, 0, 3, 2, 0)] == [1, 2, 3, 1, 4, 3, 5]
    assert task.max_length == 32
