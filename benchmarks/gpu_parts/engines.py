"""vLLM as a run's engine: answers of the base model and of members, bits of updates, the cost of a step."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_parts import Check, part
from benchmarks.gpu_parts.generation import SMOLLM2
from benchmarks.gpu_parts.models import folder
from zotune.core.population import Population
from zotune.core.recipe import Directions, direction_sum
from zotune.core.recipe_codec import encode
from zotune.core.space import Space
from zotune.inference import EngineModel, GenerationRequest, Members, WeightUpdate

LEAST = 0.7
"""Least share of plain vLLM's completions a second that a step keeps, with a member for each row."""
SAME = 0.9
"""Least share of greedy answers in float32 that equal those of written weights: sums round in another order."""
TINY = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "tie_word_embeddings": True,
}


@part("vllm", "vLLM: members and updates are those of the loaded model; a step's share of its throughput", seconds=120)
@torch.no_grad()
def vllm(check: Check) -> None:
    if importlib.util.find_spec("vllm") is None:
        check.row("vLLM as an engine", "vllm is not installed: nothing was measured")
        return
    _bits(check, "bfloat16")
    engine, space = _bits(check, "float32")
    pairs, words, new = (2, 6, 8) if check.tiny else (64, 32, 64)
    generator = torch.Generator().manual_seed(1)
    vocabulary = (TINY if check.tiny else SMOLLM2)["vocab_size"]
    half = [tuple(x) for x in torch.randint(5, int(vocabulary), (pairs, words), generator=generator).tolist()]
    prompts = [*half, *half]
    shapes = {t.name: (t.shape[0], t.shape[1]) for t in space.theta.tensors}
    sizes = {n: 0.05 * float(p.detach().float().square().mean().sqrt()) for n, p in space.params.items()}

    def request(step: int | None, tokens: int) -> GenerationRequest:
        members = None if step is None else Members(step, 0, pairs, shapes, sizes, (), 0, pairs)
        return GenerationRequest(prompts, tokens, members=members)

    population = Population(Directions(shapes, pairs, 0), sizes)
    shown = range(0, 2 * pairs, max(pairs // 4, 1))
    base, members = engine.generate(request(None, 16)), engine.generate(request(0, 16))
    equal = sum(base[k] == _greedy(space, prompts[k], 16) for k in shown)
    check.cost("greedy answers of the base equal to transformers'", equal / len(shown), SAME, at_least=True)
    equal = 0
    for k in shown:
        with space.at(population.member(space.theta, k % pairs, 1 if k < pairs else -1)):
            equal += members[k] == _greedy(space, prompts[k], 16)
    check.cost("greedy answers of members equal to written weights", equal / len(shown), SAME, at_least=True)
    steps = iter(range(1, 100))

    def step() -> None:
        t = next(steps)
        engine.generate(request(t, new))
        _take(engine, space, population, t)

    seconds = _fastest(step)
    engine.close()
    plain = _plain(check, prompts, new)
    check.row(
        f"{2 * pairs} rows x {new} tokens: a step with as many members", f"{2 * pairs / seconds:.0f} completions/s"
    )
    check.row(f"{2 * pairs} rows x {new} tokens: plain vLLM", f"{2 * pairs / plain:.0f} completions/s")
    check.cost(f"{2 * pairs} members: step / plain vLLM", plain / seconds, LEAST, at_least=True)


def _bits(check: Check, dtype: str) -> tuple[Any, Space]:
    """Start vLLM, take updates on both sides, and report whether the weights have the same bits."""
    from transformers import AutoModelForCausalLM
    from zotune_engines.vllm_engine import VLLMEngine

    path = folder(check.folder / f"model-{dtype}", "llama", TINY if check.tiny else SMOLLM2, "LlamaForCausalLM", dtype)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).to(check.device).eval()
    space = Space(model, 5, lambda t: len(t.shape) == 2)
    engine = VLLMEngine(gpu_memory_utilization=0.3, kv_cache_gib=1)
    tensors = {t.name: t.shape for t in space.theta.tensors}
    rows = 4 if check.tiny else 128
    engine.start(EngineModel(path, dtype, tensors, 5, space.rounding, rows, 128, check.device))
    shapes = {t.name: (t.shape[0], t.shape[1]) for t in space.theta.tensors}
    population = Population(Directions(shapes, rows // 2, 7), dict.fromkeys(shapes, 1e-3))
    equal = [engine.weights_hash() == space.digest()]
    for t in range(3):
        _take(engine, space, population, 1000 + t)
        equal.append(engine.weights_hash() == space.digest())
    check.exact(f"weights in {dtype}: base and after updates from the same values", sum(equal), len(equal))
    if dtype != "float32":
        engine.close()
    return engine, space


def _take(engine: Any, space: Space, population: Population, step: int) -> None:
    directions = Directions(population.directions.shapes, population.pairs, step)
    weights = [1e-4 * (p % 5 - 2) for p in range(population.pairs)]
    recipe = space.theta + population.size(space.theta) * direction_sum(directions, weights)
    text = encode(recipe)
    space.step = step
    space.assign(recipe)
    engine.update(WeightUpdate(step, text))


def _greedy(space: Space, prompt: tuple[int, ...], tokens: int) -> list[int]:
    device = next(iter(space.params.values())).device
    ids = torch.tensor([prompt], device=device)
    for _ in range(tokens):
        ids = torch.cat([ids, space.module(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    completion: list[int] = ids[0, len(prompt) :].tolist()
    return completion


def _plain(check: Check, prompts: list[tuple[int, ...]], new: int) -> float:
    """Seconds of vLLM without adapters."""
    import vllm

    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    memory = {"kv_cache_memory_bytes": 1 << 30} if check.tiny else {"gpu_memory_utilization": 0.3}
    path = str(check.folder / "model-float32")
    llm = vllm.LLM(
        path, dtype="float32", max_model_len=128, enforce_eager=check.tiny, skip_tokenizer_init=True, **memory
    )
    settings = vllm.SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True, detokenize=False)
    inputs = [vllm.inputs.TokensPrompt(prompt_token_ids=list(p)) for p in prompts]

    def generate() -> None:
        llm.reset_prefix_cache()
        llm.generate(inputs, settings, use_tqdm=False)

    seconds = _fastest(generate)
    llm.llm_engine.engine_core.shutdown()
    return seconds


def _fastest(call: Callable[[], None]) -> float:
    """Seconds of the fastest of three calls, after a first one."""
    call()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


__all__ = ["vllm"]
