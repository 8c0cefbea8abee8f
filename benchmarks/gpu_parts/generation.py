"""Generation: completions a second of a tuning step against plain batched `generate`; points that share a pass."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import zotune
from benchmarks.gpu_parts import Check, part
from benchmarks.gpu_parts.models import folder, prompts, shapes
from zotune.search.journal import Journal

STEPS = 4
LEAST = 0.8
"""Least share of plain generation's completions a second that a tuning step keeps."""
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
"""The sizes of SmolLM2-135M."""


class Words:
    """A reward that costs nothing, and the clock of the steps: it is called once a point."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, int]] = []

    def __call__(self, completions: Sequence[str], **_: Any) -> list[float]:
        self.calls.append((time.perf_counter(), len(completions)))
        return [float(len(c) % 7) for c in completions]

    def step_seconds(self, rows: int) -> float:
        """Median seconds from step to step: two calls of so many rows each; held-out sets have other sizes."""
        times = [t for t, n in self.calls if n == rows][::2]
        return statistics.median(b - a for a, b in itertools.pairwise(times))


def model_folder(check: Check) -> Path:
    config = shapes(True)["llama"][1] if check.tiny else SMOLLM2
    return folder(check.folder / "model", "llama", config, "LlamaForCausalLM", "bfloat16")


def run(check: Check, path: Path, reward: Words, rows: int, words: int, new: int, **options: Any) -> Path:
    """A short run of MeZO on a reward of generated text; returns its run directory."""
    name = "-".join(map(str, (rows, *options.values())))
    source = prompts(check.folder / f"prompts-{rows}.jsonl", 3 * rows, words)
    output = check.folder / f"run-{name}"
    settings: dict[str, Any] = {"model": str(path), "dataset": str(source), "output_dir": str(output)}
    settings |= {"max_steps": STEPS, "batch_size": rows, "eval_batch_size": 2 * rows, "max_new_tokens": new}
    settings |= {"eval_steps": 100, "preflight": False, "guard": 0.0, "device": check.device, "dtype": "bfloat16"}
    zotune.fit(objective=reward, optimizer="mezo", **settings, **options)
    return output


@part("generate", "completions a second in a tuning step against plain batched generate, 16 to 512 rows", seconds=70)
def generate(check: Check) -> None:
    import transformers

    new, words = (8, 8) if check.tiny else (64, 32)
    path = model_folder(check)
    plain = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).to(check.device).eval()
    for rows in (4,) if check.tiny else (16, 64, 128, 512):
        ids = torch.arange(rows * (words + 1), device=check.device).view(rows, -1) % plain.config.vocab_size
        settings = transformers.GenerationConfig(
            max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "generation_config": settings}
        seconds = min(_timed(lambda batch=batch: plain.generate(**batch)) for _ in range(3))
        reward = Words()
        run(check, path, reward, rows, words, new)
        each = reward.step_seconds(rows) / 2
        check.row(f"{rows} rows x {new} tokens: plain generate", f"{rows / seconds:.0f} completions/s")
        check.row(f"{rows} rows x {new} tokens: tuning", f"{rows / each:.0f} completions/s")
        check.cost(f"{rows} rows: tuning / plain generate", seconds / each, LEAST, at_least=True)


def _timed(call: Any) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


@part("joint", "LoRA: both points of a step in one forward pass against one pass each", seconds=45)
def joint(check: Check) -> None:
    rows, words, new = (4, 8, 8) if check.tiny else (32, 32, 32)
    path = model_folder(check)
    seconds, values = {}, {}
    for mode in ("together", "copy"):
        reward = Words()
        output = run(check, path, reward, rows, words, new, peft="lora", probe=mode)
        seconds[mode] = reward.step_seconds(rows)
        journal = Journal.open(output / "journal.jsonl", read_only=True)
        values[mode] = next(line["tape"] for line in journal.lines if line["kind"] == "step")
    check.cost(f"{rows} rows: step in one pass / step in two", seconds["together"] / seconds["copy"], 1.0)
    check.row("first step's values of both", f"{values['together']} and {values['copy']}")
