"""vLLM as a run's engine, where it is installed: answers of the base model and of members, weights, resume, replay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_jsonl
from families import WORDS as VOCABULARY
from families import Families

pytest.importorskip("vllm")

from zotune_engines.vllm_engine import VLLMEngine

import zotune
from zotune.core.population import Population
from zotune.core.recipe import Directions, direction_sum
from zotune.core.recipe_codec import encode
from zotune.core.space import Space
from zotune.errors import EngineError
from zotune.inference import EngineModel, GenerationRequest, Members, WeightUpdate
from zotune.runs.replay import replay
from zotune.search.journal import Journal
from zotune.tasks.gumbel import noisy_scores

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM reads names that torch deprecates
WORDS = VOCABULARY.split()
PAIRS, TOKENS = 3, 8


@pytest.fixture(scope="module")
def folder(families: Families, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose heads are as wide as vLLM's attention on a CPU asks for."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(families.folder("llama"))
    path = tmp_path_factory.mktemp("wide")
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 5,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=96,
        head_dim=64,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


class Both:
    """The model in transformers, and the same in vLLM."""

    def __init__(self, folder: Path, **options: Any) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.space = Space(self.model, 3, lambda t: len(t.shape) == 2)
        self.shapes = {t.name: (t.shape[0], t.shape[1]) for t in self.space.theta.tensors}
        self.sizes = {n: 0.15 * float(self.space.params[n].detach().square().mean().sqrt()) for n in self.shapes}
        self.engine = VLLMEngine(kv_cache_gib=1, **options)
        shapes = {n: tuple(s) for n, s in self.shapes.items()}
        self.engine.start(EngineModel(folder, "float32", shapes, 3, 0, 2 * PAIRS, 64, "cpu"))
        self.prompts = [tuple(range(3 + k, 8 + 2 * k)) for k in range(PAIRS)]

    def expected(self, prompt: tuple[int, ...], key: int | None = None) -> list[int]:
        """What transformers completes: greedily, or with the noise of a key at temperature 0.7."""
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(TOKENS):
                scores = self.model(input_ids=torch.tensor([ids])).logits[:, -1]
                if key is not None:
                    scores = noisy_scores(scores, [key], torch.tensor([len(ids) - len(prompt)]), 0.7, 0.9)
                ids.append(int(scores.argmax()))
        return ids[len(prompt) :]

    def members(self, step: int, first: int = 0, last: int = PAIRS) -> Members:
        return Members(step, 0, PAIRS, self.shapes, self.sizes, (), first, last)

    def of_members(self, step: int) -> list[list[int]]:
        """What transformers completes under the written weights of each member."""
        population = Population(Directions(self.shapes, PAIRS, step), self.sizes)
        out = []
        for sign in (1, -1):
            for pair, prompt in enumerate(self.prompts):
                with self.space.at(population.member(self.space.theta, pair, sign)):
                    out.append(self.expected(prompt))
        return out


@pytest.fixture(scope="module")
def both(folder: Path) -> Iterator[Both]:
    pair = Both(folder)
    yield pair
    pair.engine.close()


def test_answers_and_weights_are_those_of_the_loaded_model(both: Both) -> None:
    engine, space, prompts = both.engine, both.space, both.prompts
    assert engine.matrices() == space.params.keys()
    for step in range(4):  # more members than there are places for adapters
        assert engine.weights_hash() == space.digest()
        assert engine.generate(GenerationRequest(prompts, TOKENS)) == [both.expected(p) for p in prompts]
        request = GenerationRequest([*prompts, *prompts], TOKENS, members=both.members(step))
        found = engine.generate(request)
        assert found == both.of_members(step)
        part = GenerationRequest([*prompts[1:], *prompts[1:]], TOKENS, members=both.members(step, 1))
        assert engine.generate(part) == [found[k] for k in (1, 2, 4, 5)]
        scale = space.theta.per(lambda t: both.sizes[t.name])
        recipe = space.theta + scale * direction_sum(Directions(both.shapes, PAIRS, step), [1.0, -0.7, 0.2])
        space.step = step
        space.assign(recipe)
        engine.update(WeightUpdate(step, encode(recipe)))


def test_sampling_stop_tokens_and_penalty(both: Both) -> None:
    prompts, keys = both.prompts, [5, 1 << 60, 77]
    sampled = both.engine.generate(GenerationRequest(prompts, TOKENS, temperature=0.7, top_p=0.9, keys=keys))
    assert sampled == [both.expected(p, k) for p, k in zip(prompts, keys, strict=True)]
    greedy = [both.expected(p) for p in prompts]
    ended = both.engine.generate(GenerationRequest(prompts, TOKENS, end_ids=(greedy[0][3],)))
    assert ended[0] == greedy[0][: greedy[0].index(greedy[0][3])]
    assert both.engine.generate(GenerationRequest(prompts, TOKENS, repetition_penalty=9.0)) != greedy
    with pytest.raises(EngineError, match="without --repetition-penalty"):
        both.engine.generate(GenerationRequest(prompts, 1, temperature=1.0, repetition_penalty=2.0, keys=keys))


def test_copies_in_host_memory_reach_the_model(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    pair = Both(folder, host_copies=True)
    save_file({n: 1.5 * p.data for n, p in pair.space.params.items()}, tmp_path / "tuned.safetensors")
    pair.engine.load(tmp_path / "tuned.safetensors")
    for p in pair.space.params.values():
        p.data.mul_(1.5)
    assert pair.engine.generate(GenerationRequest(pair.prompts, TOKENS)) == [pair.expected(p) for p in pair.prompts]
    pair.engine.close()


def test_two_workers_have_the_members_and_the_weights_of_one(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    pair = Both(folder, tensor_parallel_size=2)
    prompts, space = pair.prompts, pair.space
    save_file({n: p.data for n, p in space.params.items()}, tmp_path / "tuned.safetensors")
    pair.engine.load(tmp_path / "tuned.safetensors")  # as a run does when it starts
    for step in range(2):
        assert pair.engine.weights_hash() == space.digest()
        assert pair.engine.generate(GenerationRequest(prompts, TOKENS)) == [pair.expected(p) for p in prompts]
        request = GenerationRequest([*prompts, *prompts], TOKENS, members=pair.members(step))
        assert pair.engine.generate(request) == pair.of_members(step)
        scale = space.theta.per(lambda t: pair.sizes[t.name])
        recipe = space.theta + scale * direction_sum(Directions(pair.shapes, PAIRS, step), [1.0, -0.7, 0.2])
        space.step = step
        space.assign(recipe)
        pair.engine.update(WeightUpdate(step, encode(recipe)))
    pair.engine.close()


def words(completions: Sequence[str]) -> list[float]:
    return [float(len(set(x.split())) + 0.1 * len(x)) for x in completions]


def test_a_run_is_resumed_and_replayed_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name, count in (("train", 12), ("validation", 4), ("test", 4)):
        texts = [" ".join(WORDS[(3 * i + k + len(name)) % len(WORDS)] for k in range(3 + i % 3)) for i in range(count)]
        write_jsonl(data / f"{name}.jsonl", [{"prompt": x} for x in texts])
    made: dict[str, Any] = {
        "model": str(folder),
        "dataset": str(data),
        "max_new_tokens": 4,
        "dtype": "bfloat16",
        "threads": 1,
        "optimizer": "eggroll",
        "optimizer_args": {"rows": 4},
        "max_steps": 3,
        "eval_steps": 2,
        "save_steps": 2,
        "engine": "zotune_engines.vllm_engine:VLLMEngine",
        "engine_args": {"kv_cache_gib": 1},
        "device": "cpu",
        "preflight": False,
        "compile": "off",
    }
    zotune.fit(objective=words, output_dir=str(tmp_path / "whole"), **made)
    asked: list[int] = []
    stop = lambda: asked.append(0) or len(asked) == 2  # noqa: E731
    assert zotune.fit(objective=words, output_dir=str(tmp_path / "half"), stop=stop, **made).reason == "interrupted"
    zotune.fit(objective=words, output_dir=str(tmp_path / "half"), resume="last", **made)
    for name in ("journal.jsonl", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "half" / name).read_bytes()
    versions = Journal.open(tmp_path / "whole" / "journal.jsonl", read_only=True).header["engine"]["versions"]
    assert {"torch", "transformers"} < versions.keys()
    assert replay(tmp_path / "whole", tmp_path / "replayed", base=str(folder), step=3).confirmed
