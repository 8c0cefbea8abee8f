"""What prompts begin with is read once a batch, and what comes out is what whole prompts give."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import BOS, CAUSAL, EOS, PAD, Families, greedy, tokenizer
from test_generation import QUESTIONS

from zotune import config
from zotune.core.recipe import Noise
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.events import ignore
from zotune.models import loading
from zotune.models.model_files import find_model
from zotune.runs.plan import plan
from zotune.runs.session import Session
from zotune.search.journal import Tape
from zotune.tasks import build, prompt_cache

ASKED = "it was true because the dog ran and the cat saw it . question : the man was so good . "
SPEC = TaskSpec("generation", Template(ASKED + ASKED + "who : {question} ? answer : {completion}"), max_new_tokens=6)
GOAL = """
def words(completion_ids, **_):
    return [float(sum(k * x for k, x in enumerate(ids))) for ids in completion_ids]
"""
ROWS = [{"question": q, "completion": ""} for q in QUESTIONS]


def said(task: Any, rows: list[dict[str, Any]] = ROWS) -> Any:
    found = task.rows(rows)
    return task.outputs(found, range(len(found)), frozenset({"completion_ids"}))["completion_ids"]


def reads(model: Any) -> list[tuple[int, ...]]:
    """Shapes of the tokens that the model reads, pass by pass."""
    seen: list[tuple[int, ...]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(tuple(kwargs["input_ids"].shape))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


@pytest.mark.parametrize("family", CAUSAL)
def test_completions_are_those_of_whole_prompts(families: Families, family: str) -> None:
    loaded = families.load(family)
    task = build.build(loaded, SPEC, 90, 16)
    prompts = [task.rows([r]).tokens[0][0] for r in ROWS]
    length = prompt_cache.common_prefix_length(prompts)
    assert length >= prompt_cache.MIN_PREFIX
    assert len({len(p) for p in prompts}) > 2
    want = [greedy(loaded, list(p), 6) for p in prompts]
    assert said(task) == want
    seen = reads(loaded.unwrapped)
    assert said(task) == want
    rest = max(map(len, prompts)) - length
    assert seen[:2] == [(1, length), (len(ROWS), rest)]
    assert set(seen[2:]) <= {(len(ROWS), 1)}


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
HEADS = {**SMALL, "intermediate_size": 32, "num_key_value_heads": 2}
OTHERS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "window": ("Mistral", {**HEADS, "sliding_window": 90}, True),
    "windows": (
        "Gemma3Text",
        {**HEADS, "head_dim": 8, "sliding_window": 90, "layer_types": ["sliding_attention", "full_attention"]},
        True,
    ),
    "short window": ("Mistral", {**HEADS, "sliding_window": 60}, False),
    "experts": ("Mixtral", {**HEADS, "num_local_experts": 4}, True),
    "slopes by mask": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, True),
    "slopes by place": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}, False),
    "states": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2}, False),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_attention(tmp_path: Path, name: str) -> None:
    """Each says the same with and without; shared is read what can be."""
    import transformers

    family, options, shared = OTHERS[name]
    coder = tokenizer("llama", "words")
    ids = {"vocab_size": len(coder), "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, f"{family}Config")(**ids, **options)
        )
        for p in model.parameters():
            p.data.add_(torch.randn_like(p) * 0.2)
    model.save_pretrained(tmp_path)
    coder.save_pretrained(tmp_path)
    found = find_model(str(tmp_path))
    loaded = loading.load(found.source, found.folder, found.head, device="cpu")
    task, whole = (build.build(loaded, SPEC, 90, 16) for _ in range(2))
    whole.prompts.supported = False
    assert said(task) == said(whole)
    assert (task.prompts._verified == {False: True}) == shared


def test_what_has_little_in_common_is_read_whole(families: Families) -> None:
    loaded = families.load("llama")
    seen = reads(loaded.unwrapped)
    task = build.build(
        loaded, TaskSpec("generation", Template("who : {question} ?{completion}"), max_new_tokens=3), 90, 16
    )
    assert said(task, [{"question": q + " " + ASKED, "completion": ""} for q in QUESTIONS])
    assert all(rows == len(ROWS) for rows, _ in seen)
    seen.clear()
    said(build.build(loaded, SPEC, 90, 16), ROWS[:1])  # one row saves nothing
    assert len(seen[0]) == 2
    assert seen[0][1] > prompt_cache.MIN_PREFIX


def test_common() -> None:
    assert prompt_cache.common_prefix_length([(1, 2, 3), (1, 2, 4, 5)]) == 2
    assert prompt_cache.common_prefix_length([(1, 2, 3), (1, 2, 3)]) == 2  # one token of each is left to go on from
    assert prompt_cache.common_prefix_length([(1,), (1, 2)]) == 0


@pytest.mark.parametrize("fault", ["no cache", "places", "memory"])
def test_a_model_that_cannot_go_on_reads_whole_prompts(
    families: Families, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """It takes no cache, or counts padding as places."""
    loaded = families.load("llama")
    want = [greedy(loaded, list(build.build(loaded, SPEC, 90, 16).rows([r]).tokens[0][0]), 6) for r in ROWS]
    plain = type(loaded.unwrapped).forward
    failed = []

    @functools.wraps(plain)  # generate reads what it takes
    def other(self: Any, *args: Any, **more: Any) -> Any:
        ids, cache = more["input_ids"], more.get("past_key_values")
        goes_on = cache is not None and cache.get_seq_length() and ids.shape[1] > 1
        if fault == "no cache" and goes_on:
            raise ValueError("past_key_values: not here")
        if fault == "memory" and goes_on and ids.shape[0] > 2:
            failed.append(ids.shape[0])
            raise torch.OutOfMemoryError("out of memory")
        if fault == "places" and goes_on:
            begun = cache.get_seq_length()
            more["position_ids"] = torch.arange(begun, begun + ids.shape[1]).expand(*ids.shape)
        return plain(self, *args, **more)

    monkeypatch.setattr(type(loaded.unwrapped), "forward", other)
    task = build.build(loaded, SPEC, 90, 16)
    assert said(task) == want
    assert said(task) == want
    assert task.prompts._verified == {False: fault == "memory"}
    assert (task.forward.micro_batch < 16) == bool(failed)


@pytest.mark.parametrize(
    ("more", "possible"),
    [
        ({"sliding_window": 89}, False),
        ({"sliding_window": 90}, True),
        ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 90}, True),
        ({"layer_types": ["full_attention", "linear_attention"]}, False),
        ({"attention_layers": ["global", "local"]}, False),
    ],
)
def test_windows_see_no_padding(families: Families, more: dict[str, Any], possible: bool) -> None:
    loaded = families.load("llama")
    assert build.build(loaded, SPEC, 90, 16).prompts.supported
    for name, value in more.items():
        setattr(loaded.unwrapped.config, name, value)
    assert build.build(loaded, SPEC, 90, 16).prompts.supported == possible


@pytest.mark.parametrize("tuned", [{"tune": "bias|norm"}, {"peft": "lora"}], ids=["norms", "lora"])
def test_points_that_share_a_pass_share_it_too(families: Families, tmp_path: Path, tuned: dict[str, Any]) -> None:
    (tmp_path / "goal.py").write_text(GOAL)
    data = [{"prompt": ASKED + ASKED + QUESTIONS[i % 5]} for i in range(260)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in data))
    found = {}
    for probe in ("copy", "joint"):
        options = {"model": str(families.folder("llama")), "dataset": str(tmp_path / "data.jsonl"), "perturb": probe}
        options |= {"objective": f"{tmp_path}/goal.py:words", "max_new_tokens": 5, "batch_size": 6, **tuned}
        made = Session(plan(config.resolve({**options, "threads": 1}, None)), ignore)
        made.choose_perturbation()
        assert (made.oracle.joint is not None) == (probe == "joint")
        made.oracle.begin(Tape(), 0)
        points = [made.space.theta + 0.5 * Noise("normal", 0, k) for k in range(3)]
        made.oracle(*points)
        seen = reads(made.loaded.unwrapped)
        made.oracle.begin(Tape(), 0)
        found[probe] = made.oracle(*points)
        begins = [shape for shape in seen if shape[1] > prompt_cache.MIN_PREFIX]
        assert begins == ([(1, begins[0][1])] * 3 if probe == "copy" else [(3, begins[0][1])])
    assert len(set(found["copy"])) > 1
    assert found["copy"] == pytest.approx(found["joint"])
