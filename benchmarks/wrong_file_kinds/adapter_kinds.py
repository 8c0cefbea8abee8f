"""Kinds about adapters: LoRA weights and their configuration beside a base model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from wrong_file_kinds import tiny_models as tiny
from wrong_file_kinds.model_kinds import any_tensor, causal_data, nli_data, rewrite
from wrong_file_kinds.variant import Draw, Variant, edit_json, kind

ADAPTER = "adapter_model.safetensors"


def lora(draw: Draw, name: str = "llama", **more: Any) -> Path:
    """A LoRA adapter with random weights on a copy of a model, in the folder `adapter`."""
    import peft

    base = draw.base.copy(name, draw.folder).rename(draw.folder / "base")
    task = "CAUSAL_LM" if name == "llama" else "SEQ_CLS"
    targets = ["q_proj", "v_proj"] if name == "llama" else ["query", "value"]
    model = (
        tiny.causal(base)
        if name == "llama"
        else tiny.transformers.AutoModelForSequenceClassification.from_pretrained(base)
    )
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(**{"task_type": task, "target_modules": targets, "r": 4, **more})
    )
    torch.manual_seed(draw.random.randrange(1000))
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.3)
    adapted.save_pretrained(draw.folder / "adapter")
    edit_json(draw.folder / "adapter" / "adapter_config.json", base_model_name_or_path=str(base))
    return draw.folder / "adapter"


def scored_adapter(draw: Draw, *, right: bool, refusal: tuple[str, ...], about: str, name: str = "llama") -> Variant:
    import peft

    options = {"model": str(draw.folder / "adapter"), "objective": "cross-entropy"}
    value = None
    if name == "llama":
        path, pairs = causal_data(draw)
        if right:
            model = peft.PeftModel.from_pretrained(tiny.causal(draw.folder / "base"), draw.folder / "adapter").eval()
            value = tiny.completion_loss(model, pairs)
        return Variant({**options, "dataset": path}, value, refusal, about=about)
    path, gold = nli_data(draw)
    auto = tiny.transformers.AutoModelForSequenceClassification
    model = peft.PeftModel.from_pretrained(auto.from_pretrained(draw.folder / "base"), draw.folder / "adapter")
    merged = model.merge_and_unload()
    tiny.save(draw.folder / "merged", merged, tiny.bert_tokenizer())
    value = tiny.class_loss(tiny.classify(draw.folder / "merged", [r["text"] for r in tiny.nli_rows()]), gold)
    return Variant({**options, "dataset": path}, value, refusal, about=about)


@kind
def adapter(draw: Draw) -> Variant:
    how = draw.choice(("plain", "rslora", "bias", "alpha pattern", "all-linear", "classifier", "dora"))
    more: dict[str, Any] = {
        "rslora": {"use_rslora": True},
        "bias": {"bias": "lora_only"},
        "alpha pattern": {"alpha_pattern": {"q_proj": 32}, "rank_pattern": {"v_proj": 2}},
        "all-linear": {"target_modules": "all-linear"},
        "dora": {"use_dora": True},
    }.get(how, {})
    name = "nli" if how == "classifier" else "llama"
    lora(draw, name, **more)
    return scored_adapter(draw, right=True, refusal=(), about=how, name=name)


@kind
def adapter_names(draw: Draw) -> Variant:
    """Tensor names of an adapter that do not fit its base."""
    folder = lora(draw)
    old, new = draw.choice(
        (
            (".self_attn.", ".attention."),
            ("model.layers.", "transformer.h."),
            ("base_model.model.", ""),
            ("lora_A", "lora_down"),
        )
    )
    rewrite(folder, lambda t: [t.update({k.replace(old, new): t.pop(k)}) for k in list(t)], ADAPTER)
    return scored_adapter(draw, right=False, refusal=("lora", "q_proj", "layers"), about=f"{old} → {new}")


@kind
def adapter_tensor(draw: Draw) -> Variant:
    """A tensor of an adapter that is missing or misshapen."""
    folder = lora(draw)
    which, how = any_tensor(draw, folder, ADAPTER), draw.choice(("missing", "misshapen", "extra layer"))
    if how == "missing":
        rewrite(folder, lambda t: t.pop(which), ADAPTER)
    elif how == "misshapen":
        rewrite(folder, lambda t: t.update({which: t[which][:, :2]}), ADAPTER)
    else:
        rewrite(folder, lambda t: t.update({which.replace(".0.", ".7.").replace(".1.", ".7."): t[which]}), ADAPTER)
    return scored_adapter(draw, right=False, refusal=("lora_", "layers."), about=f"{how}, {which}")


@kind
def adapter_config(draw: Draw) -> Variant:
    """An adapter's configuration that does not fit its files."""
    folder = lora(draw)
    how = draw.choice(("rank", "no base", "base gone", "targets", "broken", "other base"))
    path = folder / "adapter_config.json"
    if how == "rank":
        edit_json(path, r=8)
    elif how == "no base":
        edit_json(path, base_model_name_or_path=None)
    elif how == "base gone":
        shutil.move(draw.folder / "base", draw.folder / "moved")
    elif how == "targets":
        edit_json(path, target_modules=["q_proj"])
    elif how == "broken":
        path.write_text(path.read_text()[:40])
    else:
        edit_json(path, base_model_name_or_path=str(draw.base.encoder))
    words = ("lora", "adapter_config", "base", "v_proj", "lacks")
    return scored_adapter(draw, right=False, refusal=words, about=how)
