"""Key-value caches of causal models: an empty one, one that grows in place, and whether a model can read a shared
prompt once.

Knows transformers' caches; knows no prompts.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from zotune.models.configuration import config_value, text_config
from zotune.models.loaded_model import LoadedModel

FREE = 32
"""Tokens at least that a cache has room for after it has grown."""


def new_kv_cache(loaded: LoadedModel) -> Any:
    """An empty transformers DynamicCache for a causal model."""
    from transformers import DynamicCache

    return DynamicCache(config=loaded.unwrapped.config)


def growing_kv_cache(loaded: LoadedModel) -> Any | None:
    """An empty cache for the model's `generate` that writes each new token into memory of its own, where transformers'
    copies all tokens before it; None where a layer of the model keeps anything but all tokens."""
    model = loaded.unwrapped
    usual = config_value(model, "_supports_default_dynamic_cache")
    if loaded.head != "causal" or loaded.virtual_tokens or usual is None or not usual():
        return None
    if config_value(config_value(model, "generation_config"), "use_cache") is False:
        return None
    usual_layer, growing_layer = _layers()
    cache = new_kv_cache(loaded)
    if not cache.layers or any(type(layer) is not usual_layer for layer in cache.layers):
        return None
    cache.layers = [growing_layer() for _ in cache.layers]
    return cache


class _Memory:
    """Where a layer's keys and values lie, with room for more tokens."""

    __slots__ = ("keys", "values")  # not seen by what compares the tensors of a model's outputs

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        self.keys, self.values = (x.new_empty((*x.shape[:-2], room, x.shape[-1])) for x in (keys, values))


@functools.cache
def _layers() -> tuple[type, type]:
    """transformers' layer that keeps all tokens, and one that does the same in place."""
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):  # type: ignore[misc]
        keys: Tensor
        values: Tensor

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self._memory: _Memory | None = None
            self._seen: Tensor | None = None

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            old = self.get_seq_length()
            total, memory = old + key_states.shape[-2], self._memory
            own = memory is not None and self.keys is self._seen  # else rows were selected, repeated or cut
            if memory is None or not own or memory.keys.shape[-2] < total:
                memory = self._memory = _Memory(key_states, value_states, total + max(FREE, total // 4))
                if old:
                    memory.keys[..., :old, :] = self.keys
                    memory.values[..., :old, :] = self.values
            memory.keys[..., old:total, :] = key_states
            memory.values[..., old:total, :] = value_states
            self.keys, self.values = memory.keys[..., :total, :], memory.values[..., :total, :]
            self._seen = self.keys
            return self.keys, self.values

    return DynamicLayer, GrowingLayer


def has_full_attention(config: Any, tokens: int) -> bool:
    """Whether every layer attends to all earlier tokens in rows of `tokens` tokens: no attention window is shorter, and
    no layer keeps a recurrent state."""
    text = text_config(config)
    kinds = {*(config_value(text, "layer_types") or ()), *(config_value(text, "attention_layers") or ())}
    window = config_value(text, "sliding_window")
    attention = {"full_attention", "global"} | ({"sliding_attention"} if window else set())
    return kinds <= attention and (not window or window >= tokens)


__all__ = ["growing_kv_cache", "has_full_attention", "new_kv_cache"]
