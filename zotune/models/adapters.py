"""Adapters of peft: LoRA and prefixes, created, loaded and merged.

A prefix starts from the keys and values of real tokens: from random numbers it learns markedly worse (MeZO,
arXiv:2305.17333, Table 15), which can be repeated with init="random". The model computes the keys and values itself, so
grouped-query attention needs no arithmetic here.

Knows models; knows no task and no run.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zotune import seeds
from zotune.errors import ModelError, OptionError, nearest
from zotune.models import frozen_a
from zotune.models.configuration import config_value
from zotune.models.heads import PEFT_TASK_TYPES
from zotune.models.library_calls import first_line, quiet
from zotune.models.loaded_model import LINEAR_HEAD, LoadedModel, load_linear_head
from zotune.models.quantization import is_quantized
from zotune.models.weight_check import names_of, shape_text

METHODS = ("none", "lora", "prefix", frozen_a.METHOD)
INITS = ("tokens", "random")
"""How a prefix starts: from the keys and values of real tokens, or from standard normal numbers."""
PREFIX_HEADS = ("causal", "classification")
"""Heads that a prefix is offered for. Not seq2seq: for an encoder and a decoder, peft gives half of the layers the
keys and values that were computed for the other half."""
QUERY_VALUE = re.compile(r"(?:^|\.)(?:q_proj|v_proj|query|value|q_lin|v_lin|q|v|query_proj|value_proj)$")
"""Query and value projections as Llama, BERT, OPT, DistilBERT, T5 and DeBERTa name them."""
FUSED = re.compile(r"(?:^|\.)(?:c_attn|qkv_proj|query_key_value|Wqkv|qkv|in_proj)$")
"""Projections of query, key and value in one matrix, as GPT-2, Phi-3, GPT-NeoX and others name them."""


@dataclass(frozen=True)
class AdapterConfig:
    """What kind of adapter is put on a frozen base model. Defaults are MeZO's (arXiv:2305.17333, Appendix D.3).

    method: "none", "lora", "prefix" or "lora-fa"; r, alpha, targets: rank, scale and module names of LoRA, without
    targets the query and value projections; lora-fa has the scale 1 and without targets all linear layers of blocks;
    tokens: length of the prefix; init: how it starts, "tokens" or "random".
    """

    method: str = "none"
    r: int = 8
    alpha: int = 16
    targets: tuple[str, ...] = ()
    tokens: int = 5
    init: str = "tokens"

    def check(self, head: str | None = None) -> None:
        """Check the values, and the method for the model's head where `head` is given. Raises OptionError."""
        if self.method not in METHODS:
            raise OptionError(
                f"--peft must be one of {', '.join(METHODS)}, got {self.method!r}", hint=nearest(self.method, METHODS)
            )
        if self.init not in INITS:
            raise OptionError(f"--prefix-init must be {' or '.join(INITS)}, got {self.init!r}")
        for flag, value in (("lora-r", self.r), ("lora-alpha", self.alpha), ("prefix-tokens", self.tokens)):
            if value < 1:
                raise OptionError(f"--{flag} must be at least 1, got {value}")
        if self.method == frozen_a.METHOD and self.r < 2:
            raise OptionError("--peft lora-fa: directions have two factors, so --lora-r must be at least 2")
        if self.method == "prefix" and head not in (None, *PREFIX_HEADS):
            raise OptionError(
                f"--peft prefix needs a model with the head {' or '.join(PREFIX_HEADS)}, this one has {head!r}",
                hint="--peft lora",
            )


def attach(loaded: LoadedModel, adapter: AdapterConfig, seed: int) -> None:
    """Put a new adapter on the model and freeze everything else. The same seed gives the same adapter; global random
    generators are left as they were. Raises OptionError, ModelError."""
    adapter.check(loaded.head)
    if adapter.method == "none":
        return
    if has_adapter(loaded):
        raise OptionError(
            f"{loaded.source} has an adapter already, --peft {adapter.method} would add a second one",
            hint="--peft none tunes the adapter it has",
        )
    devices = [loaded.device] if loaded.device.type == "cuda" else []
    with quiet(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seeds.derive(seed, "adapter"))
        _attach_prefix(loaded, adapter, seed) if adapter.method == "prefix" else _attach_lora(loaded, adapter)
        if adapter.method == frozen_a.METHOD:
            frozen_a.freeze_a(loaded, seed)
    loaded.model.eval()


def _attach_lora(loaded: LoadedModel, adapter: AdapterConfig) -> None:
    import peft

    modules = [n for n, _ in loaded.model.named_modules()]
    if unknown := [t for t in adapter.targets if not any(n == t or n.endswith(f".{t}") for n in modules)]:
        raise OptionError(
            f"--lora-target-modules: the model has no module {', '.join(unknown)}",
            hint=f"linear layers: {_linear_names(loaded)}",
        )
    frozen = adapter.method == frozen_a.METHOD
    usual = frozen_a.block_layers(loaded, _linear(loaded)) if frozen else _query_and_value(loaded)
    config = peft.LoraConfig(
        task_type=PEFT_TASK_TYPES.get(loaded.head),
        r=adapter.r,
        lora_alpha=adapter.r if frozen else adapter.alpha,
        lora_dropout=0.0,
        target_modules=list(adapter.targets) or usual,
        modules_to_save=[LINEAR_HEAD] if loaded.linear_head is not None else None,
    )
    try:
        loaded.model = peft.get_peft_model(loaded.model, config)
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:  # of a kind of layer that peft lacks
        raise OptionError(f"--lora-target-modules: {first_line(error)}") from None
    _set_base_path(loaded)


def _query_and_value(loaded: LoadedModel) -> list[str]:
    """Names of the query and value projections, or of the fused projections where a model has no separate ones. Raises
    OptionError."""
    for pattern in (QUERY_VALUE, FUSED):
        if names := sorted({n.rpartition(".")[2] for n in _linear(loaded) if pattern.search(n)}):
            return names
    raise OptionError(
        "the model has no query and value projections that are known to zotune",
        hint=f"name modules with --lora-target-modules; linear layers: {_linear_names(loaded)}",
    )


def _linear(loaded: LoadedModel) -> list[str]:
    return [n for n, m in loaded.model.named_modules() if isinstance(m, nn.Linear) or _is_conv1d(m)]


def _linear_names(loaded: LoadedModel) -> str:
    """Some names of linear layers, for a hint."""
    return ", ".join(sorted({n.rpartition(".")[2] for n in _linear(loaded)})[:8])


def _is_conv1d(module: nn.Module) -> bool:
    """GPT-2's own linear layer."""
    return type(module).__name__ == "Conv1D"


def _attach_prefix(loaded: LoadedModel, adapter: AdapterConfig, seed: int) -> None:
    import peft

    cache = _keys_and_values(loaded, _random_tokens(loaded, adapter.tokens, seed))
    layers, (heads, tokens, width) = len(cache), cache[0][0].shape
    if any(k.shape != (heads, tokens, width) or v.shape != (heads, tokens, width) for k, v in cache):
        raise ModelError(
            f"{loaded.source}: a prefix needs keys and values of one shape in all layers, these differ",
            hint="--peft lora",
        )
    config = peft.PrefixTuningConfig(
        task_type=PEFT_TASK_TYPES[loaded.head],
        num_virtual_tokens=tokens,
        num_layers=layers,
        num_attention_heads=heads,
        token_dim=heads * width,
    )
    loaded.model = peft.get_peft_model(loaded.model, config)
    flat = [x.transpose(0, 1).reshape(tokens, -1) for pair in cache for x in pair]  # key, value of each layer
    weight = loaded.model.prompt_encoder[loaded.model.active_adapter].embedding.weight
    with torch.no_grad():  # peft's own start is standard normal
        weight.copy_(torch.cat(flat, dim=1) if adapter.init == "tokens" else torch.randn(weight.shape))
    loaded.virtual_tokens = tokens
    _set_base_path(loaded)


def _random_tokens(loaded: LoadedModel, count: int, seed: int) -> Tensor:
    """Ids drawn from the vocabulary without its special tokens: (1, count)."""
    special = set(loaded.tokenizer.all_special_ids)
    ordinary = [i for i in range(min(len(loaded.tokenizer), loaded.config.vocab_size)) if i not in special]
    if len(ordinary) < count:
        raise OptionError(f"--prefix-tokens {count}: the vocabulary has {len(ordinary)} tokens")
    uniform = seeds.uniform(count, seed, "prefix", 0)
    return torch.tensor([[ordinary[int(u * len(ordinary))] for u in uniform]], device=loaded.device)


@torch.no_grad()
def _keys_and_values(loaded: LoadedModel, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer after a forward pass over these ids, each (heads, tokens, width). Raises
    ModelError."""
    output: Any = None if loaded.config.is_encoder_decoder else loaded.model(input_ids=ids, use_cache=True)
    try:
        return [(layer.keys[0], layer.values[0]) for layer in output.past_key_values.layers]
    except (AttributeError, TypeError):  # encoders have no cache, recurrent models have another kind
        raise ModelError(
            f"{loaded.source} has no cache of keys and values, which a prefix needs", hint="--peft lora"
        ) from None


def _set_base_path(loaded: LoadedModel) -> None:
    """Name the base model by an absolute path in the adapter's configuration: it is read from other folders, too."""
    base = str(Path(loaded.source).resolve()) if loaded.folder else loaded.source
    for config in loaded.model.peft_config.values():
        config.base_model_name_or_path = base


def load(loaded: LoadedModel, folder: Path) -> None:
    """Put a saved adapter on its base model, trainable. Raises ModelError."""
    import peft

    if loaded.head == "embedding" and loaded.linear_head is None:
        load_linear_head(loaded, folder)  # peft loads weights only into modules that exist
    drawn, loaded.drawn = loaded.drawn, frozenset()
    try:
        with quiet():
            lora = peft.PeftConfig.from_pretrained(folder).peft_type == "LORA"
            loaded.model = peft.PeftModel.from_pretrained(
                loaded.model, folder, is_trainable=lora, ignore_mismatched_sizes=True
            ).eval()
    except Exception as error:  # peft, safetensors and torch raise exception types of their own
        raise ModelError(f"the adapter in {folder} cannot be loaded: {first_line(error)}") from error
    _check_adapter(loaded, folder, drawn)
    config = loaded.model.peft_config[loaded.model.active_adapter]
    loaded.virtual_tokens = config_value(config, "num_virtual_tokens") or 0
    if not lora:  # peft refuses is_trainable for a prefix and loads it frozen
        config.inference_mode = False
        for name, p in loaded.model.named_parameters():
            if name.startswith("prompt_encoder.") or ".modules_to_save." in name:
                p.requires_grad_(True)


def _check_adapter(loaded: LoadedModel, folder: Path, drawn: Collection[str]) -> None:
    """Whether the adapter's files hold exactly the tensors that peft put on the model: peft leaves the others random or
    passes over them with a warning. drawn: tensors of the base model that the adapter must replace. Raises
    ModelError."""
    import peft
    from safetensors import safe_open

    saved: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("adapter_model*.safetensors"):
        with safe_open(path, "pt") as file:
            names = file.keys()
            saved |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
    if not saved:  # a pickle file, read because the user allowed it
        tensors = torch.load(folder / "adapter_model.bin", map_location="cpu", weights_only=True)
        saved = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    saved = {name: shape for name, shape in saved.items() if f".{LINEAR_HEAD}." not in f".{name}"}
    active = loaded.model.active_adapter
    present = peft.get_peft_model_state_dict(loaded.model, adapter_name=active, save_embedding_layers=False)
    wanted = {name: tuple(x.shape) for name, x in present.items() if f".{LINEAR_HEAD}." not in f".{name}"}
    base = {f"base_model.model.{name}" for name in loaded.unwrapped.state_dict()}
    if misplaced := saved.keys() - wanted.keys() - base:
        raise ModelError(
            f"the adapter in {folder} does not fit {loaded.source}: the model has no place for {names_of(misplaced)}",
            hint="is this the base model that the adapter was trained on?",
        )
    if misshapen := sorted(name for name in saved.keys() & wanted.keys() if saved[name] != wanted[name]):
        name = misshapen[0]
        raise ModelError(
            f"the adapter in {folder}: {name} is {shape_text(saved[name])} in its files and "
            f"{shape_text(wanted[name])} by its configuration and base model",
            hint="is this the base model that the adapter was trained on?",
        )
    if missing := (wanted.keys() | {f"base_model.model.{name}" for name in drawn}) - saved.keys():
        raise ModelError(f"the adapter in {folder} lacks {names_of(missing)}: these weights would be random")


def has_adapter(loaded: LoadedModel) -> bool:
    """Whether the model is wrapped by peft."""
    return config_value(loaded.model, "peft_config") is not None


def merge(loaded: LoadedModel) -> None:
    """Write LoRA into the base weights and drop peft's wrapper. Raises ModelError: a prefix cannot be merged, and
    quantised weights would round updates away."""
    if is_quantized(loaded.unwrapped):
        raise ModelError(
            f"the base weights of {loaded.source} are quantised: merging would round the updates away",
            hint="leave out --merge: peft loads the adapter",
        )
    merge_and_unload = config_value(loaded.model, "merge_and_unload")
    try:
        if merge_and_unload is None:
            raise NotImplementedError
        loaded.model = merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError):
        raise ModelError(
            "only LoRA can be merged into its base model", hint="load a prefix with peft.PeftModel.from_pretrained"
        ) from None


__all__ = ["METHODS", "AdapterConfig", "attach", "has_adapter", "load", "merge"]
