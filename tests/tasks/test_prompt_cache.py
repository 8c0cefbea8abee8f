"""The common prefix of a batch's prompts is read once, and the completions are those of whole prompts."""

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

INSTRUCTION = "it was true because the dog ran and the cat saw it . question : the man was so good . "
SPEC = TaskSpec(
    "generation", Template(INSTRUCTION + INSTRUCTION + "who : {question} ? answer : {completion}"), max_new_tokens=6
)
OBJECTIVE = """
def words(completion_ids, **_):
    return [float(sum(k * x for k, x in enumerate(ids))) for ids in completion_ids]
"""
ROWS = [{"question": q, "completion": ""} for q in QUESTIONS]


def completion_ids(task: Any, rows: list[dict[str, Any]] = ROWS) -> Any:
    encoded = task.rows(rows)
    return task.outputs(encoded, range(len(encoded)), frozenset({"completion_ids"}))["completion_ids"]


def record_shapes(model: Any) -> list[tuple[int, ...]]:
    """A list that gets the shape of `input_ids` at each forward pass."""
    shapes: list[tuple[int, ...]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


@pytest.mark.parametrize("family", CAUSAL)
def test_completions_are_those_of_whole_prompts(families: Families, family: str) -> None:
    loaded = families.load(family)
    task = build.build(loaded, SPEC, 90, 16)
    prompts = [task.rows([r]).tokens[0][0] for r in ROWS]
    length = prompt_cache.common_prefix_length(prompts)
    assert length >= prompt_cache.MIN_PREFIX
    assert len({len(p) for p in prompts}) > 2
    want = [greedy(loaded, list(p), 6) for p in prompts]
    assert completion_ids(task) == want
    shapes = record_shapes(loaded.unwrapped)
    assert completion_ids(task) == want
    rest = max(map(len, prompts)) - length
    assert shapes[:2] == [(1, length), (len(ROWS), rest)]
    assert set(shapes[2:]) <= {(len(ROWS), 1)}


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
    """Completions are the same with and without the cache, which models with full attention use."""
    import transformers

    family, options, shared = OTHERS[name]
    words = tokenizer("llama", "words")
    ids = {"vocab_size": len(words), "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, f"{family}Config")(**ids, **options)
        )
        for p in model.parameters():
            p.data.add_(torch.randn_like(p) * 0.2)
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    files = find_model(str(tmp_path))
    loaded = loading.load(files.source, files.folder, files.head, device="cpu")
    task, whole = (build.build(loaded, SPEC, 90, 16) for _ in range(2))
    whole.prompts.supported = False
    assert completion_ids(task) == completion_ids(whole)
    assert (task.prompts._verified == {False: True}) == shared


def test_a_short_common_prefix_is_not_cached(families: Families) -> None:
    loaded = families.load("llama")
    shapes = record_shapes(loaded.unwrapped)
    task = build.build(
        loaded, TaskSpec("generation", Template("who : {question} ?{completion}"), max_new_tokens=3), 90, 16
    )
    assert completion_ids(task, [{"question": q + " " + INSTRUCTION, "completion": ""} for q in QUESTIONS])
    assert all(rows == len(ROWS) for rows, _ in shapes)
    shapes.clear()
    completion_ids(build.build(loaded, SPEC, 90, 16), ROWS[:1])  # a single row saves nothing
    assert len(shapes[0]) == 2
    assert shapes[0][1] > prompt_cache.MIN_PREFIX


def test_the_length_of_the_common_prefix() -> None:
    assert prompt_cache.common_prefix_length([(1, 2, 3), (1, 2, 4, 5)]) == 2
    assert prompt_cache.common_prefix_length([(1, 2, 3), (1, 2, 3)]) == 2  # at least one token of each remains
    assert prompt_cache.common_prefix_length([(1,), (1, 2)]) == 0


@pytest.mark.parametrize("fault", ["no cache", "positions", "memory"])
def test_a_model_that_cannot_continue_from_a_cache_reads_whole_prompts(
    families: Families, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The model takes no cache, counts padding in its positions, or runs out of memory."""
    loaded = families.load("llama")
    want = [greedy(loaded, list(build.build(loaded, SPEC, 90, 16).rows([r]).tokens[0][0]), 6) for r in ROWS]
    plain = type(loaded.unwrapped).forward
    failed = []

    @functools.wraps(plain)  # generate inspects the signature
    def other(self: Any, *args: Any, **more: Any) -> Any:
        ids, cache = more["input_ids"], more.get("past_key_values")
        continues = cache is not None and cache.get_seq_length() and ids.shape[1] > 1
        if fault == "no cache" and continues:
            raise ValueError("past_key_values: not here")
        if fault == "memory" and continues and ids.shape[0] > 2:
            failed.append(ids.shape[0])
            raise torch.OutOfMemoryError("out of memory")
        if fault == "positions" and continues:
            length = cache.get_seq_length()
            more["position_ids"] = torch.arange(length, length + ids.shape[1]).expand(*ids.shape)
        return plain(self, *args, **more)

    monkeypatch.setattr(type(loaded.unwrapped), "forward", other)
    task = build.build(loaded, SPEC, 90, 16)
    assert completion_ids(task) == want
    assert completion_ids(task) == want
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
def test_windowed_attention_is_supported_where_all_rows_fit(
    families: Families, more: dict[str, Any], possible: bool
) -> None:
    loaded = families.load("llama")
    assert build.build(loaded, SPEC, 90, 16).prompts.supported
    for name, value in more.items():
        setattr(loaded.unwrapped.config, name, value)
    assert build.build(loaded, SPEC, 90, 16).prompts.supported == possible


@pytest.mark.parametrize("tuned", [{"tune": "bias|norm"}, {"peft": "lora"}], ids=["norms", "lora"])
def test_joint_points_read_the_prefix_in_one_pass(families: Families, tmp_path: Path, tuned: dict[str, Any]) -> None:
    (tmp_path / "objective.py").write_text(OBJECTIVE)
    data = [{"prompt": INSTRUCTION + INSTRUCTION + QUESTIONS[i % 5]} for i in range(260)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in data))
    values = {}
    for mode in ("copy", "joint"):
        options = {"model": str(families.folder("llama")), "dataset": str(tmp_path / "data.jsonl"), "perturb": mode}
        options |= {"objective": f"{tmp_path}/objective.py:words", "max_new_tokens": 5, "batch_size": 6, **tuned}
        session = Session(plan(config.resolve({**options, "threads": 1}, None)), ignore)
        session.choose_perturbation()
        assert (session.oracle.joint is not None) == (mode == "joint")
        session.oracle.begin(Tape(), 0)
        points = [session.space.theta + 0.5 * Noise("normal", 0, k) for k in range(3)]
        session.oracle(*points)
        shapes = record_shapes(session.loaded.unwrapped)
        session.oracle.begin(Tape(), 0)
        values[mode] = session.oracle(*points)
        prefixes = [shape for shape in shapes if shape[1] > prompt_cache.MIN_PREFIX]
        assert prefixes == ([(1, prefixes[0][1])] * 3 if mode == "copy" else [(3, prefixes[0][1])])
    assert len(set(values["copy"])) > 1
    assert values["copy"] == pytest.approx(values["joint"])
