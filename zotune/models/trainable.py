"""Which weights are tuned: what `--tune` means for a model.

Knows models and their tensors; knows no data and no objective.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from zotune.core.space import describe, named_tensors
from zotune.errors import OptionError
from zotune.models import adapters, loading
from zotune.models.loading import LoadedModel
from zotune.types import TensorInfo

VALUE = re.compile(r"(?:^|\.)(?:v_proj|value|v_lin|SelfAttention\.v|value_proj)\.weight$")
"""Value projections as Llama, BERT, OPT, DistilBERT, T5 and DeBERTa name them."""
LINEAR = f"{loading.LINEAR_HEAD}."


def trainable_names(loaded: LoadedModel, tune: str, embeddings: bool = True) -> set[str]:
    """Names of a model's tensors that `--tune` means; with an adapter, among its own, and "auto" is all of them."""
    tensors = list(describe(loaded.model).values())
    if not adapters.has_adapter(loaded):
        return match_tensors(tune, tensors, loaded.head, embeddings)
    own = {n for n, p in named_tensors(loaded.model).items() if p.requires_grad}
    return match_tensors("all" if tune == "auto" else tune, [t for t in tensors if t.name in own], loaded.head)


def match_tensors(tune: str, tensors: Sequence[TensorInfo], head: loading.Head, embeddings: bool = True) -> set[str]:
    """Names of the tensors that `--tune` means: all, auto, head, value, bias, norm, bias+norm, last:N, or a pattern.

    auto: the biases of the last block but one where the model has them, else the value projections of the last third of
    the blocks, else every matrix but embeddings; and the matrices of a classification head. At equal damage to the
    model a step in these gains several times what one in all weights does, and the blocks before are computed once
    (docs/log.md). head: what lies outside all blocks and is no embedding and no norm. Raises OptionError where nothing
    is meant.
    """
    biases = [t for t in tensors if t.kind == "bias" or (t.kind == "norm" and t.name.endswith("bias"))]
    heads = [t for t in tensors if t.block is None and t.kind in ("linear", "bias")]
    if tune == "all":
        found = list(tensors)
    elif tune == "auto":
        matrices = [t for t in tensors if len(t.shape) > 1 and t.kind != "embedding"]
        blocks = sorted({t.block for t in tensors if t.block is not None})
        last = set(blocks[-max(2, len(blocks) // 3) :])
        found = [t for t in biases if t.block in blocks[-2:-1]]
        found = found or [t for t in matrices if t.block in last and VALUE.search(t.name)]
        outside = [t for t in matrices if t.block is None]
        if found:  # an embedding model's own pooler is read by nothing that a head over embeddings says
            found += [t for t in outside if LINEAR in t.name] or (outside if head == "classification" else [])
        found = found or matrices or list(tensors)
    elif tune == "head":
        found = heads
    elif tune == "value":
        found = [t for t in tensors if VALUE.search(t.name)]
    elif tune == "bias":
        found = biases
    elif tune == "norm":
        found = [t for t in tensors if t.kind == "norm"]
    elif tune == "bias+norm":
        found = [t for t in tensors if t.kind in ("bias", "norm")]
    elif tune.startswith("last:"):
        blocks = sorted({t.block for t in tensors if t.block is not None})
        last = set(blocks[-int(tune.removeprefix("last:")) :])
        found = [t for t in tensors if t.block in last]
    else:
        found = [t for t in tensors if re.search(tune, t.name)]
    if not embeddings:
        found = [t for t in found if t.kind != "embedding"]
    if not found:
        names = ", ".join(t.name for t in tensors[:3])
        raise OptionError(f"--tune {tune!r} means no tensor of this model", hint=f"names look like {names}")
    return {t.name for t in found}


def check_tune(tune: str) -> None:
    """Refuse what `match_tensors` could not read, before a model is loaded."""
    if tune.startswith("last:"):
        count = tune.removeprefix("last:")
        if not count.isdecimal() or int(count) < 1:
            raise OptionError(f"--tune {tune!r}: say how many of the last blocks, such as last:2")
    try:
        re.compile(tune)
    except re.error as error:
        raise OptionError(f"--tune {tune!r} is no regular expression: {error}") from None


__all__ = ["check_tune", "match_tensors", "trainable_names"]
