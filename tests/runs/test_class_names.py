"""Classes belong to the model or the run: scores equal a plain transformers loop, whatever labels a file shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rows, write_jsonl
from safetensors.torch import load_file, save_file

import zotune
from zotune.errors import DataError, ModelError, RunFolderError
from zotune.events import Event, Note
from zotune.runs.export import export
from zotune.runs.replay import replay
from zotune.runs.verify import verify

NAMES = ("positive", "negative", "mixed")
"""Not in the order of the alphabet."""


@pytest.fixture
def named(tiny_classifier: Path, tmp_path: Path) -> Path:
    """A model of three classes with names."""
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path / "named"
    shutil.copytree(tiny_classifier, folder)
    config = BertConfig.from_pretrained(tiny_classifier, num_labels=3)
    config.id2label, config.label2id = dict(enumerate(NAMES)), {name: i for i, name in enumerate(NAMES)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = BertForSequenceClassification(config)
        for p in model.parameters():
            p.data.add_(torch.randn_like(p) * 0.5)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def predicted(folder: Path, texts: list[str]) -> list[int]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in texts]


def labelled(folder: Path) -> list[dict[str, Any]]:
    """Records whose labels are the model's own predictions, of two of its three classes at least."""
    texts = [row["text"] for row in rows(40)]
    records = [{"text": text, "label": label} for text, label in zip(texts, predicted(folder, texts), strict=True)]
    assert len({r["label"] for r in records}) >= 2
    return records


def accuracy(model: Path, records: list[dict[str, Any]], path: Path, **options: Any) -> float:
    return zotune.evaluate(
        model=str(model), dataset=str(write_jsonl(path, records)), objective="accuracy", **options
    ).value


def with_names(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**r, "label": NAMES[r["label"]]} for r in records]


def notes(**options: Any) -> list[str]:
    seen: list[Event] = []
    zotune.evaluate(emit=seen.append, **options)
    return [event.text for event in seen if isinstance(event, Note)]


def fit(model: Path | None, data: Path, folder: Path, **options: Any) -> tuple[Path, list[str]]:
    seen: list[Event] = []
    options = {"objective": "accuracy", "max_steps": 2, "batch_size": 4, "preflight": False, "compile": "off"} | options
    name = None if model is None else str(model)
    zotune.fit(model=name, dataset=str(data), output_dir=str(folder), emit=seen.append, **options)
    return folder, [event.text for event in seen if isinstance(event, Note)]


def test_texts_and_numbers_are_the_models_classes(named: Path, tmp_path: Path) -> None:
    records = labelled(named)
    path = tmp_path / "data.jsonl"
    assert accuracy(named, records, path) == 1.0
    assert accuracy(named, with_names(records), path) == 1.0
    assert accuracy(named, [{**r, "label": r["label"].upper()} for r in with_names(records)], path) == 1.0
    assert accuracy(named, [{**r, "label": f"{r['label']}.0"} for r in records], path) == 1.0
    assert accuracy(named, [{**r, "label": f"LABEL_{r['label']}"} for r in records], path) == 1.0


def test_a_file_with_fewer_classes_scores_rightly(named: Path, tmp_path: Path) -> None:
    records = labelled(named)
    for label in {r["label"] for r in records}:
        part = [r for r in records if r["label"] == label]
        assert accuracy(named, part, tmp_path / "part.jsonl") == 1.0
        assert accuracy(named, with_names(part), tmp_path / "part.jsonl") == 1.0


def test_other_labels_are_refused_by_name(named: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "other.jsonl", [{"text": "a film", "label": x} for x in ("positive", "so so")] * 4)
    for run in (zotune.evaluate, zotune.fit):
        options = {"output_dir": str(tmp_path / "run")} if run is zotune.fit else {}
        with pytest.raises(DataError, match="label 'so so' is no class of the model"):
            assert run(model=str(named), dataset=str(data), objective="accuracy", **options)
    assert not (tmp_path / "run").exists()


def test_fit_keeps_the_names_of_a_head(named: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", with_names(labelled(named)))
    run, seen = fit(named, data, tmp_path / "run")
    assert json.loads((run / "config.json").read_text())["id2label"] == {str(i): n for i, n in enumerate(NAMES)}
    assert not [text for text in seen if "drawn" in text]
    assert accuracy(run, labelled(run), tmp_path / "data.jsonl") == 1.0
    export(run, tmp_path / "exported")
    assert accuracy(tmp_path / "exported", with_names(labelled(run)), tmp_path / "data.jsonl") == 1.0


def test_a_new_head_is_drawn_by_request_and_noted(named: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [{**r, "label": ("no", "yes")[r["label"]]} for r in rows(40)])
    run, seen = fit(named, data, tmp_path / "run", new_head=True)
    assert [t for t in seen if "drawn" in t] == [
        "a new classification head of 2 classes is drawn from the seed (--new-head)"
    ]
    assert json.loads((run / "config.json").read_text())["id2label"] == {"0": "no", "1": "yes"}
    records = [{**r, "label": ("no", "yes")[r["label"]]} for r in labelled_pairs(run)]
    assert accuracy(run, records, tmp_path / "data.jsonl") == 1.0


def labelled_pairs(folder: Path) -> list[dict[str, Any]]:
    texts = [row["text"] for row in rows(40)]
    return [{"text": t, "label": p} for t, p in zip(texts, predicted(folder, texts), strict=True)]


def test_a_new_head_of_the_same_size_is_drawn_too(named: Path, tmp_path: Path) -> None:
    from zotune.models import loading

    own = loading.load(str(named), named, "classification", device="cpu", classes=3)
    drawn = [
        loading.load(str(named), named, "classification", device="cpu", classes=3, new_head=True, seed=seed)
        for seed in (1, 1, 2)
    ]
    weights = [m.last_linear().weight for m in (own, *drawn)]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[1], weights[3])
    assert not torch.equal(weights[0], weights[1])
    assert drawn[0].drawn == {"classifier.weight", "classifier.bias"}
    body = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(drawn[0].model.get_parameter(body), own.model.get_parameter(body))


def test_eval_draws_no_head(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no classification head to score"):
        zotune.evaluate(model=str(tiny_encoder), head="classification", dataset=str(toy), objective="accuracy")
    run, seen = fit(tiny_encoder, toy, tmp_path / "run", head="classification")
    assert [t for t in seen if "drawn" in t] == [
        "a new classification head of 2 classes is drawn from the seed (its files hold none)"
    ]
    assert accuracy(run, labelled_pairs(run), tmp_path / "data.jsonl") == 1.0


def test_a_named_head_without_weights_is_drawn_by_fit_alone(named: Path, tmp_path: Path) -> None:
    path = named / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "classifier" not in k}, path, metadata={"format": "pt"})
    data = write_jsonl(tmp_path / "data.jsonl", rows(40))
    with pytest.raises(ModelError, match="holds no classification head to score"):
        zotune.evaluate(model=str(named), dataset=str(data), objective="accuracy")
    assert any("its files hold none" in text for text in fit(named, data, tmp_path / "run")[1])


@pytest.mark.parametrize("peft", ["none", "lora"])
@pytest.mark.parametrize("init", ["none", "linear-probe"])
@pytest.mark.parametrize("head", ["classification", "embedding"])
def test_a_run_scores_its_own_classes(head: str, init: str, peft: str, tiny_encoder: Path, tmp_path: Path) -> None:
    """Rows of one class score as they do among the others; a label that the run has not seen is refused by name."""
    words = ("fine", "awful", "so-so")
    records = [{"text": r["text"], "label": words[i % 3]} for i, r in enumerate(rows(60))]
    data = write_jsonl(tmp_path / "data.jsonl", records)
    run, _ = fit(tiny_encoder, data, tmp_path / "run", head=head, init=init, peft=peft, objective="cross-entropy")

    def losses(part: list[dict[str, Any]]) -> float:
        path = write_jsonl(tmp_path / "part.jsonl", part)
        return zotune.evaluate(model=str(run), dataset=str(path), objective="cross-entropy").value

    parts = [[r for r in records if r["label"] == word] for word in words]
    assert sum(losses(part) for part in parts) / 3 == pytest.approx(losses(records), rel=1e-5)
    assert losses([{**r, "label": r["label"].upper()} for r in parts[0]]) == losses(parts[0])
    with pytest.raises(DataError, match="label 'greeting' is no class of the run, which has 'awful', 'fine', 'so-so'"):
        losses([*parts[0], {"text": "a film", "label": "greeting"}])


@pytest.mark.parametrize("peft", ["none", "lora"])
@pytest.mark.parametrize("new_head", [False, True])
def test_a_drawn_head_is_replayed_verified_and_exported(
    peft: str, new_head: bool, named: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """With a head of its own (`new_head`), and without."""
    words = ("fine", "awful", "so-so")
    records = [{"text": r["text"], "label": words[i % 3]} for i, r in enumerate(rows(60))]
    data = write_jsonl(tmp_path / "data.jsonl", records)
    model = named if new_head else tiny_encoder
    options = {"head": "classification", "new_head": new_head, "peft": peft, "seed": 3, "objective": "cross-entropy"}
    run, _ = fit(model, data, tmp_path / "run", **options)
    assert all(check.ok is not False for check in verify(run)), [c.json() for c in verify(run)]
    replay(run, tmp_path / "replayed")
    export(run, tmp_path / "exported", merge=peft == "lora")
    names = json.loads((tmp_path / "exported" / "config.json").read_text())["id2label"]
    assert names == {"0": "awful", "1": "fine", "2": "so-so"}
    part = str(write_jsonl(tmp_path / "part.jsonl", [r for r in records if r["label"] != "fine"]))
    scores = [
        zotune.evaluate(model=str(m), dataset=part, objective="cross-entropy").value
        for m in (run, tmp_path / "exported")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize("head", ["classification", "embedding"])
def test_an_exported_adapter_names_its_classes(head: str, tiny_encoder: Path, tmp_path: Path) -> None:
    words = ("fine", "awful", "so-so")
    records = [{"text": r["text"], "label": words[i % 3]} for i, r in enumerate(rows(60))]
    data = write_jsonl(tmp_path / "data.jsonl", records)
    init = {"embedding": "linear-probe"}.get(head, "none")
    run, _ = fit(tiny_encoder, data, tmp_path / "run", head=head, init=init, peft="lora", objective="cross-entropy")
    export(run, tmp_path / "exported")
    part = [r for r in records if r["label"] != "awful"]

    def loss(model: Path) -> float:
        path = str(write_jsonl(tmp_path / "part.jsonl", part))
        return zotune.evaluate(model=str(model), dataset=path, objective="cross-entropy", head=head).value

    assert loss(tmp_path / "exported") == pytest.approx(loss(run), abs=1e-6)
    with pytest.raises(DataError, match="label 'bad' is no class of the model"):
        accuracy(tmp_path / "exported", [{"text": "a", "label": "bad"}], tmp_path / "other.jsonl", head=head)


def test_a_run_of_an_adapter_on_another_base_model_is_refused(named: Path, tmp_path: Path) -> None:
    """Same shapes, other weights: nothing but the journal tells that it is another model."""
    data = write_jsonl(
        tmp_path / "data.jsonl", [{"text": r["text"], "label": NAMES[i % 3]} for i, r in enumerate(rows(40))]
    )
    run, _ = fit(named, data, tmp_path / "run", peft="lora", objective="cross-entropy")
    score = {"model": str(run), "dataset": str(data), "objective": "cross-entropy"}
    zotune.evaluate(**score)
    path = named / "model.safetensors"
    tensors = load_file(path)
    tensors["bert.encoder.layer.0.output.dense.weight"][0] += 0.1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(RunFolderError, match="the weights that were not tuned differ from those that the run had"):
        zotune.evaluate(**score)


def test_the_names_of_a_linear_head_are_exported(tiny_encoder: Path, tmp_path: Path) -> None:
    words = ("fine", "awful", "so-so")
    records = [{"text": r["text"], "label": words[i % 3]} for i, r in enumerate(rows(60))]
    data = write_jsonl(tmp_path / "data.jsonl", records)
    run, _ = fit(tiny_encoder, data, tmp_path / "run", head="embedding", init="linear-probe")
    export(run, tmp_path / "exported")
    part = write_jsonl(tmp_path / "part.jsonl", [r for r in records if r["label"] != "awful"])
    scores = [
        zotune.evaluate(model=str(model), dataset=str(part), objective="cross-entropy", head="embedding").value
        for model in (run, tmp_path / "exported")
    ]
    assert scores[0] == scores[1]
    with pytest.raises(DataError, match="label 'bad' is no class of the model"):
        accuracy(tmp_path / "exported", [{"text": "a", "label": "bad"}], part)


def test_notes_of_the_files_are_shown_once(named: Path, tmp_path: Path) -> None:
    path = named / "model.safetensors"
    save_file({**load_file(path), "lm_head.weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    data = write_jsonl(tmp_path / "data.jsonl", labelled(named))
    note = "not used by the classification head: lm_head.weight of the model's files"
    assert notes(model=str(named), dataset=str(data), objective="accuracy").count(note) == 1
    assert fit(named, data, tmp_path / "run")[1].count(note) == 1
    from zotune import config
    from zotune.runs.check import check

    seen: list[Event] = []
    check(config.resolve({"model": str(named), "dataset": str(data), "objective": "accuracy"}, None), emit=seen.append)
    assert [e.text for e in seen if isinstance(e, Note)].count(note) == 1
