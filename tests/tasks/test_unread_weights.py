"""Tuned weights that no score reads are found, for every kind of task, and left as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import Families, classification

import zotune
from zotune.core.space import named_tensors
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.errors import UsageError
from zotune.events import Event, Note
from zotune.models import adapters
from zotune.models.adapters import AdapterConfig
from zotune.tasks import build
from zotune.tasks import unread_weights as module
from zotune.tasks.unread_weights import unread_weights

WORDS = classification("{text} it was {label}")
HEAD = classification("{text}", ("bad", "good", "true"))
CHOICE = TaskSpec("choice", Template("{text} {choice}"), choices=("a", "b"))
TEXT = TaskSpec("generation", Template("{text}"), max_new_tokens=4)
RECORDS = [
    {"text": "the film was so good", "label": 1, "a": "yes", "b": "no", "completion": "yes"},
    {"text": "it was a bad plot", "label": 0, "a": "true", "b": "false", "completion": "no"},
]
TASKS = {
    "llama": (WORDS, CHOICE, TEXT),
    "gpt2": (WORDS, TEXT),
    "t5": (WORDS, CHOICE, TEXT),
    "bart": (TEXT,),
    "bert": (WORDS,),
    "bert-head": (HEAD,),
    "llama-head": (HEAD,),
    "bert-embedding": (HEAD,),
}
UNREAD = {"bert-embedding": {"pooler.dense.weight", "pooler.dense.bias"}}


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize(("family", "spec"), [(f, s) for f, specs in TASKS.items() for s in specs])
def test_weights_without_influence(
    families: Families, family: str, spec: TaskSpec, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not copied:
        monkeypatch.setattr(module, "COPIED_BYTES", 0)
    loaded = families.load(family, classes=3 if family.endswith("head") else None)
    extra = torch.nn.Linear(2, 2)
    loaded.model.add_module("unused", extra)
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    task = build.build(loaded, spec, 90, 4)
    rows, tuned = task.rows(RECORDS), named_tensors(loaded.model)
    unused = {f"unused.{name}" for name, _ in extra.named_parameters()}
    unread = unused | UNREAD.get(family, set())
    assert unread_weights(task, rows, tuned) == (unread if copied else set())
    assert unread_weights(task, rows, {n: tuned[n] for n in unread}) == unread
    for name in ("weight", "bias"):
        assert unread_weights(task, rows, {n: p for n, p in tuned.items() if n not in unread and name in n}) == set()
    assert all(torch.equal(p, before[n]) for n, p in loaded.model.named_parameters())


def test_a_new_adapter_has_influence_though_its_product_is_zero(families: Families) -> None:
    loaded = families.load("llama")
    adapters.attach(loaded, AdapterConfig("lora"), 0)
    task = build.build(loaded, WORDS, 90, 4)
    tuned = {n: p for n, p in named_tensors(loaded.model).items() if p.requires_grad}
    assert unread_weights(task, task.rows(RECORDS), tuned) == set()


def test_fit_refuses_before_the_first_step(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": str(tiny_encoder), "dataset": str(toy), "labels": "bad,good"}
    options |= {"head": "embedding", "output_dir": str(tmp_path / "run"), "max_steps": 1, "preflight": False}
    options["init"] = "none"  # a probe's head would be tuned instead, which is read
    message = r"these weights do not influence the score: pooler\.dense\.bias, pooler\.dense\.weight"
    with pytest.raises(UsageError, match=message):
        zotune.fit(**options, objective="accuracy", tune="head")
    assert not (tmp_path / "run").exists()
    seen: list[Event] = []
    zotune.fit(**options, objective="accuracy", tune="all", emit=seen.append)
    notes = [event.text for event in seen if isinstance(event, Note)]
    assert notes.count("tuned weights that do not influence the score: pooler.dense.bias, pooler.dense.weight") == 1


def test_an_objective_that_reads_the_model_decides_itself(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    def norm(model: Any) -> float:
        return float(model.pooler.dense.weight.norm())

    options: dict[str, Any] = {"model": str(tiny_encoder), "dataset": str(toy), "labels": "bad,good", "tune": "head"}
    zotune.fit(**options, head="embedding", objective=norm, max_steps=1, output_dir=str(tmp_path / "run"))
