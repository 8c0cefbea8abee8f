"""The dtype of weights on a CPU, where the user gives none: float32, or bfloat16 as in the files where that is faster.

Knows files and the processor; knows no task.
"""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any, Final

import torch

from zotune.models.heads import Head

LARGE: Final = 50_000_000
"""Weights from which on a model's time is that of matrix products, and its dtype pays."""
FASTER: Final = 1.5
"""How much faster a product must be in bfloat16."""
QUANTIZED_BYTES: Final = 1.3
"""Bytes a weight in a GGUF file below which it holds no more bits than bfloat16 keeps."""
GENERATES: Final = ("causal", "seq2seq")


@functools.lru_cache(1)
def bfloat16_gain() -> float:
    """How many times as fast as in float32 this processor multiplies matrices in bfloat16; a few milliseconds."""

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(64, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        torch.nn.functional.linear(a, b)
        times = []
        for _ in range(7):
            start = time.perf_counter()
            torch.nn.functional.linear(a, b)
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(torch.float32) / max(seconds(torch.bfloat16), 1e-9)


def saved_as_bfloat16(folder: Path | None, head: Head) -> bool:
    """Whether a folder holds a large model that generates text, in bfloat16."""
    if folder is None or head not in GENERATES:
        return False
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    except (OSError, ValueError):
        return False
    dtype = config.get("dtype", config.get("torch_dtype")) if isinstance(config, dict) else None
    return str(dtype).endswith("bfloat16") and size >= 2 * LARGE


def quantized_in_file(path: Path | None, model: Any, head: Head) -> bool:
    """Whether a GGUF file holds a large model that generates text, in so few bits that bfloat16 loses nothing."""
    weights = sum(p.numel() for p in {p.data_ptr(): p for p in model.parameters()}.values())
    if path is None or head not in GENERATES or weights < LARGE:
        return False
    return bool(path.stat().st_size < QUANTIZED_BYTES * weights)


def note(gain: float) -> str:
    return f"bfloat16: this processor multiplies in it {gain:.1f} times as fast as in float32 (--dtype float32)"


__all__ = ["FASTER", "bfloat16_gain", "note", "quantized_in_file", "saved_as_bfloat16"]
