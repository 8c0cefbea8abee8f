"""GGUF files of tiny Llamas, as llama.cpp converts them from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

gguf = pytest.importorskip("gguf")
NAMES = {
    "embed_tokens": "token_embd",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def write_gguf(folder: Path, path: Path, architecture: str = "llama", kind: str = "F32") -> Path:
    """A Llama of a folder as llama.cpp converts it: other names, and query and key rows in another order. kind: F32,
    F16 or Q8_0, of all matrices; vectors stay float32."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, architecture)
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    model = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = {t["content"]: t["id"] for t in model["added_tokens"]} | model["model"]["vocab"]
    special = {t["id"] for t in model["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(sorted(vocabulary, key=lambda token: vocabulary[token]))
    writer.add_token_types([3 if i in special else 1 for i in sorted(vocabulary.values())])
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in model["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        short = name
        for old, new in NAMES.items():
            short = short.replace(old, new)
        short = short.replace("model.layers.", "blk.").replace("model.", "")
        count = {"attn_q": heads, "attn_k": groups}.get(short.split(".")[-2])
        array = tensor.numpy()
        if count:
            array = array.reshape(count, 2, array.shape[0] // count // 2, -1).swapaxes(1, 2).reshape(array.shape)
        type_of = gguf.GGMLQuantizationType[kind if array.ndim > 1 else "F32"]
        writer.add_tensor(short, gguf.quants.quantize(array.copy(), type_of), raw_dtype=type_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
