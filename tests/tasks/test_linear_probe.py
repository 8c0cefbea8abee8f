"""A model with a linear probe in its head predicts what scikit-learn's regression predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import Families, classification

from zotune.errors import DataError, OptionError
from zotune.models import adapters, loading, saving
from zotune.models.adapters import AdapterConfig
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.tasks import build, linear_probe

SUBJECTS = ["the film", "a cat", "the plot and the cast", "it", "what a dog"]
ADJECTIVES = [["bad", "poor", "awful"], ["good", "great", "fine"], ["right", "true", "wrong"]]


def rows(classes: int) -> list[dict[str, Any]]:
    return [
        {"text": f"{s} was {'very ' * (i % 2)}{a}", "label": k}
        for k in range(classes)
        for i, s in enumerate(SUBJECTS)
        for a in ADJECTIVES[k]
    ]


def build_task(loaded: LoadedModel, classes: int) -> build.HeadClassification:
    task = build.build(loaded, classification("{text}", ("bad", "good", "true")[:classes]), 90, 8)
    assert isinstance(task, build.HeadClassification)
    return task


HEADS = ["bert-head", "roberta-head", "llama-head", "bert-embedding"]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("head", HEADS)
def test_the_model_predicts_what_the_probe_predicts(
    families: Families, head: str, classes: int, tmp_path: Path
) -> None:
    records = rows(classes)
    loaded = families.load(head, classes=classes, new_head=True)
    task = build_task(loaded, classes)
    train = task.rows(records)
    has_bias = head != "llama-head"
    search = linear_probe.fit(task, train, intercept=has_bias)
    assert search is not None
    want = search.predict(task.features(train).numpy())
    assert len(set(want.tolist())) == classes
    log_p = linear_probe.log_probabilities(task, search, train)
    linear_probe.write(task, train)
    logits = task.logits(train, range(len(train)))
    assert np.array_equal(logits.argmax(-1).numpy(), want)
    torch.testing.assert_close(torch.log_softmax(logits, -1), log_p, rtol=0, atol=1e-4)
    if head == "bert-embedding":
        assert loaded.linear_head.weight.shape == (classes, 32)
    else:
        assert (loaded.last_linear().bias is not None) == has_bias
    saving.save(loaded, tmp_path)
    files = find_model(str(tmp_path))
    again = loading.load(files.source, files.folder, files.head, device="cpu", classes=classes)
    assert torch.equal(build_task(again, classes).logits(train, range(len(train))), logits)
    assert (again.linear_head is not None) == (head == "bert-embedding")


@pytest.mark.parametrize("head", ["roberta-head", "bert-embedding"])
def test_lora_starts_from_the_probe(families: Families, head: str, tmp_path: Path) -> None:
    """The probe is saved with the adapter, because the base model has no probe."""
    loaded = families.load(head, classes=3)
    task = build_task(loaded, 3)
    train = task.rows(rows(3))
    linear_probe.write(task, train)
    want = task.logits(train, range(len(train)))
    adapters.attach(loaded, AdapterConfig("lora", r=2), 1)
    assert torch.equal(build_task(loaded, 3).logits(train, range(len(train))), want)
    with torch.no_grad():
        for p in loaded.model.parameters():
            if p.requires_grad:
                p.add_(0.01)
    want = build_task(loaded, 3).logits(train, range(len(train)))
    saving.save(loaded, tmp_path)
    files = find_model(str(tmp_path))
    again = loading.load(files.source, files.folder, files.head, device="cpu", classes=3)
    adapters.load(again, tmp_path)
    assert torch.equal(build_task(again, 3).logits(train, range(len(train))), want)
    adapters.merge(again)
    torch.testing.assert_close(build_task(again, 3).logits(train, range(len(train))), want, rtol=0, atol=1e-4)
    saving.save(again, tmp_path / "whole")
    whole = loading.load(str(tmp_path / "whole"), tmp_path / "whole", again.head, device="cpu", classes=3)
    torch.testing.assert_close(build_task(whole, 3).logits(train, range(len(train))), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_a_class_without_training_rows_is_not_predicted(families: Families, head: str) -> None:
    loaded = families.load(head, classes=3)
    task = build_task(loaded, 3)
    train = task.rows([r for r in rows(3) if r["label"] != 1])
    linear_probe.write(task, train)
    assert set(task.logits(train, range(len(train))).argmax(-1).tolist()) == {0, 2}


def test_features_belong_to_the_token_that_the_head_reads(families: Families) -> None:
    """This holds also where a row ends in the padding token."""
    task = build_task(families.load("llama-head", classes=3), 3)
    encoded = task.rows([{"text": "the film was bad <pad>", "label": 0}, {"text": "it", "label": 1}])
    assert encoded.tokens[0][-1] == 0
    layer = task.loaded.last_linear()
    with torch.no_grad():
        want = layer(task.features(encoded))
    torch.testing.assert_close(task.logits(encoded, [0, 1]), want, rtol=0, atol=1e-5)


def test_models_and_data_without_a_probe_are_refused(families: Families) -> None:
    words = build.build(families.load("llama"), classification("{text} {label}"), 90, 8)
    with pytest.raises(OptionError, match="the head 'causal' has none"):
        linear_probe.write(words, words.rows(rows(2)))
    task = build_task(families.load("bert-head", classes=2, new_head=True), 2)
    with pytest.raises(DataError, match="two training rows of each"):
        linear_probe.write(task, task.rows(rows(2)[:16]))
