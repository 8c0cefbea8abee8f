"""Quantised bases: layers keep their low-bit weights, directions stand beside them, an adapter holds the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_jsonl
from torch import nn

import zotune
from zotune.config import RunConfig
from zotune.core.plain_parts import plain_parts
from zotune.errors import ModelError, OptionError
from zotune.models import adapters, frozen_a, loading
from zotune.models.adapters import AdapterConfig, attach
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.models.quantization import layer_size, quantization_config, saved_kind
from zotune.runs.export_step import export_step
from zotune.runs.plan import plan
from zotune.runs.replay import replay
from zotune.search import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # peft, torchao
LETTERS = """
def letters(completions, **_):
    return [float(len(set(c))) for c in completions]
"""
RANK = 4


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """Options of a run on prompts of a few words."""
    for split, count in (("train", 16), ("validation", 2), ("test", 2)):
        prompts = [{"prompt": f"the film {'was ' * (i % 3)}"} for i in range(count)]
        write_jsonl(tmp_path / f"data/{split}.jsonl", prompts)
    (tmp_path / "letters.py").write_text(LETTERS)
    return {
        "dataset": str(tmp_path / "data"),
        "objective": f"{tmp_path / 'letters.py'}:letters",
        "optimizer": "eggroll",
        "optimizer_args": {"rows": 8},
        "eps": 1.0,
        "max_new_tokens": 4,
        "max_steps": 3,
        "eval_steps": 3,
        "save_steps": 2,
        "guard": 0.0,
    }


def load(folder: Path, **more: Any) -> LoadedModel:
    return loading.load(str(folder), folder, "causal", device="cpu", **more)


def test_lora_fa_freezes_a_by_seed_and_moves_every_layer_by_its_own_size(tiny_llama: Path) -> None:
    digests = []
    for seed in (1, 1, 2):
        loaded = load(tiny_llama)
        attach(loaded, AdapterConfig(frozen_a.METHOD, r=RANK), seed)
        layers = {n: m for n, m in loaded.model.named_modules() if frozen_a.has_lora(m)}
        assert len(layers) == 14  # seven a block; the head, which is tied, is none
        digests.append({n: checkpoint.digest({"a": m.lora_A["default"].weight}) for n, m in layers.items()})
        assert len({*digests[-1].values()}) == 14
        for m in layers.values():
            a, b = m.lora_A["default"].weight, m.lora_B["default"].weight
            assert (m.scaling["default"], a.requires_grad, b.requires_grad) == (1.0, False, True)
            assert not b.any()
            moved = float(
                (torch.randn(len(b), RANK, generator=torch.Generator().manual_seed(seed)) @ a).square().mean().sqrt()
            )
            own = float(m.get_base_layer().weight.square().mean().sqrt())
            assert moved == pytest.approx(frozen_a.GAIN * own, rel=0.5)
    assert digests[0] == digests[1]
    assert not {*digests[0].values()} & {*digests[2].values()}


def test_the_size_of_a_layer_does_not_depend_on_last_bits() -> None:
    layer = nn.Linear(40, 30)
    size, root = layer_size(layer), float(layer.weight.detach().square().mean().sqrt())
    assert size == pytest.approx(root, rel=2**-5)
    with torch.no_grad():
        layer.weight.mul_(1 + 1e-6)
    assert layer_size(layer) == size
    with torch.no_grad():
        layer.weight.zero_()
    assert layer_size(layer) == 1.0
    with pytest.raises(ModelError, match="a layer of type Embedding2 cannot be read"):
        layer_size(type("Embedding2", (nn.Module,), {})())


def test_a_run_with_lora_fa_resumes_replays_and_loads_with_peft(
    tmp_path: Path, tiny_llama: Path, data: dict[str, Any]
) -> None:
    _whole_run(tmp_path, tiny_llama, data, None, peft="lora-fa", lora_r=RANK)


def test_a_run_on_quantised_weights_resumes_replays_and_loads_with_peft(
    tmp_path: Path, tiny_llama: Path, data: dict[str, Any]
) -> None:
    pytest.importorskip("torchao")
    pytest.importorskip("accelerate")
    _whole_run(tmp_path, tiny_llama, data, "int8", quantize="int8", lora_r=RANK)


def _whole_run(tmp_path: Path, model: Path, data: dict[str, Any], kind: str | None, **more: Any) -> None:
    import peft

    options, run, cut = {**data, "model": str(model), **more}, tmp_path / "run", tmp_path / "cut"
    zotune.fit(output_dir=str(run), **options)
    header = json.loads((run / "journal.jsonl").read_text().splitlines()[0])["body"]
    assert header["population"]["rows"]  # rows of one pass have directions of their own
    assert {n.rpartition(".lora_")[2] for n in header["tensors"]} == {"B.default.weight"}
    assert header["quantize"] == kind
    asked = iter(range(2))
    zotune.fit(output_dir=str(cut), stop=lambda: next(asked, None) is None, **options)
    zotune.fit(output_dir=str(cut), resume="last", **options)
    for name in ("journal.jsonl", "adapter_model.safetensors"):
        assert (cut / name).read_bytes() == (run / name).read_bytes(), name
    assert replay(run, tmp_path / "again").confirmed
    last = tmp_path / "last"
    export_step(run, last, 3)
    if kind:
        with pytest.raises(ModelError, match="merging would round the updates away"):
            export_step(run, tmp_path / "merged", 3, merge=True)
    base = load(model, quantize=kind).model
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = base(ids).logits
        after = peft.PeftModel.from_pretrained(base, last).eval()(ids).logits
        tuned = loading.load(str(model), model, "causal", device="cpu", quantize=kind)
        adapters.load(tuned, last)
        assert torch.equal(tuned.model(ids).logits, after)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantised_layers_keep_their_bits_and_checkpoints_load(
    tmp_path: Path, tiny_llama: Path, data: dict[str, Any], kind: str
) -> None:
    torchao = pytest.importorskip("torchao")
    pytest.importorskip("accelerate")
    assert torchao.__version__
    loaded = load(tiny_llama, quantize=kind)
    layer = loaded.model.model.layers[0].mlp.down_proj
    parts = plain_parts(layer.weight)
    assert len(parts) > 1
    assert parts[0].element_size() == 1
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    files = find_model(str(tmp_path / "saved"))
    assert files.quantized == "torchao"
    again = load(tmp_path / "saved", quantized=files.quantized)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, loaded.model(ids).logits)
    planned = plan(RunConfig(model=str(tmp_path / "saved"), **{**data, "objective": (data["objective"],)}))
    assert planned.adapter.method == frozen_a.METHOD
    with pytest.raises(ModelError, match="is quantised already, by torchao"):
        load(tmp_path / "saved", quantized=files.quantized, quantize="int8")


def test_layers_too_narrow_for_int4_are_refused(tiny_llama: Path) -> None:
    pytest.importorskip("torchao")
    pytest.importorskip("accelerate")
    with pytest.raises(ModelError, match="int4 needs layers whose inputs are multiples of 32"):
        load(tiny_llama, quantize="int4")


def test_wrong_combinations_are_one_line(tmp_path: Path, tiny_llama: Path, data: dict[str, Any]) -> None:
    options = {**data, "model": str(tiny_llama), "output_dir": str(tmp_path / "run"), "quantize": "int8"}
    two_point = {"optimizer": "mezo", "optimizer_args": {}, "eps": None}
    with pytest.raises(OptionError, match="--quantize int8: mezo tunes whole matrices, and quantised weights are froz"):
        zotune.fit(**{**options, **two_point})
    with pytest.raises(OptionError, match="so --tune all cannot select them"):
        zotune.fit(**options, tune="all")
    with pytest.raises(OptionError, match="--lora-r must be at least 2"):
        zotune.fit(**options, lora_r=1)
    with pytest.raises(ModelError, match="--quantize must be one of 4bit, 8bit, int8, int4, fp8, got 'int3'"):
        quantization_config("int3", torch.device("cpu"))
    with pytest.raises(ModelError, match="--quantize int8 needs a CUDA device or a CPU, got mps"):
        quantization_config("int8", torch.device("mps"))
    with pytest.raises(ModelError, match="--quantize 4bit needs a CUDA device, got cpu"):
        quantization_config("4bit", torch.device("cpu"))


def test_checkpoints_name_how_they_are_quantised() -> None:
    assert saved_kind({"quantization_config": {"quant_method": "fp8"}}) == "fp8"
    assert saved_kind({"model_type": "llama"}) == ""
