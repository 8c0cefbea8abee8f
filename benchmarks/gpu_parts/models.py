"""Models of random weights for the parts: shapes that are quick to run, and small folders with a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

THINGS, GOOD, BAD = ["film", "plot", "cast"], ["good", "fine", "great", "lovely"], ["bad", "poor", "awful", "dull"]
WORDS = [*THINGS, *GOOD, *BAD, "the", "a", "was", "it", "very", "so", "and", "not", "yes", "no"]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]

Shape = tuple[str, dict[str, Any]]


def shapes(tiny: bool) -> dict[str, Shape]:
    """A Llama, an OPT and a Qwen3 that run a thousand forward passes in seconds: family and configuration."""
    width, layers, heads, inner, vocabulary = (64, 2, 4, 128, 512) if tiny else (1024, 4, 16, 2816, 8192)
    common = {"vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers}
    common |= {"num_attention_heads": heads, "max_position_embeddings": 256}
    grouped = {"num_key_value_heads": heads // 2, "intermediate_size": inner}
    return {
        "llama": ("llama", common | grouped),
        "opt": ("opt", common | {"ffn_dim": inner, "word_embed_proj_dim": width}),
        "qwen3": ("qwen3", common | grouped | {"head_dim": width // heads, "tie_word_embeddings": True}),
    }


def folder(path: Path, family: str, config: dict[str, Any], cls: str, dtype: str = "float32") -> Path:
    """A model folder with random weights and a word-level tokenizer, as users have one."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = [*SPECIAL, *WORDS, *(f"w{i}" for i in range(config["vocab_size"] - len(SPECIAL) - len(WORDS)))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(path)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    settings = transformers.AutoConfig.for_model(family, **config, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        getattr(transformers, cls)(settings).to(getattr(torch, dtype)).save_pretrained(path)
    return path


def messages(path: Path, count: int = 96) -> Path:
    """Labelled sentences that a model can learn: the label is the kind of the adjective."""
    lines = []
    for i in range(count):
        kind = i % 2
        word = (GOOD if kind else BAD)[i // 2 % 4]
        lines.append({"text": f"the {THINGS[i % 3]} was so {word}", "label": kind, "row": i})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def prompts(path: Path, count: int, words: int) -> Path:
    """Prompts of one length."""
    text = [" ".join(WORDS[(i * 7 + j * 3) % len(WORDS)] for j in range(words)) for i in range(count)]
    path.write_text("".join(json.dumps({"prompt": t}) + "\n" for t in text))
    return path
