"""Splits: what is held out, what is drawn, and that no row is in two sets."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import numbered, rows, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from zotune.data.splits import load_splits
from zotune.errors import DataError, OptionError


def test_validation_selects_and_test_judges(toy: Path) -> None:
    splits = load_splits(toy, seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (64, 20, 20)
    assert "test set: 20 rows" in splits.summary


def test_one_held_out_split_is_halved(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(30))
    write_jsonl(tmp_path / "dev.jsonl", [{"text": str(i), "label": 0} for i in range(11)])
    splits = load_splits(tmp_path, seed=0)
    assert (len(splits.validation), len(splits.test)) == (5, 6)
    assert {r["text"] for r in splits.validation}.isdisjoint({r["text"] for r in splits.test})


@pytest.mark.parametrize(("n", "held"), [(1000, 200), (300, 100), (60, 30), (5, 2)])
def test_without_an_evaluation_split_a_fifth_is_held_out(tmp_path: Path, n: int, held: int) -> None:
    path = write_jsonl(tmp_path / "all.jsonl", [{"text": str(i), "label": i % 2} for i in range(n)])
    splits = load_splits(path, seed=1)
    parts = [{r["text"] for r in part} for part in (splits.train, splits.validation, splits.test)]
    assert len(splits.validation) + len(splits.test) == held
    assert sum(map(len, parts)) == n == len(set.union(*parts))
    assert f"{held} of {n} rows held out" in splits.summary
    assert load_splits(path, seed=1) == splits
    assert load_splits(path, seed=2).train != splits.train


def test_too_few_rows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "all.jsonl", rows(3))
    with pytest.raises(DataError, match="at least 4"):
        load_splits(path, seed=0)


def test_columns_are_renamed_and_checked(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"sentence": "x", "gold": 1}] * 8)
    splits = load_splits(path, seed=0, columns={"text": "sentence", "label": "gold"})
    assert splits.train[0] == {"sentence": "x", "gold": 1, "text": "x", "label": 1}
    with pytest.raises(DataError, match="columns found: sentence, gold"):
        load_splits(path, seed=0, columns={"text": "sentense"})


def test_unknown_split_offers_the_nearest(toy: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'validation'"):
        load_splits(toy, seed=0, eval_split="validaton")
    with pytest.raises(DataError, match="cannot be held out as well"):
        load_splits(toy, seed=0, eval_split="train")


def test_limit_takes_a_seeded_sample(toy: Path) -> None:
    a, b = load_splits(toy, seed=0, limit=10), load_splits(toy, seed=1, limit=10)
    assert len(a.train) == len(b.train) == 10
    assert a.train != b.train
    assert a.test == b.test


def test_a_large_file_is_read_in_seconds(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "all.jsonl", numbered(200_000, 5))
    start = time.monotonic()
    splits = load_splits(path, seed=0, k_per_class=16)
    assert time.monotonic() - start < 30
    assert len(splits.train) == 80


def test_splits_may_be_files(tmp_path: Path, toy: Path) -> None:
    extra = write_jsonl(tmp_path / "extra.jsonl", numbered(30))
    splits = load_splits(toy, seed=0, train_split=str(extra))
    assert splits.train == numbered(30)
    assert splits.test == load_splits(toy, seed=0).test
    splits = load_splits(toy, seed=0, eval_split=str(extra))
    assert splits.validation == numbered(30)
    assert len(splits.test) == 20
    splits = load_splits(tmp_path / "toy" / "train.jsonl", seed=0, test_split=str(extra))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (64, 15, 15)
    renamed = write_jsonl(tmp_path / "renamed.jsonl", [{"sentence": "x", "label": 0}] * 6)
    with pytest.raises(DataError, match=r"extra\.jsonl, line 1 has no column 'sentence'"):
        load_splits(renamed, seed=0, columns={"text": "sentence"}, test_split=str(extra))


def test_one_file_under_two_names_is_never_both_trained_on_and_held_out(toy: Path) -> None:
    for name in (toy / "validation.jsonl", toy / ".." / "toy" / "test.jsonl"):
        with pytest.raises(DataError, match="cannot be held out as well"):
            load_splits(toy, seed=0, train_split=str(name))
    (toy.parent / "link.jsonl").symlink_to(toy / "train.jsonl")
    with pytest.raises(DataError, match="cannot be held out as well"):
        load_splits(toy, seed=0, eval_split=str(toy.parent / "link.jsonl"))


def test_one_split_under_two_names_selects_and_judges_by_halves(toy: Path) -> None:
    for test in ("test", str(toy / "test.jsonl")):
        splits = load_splits(toy, seed=0, eval_split="test", test_split=test)
        assert (len(splits.validation), len(splits.test)) == (10, 10)
        assert "20 held-out rows" in splits.summary


def test_wrong_split_files(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'tset\.jsonl', and there is no such file"):
        load_splits(toy, seed=0, test_split="tset.jsonl")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(DataError, match="that is a folder, not a file"):
        load_splits(toy, seed=0, eval_split=str(tmp_path / "d.csv"))
    a, b = (write_jsonl(tmp_path / f"{x}.jsonl", numbered(8)) for x in "ab")
    with pytest.raises(DataError, match=r"a\.jsonl would not be used"):
        load_splits(a, seed=0, train_split=str(b))
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n{")
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2"):
        load_splits(toy, seed=0, eval_split=str(bad))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(2, 4))
def test_k_per_class_is_balanced_and_seeded(seed: int, k: int, classes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        records = [{"text": str(i), "label": "abcd"[min(i % 7, classes - 1)]} for i in range(280)]
        path = write_jsonl(Path(folder) / "all.jsonl", records)
        whole, splits = load_splits(path, seed=seed), load_splits(path, seed=seed, k_per_class=k)
        assert Counter(r["label"] for r in splits.train) == dict.fromkeys("abcd"[:classes], k)
        assert splits == load_splits(path, seed=seed, k_per_class=k)
        assert (splits.validation, splits.test) == (whole.validation, whole.test)
        assert all(r in whole.train for r in splits.train)
        more = load_splits(path, seed=seed, k_per_class=k + 1).train
        assert all(r in more for r in splits.train)
        assert f"{classes * k} of 180 training rows drawn: {k} of each of {classes} classes" in splits.summary
        assert "100 of 280 rows held out" in splits.summary


def test_another_seed_draws_other_rows(toy: Path) -> None:
    write_jsonl(toy / "train.jsonl", numbered(200))
    for draw in ({"train_size": 20}, {"k_per_class": 10}):
        a, b = (load_splits(toy, seed=seed, **draw) for seed in (0, 1))
        assert len(a.train) == len(b.train) == 20
        assert a.train != b.train
        assert a.digest != b.digest
        assert a == load_splits(toy, seed=0, **draw)
        assert (a.validation, a.test) == (b.validation, b.test)


def test_the_draw_of_a_class_depends_on_no_other(toy: Path) -> None:
    def drawn(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        write_jsonl(toy / "train.jsonl", records)
        return [r for r in load_splits(toy, seed=3, k_per_class=4).train if r["label"] == 1]

    ones, zeros = ([{"text": f"{x} {i}", "label": x} for i in range(30)] for x in (1, 0))
    assert (
        drawn(ones + zeros) == drawn(zeros[:9] + ones) == drawn([r for p in zip(ones, zeros, strict=True) for r in p])
    )


def test_train_size(toy: Path) -> None:
    splits = load_splits(toy, seed=0, train_size=10)
    assert len(splits.train) == 10
    assert "10 of 64 training rows drawn" in splits.summary
    assert all(r in load_splits(toy, seed=0, train_size=11).train for r in splits.train)
    assert load_splits(toy, seed=0, train_size=64).train == load_splits(toy, seed=0).train
    with pytest.raises(DataError, match="--train-size 65, but there are only 64 training rows"):
        load_splits(toy, seed=0, train_size=65)
    with pytest.raises(DataError, match="--train-size 10, but there are only 8"):
        load_splits(toy, seed=0, train_size=10, limit=8)


def test_numbers_that_make_no_sense(toy: Path) -> None:
    with pytest.raises(OptionError, match="exclude each other"):
        load_splits(toy, seed=0, train_size=10, k_per_class=2)
    with pytest.raises(OptionError, match="--train-size must be at least 1, got 0"):
        load_splits(toy, seed=0, train_size=0)
    with pytest.raises(OptionError, match="--k-per-class must be at least 1, got -1"):
        load_splits(toy, seed=0, k_per_class=-1)


def test_too_few_rows_of_a_class(tmp_path: Path) -> None:
    train = [{"text": str(i), "label": label} for i, label in enumerate(["yes"] * 6 + ["no"] * 3)]
    write_jsonl(tmp_path / "train.jsonl", train)
    dev = write_jsonl(tmp_path / "dev.jsonl", [{"text": "x", "label": "yes"}] * 4)
    assert len(load_splits(tmp_path, seed=0, k_per_class=3).train) == 6
    with pytest.raises(DataError, match="--k-per-class 4, but class 'no' has only 3 training rows"):
        load_splits(tmp_path, seed=0, k_per_class=4)
    write_jsonl(dev, [{"text": "x", "label": "maybe"}] * 4)
    with pytest.raises(DataError, match="class 'maybe' has only 0 training rows"):
        load_splits(tmp_path, seed=0, k_per_class=2)
    write_jsonl(dev, [{"text": "x", "label": "yes"}] * 4)
    write_jsonl(tmp_path / "train.jsonl", [*train, {"text": "y"}, {"text": "z", "label": ""}])
    splits = load_splits(tmp_path, seed=0, k_per_class=3)
    assert len(splits.train) == 6
    assert "2 training rows have no label and are not drawn" in splits.summary
    write_jsonl(tmp_path / "train.jsonl", [{"text": "y"}] * 4)
    with pytest.raises(DataError, match=r"train\.jsonl, line 1 has no column 'label'; columns found: text"):
        load_splits(tmp_path, seed=0, k_per_class=2)


def test_spellings_of_one_class_are_one(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"label": x} for x in (1, 1.0, "1", True, 0, "0 ", False, 0.0)])
    write_jsonl(tmp_path / "test.jsonl", numbered(4))
    assert len(load_splits(tmp_path, seed=0, k_per_class=4).train) == 8


def test_half_a_surrogate_pair_does_not_stop_the_digest(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d"}\n' * 8)
    assert load_splits(tmp_path / "a.jsonl", seed=0).digest
