"""Sentence encoders: what the small files of sentence-transformers say about pooling and prompts.

`modules.json` lists the modules that a text goes through and where each has its configuration. What zotune cannot
compute is refused by name: a sentence encoder with other pooling is another model. Knows these files; loads no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zotune.errors import ModelError
from zotune.models.library_calls import first_line

PoolingMode = Literal["mean", "cls", "last", "max"]
MODES: Mapping[str, PoolingMode] = {"mean": "mean", "cls": "cls", "lasttoken": "last", "max": "max"}
"""sentence-transformers' names of the modes that zotune computes."""
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The older form of a pooling configuration: a flag for each mode."""
MODULES = "modules.json"
CONFIG = "config_sentence_transformers.json"
SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names of the settings of the transformer, the first that is there counts; the hub has the first name alone."""


@dataclass(frozen=True)
class SentenceEncoder:
    """How an encoder turns the hidden states of a text into one vector.

    pooling: over which tokens; prompt: text before every text; lowercase: whether texts are lowered first; max_length:
    tokens of a text that it reads at most, special tokens included, None where its files do not tell; files: the files
    that were read, by their names in the model's folder; notes: what the user must know.
    """

    pooling: PoolingMode = "mean"
    prompt: str = ""
    lowercase: bool = False
    max_length: int | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class _Files:
    """The small files of a folder or a hub id."""

    def __init__(self, source: str, folder: Path | None, revision: str) -> None:
        self.source, self.folder, self.revision = source, folder, revision
        self.paths: dict[str, Path] = {}

    def read(self, name: str) -> Any:
        """The JSON value of a file, None where there is no such file. Raises ModelError."""
        path = self.folder / name if self.folder else _hub_file(self.source, name, self.revision)
        if path is None or not path.is_file():
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"--model {self.source!r}: {name} cannot be read: {first_line(error)}") from None
        self.paths[name] = path
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """The same for a file that holds a mapping; empty where there is none."""
        value = self.read(name)
        if value is not None and not isinstance(value, dict):
            raise ModelError(f"--model {self.source!r}: {name} must hold a mapping, got {value!r:.40}")
        return value or {}


def read_sentence_encoder(source: str, folder: Path | None, revision: str = "main") -> SentenceEncoder:
    """The pooling and the prompt of the encoder in a folder or under a hub id; the mean of all tokens where its files
    tell nothing. Raises ModelError for modules, pooling and prompts that zotune does not compute."""
    files = _Files(source, folder, revision)
    modules = files.read(MODULES)
    if modules is None:
        old = files.mapping("1_Pooling/config.json")
        pooling, include = _pooling(old, source)
    else:
        name = f"{_check_modules(modules, source)}/config.json"
        if not (config := files.mapping(name)):
            raise ModelError(f"--model {source!r} lacks {name}, which {MODULES} names for the pooling")
        pooling, include = _pooling(config, source)
    config = files.mapping(CONFIG)
    settings = next(filter(None, map(files.mapping, SETTINGS if folder else SETTINGS[:1])), {})
    length = settings.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise ModelError(f"--model {source!r}: max_seq_length must be a number of tokens, got {length!r:.40}")
    prompt, notes = _prompt(config, source)
    if prompt and not include:
        raise ModelError(
            f"--model {source!r}: its pooling leaves out the tokens of the prompt (include_prompt is false), which "
            "zotune cannot compute"
        )
    similarity = config.get("similarity_fn_name") or "cosine"
    if similarity != "cosine" and not any(_kind(m) == "Normalize" for m in modules or ()):
        notes.append(f"embeddings are compared by their cosine; the model's own similarity is {similarity}")
    return SentenceEncoder(pooling, prompt, bool(settings.get("do_lower_case")), length, files.paths, tuple(notes))


def _check_modules(modules: Any, source: str) -> str:
    """The path of the pooling module. Raises ModelError."""
    if not isinstance(modules, list) or not all(
        isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules
    ):
        raise ModelError(f"--model {source!r}: {MODULES} must be a list of modules with a type")
    kinds = [_kind(module) for module in modules]
    if unknown := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise ModelError(
            f"--model {source!r}: its embeddings go through the module {unknown[0]} ({MODULES}), which zotune cannot "
            "compute",
            hint="an encoder of Transformer, Pooling and Normalize",
        )
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise ModelError(f"--model {source!r}: {MODULES} lists {', '.join(kinds)}, not Transformer and Pooling")
    if path := str(modules[0].get("path") or ""):
        raise ModelError(f"--model {source!r}: its transformer lies in the folder {path!r}, not beside {MODULES}")
    place = str(modules[1].get("path") or "").strip("/")
    if not place or ".." in Path(place).parts:
        raise ModelError(f"--model {source!r}: {MODULES} names the folder {place!r} outside the model")
    return place


def _kind(module: Mapping[str, Any]) -> str:
    return str(module["type"]).rpartition(".")[2]


def _pooling(config: Mapping[str, Any], source: str) -> tuple[PoolingMode, bool]:
    """The mode, and whether the tokens of a prompt are pooled too. Raises ModelError."""
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in FLAGS.items() if config.get(flag)]
        if not modes and config.keys() & FLAGS.keys():
            raise ModelError(f"--model {source!r}: every pooling mode of its pooling configuration is false")
        modes = modes or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1:
        raise ModelError(f"--model {source!r} joins several poolings ({', '.join(map(str, modes))}), zotune takes one")
    if modes[0] not in MODES:
        raise ModelError(
            f"--model {source!r} pools tokens by {modes[0]}, which zotune cannot compute",
            hint=f"it computes {', '.join(MODES)}",
        )
    return MODES[modes[0]], bool(config.get("include_prompt", True))


def _prompt(config: Mapping[str, Any], source: str) -> tuple[str, list[str]]:
    """The default prompt, which stands before every text, and notes. Raises ModelError."""
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if default is not None and not (isinstance(prompts, dict) and isinstance(prompts.get(default), str)):
        raise ModelError(f"--model {source!r}: its default prompt {default!r} is not among its prompts ({CONFIG})")
    if default is not None and prompts[default]:
        return prompts[default], [f"the model's prompt {default!r} is put before every text: {prompts[default]!r:.80}"]
    named = [name for name, text in prompts.items() if text] if isinstance(prompts, dict) else []
    if named and default is None:
        listed = ", ".join(map(repr, named))
        return "", [f"the model has prompts ({listed:.80}) and no default; put one into --template if texts need it"]
    return "", []


def _hub_file(source: str, name: str, revision: str) -> Path | None:
    """The local path of a file of a hub id, None where the repository has no such file. Raises ModelError."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(source, name, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    if cached is _CACHED_NO_EXIST:
        return None
    try:
        return Path(hf_hub_download(source, name, revision=revision))
    except LocalEntryNotFoundError as error:
        reason = f"{name} of {source!r} is not in the cache, and the hub does not return it"
        raise ModelError(f"--model: {reason}: {first_line(error)}") from None
    except EntryNotFoundError:
        return None
    except Exception as error:  # the hub client raises exception types of its own
        raise ModelError(f"--model {source!r}: {name} cannot be read from the hub: {first_line(error)}") from None


__all__ = ["PoolingMode", "SentenceEncoder", "read_sentence_encoder"]
