"""What a tuning step costs, in units of the two forward passes that it cannot do without.

    python -m tests.benchmarks.step                  # MiniLM, 16 x 15 and 16 x 128 tokens; a table, then JSON
    python -m tests.benchmarks.step --threads 1 --rounds 15

In every round, in turn: two plain passes `model(**batch)` with no hook anywhere, one step of zotune's MeZO through its
engine (journal and all), one step of a textbook MeZO loop (draw, multiply, add for each tensor; three perturbing passes
and one update). All weights are tuned. Medians over the rounds, and their ratios.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zotune import checkpoint, models
from zotune.engine import Budget, Engine
from zotune.journal import Journal
from zotune.oracle import Batches, Oracle
from zotune.space import Space
from zotune.types import Score

SHAPES = ((16, 15), (16, 128))
LR, EPS = 1e-6, 1e-3


def textbook_step(model: nn.Module, loss: Callable[[], float], seed: int) -> None:
    """MeZO as its paper's Algorithm 1 is usually written down: the noise again for every pass, tensor by tensor."""

    def perturb(scale: float) -> None:
        generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
        for p in model.parameters():
            z = torch.normal(0.0, 1.0, p.shape, generator=generator, device=p.device, dtype=p.dtype)
            p.data = p.data + z * scale

    perturb(EPS)
    up = loss()
    perturb(-2 * EPS)
    down = loss()
    perturb(EPS)
    perturb(-LR * (up - down) / (2 * EPS))


def measure(model: nn.Module, rows: int, width: int, rounds: int, folder: Path, compile: bool) -> dict[str, Any]:
    from zotune_optimizers.mezo import MeZO

    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (rows, width), generator=generator).to(device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def loss() -> float:
        return float(model(**batch).last_hidden_state.float().square().mean())

    @torch.no_grad()
    def plain() -> None:
        model(**batch)
        model(**batch)

    space = Space(model, seed=0, compile=compile)
    if copied := space.probe_in_forward(loss):
        raise SystemExit(f"probed by copy: {copied}")
    oracle = Oracle(space, lambda _: Score(loss()), Batches(rows, rows, 0), "minimize", passes=lambda _: 1)
    journal = Journal.create(folder / f"journal-{rows}-{width}.jsonl", {})
    engine = Engine(
        space,
        MeZO(lr=LR, eps=EPS),
        oracle,
        Batches(rows, rows, 0),
        Budget(steps=10**9),
        journal,
        checkpoint.MemoryStore(),
        eval_steps=10**9,
    )
    start = space.snapshot()
    memory = {name: p.data for name, p in space.params.items()}

    times: dict[str, list[float]] = {"plain": [], "zotune": [], "textbook": []}
    began = time.perf_counter()
    engine.replay(0)  # init
    engine._step()
    first = time.perf_counter() - began
    for k in range(-2, rounds):
        for name, run in (
            ("plain", plain),
            ("zotune", engine._step),
            ("textbook", functools.partial(textbook_step, model, loss, k)),
        ):
            wait()
            began = time.perf_counter()
            run()
            wait()
            if k >= 0:
                times[name].append(time.perf_counter() - began)
        for name, p in space.params.items():  # the textbook loop leaves its weights elsewhere in memory
            p.data = memory[name]
        space.load(start)
    median = {name: statistics.median(t) for name, t in times.items()}
    return {
        "rows": rows,
        "tokens": width,
        "two_forwards_ms": round(1e3 * median["plain"], 1),
        "step_ms": round(1e3 * median["zotune"], 1),
        "textbook_ms": round(1e3 * median["textbook"], 1),
        "step_over_forwards": round(median["zotune"] / median["plain"], 3),
        "textbook_over_step": round(median["textbook"] / median["zotune"], 2),
        "first_step_s": round(first, 1),
        "compile_s": round(space.kernels.seconds, 1),
        "recompilations": space.kernels.recompilations,
        "notes": space.kernels.notes,
    }


def main(argv: Sequence[str] | None = None) -> None:
    from transformers import AutoModel

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    model = AutoModel.from_pretrained(models.default_folder()).eval().to(args.device)
    found = []
    print("| batch | two forwards | step | textbook step | step / forwards | textbook / step |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for rows, width in SHAPES:
            r = measure(model, rows, width, args.rounds, Path(folder), not args.no_compile)
            found.append(r)
            cells = [f"{r[k]:.0f} ms" for k in ("two_forwards_ms", "step_ms", "textbook_ms")]
            ratios = f"{r['step_over_forwards']:.2f} | {r['textbook_over_step']:.1f}"
            print(f"| {rows} x {width} | {' | '.join(cells)} | {ratios} |", flush=True)
    print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "results": found}))


if __name__ == "__main__":
    main()
