"""Peak memory of a tuning step against plain evaluation of the same batch.

    python -m benchmarks.memory                  # a Markdown table, then JSON
    python -m benchmarks.memory --device cuda

A Llama-shaped causal model of random float32 weights, built from its configuration; all weights, LoRA, or a prefix are
tuned by MeZO through the engine, probed in forward or by copy. Every figure comes from a fresh process. Evaluation:
three plain passes of the batch with whatever adapter the row has. Check: finding out once, before the first step, which
weights can be probed in forward. Step: three steps after that. On a CPU a peak is the process's highest resident set
(`ru_maxrss`) since the phase began, less what it held before the model was built; on a GPU `max_memory_allocated`.
Kernels are not compiled, so that a compiler's own memory is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SHAPE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "vocab_size": 4096}
HEADS, KEY_VALUE_HEADS = 8, 4
ROWS, WIDTH, PASSES = 8, 64, 3
METHODS = ("none", "lora", "prefix")
NAMES = {"none": "all weights", "lora": "LoRA", "prefix": "prefix"}
MB = 1e6


class Meter:
    """The highest memory since the last `reset`, above what there was when the meter was made."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.start = 0.0 if device == "cuda" else _resident()

    def reset(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the highest resident set becomes the present one

    def peak(self) -> float:
        if self.device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / MB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB - self.start


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def measure(what: str, method: str, probe: str, device: str) -> dict[str, Any]:
    """In this process: what an evaluation, or a step, takes."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from zotune_optimizers.mezo import MeZO

    from zotune.core.space import Space, describe, named_tensors
    from zotune.models import adapters
    from zotune.models.loaded_model import LoadedModel
    from zotune.models.model_files import embedded_model_folder
    from zotune.search import checkpoint
    from zotune.search.batches import Batches
    from zotune.search.engine import Engine
    from zotune.search.hooks import Settings
    from zotune.search.journal import Journal
    from zotune.search.limits import Budget
    from zotune.search.oracle import Oracle
    from zotune.types import Score

    torch.set_num_threads(1)
    tokenizer: Any = AutoTokenizer.from_pretrained(embedded_model_folder())
    config = LlamaConfig(
        **SHAPE, num_attention_heads=HEADS, num_key_value_heads=KEY_VALUE_HEADS, tie_word_embeddings=True
    )
    if method != "none":
        import peft  # noqa: F401
    torch.nn.Linear(512, 512).to(device)(torch.zeros(256, 512, device=device))  # what libraries hold themselves
    meter = Meter(device)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().to(device)
    where = torch.device(device)
    loaded = LoadedModel(model, tokenizer, "causal", "random", None, where)
    adapters.attach(loaded, adapters.AdapterConfig(method), seed=0)
    tuned = {n for n, p in named_tensors(loaded.model).items() if p.requires_grad}
    ids = torch.randint(5, config.vocab_size, (ROWS, WIDTH), generator=torch.Generator().manual_seed(0)).to(device)
    mask = torch.ones_like(ids)

    @torch.no_grad()
    def loss() -> float:
        logits = loaded.model(input_ids=ids, attention_mask=mask).logits[:, -WIDTH:]
        return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))

    def phase(run: Callable[[], Any]) -> float:
        meter.reset()
        run()
        return meter.peak()

    weights = {id(p): p.numel() * p.element_size() for p in loaded.model.parameters()}
    found: dict[str, Any] = {"weights": sum(weights.values()) / MB}
    if what == "evaluation":
        found["evaluation"] = phase(lambda: [loss() for _ in range(PASSES)])
        return found
    infos = describe(loaded.model)
    found["tuned"] = sum(infos[n].numel * 4 for n in tuned) / MB
    space = Space(loaded.model, seed=0, select=lambda t: t.name in tuned, compile=False)
    batches = Batches(ROWS, ROWS, 0)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal.create(Path(folder) / "journal.jsonl", {})
        oracle = Oracle(space, lambda _: Score(loss()), batches, "minimize", passes=lambda _: 1)
        store = checkpoint.MemoryStore()
        optimizer = MeZO(lr=1e-6, eps=1e-3)
        engine = Engine(
            space, optimizer, oracle, batches, Budget(steps=10**9), journal, store, Settings(eval_steps=10**9)
        )
        if probe == "forward":
            found["check"] = phase(lambda: found.update(copied=space.perturb_in_forward(loss)))
        engine.initialize()
        found["step"] = phase(lambda: [engine.step() for _ in range(PASSES)])
        journal.close()
    found["probing"] = space.perturb_bytes / MB
    return found


def fresh(*arguments: str) -> dict[str, Any]:
    """`measure` in a process of its own. Freed memory goes back to the system at once there."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.memory", "--one", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    print(
        "| tuned | MB tuned | probed | MB of weights | evaluation peak | check peak | step peak | step / evaluation |"
    )
    print("|---|---|---|---|---|---|---|---|")
    lines = []
    for method in METHODS:
        plain = fresh("evaluation", method, "none", args.device)
        for probe in ("forward", "copy"):
            r = {**plain, **fresh("step", method, probe, args.device)}
            lines.append({"method": method, "probe": probe, **r})
            peaks = [f"{r[k]:.1f} MB" if k in r else "" for k in ("evaluation", "check", "step")]
            how = "in forward" if probe == "forward" else "by copy"
            print(
                f"| {NAMES[method]} | {r['tuned']:.2f} | {how} | {r['weights']:.1f} | {' | '.join(peaks)} "
                f"| {r['step'] / r['evaluation']:.2f} |",
                flush=True,
            )
    print(json.dumps(lines))


if __name__ == "__main__":
    main()
