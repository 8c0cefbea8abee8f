"""The counter-based noise: a pure function of its keys, with the documented statistics."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from zotune import seeds
from zotune.core import noise

CPU = torch.device("cpu")
N = 1 << 20


def z(kind: str = "normal", seed: int = 0, step: int = 0, draw: int = 0, name: str = "w") -> torch.Tensor:
    key = noise.stream_key(seed, step, draw, kind, seeds.name_key(name))
    return noise.units(kind, key, 0, N, CPU).double() * noise.scale(kind)


def reference_word(key: int, index: int) -> int:
    """The hash written again with Python integers."""
    low, high = key & 0xFFFFFFFF, key >> 32
    x = (((index ^ low) & 0xFFFFFFFF) * 0xED5AD4BB + high) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0xAC4C1B51) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x31848BAB) & 0xFFFFFFFF
    return x ^ (x >> 16)


@pytest.mark.parametrize("start", [0, 5, 2**31 - 40, 2**32 - 64])
def test_units_equal_a_reference_in_python_integers(start: int) -> None:
    key = noise.stream_key(11, 3, 1, "normal", seeds.name_key("a.weight"))
    got = noise.units("normal", key, start, 40, CPU).tolist()
    words = [reference_word(key, i) for i in range(start, start + 40)]
    assert got == [sum((w >> s) & 255 for s in (0, 8, 16, 24)) - 510 for w in words]
    got = noise.units("rademacher", key, start, 40, CPU).tolist()
    assert got == [2 * ((reference_word(key, i // 32) >> (i % 32)) & 1) - 1 for i in range(start, start + 40)]


def test_in_place_hash_equals_the_plain_one() -> None:
    index = torch.arange(-500, 500, dtype=torch.int32)
    plain = noise.hash32(index, 12345, -678)
    assert torch.equal(noise._hash32_(index.clone(), torch.empty_like(index), 12345, -678), plain)


def test_a_block_boundary_changes_the_key() -> None:
    key = noise.stream_key(0, 0, 0, "normal", 1)
    assert noise.block_key(key, 0) == noise.block_key(key, noise.BLOCK - 1) != noise.block_key(key, noise.BLOCK)


@pytest.mark.parametrize(("kind", "kurtosis"), [("normal", 2.70), ("rademacher", 1.0)])
def test_moments(kind: str, kurtosis: float) -> None:
    x = z(kind)
    assert abs(x.mean()) < 4 / math.sqrt(N)
    assert abs(x.var() - 1) < 0.01
    assert abs((x**3).mean()) < 0.02
    assert abs((x**4).mean() - kurtosis) < 0.02


@pytest.mark.parametrize("kind", ["normal", "rademacher"])
def test_no_autocorrelation_up_to_lag_64(kind: str) -> None:
    x = z(kind)
    worst = max(abs(float((x[lag:] * x[:-lag]).mean())) for lag in range(1, 65))
    assert worst < 5 / math.sqrt(N)


@pytest.mark.parametrize("kind", ["normal", "rademacher"])
@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"seed": 2}, {"step": 1}, {"step": -1}, {"draw": 1}, {"name": "v"}, {"name": "w2"}]
)
def test_neighbouring_streams_do_not_correlate(kind: str, other: dict[str, int]) -> None:
    assert abs(float((z(kind) * z(kind, **other)).mean())) < 5 / math.sqrt(N)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kurtosis"), [("normal", 2.69998), ("rademacher", 1.0)])
def test_statistics_of_a_hundred_million(kind: str, kurtosis: float) -> None:
    """Moments, autocorrelation and neighbouring streams, at five standard errors of 10⁸ samples."""
    n, piece = 10**8, 1 << 22
    tensor = seeds.name_key("w")

    def stream(**at: Any) -> torch.Tensor:
        where = {"seed": 0, "step": 0, "draw": 0, **{k: v for k, v in at.items() if k != "name"}}
        key = noise.stream_key(**where, kind=kind, tensor=seeds.name_key(at["name"]) if "name" in at else tensor)
        return noise.units(kind, key, 0, n, CPU).float() * noise.scale(kind)

    def mean(x: torch.Tensor, y: torch.Tensor) -> float:
        pairs = zip(x.split(piece), y.split(piece), strict=True)
        return sum(float((a.double() * b.double()).sum()) for a, b in pairs) / x.numel()

    x = stream()
    square = x.square()
    ones = torch.ones(())
    assert abs(mean(x, ones.expand(n))) < 5 / math.sqrt(n)
    assert abs(mean(x, x) - 1) < 5 * math.sqrt((kurtosis - 1) / n) + 1e-6
    assert abs(mean(x, square)) < 5 * math.sqrt(15 / n)
    assert abs(mean(square, square) - kurtosis) < 2e-3
    lags = [*range(1, 65), 384, 768, 1536, 3072, *(1 << k for k in range(7, 25))]
    worst = max(abs(mean(x[lag:], x[:-lag])) for lag in lags)
    assert worst < 5 / math.sqrt(n), worst
    for other in ({"seed": 1}, {"step": 1}, {"step": -1}, {"draw": 1}, {"name": "v"}, {"name": "w2"}):
        assert abs(mean(x, stream(**other))) < 5 / math.sqrt(n), other


def test_kinds_are_independent() -> None:
    assert abs(float((z("normal") * z("rademacher")).mean())) < 5 / math.sqrt(N)


def test_chunks_join_without_a_seam() -> None:
    key = noise.stream_key(1, 2, 3, "rademacher", 4)
    for kind in ("normal", "rademacher"):
        whole = noise.units(kind, key, 0, 1000, CPU)
        parts = torch.cat([noise.units(kind, key, s, min(96, 1000 - s), CPU) for s in range(0, 1000, 96)])
        assert torch.equal(whole, parts)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.float64, 53)])
def test_coefficient_times_unit_is_exact(dtype: torch.dtype, bits: int) -> None:
    rng = random.Random(0)
    for _ in range(500):
        value = rng.uniform(-1, 1) * 10 ** rng.uniform(-8, 3)
        c = noise.coefficient(value, "normal", dtype)
        assert abs(c - value * noise.NORMAL_SCALE) <= abs(value) * noise.NORMAL_SCALE * 2.0 ** -(bits - 10)
        for unit in (-510, -1, 7, 333, 510):
            product = torch.tensor(c, dtype=dtype) * unit
            assert product.item() == c * unit  # exact: Python's product of so few bits is too
    assert noise.coefficient(0.0, "normal", dtype) == 0.0


def test_uniform_stays_inside() -> None:
    u = seeds.uniform(10000, 1, "x")
    assert 0 < min(u) < max(u) < 1
    assert abs(sum(u) / len(u) - 0.5) < 0.02
