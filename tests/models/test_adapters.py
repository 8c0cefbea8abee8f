"""LoRA and prefixes on every model family: initial weights, saving, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CAUSAL, Families, classification, greedy, mean, option_scores

from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.errors import ModelError, OptionError
from zotune.models import adapters, loading, saving
from zotune.models.adapters import AdapterConfig
from zotune.models.heads import AUTO_CLASSES
from zotune.models.library_calls import quiet
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import ADAPTER_FILE, find_model
from zotune.tasks import build

TARGETS = {
    "llama": ["q_proj", "v_proj"],
    "opt": ["q_proj", "v_proj"],
    "gpt2": ["c_attn"],
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "t5": ["q", "v"],
    "bart": ["q_proj", "v_proj"],
    "bert-head": ["query", "value"],
    "llama-head": ["q_proj", "v_proj"],
    "bert-embedding": ["query", "value"],
}
TEXTS = ["the film was bad", "a cat ran", "what a lovely film it was and so was the plot"]
ROWS = [{"text": text, "label": k % 2} for k, text in enumerate(TEXTS)]
TOKENS = 4


def scores(loaded: LoadedModel, micro: int = 4) -> torch.Tensor:
    with_answer = loaded.head not in ("classification", "embedding")
    spec = classification("{text} it was {label}" if with_answer else "{text}", ("bad", "so good", "great"))
    task = build.build(loaded, spec, 90, micro)
    logits: torch.Tensor = task.logits(task.rows(ROWS), range(3))
    return logits


def trainable(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {n: p for n, p in loaded.model.named_parameters() if p.requires_grad}


def change(loaded: LoadedModel) -> None:
    """Change the trainable weights, as a run would."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        for p in trainable(loaded).values():
            p.add_(torch.randn_like(p) * 0.1)


def again(folder: Path, classes: int | None = None) -> LoadedModel:
    files = find_model(str(folder))
    assert files.adapter == folder
    loaded = loading.load(files.source, files.folder, files.head, device="cpu", classes=classes)
    adapters.load(loaded, files.adapter)
    return loaded


@pytest.mark.parametrize("family", sorted(TARGETS))
def test_lora_starts_as_the_plain_model(families: Families, family: str) -> None:
    plain, state = scores(families.load(family)), torch.get_rng_state()
    models = [families.load(family) for _ in range(3)]
    for loaded, seed in zip(models, (1, 1, 2), strict=True):
        adapters.attach(loaded, AdapterConfig("lora", r=2, alpha=4), seed)
    assert torch.equal(state, torch.get_rng_state())
    first, same, other = (trainable(x) for x in models)
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)
    modules = {n.split(".lora_")[0].rpartition(".")[2] for n in first if "lora_" in n}
    assert sorted(modules) == TARGETS[family]
    rest = {n for n in first if "lora_" not in n}
    assert all("classifier" in n or "score" in n for n in rest)
    assert bool(rest) == family.endswith("-head"), "a new head is trained, everything else is frozen"
    assert torch.equal(scores(models[0]), plain)
    assert not models[0].model.training


@pytest.mark.parametrize("family", sorted(TARGETS))
def test_lora_is_saved_loaded_and_merged(families: Families, family: str, tmp_path: Path) -> None:
    import peft
    import transformers

    loaded = families.load(family)
    plain = scores(loaded)
    adapters.attach(loaded, AdapterConfig("lora", r=2, alpha=4), 1)
    change(loaded)
    want = scores(loaded)
    assert (want - plain).abs().max() > 1e-3
    saving.save(loaded, tmp_path)
    assert not (tmp_path / "model.safetensors").exists(), "the base model is not written again"
    read = again(tmp_path, 3 if family.endswith("-head") else None)
    assert torch.equal(scores(read), want)
    assert sorted(trainable(read)) == sorted(trainable(loaded)), "the loaded adapter is trainable"
    cls = getattr(transformers, AUTO_CLASSES[loaded.head])
    base = json.loads((tmp_path / ADAPTER_FILE).read_text())["base_model_name_or_path"]
    with quiet():
        alone = peft.PeftModel.from_pretrained(cls.from_pretrained(base), tmp_path).eval()
    read.model = alone
    assert torch.equal(scores(read), want)
    adapters.merge(loaded)
    assert not adapters.has_adapter(loaded)
    torch.testing.assert_close(scores(loaded), want, rtol=0, atol=1e-5)
    saving.save(loaded, tmp_path / "whole")
    whole = loading.load(str(tmp_path / "whole"), tmp_path / "whole", loaded.head, device="cpu")
    assert torch.equal(scores(whole), scores(loaded))


@pytest.mark.parametrize("names", [("nope",), ("q_proj", "nope")])
def test_modules_that_no_model_has_are_refused(families: Families, names: tuple[str, ...]) -> None:
    with pytest.raises(OptionError) as caught:
        adapters.attach(families.load("llama"), AdapterConfig("lora", targets=names), 0)
    assert str(caught.value).startswith("--lora-target-modules: the model has no module nope (")
    assert "q_proj" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_modules_that_cannot_have_lora_are_refused(families: Families) -> None:
    with pytest.raises(OptionError, match=r"^--lora-target-modules: [^\n]*not supported[^\n]*$"):
        adapters.attach(families.load("llama"), AdapterConfig("lora", targets=("input_layernorm",)), 0)


def test_chosen_modules_and_one_adapter(families: Families) -> None:
    loaded = families.load("llama")
    adapters.attach(loaded, AdapterConfig("lora", targets=("down_proj", "model.layers.0.self_attn.k_proj")), 0)
    modules = {n.split(".lora_")[0].rpartition("layers.")[2] for n in trainable(loaded)}
    assert modules == {"0.mlp.down_proj", "1.mlp.down_proj", "0.self_attn.k_proj"}
    with pytest.raises(OptionError, match="has an adapter already"):
        adapters.attach(loaded, AdapterConfig("lora"), 0)


def real_tokens(loaded: LoadedModel, seed: int) -> list[int]:
    tokens = adapters._random_tokens(loaded, TOKENS, seed)[0].tolist()
    assert not set(tokens) & set(loaded.tokenizer.all_special_ids)
    return tokens


@pytest.mark.parametrize("family", [*CAUSAL, "llama-head"])
def test_a_prefix_starts_as_real_tokens_before_the_text(families: Families, family: str) -> None:
    """Rows of different lengths in one batch, padded on the right."""
    loaded, plain = families.load(family), families.load(family).model
    tokens, state = real_tokens(loaded, 5), torch.get_rng_state()
    adapters.attach(loaded, AdapterConfig("prefix", tokens=TOKENS), 5)
    assert torch.equal(state, torch.get_rng_state())
    assert loaded.virtual_tokens == TOKENS
    assert {n for n in trainable(loaded) if "prompt_encoder" in n} == {"prompt_encoder.default.embedding.weight"}
    assert all("prompt_encoder" in n or "score" in n for n in trainable(loaded))
    rows = [tuple(loaded.tokenizer(t)["input_ids"]) for t in TEXTS]
    task = build.build(loaded, classification("{text} {label}" if family in CAUSAL else "{text}"), 90, 4)
    assert task.max_length == min(90, 96 if "head" not in family else 90) - TOKENS
    with torch.no_grad():
        got = task.forward.run(rows).logits
        for k, row in enumerate(rows):
            whole = plain(input_ids=torch.tensor([[*tokens, *row]])).logits[0]
            logits = got[k] if family == "llama-head" else got[k, : len(row)]
            want = whole if family == "llama-head" else whole[TOKENS:]
            torch.testing.assert_close(logits, want, rtol=0, atol=1e-4)
    other = families.load(family)
    adapters.attach(other, AdapterConfig("prefix", tokens=TOKENS), 5)
    assert all(torch.equal(trainable(loaded)[n], trainable(other)[n]) for n in trainable(loaded))


def test_a_prefix_can_start_from_random_numbers(families: Families) -> None:
    """Table 15 of MeZO: standard normal, the same for the same seed, and no key or value of a token."""
    state, weights = torch.get_rng_state(), []
    for seed in (5, 5, 6):
        loaded = families.load(CAUSAL[0])
        adapters.attach(loaded, AdapterConfig("prefix", tokens=40, init="random"), seed)
        assert torch.equal(state, torch.get_rng_state())
        assert loaded.virtual_tokens == 40
        (weight,) = (p.detach() for n, p in trainable(loaded).items() if "prompt_encoder" in n)
        weights.append(weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert abs(float(weights[0].mean())) < 0.1
    assert abs(float(weights[0].std()) - 1) < 0.1
    real = families.load(CAUSAL[0])
    adapters.attach(real, AdapterConfig("prefix", tokens=40), 5)
    (other,) = (p.detach() for n, p in trainable(real).items() if "prompt_encoder" in n)
    assert abs(float(other.std()) - 1) > 0.1
    with pytest.raises(OptionError, match="--prefix-init must be tokens or random, got 'zeros'"):
        AdapterConfig("prefix", init="zeros").check()


@pytest.mark.parametrize("family", [*CAUSAL, "llama-head"])
def test_a_prefix_is_saved_and_loaded(families: Families, family: str, tmp_path: Path) -> None:
    import peft
    import transformers

    loaded = families.load(family)
    adapters.attach(loaded, AdapterConfig("prefix", tokens=TOKENS), 5)
    change(loaded)
    want = scores(loaded)
    torch.testing.assert_close(scores(loaded, micro=1), want, rtol=0, atol=1e-5)
    saving.save(loaded, tmp_path)
    read = again(tmp_path, 3 if family == "llama-head" else None)
    assert read.virtual_tokens == TOKENS
    assert torch.equal(scores(read), want)
    assert sorted(trainable(read)) == sorted(trainable(loaded)), "the loaded adapter is trainable"
    change(read)
    change(loaded)
    assert torch.equal(scores(read), scores(loaded))
    cls = getattr(transformers, AUTO_CLASSES[loaded.head])
    with quiet():
        alone = peft.PeftModel.from_pretrained(cls.from_pretrained(families.folder(family)), tmp_path).eval()
    read.model = alone
    assert torch.equal(scores(read), want)


@pytest.mark.parametrize("family", CAUSAL)
def test_a_prefix_scores_and_generates_as_a_plain_loop(families: Families, family: str) -> None:
    loaded = families.load(family)
    adapters.attach(loaded, AdapterConfig("prefix", tokens=TOKENS), 5)
    change(loaded)
    got = scores(loaded)
    for i, text in enumerate(TEXTS):
        for k, word in enumerate(("bad", "so good", "great")):
            assert float(got[i, k]) == pytest.approx(mean(option_scores(loaded, f"{text} it was ", word)), abs=1e-5)
    spec = TaskSpec("generation", Template("{text} {completion}"), max_new_tokens=7)
    want = [greedy(loaded, loaded.tokenizer(t)["input_ids"], 7) for t in TEXTS]
    for micro in (1, 3):
        task = build.build(loaded, spec, 90, micro)
        rows = task.rows(ROWS)
        assert task.outputs(rows, range(3), frozenset({"completion_ids"}))["completion_ids"] == want


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_lora_generates_as_a_plain_loop(families: Families, family: str) -> None:
    loaded = families.load(family)
    adapters.attach(loaded, AdapterConfig("lora", r=2), 5)
    change(loaded)
    generation_config = loaded.unwrapped.generation_config
    task = build.build(loaded, TaskSpec("generation", Template("{text} {completion}"), max_new_tokens=7), 90, 3)
    got: Any = task.outputs(task.rows(ROWS), range(3), frozenset({"completion_ids"}))["completion_ids"]
    loaded.model = adapters_merged(loaded)
    assert got == [greedy(loaded, loaded.tokenizer(t)["input_ids"], 7) for t in TEXTS]
    assert loaded.unwrapped.generation_config is generation_config


def adapters_merged(loaded: LoadedModel) -> Any:
    adapters.merge(loaded)
    return loaded.model


@pytest.mark.parametrize(
    ("family", "error", "message"),
    [
        ("t5", OptionError, "this one has 'seq2seq'"),
        ("bart", OptionError, "this one has 'seq2seq'"),
        ("bert", OptionError, "this one has 'masked'"),
        ("bert-embedding", OptionError, "this one has 'embedding'"),
        ("bert-head", ModelError, "has no cache of keys and values"),
        ("roberta-head", ModelError, "has no cache of keys and values"),
    ],
)
def test_a_prefix_is_refused_for_other_heads(families: Families, family: str, error: Any, message: str) -> None:
    with pytest.raises(error) as caught:
        adapters.attach(families.load(family), AdapterConfig("prefix", tokens=TOKENS), 0)
    assert message in str(caught.value)
    assert "--peft lora" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prefix_is_not_merged(families: Families) -> None:
    loaded = families.load("llama")
    adapters.attach(loaded, AdapterConfig("prefix", tokens=TOKENS), 0)
    with pytest.raises(ModelError, match="only LoRA can be merged"):
        adapters.merge(loaded)
    with pytest.raises(OptionError, match=r"the vocabulary has 4\d tokens"):
        adapters.attach(families.load("llama"), AdapterConfig("prefix", tokens=500), 0)
