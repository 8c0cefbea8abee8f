"""Kinds about a model's own files: weights, configuration and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from wrong_file_kinds import tiny_models as tiny
from wrong_file_kinds.variant import Draw, Variant, edit_json, kind

WEIGHTS = "model.safetensors"
PROMPTS = ("the cat", "a dog and the cat", "who sat on the mat", "it was", "Paris was very")
COMPLETIONS = ("sat on the mat", "ran", "the dog", "not good", "good and bad")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], name: str = WEIGHTS) -> None:
    """Change the tensors of a file."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / name, {"format": "pt"})


def nli_data(draw: Draw) -> tuple[str, list[int]]:
    """Rows of the classifier, some with another label than the model's so that the accuracy is below 1."""
    rows = tiny.nli_rows()
    for row in draw.random.sample(rows, 4):
        row["label"] = draw.random.randrange(3)
    return str(draw.lines(rows)), [r["label"] for r in rows]


def causal_data(draw: Draw) -> tuple[str, list[tuple[list[int], list[int]]]]:
    """Prompts with completions, and their tokens."""
    tok = tiny.tokenizer("<s> $A", "<s> $A $B")
    order = draw.random.sample(range(len(PROMPTS)), 4)
    rows = [{"prompt": PROMPTS[i], "completion": " " + COMPLETIONS[i]} for i in order]
    pairs = [(tok(r["prompt"])["input_ids"], tok(r["completion"], add_special_tokens=False)["input_ids"]) for r in rows]
    return str(draw.lines(rows)), pairs


def scored_by_loss(draw: Draw, name: str, *, right: Path | None, refusal: tuple[str, ...], about: str) -> Variant:
    """The folder `model` of the variant, scored by cross-entropy. right: the folder that holds the right weights."""
    options = {"model": str(draw.folder / "model"), "objective": "cross-entropy"}
    if name == "llama":
        path, pairs = causal_data(draw)
        value = tiny.completion_loss(tiny.causal(right), pairs) if right else None
    else:
        path, gold = nli_data(draw)
        value = tiny.class_loss(tiny.classify(right, [r["text"] for r in tiny.nli_rows()]), gold) if right else None
    return Variant({**options, "dataset": path}, value, refusal, about=about)


def any_tensor(draw: Draw, folder: Path, name: str = WEIGHTS) -> str:
    return str(draw.choice(sorted(load_file(folder / name))))


def either(draw: Draw) -> tuple[str, Path, Path]:
    """A classifier or a decoder: its name, the undamaged folder and a copy."""
    name = draw.choice(("nli", "llama"))
    return name, draw.base.folder(name), draw.base.copy(name, draw.folder)


@kind
def wrapper_prefix(draw: Draw) -> Variant:
    name, base, folder = either(draw)
    prefix = draw.choice(("_orig_mod.", "module.", "module._orig_mod.", "_fsdp_wrapped_module.", "_orig_mod.module."))
    rewrite(folder, lambda t: [t.update({prefix + k: t.pop(k)}) for k in list(t)])
    return scored_by_loss(draw, name, right=base, refusal=(), about=f"{name}, {prefix}")


@kind
def other_prefix(draw: Draw) -> Variant:
    name, base, folder = either(draw)
    prefix = draw.choice(("net.", "student.", "pytorch_model.", "policy."))
    rewrite(folder, lambda t: [t.update({prefix + k: t.pop(k)}) for k in list(t)])
    return scored_by_loss(draw, name, right=base, refusal=("embed", "classifier", prefix), about=f"{name}, {prefix}")


@kind
def inner_prefix(draw: Draw) -> Variant:
    name, base, folder = either(draw)
    part = draw.choice(("_checkpoint_wrapped_module", "_orig_mod", "_fsdp_wrapped_module"))
    layer = "layers.0." if name == "llama" else "layer.0."
    rewrite(folder, lambda t: [t.update({k.replace(layer, f"{layer}{part}."): t.pop(k)}) for k in list(t)])
    return scored_by_loss(draw, name, right=base, refusal=(), about=f"{name}, {part}")


@kind
def missing_tensor(draw: Draw) -> Variant:
    name, _, folder = either(draw)
    gone = any_tensor(draw, folder)
    rewrite(folder, lambda t: t.pop(gone))
    return scored_by_loss(draw, name, right=None, refusal=(gone, gone.partition(".")[2]), about=f"{name}, {gone}")


@kind
def misshapen_tensor(draw: Draw) -> Variant:
    name, _, folder = either(draw)
    which = any_tensor(draw, folder)
    rewrite(folder, lambda t: t.update({which: t[which][: len(t[which]) // 2]}))
    return scored_by_loss(draw, name, right=None, refusal=(which, which.partition(".")[2]), about=f"{name}, {which}")


@kind
def renamed_tensor(draw: Draw) -> Variant:
    name, _, folder = either(draw)
    which = any_tensor(draw, folder)
    other = which[:-1] + draw.choice("xyz")
    rewrite(folder, lambda t: t.update({other: t.pop(which)}))
    return scored_by_loss(draw, name, right=None, refusal=(which, which.partition(".")[2]), about=f"{name}, {other}")


@kind
def one_layer_more(draw: Draw) -> Variant:
    """The files hold a layer that config.json does not count."""
    name, _, folder = either(draw)
    edit_json(folder / "config.json", num_hidden_layers=1, layer_types=None)
    return scored_by_loss(draw, name, right=None, refusal=("layer",), about=name)


@kind
def one_layer_fewer(draw: Draw) -> Variant:
    name, _, folder = either(draw)
    edit_json(folder / "config.json", num_hidden_layers=draw.choice((3, 4)), layer_types=None)
    return scored_by_loss(draw, name, right=None, refusal=("layer",), about=name)


@kind
def extra_in_module(draw: Draw) -> Variant:
    """A tensor that belongs to a module of the model, such as a bias that the class does not have."""
    name, _, folder = either(draw)
    extra = draw.choice(
        ("model.layers.0.self_attn.q_proj.bias", "model.layers.1.mlp.up_proj.bias", "model.norm.bias")
        if name == "llama"
        else ("classifier.scale", "bert.encoder.layer.0.output.LayerNorm.gamma2", "bert.pooler.dense.g")
    )
    rewrite(folder, lambda t: t.update({extra: torch.ones(32)}))
    return scored_by_loss(draw, name, right=None, refusal=(extra,), about=f"{name}, {extra}")


@kind
def extra_module(draw: Draw) -> Variant:
    """A tensor of a module that the class does not have: a note, and the score of the rest."""
    name, base, folder = either(draw)
    extra = draw.choice(("v_head.weight", "mtp.proj.weight", "value_model.out.bias"))
    rewrite(folder, lambda t: t.update({extra: torch.ones(32)}))
    return scored_by_loss(draw, name, right=base, refusal=(extra,), about=f"{name}, {extra}")


@kind
def config_shape(draw: Draw) -> Variant:
    """A size in config.json that is not that of the files."""
    name, _, folder = either(draw)
    key = draw.choice(("vocab_size", "intermediate_size", "hidden_size"))
    before = json.loads((folder / "config.json").read_text())[key]
    after = before + draw.choice((4, 8, 16))
    edit_json(folder / "config.json", **{key: after, "head_dim": None})
    words = ("by its config.json", "size", "hidden")
    return scored_by_loss(draw, name, right=None, refusal=words, about=f"{name}, {key}={after}")


@kind
def sharded(draw: Draw) -> Variant:
    name, base, folder = either(draw)
    _shard(folder)
    return scored_by_loss(draw, name, right=base, refusal=(), about=name)


@kind
def shard_missing(draw: Draw) -> Variant:
    name, _, folder = either(draw)
    gone = draw.choice(_shard(folder))
    (folder / gone).unlink()
    return scored_by_loss(draw, name, right=None, refusal=(gone,), about=f"{name}, {gone}")


@kind
def shard_unlisted(draw: Draw) -> Variant:
    """The index leaves out a tensor that a shard holds."""
    name, base, folder = either(draw)
    _shard(folder)
    index = json.loads((folder / f"{WEIGHTS}.index.json").read_text())
    gone = draw.choice(sorted(index["weight_map"]))
    del index["weight_map"][gone]
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    return scored_by_loss(draw, name, right=base, refusal=(gone, gone.partition(".")[2]), about=f"{name}, {gone}")


def _shard(folder: Path) -> list[str]:
    """Split the weights into two files; returns their names."""
    tensors = load_file(folder / WEIGHTS)
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {k: names[i % 2] for i, k in enumerate(sorted(tensors))}
    for name in names:
        save_file({k: v for k, v in tensors.items() if where[k] == name}, folder / name, {"format": "pt"})
    (folder / WEIGHTS).unlink()
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    return names


@kind
def broken_weights(draw: Draw) -> Variant:
    name, _, folder = either(draw)
    raw = (folder / WEIGHTS).read_bytes()
    how = draw.choice(("cut", "empty", "lfs", "zeros"))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 100\n"
    new = {"cut": raw[: len(raw) // 2], "empty": b"", "lfs": pointer, "zeros": bytes(len(raw))}[how]
    (folder / WEIGHTS).write_bytes(new)
    return scored_by_loss(draw, name, right=None, refusal=("safetensor", "weights"), about=f"{name}, {how}")


@kind
def not_a_number(draw: Draw) -> Variant:
    """A tensor with a NaN: every score is one."""
    name, _, folder = either(draw)
    which = "model.norm.weight" if name == "llama" else "classifier.bias"
    rewrite(folder, lambda t: t[which].fill_(float(draw.choice(("nan", "inf")))))
    return scored_by_loss(draw, name, right=None, refusal=("finite", "nan", "inf", which), about=f"{name}, {which}")


@kind
def pickled(draw: Draw) -> Variant:
    name, base, folder = either(draw)
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    allowed = draw.choice((True, False))
    refusal = () if allowed else ("pickle",)
    out = scored_by_loss(draw, name, right=base if allowed else None, refusal=refusal, about=f"{name}, {allowed}")
    return Variant({**out.options, "allow_pickle": allowed}, out.right, out.culprits, about=out.about)


@kind
def half_precision(draw: Draw) -> Variant:
    name, _, folder = either(draw)
    dtype = draw.choice((torch.bfloat16, torch.float16))
    rewrite(folder, lambda t: t.update({k: v.to(dtype) for k, v in t.items()}))
    edit_json(folder / "config.json", dtype=str(dtype).split(".")[1])
    return scored_by_loss(draw, name, right=folder, refusal=(), about=f"{name}, {dtype}")


@kind
def tied_head(draw: Draw) -> Variant:
    """A decoder whose files have, lack or contradict the tied output layer."""
    folder = draw.base.copy("llama", draw.folder)
    how = draw.choice(("both", "untied, missing", "untied, present", "tied, another"))
    embedding = load_file(folder / WEIGHTS)["model.embed_tokens.weight"]
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1))
    if how != "untied, missing":
        other = embedding.clone() if how == "both" else embedding + 0.3 * noise
        rewrite(folder, lambda t: t.update({"lm_head.weight": other}))
    edit_json(folder / "config.json", tie_word_embeddings=how in ("both", "tied, another"))
    right = None if how == "untied, missing" else folder
    refusal = ("lm_head",) if how in ("untied, missing", "tied, another") else ()
    return scored_by_loss(draw, "llama", right=right, refusal=refusal, about=how)


@kind
def config_file(draw: Draw) -> Variant:
    """config.json that is missing, broken or of an unknown model type."""
    name, _, folder = either(draw)
    path, how = folder / "config.json", draw.choice(("missing", "broken", "list", "no type", "unknown type", "empty"))
    text = path.read_text()
    if how == "missing":
        path.unlink()
    elif how in ("no type", "unknown type"):
        edit_json(path, model_type=None if how == "no type" else "zwieback", architectures=None)
    else:
        path.write_text({"broken": text[: len(text) // 2], "list": "[1, 2]", "empty": ""}[how])
    return scored_by_loss(
        draw, name, right=None, refusal=("config.json", "model_type", "model type", "zwieback"), about=f"{name}, {how}"
    )


@kind
def tokenizer_files(draw: Draw) -> Variant:
    """Tokenizer files that are missing or broken."""
    name, _, folder = either(draw)
    how = draw.choice(("missing", "broken", "empty"))
    if how == "missing":
        for path in folder.glob("tokenizer*"):
            path.unlink()
    else:
        text = (folder / "tokenizer.json").read_text()
        (folder / "tokenizer.json").write_text(text[: len(text) // 2] if how == "broken" else "")
    return scored_by_loss(draw, name, right=None, refusal=("tokenizer", "vocab"), about=f"{name}, {how}")


@kind
def larger_vocabulary(draw: Draw) -> Variant:
    """The tokenizer has a token that the embeddings have no row for, and a text uses it."""
    name, _, folder = either(draw)
    tok = tiny.transformers.AutoTokenizer.from_pretrained(folder)
    tok.add_tokens(["<new>"], special_tokens=draw.choice((True, False)))
    tok.save_pretrained(folder)
    rows = [{"text": "yes <new>", "label": 0}, {"text": "no never", "label": 2}, {"text": "maybe", "label": 1}]
    if name == "llama":
        rows = [{"prompt": "the <new>", "completion": " cat"}, {"prompt": "the cat", "completion": " sat"}]
    options = {"model": str(folder), "dataset": str(draw.lines(rows)), "objective": "cross-entropy"}
    return Variant(options, None, ("token", "vocab", "embedding"), about=name)


@kind
def smaller_vocabulary(draw: Draw) -> Variant:
    """Embeddings have rows that no token uses, as in models padded to a multiple of 64."""
    folder = draw.folder / "model"
    config = tiny.transformers.LlamaConfig.from_pretrained(draw.base.llama)
    config.vocab_size = draw.choice((64, 128))
    torch.manual_seed(draw.random.randrange(1000))
    tiny.save(folder, tiny.roughened(tiny.transformers.LlamaForCausalLM(config)), tiny.tokenizer("<s> $A", "<s> $A $B"))
    return scored_by_loss(draw, "llama", right=folder, refusal=(), about=f"{config.vocab_size} rows")


@kind
def no_pad_token(draw: Draw) -> Variant:
    """A tokenizer without a padding token, or one whose padding is on the other side."""
    folder = draw.base.copy("llama", draw.folder)
    how = draw.choice(("none", "left", "eos", "config"))
    changes: dict[str, Any] = {
        "none": {"pad_token": None},
        "left": {"padding_side": "left", "truncation_side": "left"},
        "eos": {"pad_token": "</s>"},
        "config": {"pad_token": None},
    }[how]
    edit_json(folder / "tokenizer_config.json", **changes)
    if how == "config":
        edit_json(folder / "config.json", pad_token_id=draw.choice((-1, None)))
    return scored_by_loss(draw, "llama", right=draw.base.llama, refusal=(), about=how)
