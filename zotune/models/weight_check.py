"""Weight checks: whether a model's files held what the loaded class uses.

transformers draws missing weights at random and passes over unexpected ones. Both give another model than the files
describe, so both are refused here, unless nothing that is scored reads them. Knows what transformers reports about
loading; loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from zotune.errors import ModelError
from zotune.models.heads import Head

_WRAPPERS = r"_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module"
"""Parts that torch.compile, FSDP, activation checkpointing and DeepSpeed put into the names of saved tensors."""
WRAPPER = re.compile(rf"(^|\.)(?:(?:{_WRAPPERS})\.)+")
"""Parts of wrappers anywhere in a name, one after another."""
PARALLEL = re.compile(rf"^(?:(?:{_WRAPPERS})\.)*module\.(?:(?:module|{_WRAPPERS})\.)*")
"""The prefix `module.` of DataParallel and DistributedDataParallel, which wrap the whole model, and those of other
wrappers around and inside it."""
POOLER = re.compile(r"(^|\.)pooler\.")
"""The layer over the first token that BERT was pre-trained with. Embeddings are pooled from the last hidden state, so
nothing reads it there."""
SHOWN = 4
"""Names that a message lists at most."""


def wrapper_mapping(info: Mapping[str, Any]) -> dict[str, str]:
    """transformers' `key_mapping` that strips the prefixes of wrappers from tensor names; empty where the names have
    none. The prefix `module.` is one only where weights are missing and every unexpected name starts with it."""
    mapping: dict[str, str] = {}
    unexpected = info["unexpected_keys"]
    if info["missing_keys"] and unexpected and all(PARALLEL.search(name) for name in unexpected):
        mapping[PARALLEL.pattern] = ""
        unexpected = [PARALLEL.sub("", name) for name in unexpected]
    depth = max((len(WRAPPER.findall(name)) for name in unexpected), default=0)
    # transformers replaces the first match of a pattern in a name: a pattern for each, told apart by a comment.
    return mapping | {f"(?#{i}){WRAPPER.pattern}": r"\1" for i in range(depth)}


def head_tensors(model: Any) -> set[str]:
    """Names of a headed model's tensors outside its base model: the head's."""
    prefix = base_prefix(model)
    return {name for name in model.state_dict() if not name.startswith(f"{prefix}.")}


def pooler_tensors(model: Any) -> set[str]:
    """Names of the pooler's tensors, which a model without a head may lack and a new head reads."""
    return {name for name in model.state_dict() if POOLER.search(name)}


def check_weights(
    source: str, model: Any, head: Head, info: Mapping[str, Any], new_head: Collection[str] = ()
) -> list[str]:
    """Compare a model's files with the class that was loaded; returns notes for the user.

    info: what `from_pretrained(output_loading_info=True)` reports. new_head: names of missing tensors that the caller
    draws on purpose. Raises ModelError for missing weights that are used, for weights of another shape, and for weights
    of the files that belong to a loaded module and have no place in it.
    """
    missing = set(info["missing_keys"]) - set(new_head)
    if head == "embedding":
        missing = {name for name in missing if not POOLER.search(name)}
    if missing:
        raise ModelError(
            f"--model {source!r} lacks {names_of(missing)}: these weights would be random",
            hint="is this the head, and are these the files, that the model was saved with?",
        )
    mismatched = {name: pair for name, *pair in info["mismatched_keys"] if name not in new_head}
    if mismatched:
        name, (in_files, wanted) = min(mismatched.items())
        more = f", and {len(mismatched) - 1} more tensors differ" if len(mismatched) > 1 else ""
        shapes = f"{shape_text(in_files)} in its files and {shape_text(wanted)} by its config.json"
        raise ModelError(f"--model {source!r}: {name} is {shapes}{more}")
    unexpected = set(info["unexpected_keys"])
    prefix = base_prefix(model)
    modules = {name for name, _ in model.named_modules()}
    misplaced = {name for name in unexpected if _belongs(name, modules, prefix)}
    if misplaced:
        raise ModelError(
            f"--model {source!r}: its files hold {names_of(misplaced)}, which its config.json has no place for",
            hint="a model scored without these weights is another one",
        )
    return [f"not used by the {head} head: {names_of(unexpected)} of the model's files"] if unexpected else []


def base_prefix(model: Any) -> str:
    """The name of a model's base model in its own tensors' names, such as "model" or "bert"."""
    return str(type(model).base_model_prefix)


def _belongs(name: str, modules: Collection[str], prefix: str) -> bool:
    """Whether a tensor's own module was loaded, or the list of layers that it stands in: files of a base model have
    names without the prefix of the base model, and those of a headed model have it."""
    for candidate in (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"):
        parent = candidate.rpartition(".")[0]
        if parent and parent in modules:
            return True
        layers = re.match(r"(.+?)\.\d+\.", candidate)
        if layers and layers[1] in modules:
            return True
    return False


def shape_text(shape: Iterable[int]) -> str:
    """A shape in a message: `5 x 32`."""
    return " x ".join(map(str, shape)) or "a scalar"


def names_of(names: Iterable[str]) -> str:
    """Some names, shortened to layers without their numbers: `layers.*.mlp.up_proj.weight (5 tensors)`."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(name)
    shown = [group[0] if len(group) == 1 else f"{key} ({len(group)} tensors)" for key, group in groups.items()]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more


__all__ = ["check_weights", "head_tensors", "names_of", "pooler_tensors", "shape_text", "wrapper_mapping"]
