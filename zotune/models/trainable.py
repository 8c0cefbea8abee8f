"""Trainable tensors: which of a model's tensors `--tune` selects.

Knows models and their tensors; knows no data and no objective.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from torch import Tensor

from zotune.core.space import describe, named_tensors
from zotune.errors import OptionError
from zotune.models.adapters import has_adapter
from zotune.models.heads import Head
from zotune.models.loaded_model import LINEAR_HEAD, LoadedModel
from zotune.types import TensorInfo

VALUE = re.compile(r"(?:^|\.)(?:v_proj|value|v_lin|SelfAttention\.v|value_proj)\.weight$")
"""Value projections as Llama, BERT, OPT, DistilBERT, T5 and DeBERTa name them."""
MOST_NAMES: Final = 8
"""Names of tensors that a line lists."""


def trainable_names(loaded: LoadedModel, tune: str, embeddings: bool = True) -> set[str]:
    """Names of the model's tensors that `--tune` selects. With an adapter the selection is among the adapter's tensors,
    and "auto" selects all of them. embeddings: whether embeddings may be selected. Raises OptionError."""
    tensors = list(describe(loaded.model).values())
    if not has_adapter(loaded):
        return match_tensors(tune, tensors, loaded.head, embeddings)
    adapter_names = {n for n, p in named_tensors(loaded.model).items() if p.requires_grad}
    adapter_tensors = [t for t in tensors if t.name in adapter_names]
    return match_tensors("all" if tune == "auto" else tune, adapter_tensors, loaded.head)


def match_tensors(tune: str, tensors: Sequence[TensorInfo], head: Head, embeddings: bool = True) -> set[str]:
    """Names of the tensors that `--tune` selects: all, matrices, auto, head, value, bias, norm, bias+norm, last:N, or a
    regular expression.

    auto: the biases of the second to last block where the model has biases; else the value projections of the last
    third of the blocks; else every matrix but embeddings. The matrices of a classification head are added. At equal
    damage to the model, a step in these tensors gains several times what a step in all weights gains, and the blocks
    before them are computed once (docs/log.md). head: linear layers and biases outside all blocks. Raises OptionError
    where nothing is selected.
    """
    biases = [t for t in tensors if t.kind == "bias" or (t.kind == "norm" and t.name.endswith("bias"))]
    if tune == "all":
        matches = list(tensors)
    elif tune == "matrices":
        matches = [t for t in tensors if t.kind in ("linear", "embedding") and len(t.shape) == 2]
    elif tune == "auto":
        matches = _auto(tensors, biases, head)
    elif tune == "head":
        matches = [t for t in tensors if t.block is None and t.kind in ("linear", "bias")]
    elif tune == "value":
        matches = [t for t in tensors if VALUE.search(t.name)]
    elif tune == "bias":
        matches = biases
    elif tune == "norm":
        matches = [t for t in tensors if t.kind == "norm"]
    elif tune == "bias+norm":
        matches = [t for t in tensors if t.kind in ("bias", "norm")]
    elif tune.startswith("last:"):
        last = set(_blocks(tensors)[-int(tune.removeprefix("last:")) :])
        matches = [t for t in tensors if t.block in last]
    else:
        matches = [t for t in tensors if re.search(tune, t.name)]
    if not embeddings:
        matches = [t for t in matches if t.kind != "embedding"]
    if not matches:
        names = ", ".join(t.name for t in tensors[:3])
        raise OptionError(f"--tune {tune!r} matches no tensor of this model", hint=f"names look like {names}")
    return {t.name for t in matches}


def _auto(tensors: Sequence[TensorInfo], biases: Sequence[TensorInfo], head: Head) -> list[TensorInfo]:
    matrices = [t for t in tensors if len(t.shape) > 1 and t.kind != "embedding"]
    blocks = _blocks(tensors)
    last_third = set(blocks[-max(2, len(blocks) // 3) :])
    matches = [t for t in biases if t.block in blocks[-2:-1]]
    matches = matches or [t for t in matrices if t.block in last_third and VALUE.search(t.name)]
    if matches:
        outside = [t for t in matrices if t.block is None]
        linear_head = [t for t in outside if f"{LINEAR_HEAD}." in t.name]
        # Of an embedding model only the linear head is added: nothing reads the model's own pooler.
        matches += linear_head or (outside if head == "classification" else [])
    return matches or matrices or list(tensors)


def _blocks(tensors: Sequence[TensorInfo]) -> list[int]:
    """Indices of the blocks, ascending."""
    return sorted({t.block for t in tensors if t.block is not None})


def check_tune(tune: str) -> None:
    """Check the syntax of `--tune` before a model is loaded. Raises OptionError."""
    if tune.startswith("last:"):
        count = tune.removeprefix("last:")
        if not count.isdecimal() or int(count) < 1:
            raise OptionError(f"--tune {tune!r} must give a number of blocks", hint="such as --tune last:2")
    try:
        re.compile(tune)
    except re.error as error:
        raise OptionError(f"--tune {tune!r} is not a regular expression: {error}") from None


def base_weights(names: Iterable[str], base: LoadedModel) -> dict[str, Tensor]:
    """The tensors of these names in a freshly loaded base model."""
    tensors = named_tensors(base.model)
    return {n: tensors[n].detach() for n in names}


def names_in_words(names: Collection[str]) -> str:
    """Names of tensors in a line: blocks in one, such as `q_proj, v_proj (blocks 0 to 29); embed_tokens`."""
    blocks: dict[str, set[int]] = {}
    others: dict[str, None] = {}
    for name in names:
        short = name.removesuffix(".weight")
        match = re.search(r"\.(\d+)\.", short)
        if match is None:
            others[short.rpartition(".")[2] if short.count(".") < 3 else ".".join(short.split(".")[-2:])] = None
        else:
            blocks.setdefault(short[match.end() :].replace("self_attn.", ""), set()).add(int(match[1]))
    parts: list[str] = []
    for numbers in dict.fromkeys(frozenset(x) for x in blocks.values()):
        listed = [name for name, x in blocks.items() if x == numbers]
        first, last = min(numbers), max(numbers)
        whole = len(numbers) == last - first + 1
        which = (
            f"block {first}"
            if len(numbers) == 1
            else f"blocks {first} to {last}"
            if whole
            else f"{len(numbers)} blocks"
        )
        parts.append(f"{', '.join(listed[:MOST_NAMES])}{', …' if len(listed) > MOST_NAMES else ''} ({which})")
    if others:
        parts.append(", ".join([*others][:MOST_NAMES]) + (", …" if len(others) > MOST_NAMES else ""))
    return "; ".join(parts)


__all__ = ["base_weights", "check_tune", "match_tensors", "names_in_words", "trainable_names"]
