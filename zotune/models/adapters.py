"""Parameter-efficient tuning through peft: LoRA and prefixes, made, loaded, saved and merged.

A prefix starts from the keys and values of real tokens: from random numbers it learns markedly worse (MeZO,
arXiv:2305.17333, Table 15). They are computed by the model itself, so grouped-query attention needs no arithmetic.

Knows models; knows no task and no run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zotune import seeds
from zotune.errors import ModelError, OptionError
from zotune.models.configuration import config_value
from zotune.models.loading import LoadedModel, attach_linear_head, quiet

METHODS = ("none", "lora", "prefix")
TYPES = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classification": "SEQ_CLS"}
PREFIXED = ("causal", "classification")
"""Heads that a prefix is for. Not seq2seq: of a prefix for an encoder and a decoder, peft gives half of the layers the
keys and values that were made for others."""
QUERY_VALUE = re.compile(r"(?:^|\.)(?:q_proj|v_proj|query|value|q_lin|v_lin|q|v|query_proj|value_proj)$")
FUSED = re.compile(r"(?:^|\.)(?:c_attn|qkv_proj|query_key_value|Wqkv|qkv|in_proj)$")


@dataclass(frozen=True)
class AdapterConfig:
    """What goes on top of a frozen model. Defaults are MeZO's (arXiv:2305.17333, Appendix D.3)."""

    method: str = "none"
    r: int = 8
    alpha: int = 16
    targets: tuple[str, ...] = ()
    tokens: int = 5

    def check(self, head: str | None = None) -> None:
        """Refuse what cannot be made. Raises OptionError."""
        if self.method not in METHODS:
            raise OptionError(f"--peft must be one of {', '.join(METHODS)}, got {self.method!r}")
        for flag, value in (("lora-r", self.r), ("lora-alpha", self.alpha), ("prefix-tokens", self.tokens)):
            if value < 1:
                raise OptionError(f"--{flag} must be at least 1, got {value}")
        if self.method == "prefix" and head not in (None, *PREFIXED):
            raise OptionError(
                f"a prefix goes before what a decoder reads; there is none for the head {head!r}", hint="--peft lora"
            )


def attach(loaded: LoadedModel, adapter: AdapterConfig, seed: int) -> None:
    """Put a fresh adapter on the model; all but its weights is frozen. The same seed gives the same adapter, and the
    global generators are left alone. Raises OptionError, ModelError."""
    adapter.check(loaded.head)
    if adapter.method == "none":
        return
    if has_adapter(loaded):
        raise OptionError(f"{loaded.source} has an adapter already; --peft none goes on with it")
    devices = [loaded.device] if loaded.device.type == "cuda" else []
    with quiet(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seeds.derive(seed, "adapter"))
        _attach_lora(loaded, adapter) if adapter.method == "lora" else _attach_prefix(loaded, adapter, seed)
    loaded.model.eval()


def _attach_lora(loaded: LoadedModel, adapter: AdapterConfig) -> None:
    import peft

    modules = [n for n, _ in loaded.model.named_modules()]
    if unknown := [t for t in adapter.targets if not any(n == t or n.endswith(f".{t}") for n in modules)]:
        raise OptionError(
            f"--lora-target-modules: no module is called {', '.join(unknown)}", hint=f"of {_some(loaded)}"
        )
    config = peft.LoraConfig(
        task_type=TYPES.get(loaded.head),
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=0.0,
        target_modules=list(adapter.targets) or _query_and_value(loaded),
        modules_to_save=["linear_head"] if loaded.linear_head is not None else None,
    )
    try:
        loaded.model = peft.get_peft_model(loaded.model, config)
    except ValueError as error:
        raise OptionError(f"--lora-target-modules: {str(error).splitlines()[0]}") from None
    _name_base(loaded)


def _query_and_value(loaded: LoadedModel) -> list[str]:
    """Names of the query and value projections, or of the fused ones where a model has no others."""
    for pattern in (QUERY_VALUE, FUSED):
        if found := sorted({n.rpartition(".")[2] for n in _linear(loaded) if pattern.search(n)}):
            return found
    raise OptionError("no query and value projections found", hint=f"--lora-target-modules, of {_some(loaded)}")


def _linear(loaded: LoadedModel) -> list[str]:
    return [n for n, m in loaded.model.named_modules() if isinstance(m, nn.Linear) or _is_conv1d(m)]


def _some(loaded: LoadedModel) -> str:
    return ", ".join(sorted({n.rpartition(".")[2] for n in _linear(loaded)})[:8])


def _is_conv1d(module: nn.Module) -> bool:
    """GPT-2's own linear layer."""
    return type(module).__name__ == "Conv1D"


def _attach_prefix(loaded: LoadedModel, adapter: AdapterConfig, seed: int) -> None:
    import peft

    cache = _cache_of(loaded, _real_tokens(loaded, adapter.tokens, seed))
    layers, (heads, tokens, width) = len(cache), cache[0][0].shape
    if any(k.shape != (heads, tokens, width) or v.shape != (heads, tokens, width) for k, v in cache):
        raise ModelError(
            f"{loaded.source}: layers differ in their keys' shape; a prefix cannot be put on", hint="LoRA can"
        )
    config = peft.PrefixTuningConfig(
        task_type=TYPES[loaded.head],
        num_virtual_tokens=tokens,
        num_layers=layers,
        num_attention_heads=heads,
        token_dim=heads * width,
    )
    loaded.model = peft.get_peft_model(loaded.model, config)
    flat = [x.transpose(0, 1).reshape(tokens, -1) for pair in cache for x in pair]  # key, value of each layer
    weight = loaded.model.prompt_encoder[loaded.model.active_adapter].embedding.weight
    with torch.no_grad():
        weight.copy_(torch.cat(flat, dim=1))
    loaded.virtual_tokens = tokens
    _name_base(loaded)


def _real_tokens(loaded: LoadedModel, count: int, seed: int) -> Tensor:
    """Ids of real tokens, drawn from the vocabulary without its special ones: (1, count)."""
    special = set(loaded.tokenizer.all_special_ids)
    usual = [i for i in range(min(len(loaded.tokenizer), loaded.config.vocab_size)) if i not in special]
    if len(usual) < count:
        raise OptionError(f"--prefix-tokens {count}: the vocabulary has {len(usual)} tokens")
    drawn = seeds.uniform(count, seed, "prefix", 0)
    return torch.tensor([[usual[int(u * len(usual))] for u in drawn]], device=loaded.device)


@torch.no_grad()
def _cache_of(loaded: LoadedModel, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, (heads, tokens, width), after reading these tokens."""
    found: Any = None if loaded.config.is_encoder_decoder else loaded.model(input_ids=ids, use_cache=True)
    try:
        return [(layer.keys[0], layer.values[0]) for layer in found.past_key_values.layers]
    except (AttributeError, TypeError):  # an encoder has no cache, a recurrent model one of its own kind
        raise ModelError(f"{loaded.source} keeps no keys and values for a prefix", hint="--peft lora") from None


def _name_base(loaded: LoadedModel) -> None:
    """The adapter's file names its base by a path that holds from anywhere."""
    base = str(loaded.folder.resolve()) if loaded.folder else loaded.source
    for config in loaded.model.peft_config.values():
        config.base_model_name_or_path = base


def load(loaded: LoadedModel, folder: Path) -> None:
    """Put a saved adapter on its base model, ready to be tuned on. Raises ModelError."""
    import peft

    if loaded.head == "embedding" and loaded.linear_head is None:
        attach_linear_head(loaded, folder)  # peft puts weights only on what is there
    try:
        with quiet():
            lora = peft.PeftConfig.from_pretrained(folder).peft_type == "LORA"
            loaded.model = peft.PeftModel.from_pretrained(loaded.model, folder, is_trainable=lora).eval()
    except Exception as error:  # peft, safetensors and torch raise families of their own
        raise ModelError(f"the adapter in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    config = loaded.model.peft_config[loaded.model.active_adapter]
    loaded.virtual_tokens = config_value(config, "num_virtual_tokens") or 0
    if not lora:  # peft loads a prefix frozen
        config.inference_mode = False
        for name, p in loaded.model.named_parameters():
            if name.startswith("prompt_encoder.") or ".modules_to_save." in name:
                p.requires_grad_(True)


def has_adapter(loaded: LoadedModel) -> bool:
    return config_value(loaded.model, "peft_config") is not None


def merge(loaded: LoadedModel) -> None:
    """Write LoRA into the base weights; a prefix cannot be merged. Raises ModelError."""
    merge_and_unload = config_value(loaded.model, "merge_and_unload")
    if merge_and_unload is None:
        raise ModelError("only LoRA can be merged into its base model", hint="load a prefix with PeftModel")
    try:
        loaded.model = merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError):
        raise ModelError("only LoRA can be merged into its base model", hint="load a prefix with PeftModel") from None


__all__ = ["METHODS", "AdapterConfig", "attach", "has_adapter", "load", "merge"]
