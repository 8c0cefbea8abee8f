"""The cache of hidden states before the first tuned block changes no score."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rows
from torch import nn

from zotune.data.classes import Classes
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.models import loading
from zotune.models.loaded_model import add_linear_head
from zotune.models.model_files import find_model
from zotune.tasks import build
from zotune.tasks.frozen_prefix import find_blocks

RECORDS = rows(24)


def build_task(folder: Path, micro: int = 16) -> build.Task:
    files = find_model(str(folder))
    loaded = loading.load(files.source, files.folder, files.head, classes=2)
    template = "{text} it was {label}" if files.head == "causal" else "{text}"
    return build.build(
        loaded, TaskSpec("classification", Template(template), Classes(("0", "1"), ("bad", "good"))), 32, micro
    )


def check_new_weights(
    task: build.Task, encoded: build.EncodedRows, names: list[str], plain: torch.Tensor, change: Any, atol: float
) -> None:
    """Change these weights: the scores change, and they are the same with and without the cache."""
    with torch.no_grad():
        for name, p in task.loaded.model.named_parameters():
            if name in names:
                change(p)
    fed = task.logits(encoded, range(24))
    task.forward.frozen_prefix = None
    torch.testing.assert_close(fed, task.logits(encoded, range(24)), rtol=0, atol=atol)
    assert not torch.allclose(fed, plain, atol=1e-3)


@pytest.mark.parametrize(("fixture", "path"), [("tiny_encoder", "encoder.layer.1."), ("tiny_llama", "model.layers.1.")])
def test_scores_are_the_same_with_the_cache(fixture: str, path: str, request: pytest.FixtureRequest) -> None:
    task = build_task(request.getfixturevalue(fixture))
    names = [n for n, _ in task.loaded.model.named_parameters() if n.startswith(path)]
    encoded = task.rows(RECORDS)
    plain = task.logits(encoded, range(24))
    assert task.cache_prefix(names, [encoded])
    torch.testing.assert_close(task.logits(encoded, range(24)), plain, rtol=0, atol=1e-5)
    check_new_weights(task, encoded, names, plain, lambda p: p.mul_(1.5), 1e-4)
    assert all("forward" not in m.__dict__ for m in task.loaded.model.modules())


def test_a_linear_head_on_embeddings_comes_after_all_blocks(tiny_encoder: Path) -> None:
    task = build_task(tiny_encoder)
    torch.nn.init.normal_(add_linear_head(task.loaded, 2).weight)
    task = build.build(task.loaded, task.spec, 32, 16)
    encoded = task.rows(RECORDS)
    plain = task.logits(encoded, range(24))
    assert task.cache_prefix(["encoder.layer.1.output.dense.bias", "linear_head.weight"], [encoded])
    torch.testing.assert_close(task.logits(encoded, range(24)), plain, rtol=0, atol=1e-5)


def test_bits_do_not_depend_on_the_order_of_rows(tiny_encoder: Path) -> None:
    names = ["encoder.layer.1.output.dense.weight"]
    results = []
    for seed in (0, 1):
        task = build_task(tiny_encoder)
        shuffled = RECORDS[:]
        random.Random(seed).shuffle(shuffled)
        encoded = task.rows(shuffled)
        assert task.cache_prefix(names, [encoded])
        places = [shuffled.index(r) for r in RECORDS[:5]]
        results.append(task.logits(encoded, places))
    assert torch.equal(*results)


def test_an_exception_restores_the_blocks(tiny_encoder: Path) -> None:
    task = build_task(tiny_encoder)
    encoded = task.rows(RECORDS)
    assert task.cache_prefix(["encoder.layer.1.output.dense.weight"], [encoded])
    assert task.forward.frozen_prefix is not None
    with pytest.raises(RuntimeError, match="inside"), task.forward.frozen_prefix.feed([tuple(encoded.tokens[0])]):
        raise RuntimeError("inside")
    assert all("forward" not in m.__dict__ for m in task.loaded.model.modules())


@pytest.mark.parametrize(
    "names", [["embeddings.word.weight"], ["layers.0.weight"], ["layers.1.weight", "head.weight"], ["nope.1.x"]]
)
def test_no_cache_where_it_saves_nothing(names: list[str]) -> None:
    net = nn.Module()
    net.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    net.head = nn.Linear(2, 2)
    assert find_blocks(net, names, lambda: net.layers[1](net.layers[0](net.head(torch.ones(2))))) is None


def network(*order: str) -> tuple[nn.Module, Any]:
    """A network of two blocks and a head, and a forward pass that calls its modules in this order."""
    net = nn.Module()
    net.layers, net.head = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), nn.Linear(2, 2)
    net.tied = nn.Linear(2, 2)
    net.tied.weight = net.head.weight

    def run() -> None:
        for name in order:
            net.get_submodule(name)(torch.ones(2))

    return net, run


ORDERLY = ("layers.0", "layers.1", "head", "tied")


@pytest.mark.parametrize(
    ("order", "names", "first"),
    [
        (ORDERLY, ["layers.1.weight", "head.weight"], 1),
        (ORDERLY, ["head.weight", "head.bias"], 1),
        (ORDERLY, [], 1),
        (ORDERLY, ["layers.0.weight", "head.weight"], None),
        (("layers.0", "layers.1", "head"), ["head.weight"], None),  # the module with the tied tensor is not called
        (("tied", "layers.0", "layers.1", "head"), ["head.weight"], None),
        (("tied", "layers.0", "layers.1", "head"), ["head.bias"], 1),
        (("layers.0", "head", "layers.1", "tied"), ["head.bias"], None),
        (ORDERLY, ["gone.weight"], None),
    ],
)
def test_tuned_tensors_after_all_blocks_allow_a_cache(
    order: tuple[str, ...], names: list[str], first: int | None
) -> None:
    net, run = network(*order)
    blocks = find_blocks(net, names, run)
    assert (blocks and blocks[1]) == first
    assert not any(m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("fixture", "cls", "parts"),
    [
        ("tiny_classifier", "BertForSequenceClassification", ["classifier."]),
        ("tiny_classifier", "BertForSequenceClassification", ["layer.1.output.dense.bias", "pooler.", "classifier."]),
        ("tiny_llama", "LlamaForSequenceClassification", ["layers.2.self_attn.v_proj", "score."]),
    ],
)
def test_a_classification_head_comes_after_all_blocks(
    fixture: str, cls: str, parts: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    import transformers

    folder = request.getfixturevalue(fixture)
    config = transformers.AutoConfig.from_pretrained(folder, num_hidden_layers=3, pad_token_id=0, num_labels=2)
    getattr(transformers, cls)(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    task = build_task(tmp_path)
    tuned = [n for n, _ in task.loaded.model.named_parameters() if any(x in n for x in parts)]
    encoded = task.rows(RECORDS)
    plain = task.logits(encoded, range(24))
    assert len(tuned) >= len(parts)
    assert task.cache_prefix(tuned, [encoded])
    assert task.forward.frozen_prefix is not None
    assert task.forward.frozen_prefix.first == (1 if len(parts) == 3 else 2)
    check_new_weights(task, encoded, tuned, plain, lambda p: p.add_(0.5), 1e-5)


def test_a_cache_beyond_the_limit_is_dropped(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zotune.tasks.frozen_prefix.MAX_BYTES", 100)
    task = build_task(tiny_encoder)
    encoded = task.rows(RECORDS)
    plain = task.logits(encoded, range(24))
    assert not task.cache_prefix(["encoder.layer.1.output.dense.weight"], [encoded])
    assert torch.equal(task.logits(encoded, range(24)), plain)
