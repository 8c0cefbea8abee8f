"""Settings of `generate`: end tokens, padding, sampling, and the model's own defaults.

Knows transformers' generation configuration; knows no prompts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from zotune.models.configuration import config_value
from zotune.models.loaded_model import LoadedModel


def generation_config(
    loaded: LoadedModel, max_new_tokens: int, temperature: float, top_p: float, top_k: int = 0, min_p: float = 0.0
) -> Any:
    """A transformers GenerationConfig: greedy at temperature 0, else sampling with these options. Of the model's own
    generation configuration it keeps the start and end tokens alone."""
    from transformers import GenerationConfig

    start, forced, *_ = (*loaded.decoder_start_ids, None, None)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    if min_p > 0:
        sampling["min_p"] = min_p
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=1,
        eos_token_id=end_token_ids(loaded),
        pad_token_id=loaded.pad_token_id,
        decoder_start_token_id=start,
        forced_bos_token_id=forced,
        **(sampling if temperature > 0 else {"do_sample": False}),
    )


def score_processors(processors: Sequence[Callable[[Any, Any], Any]]) -> Any:
    """Functions of (ids so far, scores of the next token) that return changed scores, as `generate` takes them."""
    from transformers import LogitsProcessorList

    return LogitsProcessorList(processors)


def end_token_ids(loaded: LoadedModel) -> list[int]:
    """The ids that end a completion: those of the generation configuration, of the model's configuration and of the
    tokenizer, ascending. They differ in chat models: one ends a turn, another a text."""
    model = loaded.unwrapped
    ids: set[int] = set()
    for owner in (config_value(model, "generation_config"), model.config, loaded.config, loaded.tokenizer):
        end = config_value(owner, "eos_token_id")
        ids |= {end} if isinstance(end, int) else set(end or ())
    return sorted(ids)


@contextlib.contextmanager
def ignore_generation_defaults(loaded: LoadedModel) -> Iterator[None]:
    """Inside, the model has no generation configuration of its own: transformers would take beams, penalties and a
    forced last token from it wherever a call to `generate` leaves them open."""
    from transformers import GenerationConfig

    model, defaults = loaded.unwrapped, loaded.unwrapped.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = defaults


__all__ = ["end_token_ids", "generation_config", "ignore_generation_defaults", "score_processors"]
