"""Kinds about folders of sentence encoders: pooling, further modules, prompts and limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from wrong_file_kinds import tiny_models as tiny
from wrong_file_kinds.label_kinds import drawn_rows
from wrong_file_kinds.variant import Draw, Variant, edit_json, kind

MODULES = "sentence_transformers.models."


def modules(folder: Path, *parts: tuple[str, str]) -> None:
    """Write modules.json with (path, class) of each module after the transformer."""
    every = (("", "Transformer"), *parts)
    entries = [{"idx": i, "name": str(i), "path": p, "type": MODULES + t} for i, (p, t) in enumerate(every)]
    (folder / "modules.json").write_text(json.dumps(entries))


def pooling(folder: Path, mode: str, path: str = "1_Pooling", **more: Any) -> None:
    """Write a pooling configuration."""
    suffixes = {"mean": "_tokens", "cls": "_token", "max": "_tokens"}
    modes = [m for m in tiny.POOLINGS if " " not in m]
    keys = {f"pooling_mode_{m}{suffixes.get(m, '')}": m == mode for m in modes}
    (folder / path).mkdir(exist_ok=True)
    (folder / path / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **keys, **more}))


def scored(
    draw: Draw,
    folder: Path,
    mode: str,
    refusal: tuple[str, ...] = (),
    *,
    after: Any = lambda x: x,
    prefix: str = "",
    about: str = "",
    valid: bool = True,
) -> Variant:
    """Rows scored by the cosine with the class names' embeddings. prefix: goes before every text and class name."""
    rows = drawn_rows(draw)
    names = ("yes true", "maybe perhaps", "no wrong")
    values: list[list[torch.Tensor]] = []
    for texts in ([r["text"] for r in rows], names):
        values.append(tiny.embed(folder, [prefix + t for t in texts], tiny.POOLINGS[mode], after))
    order = sorted(range(3), key=lambda i: names[i])
    logits = tiny.described(values[0], [values[1][i] for i in order])
    right = tiny.class_loss(logits, [order.index(r["label"]) for r in rows])
    data = draw.lines([{**r, "label": names[r["label"]]} for r in rows])
    options = {"model": str(folder), "dataset": str(data), "objective": "cross-entropy", "head": "embedding"}
    return Variant(options, right if valid else None, refusal, about=about)


@kind
def pooling_mode(draw: Draw) -> Variant:
    folder = draw.base.copy("encoder", draw.folder)
    mode = draw.choice([m for m in sorted(tiny.POOLINGS) if " " not in m])
    path = draw.choice(("1_Pooling", "2_Pooling", "pool"))
    pooling(folder, mode, path)
    modules(folder, (path, "Pooling"))
    easy = mode in ("cls", "mean")
    return scored(draw, folder, mode, () if easy else (mode.partition("_")[0], "pool"), about=f"{mode} in {path}")


@kind
def pooling_files(draw: Draw) -> Variant:
    """Pooling files that are missing, broken or name two modes."""
    folder = draw.base.copy("encoder", draw.folder)
    how = draw.choice(("no modules", "no config", "broken", "two modes", "no mode", "by name"))
    pooling(folder, "cls" if how in ("by name", "broken") else "mean")
    modules(folder, ("1_Pooling", "Pooling"))
    path = folder / "1_Pooling" / "config.json"
    if how == "no modules":
        (folder / "modules.json").unlink()
    elif how == "no config":
        path.unlink()
    elif how == "broken":
        path.write_text(path.read_text()[:30])
    elif how == "two modes":
        edit_json(path, pooling_mode_cls_token=True)
    elif how == "no mode":
        edit_json(path, pooling_mode_mean_tokens=False)
    else:
        path.write_text(json.dumps({"word_embedding_dimension": 32, "pooling_mode": "cls"}))
    mode = {"by name": "cls", "two modes": "cls and mean"}.get(how, "mean")
    valid = how in ("no modules", "by name", "two modes")
    return scored(draw, folder, mode, () if how == "no modules" else ("pool",), about=how, valid=valid)


@kind
def further_module(draw: Draw) -> Variant:
    """Modules after pooling: Normalize changes nothing, Dense does, others cannot be known."""
    folder = draw.base.copy("encoder", draw.folder)
    what = draw.choice(("Normalize", "Dense", "Dense, identity", "LayerNorm", "CNN", "Unknown"))
    pooling(folder, "mean")
    modules(folder, ("1_Pooling", "Pooling"), ("2_More", what.partition(",")[0]))
    (folder / "2_More").mkdir()
    after = lambda x: x  # noqa: E731  # what Normalize does is done in any case
    if what.startswith("Dense"):
        weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(draw.random.randrange(99))) * 0.4
        bias = torch.zeros(16) + 0.1
        tanh = what == "Dense"
        save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_More" / "model.safetensors")
        name = "torch.nn.modules.activation.Tanh" if tanh else "torch.nn.modules.linear.Identity"
        keys = {"in_features": 32, "out_features": 16, "bias": True, "activation_function": name}
        (folder / "2_More" / "config.json").write_text(json.dumps(keys))
        after = lambda x: torch.tanh(weight @ x + bias) if tanh else weight @ x + bias  # noqa: E731
    elif what != "Normalize":
        (folder / "2_More" / "config.json").write_text("{}")
    known = what == "Normalize" or what.startswith("Dense")
    refusal = () if what == "Normalize" else (what.partition(",")[0],)
    return scored(draw, folder, "mean", refusal, after=after, about=what, valid=known)


@kind
def encoder_prompt(draw: Draw) -> Variant:
    """Prompts of config_sentence_transformers.json: the default one goes before every text."""
    folder = draw.base.copy("encoder", draw.folder)
    pooling(folder, "mean")
    modules(folder, ("1_Pooling", "Pooling"))
    default = draw.choice((None, "query"))
    config = {"prompts": {"query": "the cat ", "document": ""}, "default_prompt_name": default}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    refusal = ("prompt",) if default else ()
    return scored(draw, folder, "mean", refusal, prefix="the cat " if default else "", about=f"default {default}")


@kind
def encoder_case(draw: Draw) -> Variant:
    """do_lower_case and max_seq_length of sentence_bert_config.json, which no row reaches."""
    folder = draw.base.copy("encoder", draw.folder)
    pooling(folder, "cls")
    modules(folder, ("1_Pooling", "Pooling"))
    limit = draw.choice((16, 32, 512, None))
    keys = {"max_seq_length": limit, "do_lower_case": draw.choice((True, False))}
    (folder / "sentence_bert_config.json").write_text(json.dumps(keys))
    return scored(draw, folder, "cls", about=str(keys))


@kind
def transformer_in_folder(draw: Draw) -> Variant:
    """The transformer in a folder of its own, as older sentence encoders have it."""
    folder = draw.base.copy("encoder", draw.folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in [p for p in folder.iterdir() if p.is_file()]:
        path.rename(inner / path.name)
    pooling(folder, "mean")
    modules(folder, ("1_Pooling", "Pooling"))
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(entries))
    variant = scored(draw, inner, "mean", ("config.json", "0_Transformer"))
    return Variant({**variant.options, "model": str(folder)}, variant.right, variant.culprits)
