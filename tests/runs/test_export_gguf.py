"""`zotune export --gguf`: the file gives what the run gives, and what cannot be written is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_jsonl
from families import Families
from gguf_writer import write_gguf
from safetensors.torch import load_file, save_file

import zotune
from zotune.errors import ModelError, OptionError, RunFolderError
from zotune.models import gguf_export, loading
from zotune.models.model_files import find_model
from zotune.runs.export_gguf import export_gguf

gguf = pytest.importorskip("gguf")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", [{"prompt": f"the film was {w}"} for w in ("good", "bad", "dull") * 6])


def fit(model: Path, data: Path, run: Path, **more: Any) -> Path:
    options: dict[str, Any] = {"objective": "length", "max_new_tokens": 3, "batch_size": 4, "max_steps": 3}
    options |= {"optimizer": "mezo", "learning_rate": 0.3, "eps": 0.1, "tune": "all", "guard": 0.0, "max_kl": 0.0}
    zotune.fit(model=str(model), dataset=str(data), output_dir=str(run), preflight=False, **{**options, **more})
    if (path := run / "model.safetensors").exists():  # far from the base model, whatever was kept
        weights = load_file(path)
        for name in weights:
            weights[name] += 0.2 * weights[name].roll(1, 0)
        save_file(weights, path, metadata={"format": "pt"})
    return run


def logits(model: Path) -> torch.Tensor:
    files = find_model(str(model))
    loaded = loading.load(files.source, files.folder, "causal", device="cpu", dtype="float32")
    with torch.no_grad():
        found: torch.Tensor = loaded.model(torch.tensor([[2, 40, 50, 60, 70]])).logits
    return found


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_a_run_that_began_from_a_file(families: Families, data: Path, tmp_path: Path, kind: Any) -> None:
    folder = families.folder("llama", "bytes")
    source = write_gguf(folder, tmp_path / "tiny.gguf")
    run = fit(source, data, tmp_path / "run")
    report = export_gguf(run, tmp_path / "out.gguf", kind)
    bounds = {"f32": 1e-5, "f16": 0.02, "q8_0": 0.4}
    assert report.difference <= bounds[kind] * report.spread
    assert report.beyond_rounding <= 1e-4, "nothing but the rounding of weights"
    assert (report.difference > 1e-4) == (kind != "f32")
    assert report.agreed > 0.9
    assert "most probable tokens are equal" in report.text
    assert (logits(tmp_path / "out.gguf") - logits(run)).abs().max() <= bounds[kind] + (kind == "q8_0") * 0.1
    assert (logits(source) - logits(run)).abs().max() > 0.1, "the run has moved"
    keys = [gguf.GGUFReader(path).fields for path in (source, tmp_path / "out.gguf")]
    before, after = ({n: f.contents() for n, f in fields.items() if not n.startswith("GGUF.")} for fields in keys)
    assert after.pop("general.file_type") == {"f32": 0, "f16": 1, "q8_0": 7}[kind]
    assert before == after, "metadata and tokenizer are copied"
    assert zotune.evaluate(model=str(tmp_path / "out.gguf"), dataset=str(data), objective="length").rows == 18


def of_type(model_type: str, llama: Path, folder: Path) -> Path:
    """A model of another type with a Llama's sizes, random weights and tokenizer."""
    import transformers

    shutil.copytree(llama, folder)
    (folder / "model.safetensors").unlink()
    sizes = json.loads((llama / "config.json").read_text())
    sizes = {
        n: v for n, v in sizes.items() if n not in ("model_type", "architectures", "head_dim", "transformers_version")
    }
    size = 128 if model_type == "qwen3" else 8  # what transformers takes for a file of this type
    config = transformers.AutoConfig.for_model(model_type, **sizes, head_dim=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_run_that_began_from_a_folder(families: Families, data: Path, tmp_path: Path, family: str) -> None:
    folder = families.folder("llama", "bytes")
    if family != "llama":
        folder = of_type(family, folder, tmp_path / family)
    run = fit(folder, data, tmp_path / "run")
    report = export_gguf(run, tmp_path / "out.gguf", "f16")
    assert report.difference <= 0.02
    assert report.agreed == 1.0
    assert (logits(tmp_path / "out.gguf") - logits(run)).abs().max() <= 0.02


def test_adapters_are_merged(families: Families, data: Path, tmp_path: Path) -> None:
    source = write_gguf(families.folder("llama", "bytes"), tmp_path / "tiny.gguf")
    run = fit(source, data, tmp_path / "run", peft="lora", tune="auto")
    report = export_gguf(run, tmp_path / "out.gguf", "f16")
    assert report.difference <= 0.02


def test_what_cannot_be_written_is_refused_with_the_tool(
    families: Families, tiny_llama: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.gguf"
    for folder, message in (
        (
            families.folder("gpt2", "bytes"),
            "writes models of the types llama, mistral, qwen2, qwen3; this one is 'gpt2'",
        ),
        (tiny_llama, "the tokenizer is not one that can be described"),
        (tiny_encoder, "writes causal language models"),
    ):
        with pytest.raises(ModelError, match=message) as error:
            export_gguf(folder, out, "f16")
        assert "llama.cpp" in str(error.value) or "causal" in message
        assert not list(tmp_path.glob("*.gguf")) + list(tmp_path.glob(".*.gguf"))
    llama = families.folder("llama", "bytes")
    with pytest.raises(OptionError, match=r"does not end in \.gguf"):
        export_gguf(llama, tmp_path / "out", "f16")
    out.write_text("kept")
    with pytest.raises(RunFolderError, match="exists already"):
        export_gguf(llama, out, "f16")
    assert out.read_text() == "kept"
    with pytest.raises(RunFolderError, match="no such run directory"):
        export_gguf(tmp_path / "none", tmp_path / "b.gguf", "f16")
    scaled = tmp_path / "scaled"
    shutil.copytree(llama, scaled)
    config = json.loads((scaled / "config.json").read_text())
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    config.pop("rope_parameters", None)
    (scaled / "config.json").write_text(json.dumps({**config, "rope_scaling": rope}))
    with pytest.raises(ModelError, match="scaled rotary positions"):
        export_gguf(scaled, tmp_path / "b.gguf", "f16")


def test_a_file_with_other_logits_is_not_kept(
    families: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_export, "_permuted", lambda values, heads: values)
    with pytest.raises(ModelError, match="the logits of the written file differ by"):
        export_gguf(families.folder("llama", "bytes"), tmp_path / "out.gguf", "f16")
    assert list(tmp_path.iterdir()) == []


def test_the_command(cli: Any, families: Families, tmp_path: Path) -> None:
    folder = families.folder("llama", "bytes")
    done = cli("export", folder, "--gguf", "f16", "-o", "out.gguf")
    assert done.returncode == 0, done.stderr
    assert "loaded again, its logits differ by at most" in done.stdout
    assert (tmp_path / "out.gguf").stat().st_size > 1000
    for flags, message in (
        (("--gguf", "q4_0", "-o", "b.gguf"), "f32, f16 or q8_0"),
        (("--gguf", "f16", "--step", "1", "-o", "b.gguf"), "leave out --step"),
    ):
        failed = cli("export", folder, *flags)
        assert failed.returncode == 2
        assert message in failed.stderr
