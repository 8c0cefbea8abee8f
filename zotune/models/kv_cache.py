"""Key-value caches of causal models: an empty one, and whether a model can read a shared prompt once.

Knows transformers' caches; knows no prompts.
"""

from __future__ import annotations

from typing import Any

from zotune.models.configuration import config_value, text_config
from zotune.models.loaded_model import LoadedModel


def new_kv_cache(loaded: LoadedModel) -> Any:
    """An empty transformers DynamicCache for a causal model."""
    from transformers import DynamicCache

    return DynamicCache(config=loaded.unwrapped.config)


def has_full_attention(config: Any, tokens: int) -> bool:
    """Whether every layer attends to all earlier tokens in rows of `tokens` tokens: no attention window is shorter, and
    no layer keeps a recurrent state."""
    text = text_config(config)
    kinds = {*(config_value(text, "layer_types") or ()), *(config_value(text, "attention_layers") or ())}
    window = config_value(text, "sliding_window")
    attention = {"full_attention", "global"} | ({"sliding_attention"} if window else set())
    return kinds <= attention and (not window or window >= tokens)


__all__ = ["has_full_attention", "new_kv_cache"]
