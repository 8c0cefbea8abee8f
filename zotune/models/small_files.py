"""A model's small files: configuration, tokenizer, chat template and pooling, as transformers and sentence-transformers
name them.

Knows names, and which values a file must hold; loads no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from zotune.errors import ModelError
from zotune.models.gguf_files import gguf_options
from zotune.models.library_calls import first_line

SMALL_FILES: Final = (
    *("config.json", "generation_config.json", "adapter_config.json", "chat_template.jinja", "chat_template.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json"),
)
LISTS: Final = ("modules.json",)
"""Files that hold a list; all others that end in .json hold a mapping."""
TOKEN_IDS: Final = ("eos_token_id", "decoder_start_token_id", "forced_bos_token_id", "bos_token_id", "pad_token_id")
"""Keys of generation_config.json that hold the number of a token, or several."""


def small_files(source: str, folder: Path | None, revision: str | None = None) -> Iterator[tuple[str, Path]]:
    """The small files in a model's folder, or those of a hub id that have been downloaded: their names and paths."""
    for name in SMALL_FILES:
        if folder is not None:
            path: Any = folder / name
        else:
            from huggingface_hub import try_to_load_from_cache

            path = try_to_load_from_cache(gguf_options(source)[0], name, revision=revision)
        if isinstance(path, str | Path) and Path(path).is_file():
            yield name, Path(path)


def check_small_files(source: str, folder: Path | None, revision: str | None = None) -> None:
    """Raises ModelError that names a file of JSON which cannot be read or holds another kind of value than it must:
    transformers passes over some of them, such as a damaged generation_config.json, and takes defaults."""
    for name, path in small_files(source, folder, revision):
        if not name.endswith(".json"):
            continue
        try:
            value: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"--model {source!r}: {name} cannot be read: {first_line(error)}") from None
        word = "list" if name in LISTS else "mapping"
        if not isinstance(value, list if name in LISTS else dict):
            raise ModelError(f"--model {source!r}: {name} must hold a {word}, got {value!r:.40}")
        if name == "generation_config.json" and isinstance(value, dict):
            _check_generation(source, value)


def _check_generation(source: str, config: dict[str, Any]) -> None:
    """Raises ModelError for a generation configuration that transformers does not take, or token ids of another
    type."""
    from transformers import GenerationConfig

    name = "generation_config.json"
    for key in TOKEN_IDS:
        ids = config.get(key)
        if not all(type(i) is int for i in (ids if isinstance(ids, list) else [] if ids is None else [ids])):
            raise ModelError(f"--model {source!r}: {name}: {key} must be the number of a token, got {ids!r:.40}")
    try:
        GenerationConfig.from_dict(config)
    except Exception as error:  # whatever transformers raises for a value that it compares or calls
        raise ModelError(
            f"--model {source!r}: {name} cannot be used: {type(error).__name__}: {first_line(error)}"
        ) from None


__all__ = ["SMALL_FILES", "check_small_files", "small_files"]
