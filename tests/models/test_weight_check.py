"""Files that are not what config.json says: refused by name, or read rightly. Scores equal plain transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import Families
from safetensors.torch import load_file, save_file
from torch import Tensor

from zotune.errors import ModelError
from zotune.models import adapters, loading
from zotune.models.adapters import AdapterConfig
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.models.saving import save

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def changed(folder: Path, target: Path, change: Change, **config: Any) -> Path:
    """A copy of a model folder with other tensors, and other values in its config.json."""
    shutil.copytree(folder, target)
    path = target / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path, metadata={"format": "pt"})
    if config:
        old = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(old | config))
    return target


def load(folder: Path, head: str = "auto", **options: Any) -> LoadedModel:
    files = find_model(str(folder), head)
    return loading.load(files.source, files.folder, files.head, device="cpu", **options)


@torch.no_grad()
def logits(loaded: LoadedModel) -> Tensor:
    ids = torch.tensor([[2, 5, 7, 9, 11]])
    out = loaded.model(input_ids=ids)
    found: Tensor = out.last_hidden_state if loaded.head == "embedding" else out.logits
    return found


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"module._fsdp_wrapped_module.module._orig_mod.{name}",
        lambda name: f"_fsdp_wrapped_module.{name}",
        lambda name: f"_fsdp_wrapped_module._orig_mod.{name}".replace("mlp.", "_orig_mod.mlp._fsdp_wrapped_module."),
        lambda name: name.replace("layers.0.", "layers.0._orig_mod.").replace("layers.1.", "layers.1._orig_mod."),
        lambda name: name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
    ],
)
def test_prefixes_of_wrappers_are_stripped(rename: Any, families: Families, tmp_path: Path) -> None:
    folder = families.folder("llama")
    wrapped = changed(folder, tmp_path / "wrapped", lambda t: {rename(k): v for k, v in t.items()})
    assert torch.equal(logits(load(wrapped)), logits(load(folder)))


def test_a_module_that_is_called_module_keeps_its_name(families: Families, tmp_path: Path) -> None:
    folder = families.folder("llama")
    mixed = changed(folder, tmp_path / "mixed", lambda t: t | {"module.extra.weight": torch.zeros(2)})
    loaded = load(mixed)
    assert torch.equal(logits(loaded), logits(load(folder)))
    assert loaded.notes == ("not used by the causal head: module.extra.weight of the model's files",)


UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != UP}, {}, f"lacks {UP}: these weights would be random"),
        (
            lambda t: {k: v for k, v in t.items() if "layers.1." not in k},
            {},
            r"lacks model\.layers\.1\.input_layernorm",
        ),
        (lambda t: t | {UP: t[UP][:5]}, {}, f"{UP} is 5 x 32 in its files and 32 x 32 by its config.json$"),
        (lambda t: t, {"intermediate_size": 40}, r"down_proj.weight is 32 x 32 in .* 32 x 40 .* and 5 more tensors"),
        (lambda t: t | {UP.replace("weight", "bias"): t[UP][:, 0]}, {}, "up_proj.bias, which its config.json has no"),
        (lambda t: t, {"num_hidden_layers": 1}, r"hold model\.layers\.1\.input_layernorm\.weight.* and \d more, which"),
        (lambda t: {f"bert.{k}": v for k, v in t.items()}, {}, "would be random"),
    ],
)
def test_other_tensors_than_the_class_uses_are_refused_by_name(
    change: Change, config: dict[str, Any], message: str, families: Families, tmp_path: Path
) -> None:
    folder = changed(families.folder("llama"), tmp_path / "changed", change, **config)
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_weights_of_another_head_are_named_once(families: Families) -> None:
    loaded = load(families.folder("bert"), head="embedding")
    (note,) = loaded.notes
    assert note.startswith("not used by the embedding head: cls.predictions")


def test_an_unused_pooler_may_be_missing_and_a_used_one_may_not(families: Families, tmp_path: Path) -> None:
    without = lambda t: {k: v for k, v in t.items() if "pooler" not in k}  # noqa: E731
    embedding = changed(families.folder("bert-embedding"), tmp_path / "embedding", without)
    assert torch.equal(logits(load(embedding)), logits(load(families.folder("bert-embedding"))))
    classifier = changed(families.folder("bert-head"), tmp_path / "classifier", without)
    with pytest.raises(ModelError, match=r"lacks bert\.pooler\.dense\.bias, bert\.pooler\.dense\.weight"):
        load(classifier)


def test_a_classification_head_is_the_models_own_or_drawn(families: Families, tmp_path: Path) -> None:
    own = families.folder("bert-head")
    for classes in (None, 3):
        assert load(own, classes=classes).notes == ()
        assert torch.equal(logits(load(own, classes=classes)), logits(load(own)))
    with pytest.raises(ModelError, match=r"a classification head of 3 classes, not 2 \(--new-head draws a new one\)"):
        load(own, classes=2)
    drawn = load(own, classes=2, new_head=True)
    assert drawn.model.config.num_labels == 2
    assert drawn.drawn == {"classifier.weight", "classifier.bias"}
    headless = changed(own, tmp_path / "headless", lambda t: {k: v for k, v in t.items() if "classifier" not in k})
    with pytest.raises(ModelError, match=r"lacks classifier\.bias, classifier\.weight: these weights would be random"):
        load(headless)
    loaded = load(headless, classes=4, new_head=True)
    assert loaded.model.config.num_labels == 4
    assert loaded.drawn == {"classifier.weight", "classifier.bias"}
    half = changed(own, tmp_path / "half", lambda t: {k: v for k, v in t.items() if k != "classifier.bias"})
    with pytest.raises(ModelError, match=r"lacks classifier\.bias"):
        load(half, classes=3)


def adapter(folder: Path, target: Path) -> Path:
    loaded = load(folder)
    adapters.attach(loaded, AdapterConfig("lora"), 0)
    save(loaded, target)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k.replace("layers.", "blocks."): v for k, v in t.items()}, r"has no place for .*blocks\.\*"),
        (lambda t: dict(list(t.items())[1:]), "lacks base_model.model"),
        (
            lambda t: {
                k: v[:, :3].contiguous() if k.endswith("0.self_attn.v_proj.lora_B.weight") else v for k, v in t.items()
            },
            r"layers\.0\.self_attn\.v_proj\.lora_B\.weight is 16 x 3 in its files and 16 x 8 by its configuration",
        ),
        (lambda t: {k.replace("base_model.model.", ""): v for k, v in t.items()}, "has no place for"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    change: Change, message: str, families: Families, tmp_path: Path
) -> None:
    folder = adapter(families.folder("llama"), tmp_path / "adapter")
    adapters.load(load(families.folder("llama")), folder)
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(ModelError, match=message):
        adapters.load(load(families.folder("llama")), folder)


def test_a_folder_without_a_tokenizer_is_refused(families: Families, tmp_path: Path) -> None:
    shutil.copytree(families.folder("bert-head"), tmp_path / "bare")
    for path in (tmp_path / "bare").glob("*tok*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"no tokenizer|cannot be loaded"):
        load(tmp_path / "bare")
