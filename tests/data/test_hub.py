"""Hub data sets, by a stand-in for the datasets library and by the library itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import numbered, write_jsonl

from zotune.data.sources import read_splits
from zotune.data.splits import load_splits
from zotune.errors import DataError


class FakeClassLabel:
    def __init__(self, *names: str) -> None:
        self.names = names


class FakeHub:
    """A stand-in for the `datasets` library. splits: split name → (features, rows)."""

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
    splits = load_splits("nyu-mll/glue:mnli", seed=0)
    assert hub.calls == [("nyu-mll/glue", "mnli", {"revision": None})]
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (12, 3, 3)
    assert splits.train[1] == {"text": "row 1", "label": 1, "label_text": "positive"}
    assert "split 'test' left out: its labels are hidden (-1)" in splits.summary
    assert "split 'extra' left out: it has no records" in splits.summary
    assert set(read_splits("nyu-mll/glue:mnli")) == {"train", "validation", "validation_mismatched"}
    with pytest.raises(DataError, match=r"split 'test' cannot be used: its labels are hidden"):
        load_splits("nyu-mll/glue:mnli", seed=0, test_split="test")
    for name in ("validation_matched", "validation_mismatched"):
        assert "held-out rows" in load_splits("nyu-mll/glue:mnli", seed=0, eval_split=name).summary


def test_hub_ids_without_owner_and_configuration(hub: FakeHub) -> None:
    hub.splits = {"train": ({}, numbered(12))}
    assert read_splits("imdb") == {"train": numbered(12)}
    assert hub.calls == [("imdb", None, {"revision": None})]


def test_class_names_of_other_columns(hub: FakeHub) -> None:
    features = {"fine": FakeClassLabel("a", "b"), "coarse": FakeClassLabel("x", "y")}
    hub.splits = {"train": (features, [{"text": str(i), "fine": i % 2, "coarse": 1} for i in range(8)])}
    row = load_splits("trec", seed=0, columns={"label": "fine"}).train[0]
    assert row["label_text"] == row["fine_text"] == "ab"[row["label"]]
    assert row["coarse_text"] == "y"
    assert "label_text" not in read_splits("trec")["train"][0]


def test_rows_without_a_class(hub: FakeHub) -> None:
    hub.splits = {"train": (SENTIMENT, [*numbered(12), {"text": "no gold", "label": -1}])}
    splits = load_splits("snli", seed=0)
    assert "1 rows of split 'train' left out: they have no label (-1)" in splits.summary
    hub.splits = {"train": ({}, [*numbered(6), {"text": "bad", "label": -1}])}  # a class that is called -1
    assert len(read_splits("snli")["train"]) == 7
    hub.splits = {"train": (SENTIMENT, [{"text": "x", "label": -1}] * 4)}  # no task of labels
    assert read_splits("texts")["train"][0] == {"text": "x", "label": -1, "label_text": None}


PATHS = ["./imdb", "../imdb", "~/imdb", "/imdb", "a/b/c", "imdb.csv", "own/x.jsonl", "own/x.parquet", "x.json:c"]


NO_NAMES = ["a b", "a\\b", "imdb:", ":sst2", "a//b", "a/", "-x", "a:b:c", "é"]


@pytest.mark.parametrize("spec", PATHS + NO_NAMES)
def test_a_path_is_never_looked_up_on_the_hub(hub: FakeHub, spec: str) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_splits(spec)
    assert not hub.calls


def test_a_local_folder_is_never_looked_up_on_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "imdb" / "train.jsonl", numbered(8))
    assert len(read_splits("imdb")["train"]) == 8
    with pytest.raises(DataError, match="only a hub data set has a configuration 'plain'"):
        read_splits("imdb:plain")
    with pytest.raises(DataError, match=r"no such file or folder$"):
        read_splits(Path("other"))
    assert not hub.calls


def test_hub_failures_are_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.error = ConnectionError("Couldn't reach 'own/toy' on the Hub (OfflineModeIsEnabled)")
    with pytest.raises(DataError, match=r"own/toy: no such file or folder, .*is in the cache; HF_HUB_OFFLINE forbids"):
        read_splits("own/toy")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(DataError, match=r"the hub returns no such data set: Couldn't reach"):
        read_splits("own/toy")
    hub.error = ValueError("Config name is missing.\nPlease pick one among the available configs: ['cola', 'sst2']")
    with pytest.raises(DataError, match=r"missing\. Please pick .*'sst2'\] \(glue:CONFIG\)"):
        read_splits("glue")
    vars(hub.module)["__version__"] = "2.19.1"
    with pytest.raises(DataError, match=r"needs datasets 4 or newer, found 2\.19\.1"):
        read_splits("glue")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"glue: no such file or folder; .*pip install 'zotune\[hub\]'"):
        read_splits("glue")


@pytest.fixture
def real_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real library, which loads a data set saved in a folder instead of one of the hub."""
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
    splits = load_splits("own/toy", seed=0, k_per_class=2)
    assert splits.train[0].keys() == {"text", "label", "label_text", "answers"}
    assert all(r["label_text"] == ("negative", "positive")[r["label"]] for r in splits.train)
    assert splits.train[0]["answers"] == ["a", "b"]
    assert "split 'test' left out" in splits.summary


def test_a_builder_of_the_real_library_is_no_data_set(real_hub: Any, tmp_path: Path) -> None:
    for name in ("json", "text", "csv"):
        with pytest.raises(DataError, match=f"'{name}' is a file format"):
            read_splits(name)


def test_the_real_library_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    if not datasets.config.HF_HUB_OFFLINE:
        pytest.skip("the library was imported while the hub was allowed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE forbids"):
        read_splits("zotune-tests/no-such-data-set:x")
