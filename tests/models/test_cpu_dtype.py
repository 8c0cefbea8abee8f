"""The dtype of weights on a CPU where the user gives none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import Families

from zotune.models import cpu_dtype, loading
from zotune.models.model_files import find_model


def test_only_large_bfloat16_files_that_generate(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16"}))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert not cpu_dtype.saved_as_bfloat16(tmp_path, "causal")
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(2 * cpu_dtype.LARGE)
    assert cpu_dtype.saved_as_bfloat16(tmp_path, "causal")
    assert not cpu_dtype.saved_as_bfloat16(tmp_path, "embedding")
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "float32"}))
    assert not cpu_dtype.saved_as_bfloat16(tmp_path, "causal")


@pytest.mark.parametrize(("gain", "dtype"), [(3.0, torch.bfloat16), (1.1, torch.float32)])
def test_the_processor_decides(families: Families, monkeypatch: Any, gain: float, dtype: torch.dtype) -> None:
    folder = families.folder("llama")
    loaded = families.load("llama")
    half = folder.parent / f"llama-half-{gain}"
    loaded.model.to(torch.bfloat16).save_pretrained(half)
    loaded.tokenizer.save_pretrained(half)
    monkeypatch.setattr(cpu_dtype, "LARGE", 1)
    monkeypatch.setattr(loading, "bfloat16_gain", lambda: gain)

    def load(path: Path, name: str = "auto") -> Any:
        files = find_model(str(path))
        return loading.load(files.source, files.folder, files.head, device="cpu", dtype=name)

    chosen = load(half)
    assert next(chosen.model.parameters()).dtype == dtype
    assert any("bfloat16: this processor" in note for note in chosen.notes) == (gain > 1.5)
    assert next(load(half, "float32").model.parameters()).dtype == torch.float32
    assert next(load(folder).model.parameters()).dtype == torch.float32, "files in float32 stay so"
