"""Files to records: what is wrong is named with file and line."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import rows, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from zotune.data import readers, splits
from zotune.errors import DataError, OptionError


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
    assert splits.read_file(tmp_path / name) == expected


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
        ("a.csv", "x,y\n1,2\n3\n", "line 3: 1 cells"),
        ("a.tsv", "", "holds no records"),
        ("a.json", "[]", "holds no records"),
        ("a.json", '[{"x": 1}, null]', "record 2: a record must be an object, got NoneType"),
        ("a.csv", 'x,y\n1,"2\n', "line 2"),
        ("a.txt", "hello", "unknown kind of file '.txt'"),
    ],
)
def test_broken_files_name_the_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said) as error:
        splits.read_file(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"x": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8"):
        splits.read_file(tmp_path / "a.jsonl")


def test_missing_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        splits.read_splits(tmp_path / "none")
    with pytest.raises(DataError, match="holds no data file"):
        splits.read_splits(tmp_path)


def test_validation_selects_and_test_judges(toy: Path) -> None:
    found = splits.load_splits(toy, seed=0)
    assert (len(found.train), len(found.validation), len(found.test)) == (64, 20, 20)
    assert "20 test rows judge" in found.summary


def test_one_held_out_split_is_halved(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(30))
    write_jsonl(tmp_path / "dev.jsonl", [{"text": str(i), "label": 0} for i in range(11)])
    found = splits.load_splits(tmp_path, seed=0)
    assert (len(found.validation), len(found.test)) == (5, 6)
    assert {r["text"] for r in found.validation}.isdisjoint({r["text"] for r in found.test})


@pytest.mark.parametrize(("n", "held"), [(1000, 200), (300, 100), (60, 30), (5, 2)])
def test_without_an_evaluation_split_a_fifth_is_held_out(tmp_path: Path, n: int, held: int) -> None:
    path = write_jsonl(tmp_path / "all.jsonl", [{"text": str(i), "label": i % 2} for i in range(n)])
    found = splits.load_splits(path, seed=1)
    parts = [{r["text"] for r in part} for part in (found.train, found.validation, found.test)]
    assert len(found.validation) + len(found.test) == held
    assert sum(map(len, parts)) == n == len(set.union(*parts))
    assert f"{held} of {n} rows held out" in found.summary
    assert splits.load_splits(path, seed=1) == found
    assert splits.load_splits(path, seed=2).train != found.train


def test_too_few_rows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "all.jsonl", rows(3))
    with pytest.raises(DataError, match="at least 4"):
        splits.load_splits(path, seed=0)


def test_columns_are_renamed_and_checked(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"sentence": "x", "gold": 1}] * 8)
    found = splits.load_splits(path, seed=0, columns={"text": "sentence", "label": "gold"})
    assert found.train[0] == {"sentence": "x", "gold": 1, "text": "x", "label": 1}
    with pytest.raises(DataError, match="columns found: sentence, gold"):
        splits.load_splits(path, seed=0, columns={"text": "sentense"})


def test_unknown_split_offers_the_nearest(toy: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'validation'"):
        splits.load_splits(toy, seed=0, eval_split="validaton")
    with pytest.raises(DataError, match="cannot also be held out"):
        splits.load_splits(toy, seed=0, eval_split="train")


def test_limit_takes_a_seeded_sample(toy: Path) -> None:
    a, b = splits.load_splits(toy, seed=0, limit=10), splits.load_splits(toy, seed=1, limit=10)
    assert len(a.train) == len(b.train) == 10
    assert a.train != b.train
    assert a.test == b.test


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(readers.SUFFIXES), st.binary(max_size=120))
def test_any_bytes_are_records_or_one_clear_error(suffix: str, raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(raw)
        try:
            found = splits.read_file(path)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert found
            assert all(isinstance(r, dict) for r in found)


def test_the_embedded_data_is_what_the_readme_says() -> None:
    from zotune.runs.plan import embedded_data

    found = splits.read_splits(embedded_data())
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


def numbered(n: int, classes: int = 2) -> list[dict[str, Any]]:
    return [{"text": f"row {i}", "label": i % classes} for i in range(n)]


# What a path may be


def test_empty_and_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", rows(8))  # an empty path must not mean the working folder
    for empty in ("", "  "):
        with pytest.raises(DataError, match="path of the data is empty"):
            splits.read_splits(empty)
    with pytest.raises(DataError, match="File name too long"):
        splits.read_splits("a" * 5000 + ".jsonl")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        splits.read_splits(os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert splits.read_splits("~/train.jsonl") == splits.read_splits("train.jsonl")


def test_folders_named_like_files(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(DataError, match=r"train\.jsonl is a folder, but named like a data file"):
        splits.read_splits(tmp_path)
    with pytest.raises(DataError, match="holds no data file"):
        splits.read_splits(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match="Is a directory"):
        splits.read_file(tmp_path / "train.jsonl")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"train\.csv is missing"):
        splits.read_splits(tmp_path / "broken")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_and_folders(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in" / "train.jsonl", rows(8))
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        splits.read_splits(path)
    path.chmod(0o600)
    path.parent.chmod(0)
    try:
        for source in (path, path.parent):
            with pytest.raises(DataError, match="cannot be read: Permission denied"):
                splits.read_splits(source)
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize("method", ["read_text", "iterdir", "exists"])
def test_what_the_system_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", rows(8))

    def refuse(*args: object, **kw: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        splits.read_splits(path.parent if method == "iterdir" else path)


def test_two_files_for_one_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "extra.jsonl", rows(8))
    (tmp_path / "extra.json").write_text("[]")
    with pytest.raises(DataError, match=r"more than one extra file: extra\.json, extra\.jsonl"):
        splits.read_splits(tmp_path)


def test_a_name_that_counts_as_validation_hides_no_other(tmp_path: Path) -> None:
    for name, n in (("train", 12), ("dev", 4), ("validation_matched", 6), ("validation_mismatched", 8)):
        write_jsonl(tmp_path / f"{name}.jsonl", numbered(n))
    found = splits.read_splits(tmp_path)
    assert {k: len(v) for k, v in found.items()} == {
        "train": 12,
        "validation": 6,
        "dev": 4,
        "validation_mismatched": 8,
    }
    assert len(splits.load_splits(tmp_path, seed=0, eval_split="validation_matched").validation) == 3
    assert len(splits.load_splits(tmp_path, seed=0, eval_split="dev").validation) == 2


def test_a_large_file_is_read_in_seconds(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "all.jsonl", numbered(200_000, 5))
    start = time.monotonic()
    found = splits.load_splits(path, seed=0, k_per_class=16)
    assert time.monotonic() - start < 30
    assert len(found.train) == 80


# Parquet


def test_parquet_values_are_plain(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    records = [
        {"text": "é", "label": 1, "spans": ["a", "b"], "nested": {"x": [1.5]}, "none": None},
        {"text": "b", "label": 0, "spans": [], "nested": {"x": []}, "none": "y"},
    ]
    folder = tmp_path / "label=7"  # a folder name that other readers take for a column
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(records), folder / "train-00000-of-00001.parquet")
    found = splits.read_splits(folder)
    assert found == {"train": records}
    assert type(found["train"][0]["label"]) is int
    coded = pa.table({"label": pa.array(["x", "y", "x"]).dictionary_encode()})
    pq.write_table(coded, tmp_path / "a.parquet")
    assert splits.read_file(tmp_path / "a.parquet") == [{"label": "x"}, {"label": "y"}, {"label": "x"}]


def test_broken_parquet(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [str(i) for i in range(100)]}), path)
    whole = path.read_bytes()
    for raw in (b"", b"PAR1", b"x" * 50, whole[:-20], whole[:4] + b"\xff" * 60 + whole[64:]):
        path.write_bytes(raw)
        with pytest.raises(DataError, match="broken parquet: ") as error:
            splits.read_file(path)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match="holds no records"):
        splits.read_file(path)
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), path)
    with pytest.raises(DataError, match="a column name occurs twice: x, x"):
        splits.read_file(path)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"pip install 'zotune\[parquet\]'"):
        splits.read_file(tmp_path / "a.parquet")


# The hub


class FakeClassLabel:
    def __init__(self, *names: str) -> None:
        self.names = names


class FakeHub:
    """Stands in for the `datasets` library: `splits` are split name → (features, rows)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cwd: Path) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.splits: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
        self.error: Exception | None = None
        self.module = ModuleType("datasets")
        vars(self.module).update(__version__="5.0.0", ClassLabel=FakeClassLabel, load_dataset=self.load)
        monkeypatch.setitem(sys.modules, "datasets", self.module)
        monkeypatch.chdir(cwd)

    def load(self, *args: object, **kw: object) -> dict[str, Any]:
        self.calls.append((*args, kw))
        if self.error:
            raise self.error
        return {s: SimpleNamespace(features=f, to_list=lambda r=r: r) for s, (f, r) in self.splits.items()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    return FakeHub(monkeypatch, tmp_path)


SENTIMENT = {"label": FakeClassLabel("negative", "positive"), "text": None}


def test_a_hub_id_with_hidden_test_labels(hub: FakeHub) -> None:
    hub.splits = {
        "train": (SENTIMENT, numbered(12)),
        "validation_matched": (SENTIMENT, numbered(6)),
        "validation_mismatched": (SENTIMENT, numbered(4)),
        "test": (SENTIMENT, [{"text": "?", "label": -1}] * 3),
        "extra": (SENTIMENT, []),
    }
    found = splits.load_splits("nyu-mll/glue:mnli", seed=0)
    assert hub.calls == [("nyu-mll/glue", "mnli", {"revision": None})]
    assert (len(found.train), len(found.validation), len(found.test)) == (12, 3, 3)
    assert found.train[1] == {"text": "row 1", "label": 1, "label_text": "positive"}
    assert "split 'test' left out: its labels are hidden (-1)" in found.summary
    assert "split 'extra' left out: it holds no records" in found.summary
    assert set(splits.read_splits("nyu-mll/glue:mnli")) == {"train", "validation", "validation_mismatched"}
    with pytest.raises(DataError, match=r"split 'test' cannot be used: its labels are hidden"):
        splits.load_splits("nyu-mll/glue:mnli", seed=0, test_split="test")
    for name in ("validation_matched", "validation_mismatched"):
        assert "held-out rows" in splits.load_splits("nyu-mll/glue:mnli", seed=0, eval_split=name).summary


def test_hub_ids_without_owner_and_configuration(hub: FakeHub) -> None:
    hub.splits = {"train": ({}, numbered(12))}
    assert splits.read_splits("imdb") == {"train": numbered(12)}
    assert hub.calls == [("imdb", None, {"revision": None})]


def test_class_names_of_other_columns(hub: FakeHub) -> None:
    features = {"fine": FakeClassLabel("a", "b"), "coarse": FakeClassLabel("x", "y")}
    hub.splits = {"train": (features, [{"text": str(i), "fine": i % 2, "coarse": 1} for i in range(8)])}
    row = splits.load_splits("trec", seed=0, columns={"label": "fine"}).train[0]
    assert row["label_text"] == row["fine_text"] == "ab"[row["label"]]
    assert row["coarse_text"] == "y"
    assert "label_text" not in splits.read_splits("trec")["train"][0]


def test_rows_without_a_class(hub: FakeHub) -> None:
    hub.splits = {"train": (SENTIMENT, [*numbered(12), {"text": "no gold", "label": -1}])}
    found = splits.load_splits("snli", seed=0)
    assert "1 rows of split 'train' left out: they have no label (-1)" in found.summary
    hub.splits = {"train": ({}, [*numbered(6), {"text": "bad", "label": -1}])}  # a class that is called -1
    assert len(splits.read_splits("snli")["train"]) == 7
    hub.splits = {"train": (SENTIMENT, [{"text": "x", "label": -1}] * 4)}  # no task of labels
    assert splits.read_splits("texts")["train"][0] == {"text": "x", "label": -1, "label_text": None}


PATHS = ["./imdb", "../imdb", "~/imdb", "/imdb", "a/b/c", "imdb.csv", "own/x.jsonl", "own/x.parquet", "x.json:c"]
NO_NAMES = ["a b", "a\\b", "imdb:", ":sst2", "a//b", "a/", "-x", "a:b:c", "é"]


@pytest.mark.parametrize("spec", PATHS + NO_NAMES)
def test_what_looks_like_a_path_is_never_looked_up(hub: FakeHub, spec: str) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        splits.read_splits(spec)
    assert not hub.calls


def test_what_is_here_is_never_looked_up(hub: FakeHub, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "imdb" / "train.jsonl", numbered(8))
    assert len(splits.read_splits("imdb")["train"]) == 8
    with pytest.raises(DataError, match="only a hub data set has a configuration 'plain'"):
        splits.read_splits("imdb:plain")
    with pytest.raises(DataError, match=r"no such file or folder$"):
        splits.read_splits(Path("other"))
    assert not hub.calls


def test_hub_failures_are_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.error = ConnectionError("Couldn't reach 'own/toy' on the Hub (OfflineModeIsEnabled)")
    with pytest.raises(DataError, match=r"own/toy: no such file or folder, .*not in the cache; HF_HUB_OFFLINE forbids"):
        splits.read_splits("own/toy")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(DataError, match=r"the hub gives no such data set: Couldn't reach"):
        splits.read_splits("own/toy")
    hub.error = ValueError("Config name is missing.\nPlease pick one among the available configs: ['cola', 'sst2']")
    with pytest.raises(DataError, match=r"missing\. Please pick .*'sst2'\] \(glue:CONFIG\)"):
        splits.read_splits("glue")
    vars(hub.module)["__version__"] = "2.19.1"
    with pytest.raises(DataError, match=r"needs datasets 4 or newer, found 2\.19\.1"):
        splits.read_splits("glue")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"glue: no such file or folder; .*pip install 'zotune\[hub\]'"):
        splits.read_splits("glue")


@pytest.fixture
def real_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real library, with a data set saved here in place of the hub's."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["negative", "positive"]),
            "answers": datasets.Sequence({"text": datasets.Value("string"), "answer_start": datasets.Value("int32")}),
        }
    )

    def part(n: int, hidden: bool = False) -> Any:
        columns = {"text": [f"row {i}" for i in range(n)], "label": [-1 if hidden else i % 2 for i in range(n)]}
        answers = [{"text": ["a", "a", "b"], "answer_start": [1, 2, 3]}] * n
        return datasets.Dataset.from_dict({**columns, "answers": answers}, features=features)

    saved = datasets.DatasetDict({"train": part(12), "validation": part(6), "test": part(3, hidden=True)})
    saved.save_to_disk(tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **kw: datasets.load_from_disk(tmp_path / "saved"))
    return datasets


def test_features_of_the_real_library(real_hub: Any) -> None:
    found = splits.load_splits("own/toy", seed=0, k_per_class=2)
    assert found.train[0].keys() == {"text", "label", "label_text", "answers"}
    assert all(r["label_text"] == ("negative", "positive")[r["label"]] for r in found.train)
    assert found.train[0]["answers"] == ["a", "b"]
    assert "split 'test' left out" in found.summary


def test_a_builder_of_the_real_library_is_no_data_set(real_hub: Any, tmp_path: Path) -> None:
    for name in ("json", "text", "csv"):
        with pytest.raises(DataError, match=f"'{name}' is a kind of file"):
            splits.read_splits(name)


def test_the_real_library_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    if not datasets.config.HF_HUB_OFFLINE:
        pytest.skip("the library was imported while the hub was allowed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE forbids"):
        splits.read_splits("zotune-tests/no-such-data-set:x")


# Splits by name or file


def test_splits_may_be_files(tmp_path: Path, toy: Path) -> None:
    extra = write_jsonl(tmp_path / "extra.jsonl", numbered(30))
    found = splits.load_splits(toy, seed=0, train_split=str(extra))
    assert found.train == numbered(30)
    assert found.test == splits.load_splits(toy, seed=0).test
    found = splits.load_splits(toy, seed=0, eval_split=str(extra))
    assert found.validation == numbered(30)
    assert len(found.test) == 20
    found = splits.load_splits(tmp_path / "toy" / "train.jsonl", seed=0, test_split=str(extra))
    assert (len(found.train), len(found.validation), len(found.test)) == (64, 15, 15)
    renamed = write_jsonl(tmp_path / "renamed.jsonl", [{"sentence": "x", "label": 0}] * 6)
    with pytest.raises(DataError, match="test record 1 has no column 'sentence'"):
        splits.load_splits(renamed, seed=0, columns={"text": "sentence"}, test_split=str(extra))


def test_one_file_under_two_names_is_never_both_trained_on_and_held_out(toy: Path) -> None:
    for name in (toy / "validation.jsonl", toy / ".." / "toy" / "test.jsonl"):
        with pytest.raises(DataError, match="cannot also be held out"):
            splits.load_splits(toy, seed=0, train_split=str(name))
    (toy.parent / "link.jsonl").symlink_to(toy / "train.jsonl")
    with pytest.raises(DataError, match="cannot also be held out"):
        splits.load_splits(toy, seed=0, eval_split=str(toy.parent / "link.jsonl"))


def test_one_split_under_two_names_selects_and_judges_by_halves(toy: Path) -> None:
    for test in ("test", str(toy / "test.jsonl")):
        found = splits.load_splits(toy, seed=0, eval_split="test", test_split=test)
        assert (len(found.validation), len(found.test)) == (10, 10)
        assert "20 held-out rows" in found.summary


def test_wrong_split_files(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'tset\.jsonl', and there is no such file"):
        splits.load_splits(toy, seed=0, test_split="tset.jsonl")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(DataError, match="that is a folder, not a file"):
        splits.load_splits(toy, seed=0, eval_split=str(tmp_path / "d.csv"))
    a, b = (write_jsonl(tmp_path / f"{x}.jsonl", numbered(8)) for x in "ab")
    with pytest.raises(DataError, match=r"a\.jsonl would not be used"):
        splits.load_splits(a, seed=0, train_split=str(b))
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n{")
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2"):
        splits.load_splits(toy, seed=0, eval_split=str(bad))


# Drawing training rows


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(2, 4))
def test_k_per_class_is_balanced_and_seeded(seed: int, k: int, classes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        records = [{"text": str(i), "label": "abcd"[min(i % 7, classes - 1)]} for i in range(280)]
        path = write_jsonl(Path(folder) / "all.jsonl", records)
        whole, found = splits.load_splits(path, seed=seed), splits.load_splits(path, seed=seed, k_per_class=k)
        assert Counter(r["label"] for r in found.train) == dict.fromkeys("abcd"[:classes], k)
        assert found == splits.load_splits(path, seed=seed, k_per_class=k)
        assert (found.validation, found.test) == (whole.validation, whole.test)
        assert all(r in whole.train for r in found.train)
        more = splits.load_splits(path, seed=seed, k_per_class=k + 1).train
        assert all(r in more for r in found.train)
        assert f"{classes * k} of 180 training rows drawn: {k} of each of {classes} classes" in found.summary
        assert "100 of 280 rows held out" in found.summary


def test_another_seed_draws_other_rows(toy: Path) -> None:
    write_jsonl(toy / "train.jsonl", numbered(200))
    for draw in ({"train_size": 20}, {"k_per_class": 10}):
        a, b = (splits.load_splits(toy, seed=seed, **draw) for seed in (0, 1))
        assert len(a.train) == len(b.train) == 20
        assert a.train != b.train
        assert a.digest != b.digest
        assert a == splits.load_splits(toy, seed=0, **draw)
        assert (a.validation, a.test) == (b.validation, b.test)


def test_the_draw_of_a_class_depends_on_no_other(toy: Path) -> None:
    def drawn(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        write_jsonl(toy / "train.jsonl", records)
        return [r for r in splits.load_splits(toy, seed=3, k_per_class=4).train if r["label"] == 1]

    ones, zeros = ([{"text": f"{x} {i}", "label": x} for i in range(30)] for x in (1, 0))
    assert (
        drawn(ones + zeros) == drawn(zeros[:9] + ones) == drawn([r for p in zip(ones, zeros, strict=True) for r in p])
    )


def test_train_size(toy: Path) -> None:
    found = splits.load_splits(toy, seed=0, train_size=10)
    assert len(found.train) == 10
    assert "10 of 64 training rows drawn" in found.summary
    assert all(r in splits.load_splits(toy, seed=0, train_size=11).train for r in found.train)
    assert splits.load_splits(toy, seed=0, train_size=64).train == splits.load_splits(toy, seed=0).train
    with pytest.raises(DataError, match="--train-size 65, but there are only 64 training rows"):
        splits.load_splits(toy, seed=0, train_size=65)
    with pytest.raises(DataError, match="--train-size 10, but there are only 8"):
        splits.load_splits(toy, seed=0, train_size=10, limit=8)


def test_numbers_that_make_no_sense(toy: Path) -> None:
    with pytest.raises(OptionError, match="exclude each other"):
        splits.load_splits(toy, seed=0, train_size=10, k_per_class=2)
    with pytest.raises(OptionError, match="--train-size 0 must be at least 1"):
        splits.load_splits(toy, seed=0, train_size=0)
    with pytest.raises(OptionError, match="--k-per-class -1 must be at least 1"):
        splits.load_splits(toy, seed=0, k_per_class=-1)


def test_too_few_rows_of_a_class(tmp_path: Path) -> None:
    train = [{"text": str(i), "label": label} for i, label in enumerate(["yes"] * 6 + ["no"] * 3)]
    write_jsonl(tmp_path / "train.jsonl", train)
    dev = write_jsonl(tmp_path / "dev.jsonl", [{"text": "x", "label": "yes"}] * 4)
    assert len(splits.load_splits(tmp_path, seed=0, k_per_class=3).train) == 6
    with pytest.raises(DataError, match="--k-per-class 4, but class 'no' has only 3 training rows"):
        splits.load_splits(tmp_path, seed=0, k_per_class=4)
    write_jsonl(dev, [{"text": "x", "label": "maybe"}] * 4)
    with pytest.raises(DataError, match="class 'maybe' has only 0 training rows"):
        splits.load_splits(tmp_path, seed=0, k_per_class=2)
    write_jsonl(tmp_path / "train.jsonl", [*train, {"text": "y"}])
    with pytest.raises(DataError, match="training record 10 has no column 'label'; columns found: text, label"):
        splits.load_splits(tmp_path, seed=0, k_per_class=2)


def test_spellings_of_one_class_are_one(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"label": x} for x in (1, 1.0, "1", True, 0, "0 ", False, 0.0)])
    write_jsonl(tmp_path / "test.jsonl", numbered(4))
    assert len(splits.load_splits(tmp_path, seed=0, k_per_class=4).train) == 8


def test_half_a_surrogate_pair_does_not_stop_the_digest(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d"}\n' * 8)
    assert splits.load_splits(tmp_path / "a.jsonl", seed=0).digest


# Shapes


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        (
            {"question": "q", "context": "c", "answers": {"text": ["b", "a", "b"], "answer_start": [5, 0, 9]}},
            ["b", "a"],
        ),
        ({"question": "q", "context": "c", "answers": {"text": [], "answer_start": []}}, []),
        ({"passage": "p", "question": "q", "answers_spans": {"spans": ["1", "1"], "types": ["number"] * 2}}, ["1"]),
    ],
)
def test_answers_become_texts(row: dict[str, Any], answers: list[str]) -> None:
    before = json.dumps(row)
    assert splits.normalize([row]) == [{**row, "answers": answers}]
    assert json.dumps(row) == before


MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "x", "label": 1},
        {"question": "q", "answers": ["a", "a"]},
        {"answers": {"A": "one", "B": "two"}},
        {"answers": ["x"], "answers_spans": {"spans": ["y"]}},
        {"messages": MESSAGES},
        {"messages": [{"role": "system", "content": ""}, {"role": "tool", "content": "{}", "name": "t"}]},
        {"messages": "a column of texts that is called so", "label": 1},
        {"prompt": "p", "completion": "c"},
        {"prompt": "p", "chosen": "c", "rejected": "r"},
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:], "messages": MESSAGES[:1]},
    ],
)
def test_other_shapes_stay_as_they_are(row: dict[str, Any]) -> None:
    assert splits.normalize([row]) == [row]


def test_conversations_stand_together_as_messages() -> None:
    asked, said, other = MESSAGES[:1], MESSAGES[1:], [{"role": "assistant", "content": "go away"}]
    for row, together in (
        ({"prompt": asked}, asked),
        ({"prompt": asked, "completion": "hello"}, MESSAGES),
        ({"prompt": asked, "chosen": said, "rejected": other}, MESSAGES),
    ):
        assert splits.normalize([row]) == [{**row, "messages": together}]
    whole = {"chosen": MESSAGES, "rejected": [*asked, *other]}  # what both begin with is the prompt
    assert splits.normalize([whole]) == [{"prompt": asked, "chosen": said, "rejected": other, "messages": MESSAGES}]
    with pytest.raises(DataError, match="chosen: message 1 has the role 'nobody'"):
        splits.normalize([{"prompt": asked, "chosen": [{"role": "nobody", "content": ""}], "rejected": other}])


def test_prompt_and_completion_stand_together_as_messages() -> None:
    row = {"prompt": MESSAGES[:1], "completion": MESSAGES[1:], "id": 3}
    assert splits.normalize([row]) == [{**row, "messages": MESSAGES}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": []}, r"record 2: messages must be a list of messages, got \[\]"),
        ({"messages": None}, "record 2: messages must be a list"),
        ({"messages": ["hi"]}, "message 1 must have a role and a content, got 'hi'"),
        (
            {"messages": [*MESSAGES, {"role": "bot", "content": "x"}]},
            "message 3 has the role 'bot' .known: system, user",
        ),
        ({"messages": [{"from": "human", "value": "x"}]}, "message 1 has the role None"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "message 1 needs a text as content"),
        ({"messages": [{"role": "user"}]}, "message 1 needs a text as content, got None"),
        ({"prompt": MESSAGES, "completion": [{"role": "x", "content": ""}]}, "record 2: completion: message 1"),
        ({"answers": {"text": ["a", 1]}}, "record 2: answers must be texts, got 1"),
    ],
)
def test_broken_shapes_name_the_record(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "fine"}, row])
    with pytest.raises(DataError, match=said) as error:
        splits.read_splits(path)
    assert str(error.value).startswith(f"{path}, record 2: ")
