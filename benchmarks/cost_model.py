"""What a run on generated text needs: completions an hour and memory by model, members and tokens.

    python benchmarks/cost_model.py                        # the table of docs/scale.md
    python benchmarks/cost_model.py --check                # against what was measured
    python benchmarks/cost_model.py --weights 8.0e9 --prompt 200 --new 256 --rows 128 --device h100 --count 8

A step decodes a row for each member. Every token costs two operations a weight; a decoding step reads all weights, and
the cache of every row, once, and each of its layers costs Python a fixed time:

    prompt    rows · prompt · 2 W / F                        W: weights; F: operations a second
    decoding  Σ over new tokens of                           b: bytes a weight; c: of a cached token;
                max(rows · 2 W / F,                          B: bytes a second
                    (b W + rows · cached · c) / B) + L h     L: layers; h: fixed seconds of one
    members   a share m of both
    update    rows / 2 · W / U                               U: multiply-adds a second of the exact sum

Memory: the weights, twice where the base is read again, the cache of all rows, and logits of one token. F and h of a
core are fitted to two measured times of plain `generate` (`fitted`), m and U were measured; the other measured figures
check the model. Of GPUs nothing was measured here: they stand with their data sheets and assumed shares.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Model:
    """weights: their number. layers, kv: blocks, and numbers that a cached token has in each, keys and values together.
    bytes: of a weight. vocabulary: entries."""

    name: str
    weights: float
    layers: int
    kv: int
    vocabulary: int
    bytes: float = 2.0

    @property
    def cached(self) -> float:
        """Bytes of the cache of one token."""
        return 2.0 * self.layers * self.kv


@dataclass(frozen=True)
class Device:
    """operations: a second of matrix products. bandwidth: bytes a second. share: of both that generation reaches. sums:
    multiply-adds a second of the update. members: cost of a row's own direction, as a share of generation. fixed:
    seconds of a decoding step and layer, whatever its rows."""

    name: str
    operations: float
    bandwidth: float
    share: float
    sums: float
    members: float
    fixed: float


@dataclass(frozen=True)
class Need:
    """seconds: of a step. completions: an hour. memory: bytes."""

    seconds: float
    completions: float
    memory: float


STORIES: Final = Model("stories260K", 2.6e5, 5, 2 * 4 * 8, 512, 4.0)
SMOLLM2: Final = Model("SmolLM2-135M", 1.35e8, 30, 2 * 3 * 64, 49152)
MODELS: Final = (
    SMOLLM2,
    Model("Qwen2.5-0.5B", 4.9e8, 24, 2 * 2 * 64, 151936),
    Model("SmolLM2-1.7B", 1.71e9, 24, 2 * 32 * 64, 49152),
    Model("Qwen2.5-3B", 3.1e9, 36, 2 * 2 * 128, 151936),
    Model("Llama-3.1-8B", 8.0e9, 32, 2 * 8 * 128, 128256),
    Model("Qwen2.5-32B", 3.25e10, 64, 2 * 8 * 128, 152064),
    Model("Llama-3.1-70B", 7.06e10, 80, 2 * 8 * 128, 128256),
)
CORE: Final = Device("a CPU core, bfloat16", 3.0e11, 1.8e10, 1.0, 3.8e10, 0.07, 9.5e-4)
CORE32: Final = Device("a CPU core, float32", 3.0e10, 1.8e10, 1.0, 3.8e10, 0.20, 9.5e-4)
DEVICES: Final = {
    "core": CORE,
    "core32": CORE32,
    "l4": Device("NVIDIA L4", 1.21e14, 3.0e11, 0.4, 5e12, 0.25, 8e-4),
    "a100": Device("NVIDIA A100", 3.12e14, 2.0e12, 0.4, 1e13, 0.25, 8e-4),
    "h100": Device("NVIDIA H100", 9.9e14, 3.35e12, 0.4, 2e13, 0.25, 8e-4),
}
"""Of GPUs: data sheets' products in bfloat16 and bandwidth; assumed: the share that generation reaches, members' cost,
and the fixed time of transformers' `generate`, which an engine such as vLLM does not have."""


def need(model: Model, device: Device, rows: int, prompt: int, new: int, count: int = 1, copies: int = 2) -> Need:
    """What a step of `rows` members takes on `count` devices that each hold the model and decode whole passes of the
    rows. copies: of the weights in memory."""
    each = -(-rows // count)
    operations, bandwidth = device.operations * device.share, device.bandwidth * device.share
    prompts = each * prompt * 2 * model.weights / operations
    decoding = sum(
        max(
            each * 2 * model.weights / operations,
            (model.bytes * model.weights + each * (prompt + k) * model.cached) / bandwidth,
        )
        for k in range(new)
    )
    overhead = new * model.layers * device.fixed
    generation = prompts + decoding + overhead
    update = rows / 2 * model.weights / device.sums
    seconds = generation * (1 + device.members) + update
    memory = copies * model.bytes * model.weights + each * ((prompt + new) * model.cached + 4 * model.vocabulary)
    return Need(seconds, 3600 * rows / seconds, memory)


@dataclass(frozen=True)
class Measured:
    """A figure of docs/log.md: CPU seconds of `rows` completions in passes of `in_pass`. what: in words. members: as
    rows of a population, its update counted, or by plain `generate`. fitted: whether the model was fitted to it."""

    what: str
    model: Model
    device: Device
    rows: int
    prompt: int
    new: int
    seconds: float
    members: bool = True
    in_pass: int = 128
    fitted: bool = False


MEASURED: Final = (
    Measured("SmolLM2, `generate` of 128 rows", SMOLLM2, CORE, 128, 39, 20, 7.3, False, fitted=True),
    Measured("stories, `generate` of 128 rows", STORIES, CORE32, 128, 15, 40, 128 / 401, False, fitted=True),
    Measured("SmolLM2, a step of 128 members", SMOLLM2, CORE, 128, 39, 20, 8.2),
    Measured("SmolLM2, `generate`, another day", SMOLLM2, CORE, 128, 39, 20, 128 / 18.7, False),
    Measured("stories, a step of 128 members, an earlier version", STORIES, CORE32, 128, 15, 40, 128 / (401 * 0.79)),
    Measured("stories, ten runs of 1,700 scores, all of each", STORIES, CORE32, 1700, 9, 48, 9.8),
    Measured("SmolLM2 on JSON, a step of 64 members, busy machine", SMOLLM2, CORE, 64, 55, 40, 11.6, in_pass=64),
    Measured("SmolLM2 on JSON, 200 test rows, busy machine", SMOLLM2, CORE, 200, 55, 40, 40.0, False, in_pass=64),
)
"""Prompts of the JSON task have some 55 tokens with their chat template, openings of stories some 9."""


def computed(m: Measured) -> float:
    """The model's seconds for a measured figure."""
    passes = m.rows / m.in_pass
    seconds = need(m.model, m.device, m.in_pass, m.prompt, m.new).seconds * passes
    if not m.members:
        update = m.rows / 2 * m.model.weights / m.device.sums
        seconds = (seconds - update) / (1 + m.device.members)
    return seconds


def print_check() -> None:
    """A table of measured and computed seconds, and the error of those that were not fitted."""
    print("| figure of the log | measured, CPU s | computed | computed / measured |\n|---|---|---|---|")
    ratios = {}
    for m in MEASURED:
        ratios[m.what] = computed(m) / m.seconds
        note = " (fitted)" if m.fitted else ""
        print(f"| {m.what}{note} | {m.seconds:.2f} | {computed(m):.2f} | {ratios[m.what]:.2f} |")
    free = [ratios[m.what] for m in MEASURED if not m.fitted]
    logs = [abs(math.log(r)) for r in free]
    typical, worst = math.exp(statistics.median(logs)), math.exp(max(logs))
    print(f"\nnot fitted: off by a factor of {typical:.2f} (median), {worst:.2f} at most")


def print_table(rows: int, prompt: int, new: int) -> None:
    """A line for each model: a core, one GPU, and eight GPUs with eight times as many members."""
    print(f"{rows} members a step, prompts of {prompt} tokens, completions of {new}\n")
    print(f"| model | memory | completions an hour: a core | H100 | eight H100, {8 * rows} members |")
    print("|---|---|---|---|---|")
    for model in MODELS:
        one = need(model, DEVICES["h100"], rows, prompt, new)
        eight = need(model, DEVICES["h100"], 8 * rows, prompt, new, 8)
        core = need(model, CORE, rows, prompt, new)
        cells = [core, one, eight]
        shown = [f"{float(f'{c.completions:.2g}'):,.0f}" for c in cells]
        if one.memory > 80e9:
            shown[1:] = ["too large", "too large"]
        print(f"| {model.name} | {one.memory / 2**30:.1f} GiB | {' | '.join(shown)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the figures of docs/log.md")
    parser.add_argument("--weights", type=float, help="number of weights of another model")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--kv", type=int, default=2048, help="numbers of a cached token in a layer")
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--bytes", type=float, default=2.0, help="of a weight: 1 for int8, 0.5 for 4 bits")
    parser.add_argument("--rows", type=int, default=128, help="members of a step")
    parser.add_argument("--prompt", type=int, default=40, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=32, help="tokens of a completion")
    parser.add_argument("--device", choices=DEVICES, default="core")
    parser.add_argument("--count", type=int, default=1, help="devices")
    args = parser.parse_args()
    if args.check:
        print_check()
    elif args.weights:
        model = Model("given", args.weights, args.layers, args.kv, args.vocabulary, args.bytes)
        step = need(model, DEVICES[args.device], args.rows, args.prompt, args.new, args.count)
        pace = f"{step.seconds:.3g} s a step, {step.completions:,.0f} completions an hour"
        print(f"{pace}, {step.memory / 2**30:.1f} GiB on each of {args.count} x {DEVICES[args.device].name}")
    else:
        print_table(args.rows, args.prompt, args.new)


if __name__ == "__main__":
    main()
