"""GGUF files: quantized models of llama.cpp, which transformers reads and expands to full weights.

Knows the package gguf and what transformers reads of such a file; loads no weights.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zotune.errors import ModelError
from zotune.models.configuration import config_value
from zotune.models.library_calls import first_line, quiet

SUFFIX = ".gguf"
_HUB_FILE = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*/[^/].*\.gguf", re.IGNORECASE)


def is_gguf(path: str | Path) -> bool:
    """Whether a path has the suffix of a GGUF file."""
    return str(path).lower().endswith(SUFFIX)


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that a path names: the file itself, or the only one in a folder without a config.json. Raises
    ModelError where a folder holds several."""
    if path.is_file():
        return path if is_gguf(path) else None
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    files = sorted(p for p in path.iterdir() if is_gguf(p) and p.is_file())
    if len(files) > 1:
        raise ModelError(
            f"--model {str(path)!r} holds {len(files)} GGUF files", hint=f"name one, such as -m {files[0]}"
        )
    return files[0] if files else None


def names_hub_file(source: str) -> bool:
    """Whether a text names a GGUF file of a hub id: `owner/name/file.gguf`."""
    return _HUB_FILE.fullmatch(source) is not None


def gguf_options(source: str) -> tuple[str, dict[str, str]]:
    """The first argument of `from_pretrained` for a folder, a hub id, a GGUF file or a GGUF file of a hub id, and the
    options that it needs."""
    if not is_gguf(source):
        return source, {}
    if names_hub_file(source) and not Path(source).exists():
        owner, name, file = source.split("/", 2)
        return f"{owner}/{name}", {"gguf_file": file}
    return str(Path(source).parent), {"gguf_file": Path(source).name}


def gguf_path(source: str, revision: str | None = None) -> Path | None:
    """The path of a GGUF file; of one of a hub id, where it has been downloaded to."""
    place, options = gguf_options(source)
    if not names_hub_file(source) or Path(source).exists():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(place, options["gguf_file"], revision=revision)
    return Path(cached) if isinstance(cached, str) else None


@functools.lru_cache(8)
def read_gguf_config(source: str, revision: str | None = None) -> dict[str, Any]:
    """The configuration in a GGUF file, an absolute path or a file of a hub id, which is downloaded. Raises ModelError:
    the package gguf is missing, the file is damaged, or transformers does not read its architecture."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"--model {source!r} needs the package gguf", hint="pip install 'zotune[gguf]'")
    from transformers import PreTrainedConfig

    place, options = gguf_options(source)
    try:
        if (path := gguf_path(source, revision)) is not None:
            with path.open("rb") as file:
                begin = file.read(4)
            if begin != b"GGUF":
                raise ModelError(f"--model {source!r} is no GGUF file: it begins with {begin!r}")
        with quiet():
            config: dict[str, Any] = dict(
                PreTrainedConfig.get_config_dict(place, revision=revision or "main", **options)[0]
            )
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"--model {source!r} cannot be read: {error.strerror or first_line(error)}") from None
    except Exception as error:  # gguf reads tables by numpy, which raises what it meets in a damaged one
        if "architecture" in str(error):
            raise ModelError(f"--model {source!r}: {first_line(error)}") from None
        raise ModelError(
            f"--model {source!r} is cut off or damaged: {type(error).__name__}: {first_line(error)}"
        ) from None
    if "architectures" not in config:
        encoder_decoder = str(config.get("model_type")) in ("t5", "umt5")
        config["architectures"] = ["T5ForConditionalGeneration" if encoder_decoder else "LlamaForCausalLM"]
    return config


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """Inside the block each GGUF file is parsed once: transformers parses it anew for configuration, weights and
    tokenizer, which takes longer than reading the weights of a small model."""
    gguf: Any = importlib.import_module("gguf")
    plain, parsed = gguf.GGUFReader, dict[str, Any]()

    def reader(path: Any) -> Any:
        if str(path) not in parsed:
            parsed[str(path)] = plain(path)
        return parsed[str(path)]

    gguf.GGUFReader = reader
    try:
        yield
    finally:
        gguf.GGUFReader = plain


def forget_quantization(model: Any) -> None:
    """Make a model that was read from a GGUF file and de-quantised a usual one, which can be saved."""
    model.hf_quantizer, model.is_quantized = None, False
    if config_value(model.config, "quantization_config") is not None:
        del model.config.quantization_config


def size_note(path: Path, model: Any) -> str:
    """How large the weights of a GGUF file are in memory."""
    tensors = {p.data_ptr(): p for p in model.parameters()}.values()
    size = sum(p.numel() * p.element_size() for p in tensors)
    kind = str(next(iter(model.parameters())).dtype).removeprefix("torch.")
    in_file, in_memory = path.stat().st_size / 2**20, size / 2**20
    return f"{path.name} is de-quantised: {in_file:,.0f} MiB in the file are {in_memory:,.0f} MiB as {kind}"


__all__ = [
    "find_gguf",
    "forget_quantization",
    "gguf_options",
    "gguf_path",
    "is_gguf",
    "names_hub_file",
    "parsed_once",
    "read_gguf_config",
    "size_note",
]
