"""Populations: rows of a pass with directions of their own, the bits of their update, its cost, and resumed runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zotune
from benchmarks.gpu_parts import Check, part
from benchmarks.gpu_parts.exactness import inputs
from benchmarks.gpu_parts.generation import SMOLLM2
from benchmarks.gpu_parts.models import folder, prompts, shapes
from benchmarks.gpu_parts.replays import Interrupt
from zotune.core.population import Population, RowWise, matrix_shape
from zotune.core.recipe import Directions, direction_sum
from zotune.core.space import Space
from zotune.errors import ZotuneError
from zotune.models import loading
from zotune.runs.replay import replay

PAIRS = 4
STEPS = 2
LEAST = 0.8
"""Least share of plain generation's completions a second that a population's step keeps, with all matrices."""
MEMORY = 1.3
"""Most memory of a population's step, in units of plain generation of the same rows."""


def members(space: Space, pairs: int, step: int = 0, sigma: float = 0.1) -> Population:
    """A population of every matrix, with sizes that do not depend on the device."""
    tensors = space.theta.tensors
    matrices = {t.name: s for t in tensors if (s := matrix_shape(t))}
    sizes = {n: sigma * float(space.params[n].detach().cpu().double().square().mean().sqrt()) for n in matrices}
    return Population(Directions(matrices, pairs, step), sizes)


def updated(check: Check, name: str, dtype: str, device: str, compile: bool) -> str:
    """A hash of the weights after updates from fixed values, and of a member that is written."""
    family, config = shapes(check.tiny)[name]
    # Weights are drawn on the CPU, for each device has random numbers of its own.
    loaded = loading.random_model(family, config, device="cpu", dtype=dtype, seed=3, name=name)
    space = Space(loaded.model.to(device), seed=5, compile=compile)
    for t in range(STEPS):
        space.step = t
        population = members(space, PAIRS, t)
        with space.at(population.member(space.theta, 1, -1)):
            digest = space.digest()
        weights = [0.01 * (p - 1.3) for p in range(PAIRS)]
        step = population.size(space.theta) * direction_sum(population.directions, weights)
        space.assign(space.theta + step, None)
    return digest + space.digest()


@part(
    "population-bits",
    "updates of a population have the CPU's bits; its rows give what written weights give",
    seconds=60,
)
@torch.no_grad()
def population_bits(check: Check) -> None:
    names = ("llama",) if check.tiny else ("llama", "opt", "qwen3")
    for dtype in ("bfloat16",) if check.tiny else ("float32", "bfloat16", "float16"):
        for compile in (False, True):
            wrong = [
                name
                for name in names
                if updated(check, name, dtype, check.device, compile) != updated(check, name, dtype, "cpu", False)
            ]
            claim = f"updates in {dtype}, {'compiled' if compile else 'eager'}: as on the CPU"
            check.exact(claim, len(names) - len(wrong), len(names), ", ".join(wrong))
    for dtype in ("float32", "bfloat16", "float16"):
        wrong = [name for name in shapes(check.tiny) if not _agrees(check, name, dtype)]
        claim = f"rows in {dtype}: those of written weights to rounding, none depends on another's member"
        count = len(shapes(check.tiny))
        found = f"{count - len(wrong)} of {count} models" + (f"; not {', '.join(wrong)}" if wrong else "")
        check.row(claim, found, holds=not wrong, bound="all")


def _agrees(check: Check, name: str, dtype: str) -> bool:
    family, config = shapes(check.tiny)[name]
    loaded = loading.random_model(family, config, device=check.device, dtype=dtype, seed=3, name=name)
    space = Space(loaded.model, seed=5)
    half = inputs(config["vocab_size"], PAIRS, 8, check.device)
    batch = {key: torch.cat([x, x]) for key, x in half.items()}

    def forward() -> Tensor:
        logits: Tensor = loaded.model(**batch).logits
        return logits

    rows = RowWise(space, forward, 2 * PAIRS)
    population = members(space, PAIRS)
    kept = {n: x for n, x in population.sizes.items() if n not in rows.unsupported}
    matrices = {n: s for n, s in population.directions.shapes.items() if n in kept}
    return rows.agrees(Population(Directions(matrices, PAIRS, 0), kept), forward)


@part("population", "a population's step against plain generate: completions a second and peak memory", seconds=60)
@torch.no_grad()
def population_step(check: Check) -> None:
    import transformers

    rows, words, new = (8, 8, 8) if check.tiny else (128, 32, 64)
    config = shapes(True)["llama"][1] if check.tiny else SMOLLM2
    loaded = loading.random_model("llama", config, device=check.device, dtype="bfloat16", seed=3, name="SmolLM2-135M")
    space = Space(loaded.model, seed=5, compile=not check.tiny)
    half = inputs(config["vocab_size"], rows // 2, words, check.device)
    batch = {key: torch.cat([x, x]) for key, x in half.items()}
    settings = transformers.GenerationConfig(max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)

    def generate() -> None:
        loaded.model.generate(**batch, generation_config=settings)

    row_wise = RowWise(space, lambda: loaded.model(**batch), rows)
    steps = iter(range(100))

    def tune() -> None:
        space.step = next(steps)
        population = members(space, rows // 2, space.step)
        with row_wise.at(population):
            generate()
        row_wise.release()
        weights = [1e-6 * (-1) ** p for p in range(population.pairs)]
        space.assign(space.theta + population.size(space.theta) * direction_sum(population.directions, weights), None)

    plain, step = _fastest(generate), _fastest(tune)
    check.row(f"{rows} rows x {new} tokens: plain generate", f"{rows / plain[0]:.0f} completions/s")
    check.row(f"{rows} rows x {new} tokens: a population's step", f"{rows / step[0]:.0f} completions/s")
    check.cost(f"{rows} rows: population / plain generate", plain[0] / step[0], LEAST, at_least=True)
    if check.device == "cuda":
        check.cost(f"{rows} rows: peak memory / plain generate", step[1] / plain[1], MEMORY)


def _fastest(call: Callable[[], None]) -> tuple[float, int]:
    """Seconds of the fastest of three calls, after a first one that may compile, and the most bytes on a GPU."""
    cuda, seconds = torch.cuda.is_available(), []
    call()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        began = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds), torch.cuda.max_memory_allocated() if cuda else 0


def lengths(completions: Sequence[str], **_: Any) -> list[float]:
    """A reward that costs nothing and differs between most rows."""
    return [float(sum(map(ord, c)) % 97) for c in completions]


@part("population-run", "population runs resume to the same bits here, and replay from the CPU's journal", seconds=60)
def population_run(check: Check) -> None:
    family, config = shapes(True)["llama"]
    source = prompts(check.folder / "prompts.jsonl", 48, 8)

    def tune(output: Path, device: str, dtype: str, **more: Any) -> Path:
        options: dict[str, Any] = {"model": str(check.folder / f"model-{dtype}"), "dataset": str(source)}
        options |= {"output_dir": str(output), "device": device, "dtype": dtype, "max_steps": 4, "max_new_tokens": 8}
        options |= {"optimizer_args": {"rows": "16"}, "eval_steps": 2, "preflight": False, "guard": 0.0}
        zotune.fit(objective=lengths, optimizer="eggroll", compile="off", **options, **more)
        return output

    dtypes = ("float32",) if check.tiny else ("float32", "bfloat16", "float16")
    for dtype in dtypes:
        folder(check.folder / f"model-{dtype}", family, config, "LlamaForCausalLM", dtype)
        whole = tune(check.folder / f"{dtype}-whole", check.device, dtype)
        cut = check.folder / f"{dtype}-cut"
        tune(cut, check.device, dtype, stop=Interrupt(2))
        tune(cut, check.device, dtype, resume="last")
        same = (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()
        check.exact(f"an interrupted population in {dtype} resumes to the same bits", int(same), 1)
    made = tune(check.folder / "on-cpu", "cpu", "float32")
    try:
        confirmed, why = replay(made, check.folder / "again", device=check.device).confirmed, "nothing to compare with"
    except ZotuneError as error:
        confirmed, why = False, str(error)
    check.exact("a population's journal of the CPU replays here", int(bool(confirmed)), 1, "" if confirmed else why)
