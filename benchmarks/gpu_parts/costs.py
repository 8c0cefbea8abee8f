"""What a step costs beside its forward passes, how fast weights are written, and how much memory a step takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_parts import Check, part
from benchmarks.gpu_parts.models import shapes
from zotune.bench import bench
from zotune.bench.instruments import Options
from zotune.models import loading

TOKENS = (40, 64, 256)
ROUNDS = 5
RATIO = {40: 1.6, 64: 1.5, 256: 1.3}
"""Longest step, in units of the forward passes in it, by tokens a row (16 rows)."""
MEMORY = 1.15
"""Most memory of a step, in units of inference: one scratch of the largest tensor, and noise in pieces."""
COPY = 0.35
"""Least bandwidth of the write with stochastic rounding, in units of a device copy of the same bytes."""


@dataclass(frozen=True)
class Load:
    """A model of published sizes, weights drawn on the device."""

    name: str
    tokens: tuple[int, ...]

    def measure(self, check: Check) -> None:
        if check.tiny:
            family, config = shapes(True)["opt" if self.name.startswith("opt") else "llama"]
            loaded = loading.random_model(
                family, config, device="cpu", dtype="bfloat16", seed=0, name=f"tiny {self.name}"
            )
        else:
            loaded = bench.load(shape=self.name, device=check.device, dtype="bfloat16")
        for tokens in self.tokens[-1:] if check.tiny else self.tokens:
            rows = 2 if check.tiny else 16
            options = Options(rows=rows, tokens=8 if check.tiny else tokens, rounds=ROUNDS, compile=not check.tiny)
            figures = bench.measure(loaded, bench.resolve(["mezo"])[0], options)
            self._report(check, figures, tokens, f"{self.name} {rows} x {options.tokens}")

    def _report(self, check: Check, figures: dict[str, Any], tokens: int, what: str) -> None:
        step, beside, write = figures["optimizers"][0], figures["textbook"], figures["write"]
        check.cost(f"{what}: step / its forward passes", step["ratio"], RATIO[tokens])
        check.row(f"{what}: textbook step / two forward passes", f"{beside['ratio']:.3g}")
        check.cost(f"{what}: textbook step / step", beside["over_step"], 1.0, at_least=True)
        if tokens == self.tokens[-1]:
            speed = f"{write['write_gb_s']:.0f} GB/s, a copy {write['copy_gb_s']:.0f} GB/s"
            check.row(f"{what}: write of the weights", speed)
            check.cost(f"{what}: bandwidth of the write / a copy", write["of_copy"], COPY, at_least=True)
            memory = step["memory"]
            check.cost(f"{what}: peak memory of a step / inference", memory["ratio"], MEMORY)
            gigabytes = f"{memory['step_bytes'] / 1e9:.2f} GB, inference {memory['inference_bytes'] / 1e9:.2f} GB"
            check.row(f"{what}: peak memory by the allocator", gigabytes)
            check.row(f"{what}: forward passes", f"{figures['forward']['tokens_per_s']:.0f} tokens/s")
            check.row(f"{what}: compiling", f"{step['compile']['seconds']:.1f} s once")


def _part(name: str, seconds: float, tokens: tuple[int, ...] = TOKENS) -> Callable[[Check], None]:
    summary = f"step, write bandwidth and memory of {name} in bfloat16 against inference and a textbook step"
    return part(f"cost-{name}", summary, seconds=seconds)(Load(name, tokens).measure)


_part("opt-1.3b", 60)
_part("llama-8b", 80)
_part("opt-6.7b", 80)
