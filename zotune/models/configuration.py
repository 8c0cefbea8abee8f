"""Values of transformers' and peft's objects: configurations, tokenizers and models, whose attributes differ by model.

Knows attribute names of transformers and peft; loads nothing and imports neither of them.
"""

from __future__ import annotations

from typing import Any


def config_value(config: Any, name: str, default: Any = None) -> Any:
    """The attribute `name` of an object of transformers or peft, or `default` where the object has no such attribute.

    Only for objects of these libraries: which attributes a configuration, a tokenizer or a model has depends on the
    model's class and the library's version. An object of zotune or of a user is never read by this function.
    """
    return getattr(config, name, default)


def text_config(config: Any) -> Any:
    """The configuration of a model's text part, which multimodal models keep apart; others have one configuration."""
    get_text_config = config_value(config, "get_text_config")
    return config if get_text_config is None else get_text_config()


__all__ = ["config_value", "text_config"]
