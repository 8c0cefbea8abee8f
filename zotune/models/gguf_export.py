"""A model written as a GGUF file, in f32, f16 or q8_0.

The metadata are copied from the file that the model was read from, or made from a folder's configuration and tokenizer.
Only architectures whose tensors transformers reads one to one are written: llama (with Mistral's), qwen2 and qwen3. In
a GGUF file of llama the rows of queries and keys stand in another order. Knows the package gguf and Hugging Face names;
loads no model.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from zotune.errors import ModelError
from zotune.models.configuration import config_value

GgufType = Literal["f32", "f16", "q8_0"]
TOOL: Final = "llama.cpp's convert_hf_to_gguf.py"
ARCHITECTURES: Final[Mapping[str, str]] = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Model type of a configuration → architecture of a GGUF file."""
FILE_TYPES: Final[Mapping[str, int]] = {"f32": 0, "f16": 1, "q8_0": 7}
BLOCK: Final = 32
"""Values in a block of q8_0."""
PRE_TOKENIZERS: Final[Mapping[str, str]] = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|": "qwen2",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|": "llama-bpe",
}
"""How the pattern of a byte-level tokenizer begins → its name in a GGUF file."""


def check(model: Any, kind: str) -> None:
    """Raise ModelError where a model cannot be written as such a GGUF file."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("--gguf needs the package gguf", hint="pip install 'zotune[gguf]'")
    if kind not in FILE_TYPES:
        raise ModelError(
            f"--gguf {kind!r:.40}: {', '.join(FILE_TYPES)}", hint=f"{TOOL} and llama-quantize write other types"
        )
    model_type = str(config_value(model.config, "model_type"))
    if model_type not in ARCHITECTURES or config_value(model.config, "num_local_experts"):
        raise ModelError(
            f"--gguf writes models of the types {', '.join(ARCHITECTURES)}; this one is {model_type!r}",
            hint=f"zotune export RUN -o DIR, then {TOOL} DIR",
        )


def write(model: Any, tokenizer: Any, kind: GgufType, target: Path, source: Path | None) -> None:
    """Write a causal model. source: the GGUF file whose metadata and tokenizer are copied; without one they are made
    from the configuration and the tokenizer. Raises ModelError."""
    import gguf

    check(model, kind)
    architecture = ARCHITECTURES[str(model.config.model_type)]
    writer = gguf.GGUFWriter(target, architecture)
    try:
        if source is not None:
            _copy_metadata(writer, source, architecture)
        else:
            _add_metadata(writer, model.config, tokenizer, architecture)
        writer.add_file_type(FILE_TYPES[kind])
        for name, values in _tensors(model, architecture):
            _add_tensor(writer, name, values, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _tensors(model: Any, architecture: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The model's tensors under their GGUF names, as float32. Raises ModelError for one without a name."""
    import gguf

    config = model.config
    key = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(key, config.num_hidden_layers)
    tied = bool(config_value(config, "tie_word_embeddings"))
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelError(f"the tensor {name!r} has no name in a GGUF file of type {architecture}", hint=TOOL)
        values = tensor.detach().to("cpu", torch.float32).numpy()
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            values = _permuted(values, heads)
        yield found, values


def _permuted(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of queries or keys in llama.cpp's order: the two halves of a head's rotary pairs alternate."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _add_tensor(writer: Any, name: str, values: np.ndarray[Any, Any], kind: GgufType) -> None:
    """Raises ModelError for a value that f16 cannot hold."""
    import gguf

    values, stored = np.ascontiguousarray(values), _stored(values.shape, kind)
    if stored == "F16" and np.abs(values).max(initial=0.0) > (limit := np.finfo(np.float16).max):
        raise ModelError(f"the tensor {name!r} holds values above {limit:g}, which f16 cannot hold", hint=TOOL)
    quantization = gguf.GGMLQuantizationType[stored]
    writer.add_tensor(name, gguf.quants.quantize(values, quantization), raw_dtype=quantization)


def _stored(shape: Sequence[int], kind: GgufType) -> str:
    """The type of a tensor in the file: the file's for matrices, f32 for vectors, f16 for rows that are no whole blocks
    of q8_0."""
    if len(shape) == 1:
        return "F32"
    return "F16" if kind == "q8_0" and shape[-1] % BLOCK else kind.upper()


@torch.no_grad()
def round_weights(model: Any, kind: GgufType) -> None:
    """Give a model in float32 the values that a file of this type holds of its weights."""
    import gguf

    for tensor in {t.data_ptr(): t for t in model.state_dict().values()}.values():
        quantization = gguf.GGMLQuantizationType[_stored(tensor.shape, kind)]
        stored = gguf.quants.quantize(tensor.detach().numpy(), quantization)
        tensor.copy_(torch.from_numpy(np.array(gguf.quants.dequantize(stored, quantization))))


def _copy_metadata(writer: Any, source: Path, architecture: str) -> None:
    """Copy every key of a GGUF file but those of its own types. Raises ModelError for another architecture."""
    import gguf

    reader = gguf.GGUFReader(source)
    for name, field in reader.fields.items():
        if name == "general.architecture" and (found := field.contents()) != architecture:
            raise ModelError(f"{source} is of the architecture {found!r}, not {architecture!r}", hint=TOOL)
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        value, kind = field.contents(), field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        if kind != gguf.GGUFValueType.ARRAY or value:
            writer.add_key_value(name, value, kind, inner)


def _add_metadata(writer: Any, config: Any, tokenizer: Any, architecture: str) -> None:
    """Make the keys of a model whose files are those of transformers."""
    heads = config.num_attention_heads
    size = config_value(config, "head_dim") or config.hidden_size // heads
    writer.add_name(str(config_value(config, "name_or_path") or config.model_type).rpartition("/")[2])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config_value(config, "num_key_value_heads") or heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = config_value(config, "rope_parameters") or config_value(config, "rope_scaling") or {}
    if str(rope.get("rope_type", rope.get("type", "default"))) != "default":
        raise ModelError("--gguf: scaled rotary positions are not written", hint=TOOL)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config_value(config, "rope_theta") or 10000.0))
    _add_tokenizer(writer, tokenizer, config.vocab_size)


def _add_tokenizer(writer: Any, tokenizer: Any, size: int) -> None:
    """The keys of a byte-level BPE tokenizer. Raises ModelError for others."""
    import gguf

    backend = config_value(tokenizer, "backend_tokenizer")
    described = json.loads(backend.to_str()) if backend is not None else {}
    model, pre = described.get("model", {}), _pre_tokenizer(described.get("pre_tokenizer"))
    if model.get("type") != "BPE" or pre is None:
        raise ModelError("--gguf: the tokenizer is not one that can be described in a GGUF file here", hint=TOOL)
    added = {item["id"]: item for item in described.get("added_tokens", [])}
    by_id = {i: token for token, i in model["vocab"].items()} | {i: item["content"] for i, item in added.items()}
    tokens, types = [], []
    for i in range(size):
        tokens.append(by_id.get(i, f"[PAD{i}]"))
        kind = gguf.TokenType.UNUSED if i not in by_id else gguf.TokenType.NORMAL
        if i in added:
            kind = gguf.TokenType.CONTROL if added[i]["special"] else gguf.TokenType.USER_DEFINED
        types.append(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        number = config_value(tokenizer, f"{name}_token_id")
        if number is not None:
            add(number)
    template = config_value(tokenizer, "chat_template")
    if isinstance(template, str):
        writer.add_chat_template(template)
    writer.add_add_bos_token(_adds_begin(tokenizer))


def _adds_begin(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == config_value(tokenizer, "bos_token_id")


def _pre_tokenizer(described: Any) -> str | None:
    """The name that llama.cpp has for how a tokenizer splits a text; None where it is unknown here."""
    parts = (described or {}).get("pretokenizers", [described] if described else [])
    kinds = [part.get("type") for part in parts]
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"]:
        pattern = str(parts[0].get("pattern", {}).get("Regex", ""))
        return next((name for begin, name in PRE_TOKENIZERS.items() if pattern.startswith(begin)), None)
    return None


__all__ = ["ARCHITECTURES", "TOOL", "GgufType", "check", "round_weights", "write"]
