"""Half precision on CPUs: the write of weights beside a copy of the same bytes, and a step beside its forward passes.

    python -m benchmarks.half_precision                          # a random model of SmolLM2-135M's shapes
    python -m benchmarks.half_precision --model folder --threads 2
    python -m benchmarks.half_precision --model folder --gguf model.gguf

Both sides of a ratio are timed in turn in one process. The table shows the median of the ratios of all rounds and the
ratio of the shortest times. On machines on which other programs run, `--cpu-time --threads 1` counts the time on a core
alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zotune.core.recipe import Noise
from zotune.core.space import Space

ROWS, TOKENS = 8, 32
Timed = Callable[[], object]
clock = time.perf_counter


def compared(first: Timed, second: Timed, rounds: int) -> tuple[float, float, float, float]:
    """(median ratio, ratio of minima, shortest time of each in ms) of two calls that are timed in turn."""
    times = []
    for j in range(rounds + 2):
        marks = [clock()]
        for call in (first, second):
            call()
            marks.append(clock())
        if j >= 2:
            times.append((marks[1] - marks[0], marks[2] - marks[1]))
    shortest = [min(t[k] for t in times) for k in (0, 1)]
    median = statistics.median(a / b for a, b in times)
    return median, shortest[0] / shortest[1], 1e3 * shortest[0], 1e3 * shortest[1]


def write_rows(numel: int, rounds: int, versions: list[int], dtypes: list[torch.dtype]) -> None:
    """Print a row for each dtype and kind of noise: θ ← θ + c z on `numel` weights."""
    print("| write of θ + c z | rounding | median ratio to a copy | ratio of minima | write, ms | copy, ms |")
    print("|---|---|---|---|---|---|")
    for dtype in dtypes:
        for kind in ("normal", "rademacher"):
            for version in versions if dtype != torch.float32 else [0]:
                net = nn.Module()
                net.w = nn.Parameter(torch.full((numel,), 0.02, dtype=dtype))
                space, copy = Space(net, 0, compile=True, rounding=version), torch.empty_like(net.w.data)
                recipe = space.theta + 1e-4 * Noise(kind, 0, 0)
                result = compared(
                    lambda s=space, r=recipe: s.assign(r), lambda c=copy, n=net: c.copy_(n.w.data), rounds
                )
                name = str(dtype).removeprefix("torch.")
                print(f"| {name}, {kind} | {version or '–'} | {_columns(result)} |", flush=True)


def step_rows(model: nn.Module, vocabulary: int, rounds: int, versions: list[int], dtypes: list[torch.dtype]) -> None:
    """Print a row for each dtype and kind of noise: a step of `mezo` and its two forward passes."""
    ids = torch.randint(100, vocabulary, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))

    def forward() -> Tensor:
        with torch.no_grad():
            return model(input_ids=ids).logits[:, -1].float().mean()

    print(f"\n| step of mezo, {ROWS} x {TOKENS} tokens | rounding | median ratio to two forward passes |", end="")
    print(" ratio of minima | step, ms | two passes, ms |\n|---|---|---|---|---|---|")
    for dtype in dtypes:
        model.to(dtype)
        for kind in ("normal", "rademacher"):
            for version in versions if dtype != torch.float32 else [0]:
                space = Space(model, 0, compile=True, rounding=version)
                space.perturb_in_forward(forward)
                steps = iter(range(10**6))

                def step(space: Space = space, kind: str = kind, steps: object = steps) -> None:
                    space.step = t = next(steps)  # type: ignore[call-overload]
                    z = Noise(kind, t, 0)
                    for eps in (1e-3, -1e-3):
                        with space.at(space.theta + eps * z, 1):
                            forward()
                    space.assign(space.theta - 1e-7 * z)

                result = compared(step, lambda: (forward(), forward()), rounds)
                name = str(dtype).removeprefix("torch.")
                print(f"| {name}, {kind} | {version or '–'} | {_columns(result)} |", flush=True)


def _columns(result: tuple[float, float, float, float]) -> str:
    median, minima, first, second = result
    return f"{median:.2f} | {minima:.2f} | {first:.1f} | {second:.1f}"


def load(path: str | None, gguf: str | None) -> nn.Module:
    """A causal language model of transformers: from a folder, or random with the shapes of SmolLM2-135M."""
    import transformers

    if path:
        options = {"gguf_file": gguf} if gguf else {}
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
    sizes = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a causal language model [random weights]")
    parser.add_argument("--gguf", help="GGUF file in that folder")
    parser.add_argument("--numel", type=int, default=135_000_000, help="weights of the write [135000000]")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--versions", type=int, nargs="*", default=[2], help="versions of rounding [2]")
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16", "float16"])
    parser.add_argument("--only", choices=["write", "step"])
    parser.add_argument("--cpu-time", action="store_true", help="time of the process on a core")
    args = parser.parse_args()
    if args.cpu_time:
        global clock
        clock = time.process_time
    if args.threads:
        torch.set_num_threads(args.threads)
    dtypes = [getattr(torch, name) for name in args.dtypes]
    print(f"{torch.get_num_threads()} threads\n")
    if args.only != "step":
        write_rows(args.numel, args.rounds, args.versions, dtypes)
    if args.only != "write":
        model = load(args.model, args.gguf).eval()
        step_rows(model, int(model.config.vocab_size), args.rounds, args.versions, dtypes)


if __name__ == "__main__":
    main()
