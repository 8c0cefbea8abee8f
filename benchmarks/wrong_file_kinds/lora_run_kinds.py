"""Kinds about runs that tuned an adapter, adapters that lack one side, and damaged small files of run directories."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from wrong_file_kinds import tiny_models as tiny
from wrong_file_kinds.adapter_kinds import ADAPTER, lora, scored_adapter
from wrong_file_kinds.label_kinds import drawn_rows
from wrong_file_kinds.model_kinds import any_tensor, rewrite
from wrong_file_kinds.run_kinds import run
from wrong_file_kinds.variant import Draw, Variant, edit_json, kind

CONFIG = "adapter_config.json"


def lora_run(draw: Draw) -> Path:
    """A copy of a run that tuned a LoRA adapter of the classifier, and of the classifier that it names as its base."""
    original = draw.base.root / "lora_run"
    if not original.exists():
        rows = [{**r, "label": tiny.NAMES[r["label"]]} for r in tiny.nli_rows()] * 3
        data = draw.base.root / "lora_run_data"
        data.mkdir(parents=True)
        for name in ("train", "validation", "test"):
            (data / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        flags = ["-o", "cross-entropy", "--max-steps", "2", "--optimizer", "mezo", "--optimizer-arg", "lr=1e-2"]
        places = ["-m", str(draw.base.nli), "-d", str(data), "--output-dir", str(original), "--peft", "lora"]
        command = [sys.executable, "-m", "zotune", "fit", *places, *flags, "--guard", "0"]
        out = subprocess.run(command, capture_output=True, text=True, timeout=200)
        if not (original / ADAPTER).exists():
            raise RuntimeError(f"the run cannot be made: {out.stderr[-2000:]}")
    shutil.copytree(original, draw.folder / "run")
    shutil.copytree(draw.base.nli, draw.folder / "base")
    edit_json(draw.folder / "run" / CONFIG, base_model_name_or_path=str(draw.folder / "base"))
    return draw.folder / "run"


def scored_run(draw: Draw, folder: Path, *, right: bool, words: tuple[str, ...], about: str) -> Variant:
    """The classifier of a run directory, scored by cross-entropy; `right` computes its score by transformers and
    peft."""
    import peft

    rows = drawn_rows(draw)
    value = None
    if right and (folder / CONFIG).is_file():
        auto = tiny.transformers.AutoModelForSequenceClassification
        model = peft.PeftModel.from_pretrained(auto.from_pretrained(draw.folder / "base"), folder)
        tiny.save(draw.folder / "merged", model.merge_and_unload(), tiny.bert_tokenizer())
        value = tiny.class_loss(tiny.classify(draw.folder / "merged", [r["text"] for r in rows]), gold(rows))
    elif right:
        value = tiny.class_loss(tiny.classify(folder, [r["text"] for r in rows]), gold(rows))
    shown = [{**r, "label": tiny.NAMES[r["label"]]} for r in rows]
    options = {"model": str(folder), "dataset": str(draw.lines(shown)), "objective": "cross-entropy"}
    return Variant(options, value, words, about=about)


def gold(rows: list[dict[str, Any]]) -> list[int]:
    return [row["label"] for row in rows]


@kind
def adapter_half(draw: Draw) -> Variant:
    """An adapter without the A or the B of one module, of one projection, or of all."""
    folder = lora(draw)
    side, where = draw.choice(("lora_A", "lora_B")), draw.choice(("layers.0.self_attn.q_proj", "v_proj", ""))
    rewrite(folder, lambda t: [t.pop(k) for k in list(t) if side in k and where in k], ADAPTER)
    return scored_adapter(draw, right=False, refusal=(side,), about=f"{side} of {where or 'all'}")


@kind
def adapter_rank(draw: Draw) -> Variant:
    """An adapter whose tensors have another rank than its configuration, all of them or those of one module."""
    folder = lora(draw)
    rank, where = draw.choice((2, 6)), draw.choice(("layers.1.self_attn.q_proj", "q_proj", ""))

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, x in list(tensors.items()):
            if where in name:
                size = (rank, x.shape[1]) if "lora_A" in name else (x.shape[0], rank)
                tensors[name] = torch.zeros(size)

    rewrite(folder, change, ADAPTER)
    return scored_adapter(draw, right=False, refusal=("lora_",), about=f"{rank}, {where or 'all'}")


@kind
def adapter_other_base(draw: Draw) -> Variant:
    """An adapter on a decoder of other sizes, or with more or fewer layers."""
    lora(draw)
    base, how = draw.folder / "base", draw.choice(("wider", "one layer", "three layers"))
    config = tiny.transformers.LlamaConfig.from_pretrained(base)
    config.layer_types = None
    if how == "wider":
        config.hidden_size, config.head_dim = 64, 64 // config.num_attention_heads
    else:
        config.num_hidden_layers = 1 if how == "one layer" else 3
    shutil.rmtree(base)
    model = tiny.roughened(tiny.transformers.LlamaForCausalLM(config))
    tiny.save(base, model, tiny.tokenizer("<s> $A", "<s> $A $B"))
    return scored_adapter(draw, right=False, refusal=("lora_",), about=how)


@kind
def lora_run_whole(draw: Draw) -> Variant:
    """A run of an adapter, undamaged, with and without its journal and settings."""
    folder = lora_run(draw)
    gone = draw.choice(("", "journal.jsonl", "config.yaml", "result.json", "env.json", "README.md"))
    if gone:
        (folder / gone).unlink()
    return scored_run(draw, folder, right=True, words=(), about=gone or "whole")


@kind
def lora_run_tensor(draw: Draw) -> Variant:
    """A run of an adapter with a tensor that is missing, misshapen or too many."""
    folder = lora_run(draw)
    which, how = any_tensor(draw, folder, ADAPTER), draw.choice(("missing", "misshapen", "extra", "file gone", "cut"))
    if how == "missing":
        rewrite(folder, lambda t: t.pop(which), ADAPTER)
    elif how == "misshapen":
        rewrite(folder, lambda t: t.update({which: t[which][:1]}), ADAPTER)
    elif how == "extra":
        other = which.replace("base_model.model.", "base_model.model.x.")
        rewrite(folder, lambda t: t.update({other: t[which]}), ADAPTER)
    elif how == "file gone":
        (folder / ADAPTER).unlink()
    else:
        raw = (folder / ADAPTER).read_bytes()
        (folder / ADAPTER).write_bytes(raw[: len(raw) // 2])
    words = {"file gone": ("weights",), "cut": ("adapter",)}.get(how, ("lora_", "classifier", "pooler", "layer."))
    return scored_run(draw, folder, right=False, words=words, about=f"{how}, {which}")


@kind
def lora_run_base(draw: Draw) -> Variant:
    """A run of an adapter whose base model is gone, damaged or another one."""
    folder = lora_run(draw)
    base, how = draw.folder / "base", draw.choice(("gone", "other weights", "one weight", "more classes", "no name"))
    if how == "gone":
        shutil.move(base, draw.folder / "moved")
    elif how == "no name":
        edit_json(folder / CONFIG, base_model_name_or_path=None)
    elif how == "more classes":
        model = tiny.transformers.AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=5, ignore_mismatched_sizes=True
        )
        tiny.save(base, model, tiny.bert_tokenizer())
    else:
        name = "bert.encoder.layer.0.output.dense.weight"
        part = slice(None) if how == "other weights" else slice(0, 1)
        rewrite(base, lambda t: t[name][part].add_(0.5))
    return scored_run(draw, folder, right=False, words=("base", "weights", "classif"), about=how)


@kind
def lora_run_config(draw: Draw) -> Variant:
    """A run of an adapter whose adapter_config.json is damaged or says something else."""
    folder = lora_run(draw)
    path, how = folder / CONFIG, draw.choice(("cut", "list", "empty", "rank", "targets", "another type"))
    text = path.read_text()
    if how in ("cut", "list", "empty"):
        path.write_text({"cut": text[:30], "list": "[1]", "empty": ""}[how])
    elif how == "rank":
        edit_json(path, r=2)
    elif how == "targets":
        edit_json(path, target_modules=["query"])
    else:
        edit_json(path, peft_type="ZWIEBACK")
    return scored_run(draw, folder, right=False, words=("adapter_config", "lora_", "zwieback"), about=how)


@kind
def run_journal(draw: Draw) -> Variant:
    """A run whose journal is missing, empty or damaged: the model's own files still tell everything that is scored."""
    folder = draw.choice((run, lora_run))(draw)
    path, how = folder / "journal.jsonl", draw.choice(("gone", "empty", "cut", "edited", "list", "binary"))
    raw = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        edited = raw.replace(b'"seed":0', b'"seed":7', 1)
        new = {"empty": b"", "cut": raw[:200], "edited": edited, "list": b"[1, 2]\n", "binary": bytes(range(256))}
        path.write_bytes(new[how])
    return scored_run(draw, folder, right=True, words=("journal",), about=how)


@kind
def run_small_file(draw: Draw) -> Variant:
    """A run with a damaged small file that scoring reads, or with one that it does not read."""
    folder = run(draw)
    read = draw.choice((True, False))
    name = draw.choice(
        ("tokenizer.json", "tokenizer_config.json", "config.json") if read else ("result.json", "env.json", "README.md")
    )
    content = draw.choice(("", "{", "[1]", "\0\1\2"))
    (folder / name).write_text(content)
    if not read:
        return scored_run(draw, folder, right=True, words=(), about=f"{name}, {content!r}")
    return scored_run(draw, folder, right=False, words=(name,), about=f"{name}, {content!r}")
