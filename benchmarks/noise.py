"""The noise: statistics of cheaper hashes, and the speed of one perturbation pass.

    python -m benchmarks.noise              # statistics (a minute or two), then speed
    python -m benchmarks.noise --threads 1

For each hash, over several streams of 2**24 elements: kurtosis, and the largest and the root mean square
autocorrelation over many lags, in standard errors (about 3 and 1 without correlation).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zotune import seeds
from zotune.core import noise
from zotune.core.recipe import Noise
from zotune.core.space import Space

COUNT, STREAMS = 1 << 24, 8
LAGS = [*range(1, 65), 384, 768, 1536, 3072, *(1 << k for k in range(7, 23))]
Hash = Callable[[Tensor, int, int], Tensor]


def _signed(x: int) -> int:
    return x - (1 << 32) if x >= 1 << 31 else x


def _fold(x: Tensor, shift: int) -> Tensor:
    return x ^ ((x >> shift) & ((1 << (32 - shift)) - 1))


def two_rounds(a: int, b: int, shifts: tuple[int, int, int]) -> Hash:
    """Two multiplications in place of three, with the finalizers' published constants."""

    def of(index: Tensor, k0: int, k1: int) -> Tensor:
        x = _fold(index ^ k0, shifts[0]) * _signed(a) + k1
        return _fold(_fold(x, shifts[1]) * _signed(b), shifts[2])

    return of


CANDIDATES: dict[str, Hash] = {
    "three rounds (in use)": noise.hash32,
    "two rounds, 16-15-16": two_rounds(0x7FEB352D, 0x846CA68B, (16, 15, 16)),
    "two rounds, 16-15-15": two_rounds(0x21F0AAAD, 0x735A2D97, (16, 15, 15)),
    "two rounds, 16-16-16": two_rounds(0x7FEB352D, 0x846CA68B, (16, 16, 16)),
}


def normal(word: Tensor) -> Tensor:
    pairs = (word & 0xFF00FF) + ((word >> 8) & 0xFF00FF)
    return ((pairs & 0xFFFF) + (pairs >> 16) - 510).float() * noise.NORMAL_SCALE


def study(hash32: Hash) -> tuple[float, float, float, int]:
    index = torch.arange(COUNT, dtype=torch.int32)
    sums, fourth = [0.0] * len(LAGS), 0.0
    for seed in range(STREAMS):
        k0, k1 = noise.block_key(noise.stream_key(seed, 0, 0, "normal", seeds.name_key("w")), 0)
        z = normal(hash32(index, k0, k1))
        fourth += float((z.double() ** 4).mean()) / STREAMS
        for j, lag in enumerate(LAGS):
            sums[j] += float(torch.dot(z[lag:], z[:-lag]))
    scores = [abs(s) / math.sqrt(COUNT * STREAMS) for s in sums]
    worst = max(scores)
    return fourth, worst, math.sqrt(statistics.fmean(s * s for s in scores)), LAGS[scores.index(worst)]


def speed(dtype: torch.dtype, compile: bool, kind: str) -> float:
    """Elements a second of θ ← θ + c z on 8 M weights, in G."""
    net = nn.Module()
    net.w = nn.Parameter(torch.full((1 << 23,), 0.02, dtype=dtype))
    space = Space(net, 0, compile=compile)
    times = []
    for t in range(12):
        began = time.perf_counter()
        space.assign(space.theta + 1e-4 * Noise(kind, t, 0))
        times.append(time.perf_counter() - began)
    return (1 << 23) / statistics.median(times[3:]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print("| hash | kurtosis | largest autocorrelation | at lag | root mean square |\n|---|---|---|---|---|")
    for name, hash32 in CANDIDATES.items():
        kurtosis, worst, square, lag = study(hash32)
        print(f"| {name} | {kurtosis:.3f} | {worst:.1f} | {lag} | {square:.2f} |", flush=True)
    print("\n| pass over 8 M weights | compiled, G/s | eager, G/s |\n|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for kind in ("normal", "rademacher"):
            both = [speed(dtype, compile, kind) for compile in (True, False)]
            print(f"| {str(dtype).removeprefix('torch.')}, {kind} | {both[0]:.2f} | {both[1]:.2f} |", flush=True)
    p = torch.zeros(1 << 23)
    times = []
    for _ in range(12):
        began = time.perf_counter()
        p += 1e-9
        times.append(time.perf_counter() - began)
    print(f"| `p += c` alone | {(1 << 23) / statistics.median(times) / 1e9:.2f} | |")


if __name__ == "__main__":
    main()
