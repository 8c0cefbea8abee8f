"""Hidden states before the first tuned block: fed back, they change nothing but the time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from conftest import rows
from torch import nn

from zotune import models, tasks
from zotune.prefix import find_blocks
from zotune.prompts import Classes, Spec, Template

RECORDS = rows(24)


def made(folder: Path, micro: int = 16) -> tasks.Task:
    found = models.inspect(str(folder))
    loaded = models.load(found.source, found.folder, found.head, classes=2)
    template = "{text} it was {label}" if found.head == "causal" else "{text}"
    return tasks.build(
        loaded, Spec("classification", Template(template), Classes(("0", "1"), ("bad", "good"))), 32, micro
    )


@pytest.mark.parametrize(("fixture", "path"), [("tiny_encoder", "encoder.layer.1."), ("tiny_llama", "model.layers.1.")])
def test_fed_states_give_the_same_scores(fixture: str, path: str, request: pytest.FixtureRequest) -> None:
    task = made(request.getfixturevalue(fixture))
    names = [n for n, _ in task.loaded.model.named_parameters() if n.startswith(path)]
    found = task.rows(RECORDS)
    plain = task.logits(found, range(24))
    assert task.cache_prefix(names, [found])
    torch.testing.assert_close(task.logits(found, range(24)), plain, rtol=0, atol=1e-5)
    with torch.no_grad():
        for name, p in task.loaded.model.named_parameters():
            if name in names:
                p.mul_(1.5)
    fed = task.logits(found, range(24))
    task.forward.prefix = None
    torch.testing.assert_close(fed, task.logits(found, range(24)), rtol=0, atol=1e-4)
    assert not torch.allclose(fed, plain, atol=1e-3)
    assert all("forward" not in m.__dict__ for m in task.loaded.model.modules())


def test_a_linear_head_on_embeddings_comes_after_all_blocks(tiny_encoder: Path) -> None:
    task = made(tiny_encoder)
    torch.nn.init.normal_(models.add_linear_head(task.loaded, 2).weight)
    task = tasks.build(task.loaded, task.spec, 32, 16)
    found = task.rows(RECORDS)
    plain = task.logits(found, range(24))
    assert task.cache_prefix(["encoder.layer.1.output.dense.bias", "linear_head.weight"], [found])
    torch.testing.assert_close(task.logits(found, range(24)), plain, rtol=0, atol=1e-5)


def test_bits_do_not_depend_on_what_was_scored_before(tiny_encoder: Path) -> None:
    names = ["encoder.layer.1.output.dense.weight"]
    results = []
    for seed in (0, 1):
        task = made(tiny_encoder)
        shuffled = RECORDS[:]
        random.Random(seed).shuffle(shuffled)
        found = task.rows(shuffled)
        assert task.cache_prefix(names, [found])
        places = [shuffled.index(r) for r in RECORDS[:5]]
        results.append(task.logits(found, places))
    assert torch.equal(*results)


def test_an_exception_inside_leaves_the_blocks_as_they_were(tiny_encoder: Path) -> None:
    task = made(tiny_encoder)
    found = task.rows(RECORDS)
    assert task.cache_prefix(["encoder.layer.1.output.dense.weight"], [found])
    assert task.forward.prefix is not None
    with pytest.raises(RuntimeError, match="inside"), task.forward.prefix.feeding([tuple(found.tokens[0])]):
        raise RuntimeError("inside")
    assert all("forward" not in m.__dict__ for m in task.loaded.model.modules())


@pytest.mark.parametrize(
    "names", [[], ["embeddings.word.weight"], ["layers.0.weight"], ["layers.1.weight", "head.weight"], ["nope.1.x"]]
)
def test_where_it_saves_nothing_it_is_not_used(names: list[str]) -> None:
    net = nn.Module()
    net.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    assert find_blocks(net, names) is None


def test_too_large_a_cache_is_given_up(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zotune.prefix.MAX_BYTES", 100)
    task = made(tiny_encoder)
    found = task.rows(RECORDS)
    plain = task.logits(found, range(24))
    assert not task.cache_prefix(["encoder.layer.1.output.dense.weight"], [found])
    assert torch.equal(task.logits(found, range(24)), plain)
