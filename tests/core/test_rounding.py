"""Stochastic rounding below float32: exact expectations, signs, limits, and one result in every way to compute it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from zotune.core import noise, rounding
from zotune.core.codegen import Output, lower
from zotune.core.kernels import Kernels, Numbers, _special_values, padded_keys, padded_scalars
from zotune.core.recipe import Constant, Noise, Op, Recipe, Theta, maximum, minimum, sign, sqrt, where
from zotune.core.rounding import change_of, round_sum
from zotune.core.space import Space
from zotune.errors import UsageError

HALF = [torch.bfloat16, torch.float16]
CPU = torch.device("cpu")
WORDS = 1 << 30


def neighbours(a: Tensor, b: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(result of the smallest word, of the largest word, share of words with the latter) of each sum, by bisection:
    the result is monotone in the word."""
    low, high = torch.zeros(len(a), dtype=torch.int64), torch.full((len(a),), WORDS - 1)
    first, last = (round_sum(a, b, dtype, w.to(torch.int32)).double() for w in (low, high))
    for _ in range(30):
        middle = (low + high) // 2
        up = round_sum(a, b, dtype, middle.to(torch.int32)).double() != first
        low, high = torch.where(up, low, middle), torch.where(up, middle, high)
    return first, last, torch.where(first == last, 0.0, (WORDS - high).double() / WORDS)


def values(dtype: torch.dtype) -> Tensor:
    """float32 values that `dtype` holds: powers of two, values beside them, ordinary ones, subnormal ones, zero."""
    limits = torch.finfo(dtype)
    z = 0.02 * torch.randn(200, generator=torch.Generator().manual_seed(1))
    powers = torch.tensor([2.0**k for k in range(-14, 10)])
    small = torch.arange(1, 40) * limits.smallest_normal * limits.eps
    x = torch.cat([z, powers, powers * (1 - limits.eps / 2), powers * (1 + limits.eps), small, torch.zeros(1)])
    return torch.cat([x, -x]).to(dtype).float()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("relative", [1e-8, -1e-8, 3e-7, 1e-5, -0.3, 1.7, -2.5])
def test_the_expected_value_is_the_exact_sum(dtype: torch.dtype, relative: float) -> None:
    a = values(dtype)
    b = (a.double() * relative).float()
    exact = a.double() + b.double()
    first, last, share = neighbours(a, b, dtype)
    gap = (last - first).abs()
    expected = first + share * (last - first)
    # float32's own precision counts only where the change is larger than the weight
    allowed = gap * 2.0**-29 + (exact.abs() * 2.0**-23 if abs(relative) > 1 else 0.0)
    assert ((expected - exact).abs() <= allowed).all()
    moved = b != 0
    assert (share[moved & (first != exact)] > 0).all() or abs(relative) > 1e-3


@pytest.mark.parametrize("dtype", HALF)
def test_subnormals_are_unbiased(dtype: torch.dtype) -> None:
    least = float(torch.finfo(dtype).smallest_normal) * float(torch.finfo(dtype).eps)
    a = torch.arange(-300, 301).float() * least
    for part in (1 / 64, -1 / 64, 0.5, 1.0 / 3):
        b = torch.full_like(a, part * least)
        first, last, share = neighbours(a, b, dtype)
        assert ((first + share * (last - first)) / least - (a.double() + b.double()) / least).abs().max() < 2.0**-28


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", ["constant", "rademacher"])
def test_updates_of_1e_8_of_a_weight_are_kept_on_average(dtype: torch.dtype, kind: str) -> None:
    """A weight of 255/128 moves by whole spacings of 2**-7 or 2**-10, 45 or 350 times among 16 million."""
    net, weight, size, steps = nn.Module(), 255 / 128, 1 << 21, 8
    net.w = nn.Parameter(torch.full((size,), weight, dtype=dtype))
    space, moved = Space(net, seed=0), 0.0
    for step in range(steps):
        space.step = step
        change: Recipe = Constant(1e-8 * weight)
        z = torch.ones(size)
        if kind == "rademacher":
            change = 1e-8 * weight * Noise(kind, step, 0)
            z = space.value(Noise(kind, step, 0) * 1.0)["w"]
        space.assign(space.theta + change)
        moved += float(((net.w.detach().float() - weight) * z).double().sum())
        net.w.data.fill_(weight)
    spacing = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-10
    flips, expected = moved / spacing, size * steps * 1e-8 * weight / spacing
    assert abs(flips - expected) < 4.5 * math.sqrt(expected)


@pytest.mark.parametrize("dtype", HALF)
def test_representable_values_and_signed_zeros_are_unchanged(dtype: torch.dtype) -> None:
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[~every.isnan()]
    words = torch.tensor([0, 1, 12345, WORDS - 1], dtype=torch.int32)
    for word in words:
        for zero in (0.0, -0.0, torch.zeros(len(every)), -torch.zeros(len(every))):
            kept = round_sum(every.float(), zero, dtype, word.expand(len(every)))
            assert torch.equal(kept.view(torch.int16), every.view(torch.int16))


@pytest.mark.parametrize("dtype", HALF)
def test_infinities_nan_and_the_largest_value(dtype: torch.dtype) -> None:
    largest = float(torch.finfo(dtype).max)
    words = torch.tensor([0, WORDS - 1], dtype=torch.int32)
    of = lambda a, b: round_sum(torch.full((2,), a), b, dtype, words).tolist()  # noqa: E731
    assert of(math.inf, 1.0) == [math.inf] * 2
    assert of(-math.inf, 1.0) == [-math.inf] * 2
    assert all(math.isnan(x) for x in [*of(math.nan, 1.0), *of(math.inf, -math.inf)])
    assert of(largest, 0.0) == [largest] * 2
    assert of(largest, -1e-8 * largest)[1] == largest
    assert all(x < largest for x in of(-largest, 1e-8 * largest))
    with pytest.raises(UsageError, match="cannot be tuned"):
        round_sum(torch.ones(2), 0.0, torch.float8_e5m2, words)


def test_float16_has_no_infinity_below_its_largest_value() -> None:
    a = torch.full((1 << 12,), 65472.0)
    for change in (31.999, 32.0):
        words = torch.arange(WORDS - (1 << 12), WORDS, dtype=torch.int32)
        assert round_sum(a, change, torch.float16, words).isfinite().all()


def test_words_are_uniform_and_sharers_hardly_correlate() -> None:
    k0, k1 = noise.block_key(noise.stream_key(5, 0, 0, "rounding", 9), 0)
    count = 1 << 21
    w = noise.rounding_words(noise.Span(0, count, CPU), k0, k1)
    assert int(w.min()) >= 0
    assert int(w.max()) < WORDS
    for bit in range(30):
        assert abs(float(((w >> bit) & 1).double().mean()) - 0.5) < 4.5 * 0.5 / math.sqrt(count)
    for power in (1, 4, 8, 12):
        p = 2.0**-power
        low = (w < int(WORDS * p)).double()
        assert abs(float(low.mean()) - p) < 4.5 * math.sqrt(p / count)
        for lag in (1, 16, 32, 48, 64, 1024):
            correlation = float(((low[lag:] - p) * (low[:-lag] - p)).mean()) / (p * (1 - p))
            assert abs(correlation) < 2.0**-8 + 4.5 / math.sqrt(count)


@pytest.mark.parametrize("start", [0, 7, 64 * 3 + 33, 2**31 - 40, 2**32 - 200])
def test_words_do_not_depend_on_where_a_span_starts(start: int) -> None:
    k0, k1 = noise.block_key(123456789012345, 0)
    index = (torch.arange(150, dtype=torch.int64) + start).to(torch.int32)
    words = noise.rounding_words(noise.Span(start, 150, CPU), k0, k1)
    assert torch.equal(words, noise.rounding_words(index, k0, k1))


@pytest.mark.parametrize("dtype", HALF)
def test_chunks_change_no_bit(dtype: torch.dtype) -> None:
    digests = set()
    for chunk in (32, 512, 1 << 18):
        net = nn.Module()
        net.w = nn.Parameter((0.02 * torch.linspace(-1, 1, 3001)).to(dtype))
        space = Space(net, seed=3, chunk=chunk)
        space.assign(space.theta - 1e-4 * Noise("normal", 0, 0))
        digests.add(space.digest())
    assert len(digests) == 1


THETA = Theta(())
NORMAL, SIGNS = Noise("normal", 0, 0), Noise("rademacher", 0, 1)
RECIPES: dict[str, Recipe] = {
    "normal": THETA + 1e-3 * NORMAL,
    "decay": 0.999 * THETA + 1e-3 * SIGNS - 1e-4 * NORMAL,
    "words": where(abs(THETA) <= 0.01, THETA + 1e-3 * NORMAL / sqrt(abs(THETA) + 1e-3), 0.5 * THETA),
    "no sum": maximum(minimum(THETA * NORMAL, 0.3), sign(SIGNS) * 1e-3) / 3.0,
}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("name", "version"), [*((name, 2) for name in RECIPES), ("words", 1)])
def test_the_kernel_has_the_bits_of_plain_python(name: str, version: int, dtype: torch.dtype) -> None:
    """At starts inside of a run, for lengths that fill no run, at indices, and with one thread or two."""
    program = lower([Output(RECIPES[name], "theta", version)])
    kernels = Kernels(compile=True)
    scalars = [noise.coefficient(x.value, kind or "", torch.float32) for x, kind in program.scalars]  # type: ignore[attr-defined]
    s = torch.tensor(padded_scalars(scalars), dtype=torch.float64)
    threads = torch.get_num_threads()
    for start, count in ((0, 1 << 16), (64 * 5 + 3, 40_001), (31, 5), (2**32 - 99, 99)):
        k = torch.tensor(padded_keys([7 * j - 9 for j in range(2 * len(program.streams))], start), dtype=torch.int32)
        before = _special_values(torch.empty(40_001, dtype=dtype), 0)[-count:] if count < 1 << 16 else None
        before = _special_values(torch.empty(count, dtype=dtype), 0) if before is None else before
        expected = before.clone()
        numbers = Numbers.of(s, k)
        kernels.plain(program.text, torch.float32)(expected, *numbers.arguments(s, expected))
        index = torch.arange(count) + start
        for used, places in ((1, None), (2, None), (1, index)):
            torch.set_num_threads(used)
            try:
                own = before.clone()
                kernels.run(program.text, torch.float32, [own], s, k, numbers, places)
            finally:
                torch.set_num_threads(threads)
            if None in kernels._cpu.values():
                pytest.skip("no C++ compiler here") if kernels.notes else pytest.fail("the C++ kernel was refused")
            same = (own.view(torch.int16) == expected.view(torch.int16)) | (own.isnan() & expected.isnan())
            assert same.all()


@pytest.mark.parametrize("change", [NORMAL, THETA * NORMAL, THETA * SIGNS], ids=["same size", "relative", "signs"])
def test_the_kernel_rounds_every_bfloat16_as_plain_python_does(change: Recipe) -> None:
    """Weights of one exponent side by side, so that whole runs are ordinary and whole runs are not; then mixed ones."""
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16)
    mixed = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))]
    weights = torch.cat([every, mixed]).view(torch.bfloat16)
    kernels = Kernels(compile=True)
    for size in (1e-38, 1e-20, 1e-8, 3e-4, 0.7, 1e20):
        program = lower([Output(THETA + size * change, "theta", 2)])
        scalars = [noise.coefficient(x.value, kind or "", torch.float32) for x, kind in program.scalars]  # type: ignore[attr-defined]
        s = torch.tensor(padded_scalars(scalars), dtype=torch.float64)
        k = torch.tensor(padded_keys([5 * j - 9 for j in range(2 * len(program.streams))], 64), dtype=torch.int32)
        numbers, own, expected = Numbers.of(s, k), weights.clone(), weights.clone()
        kernels.plain(program.text, torch.float32)(expected, *numbers.arguments(s, expected))
        kernels.run(program.text, torch.float32, [own], s, k, numbers, None)
        if None in kernels._cpu.values():
            pytest.skip("no C++ compiler here") if kernels.notes else pytest.fail("the C++ kernel was refused")
        same = (own.view(torch.int16) == expected.view(torch.int16)) | (own.isnan() & expected.isnan())
        assert same.all()


def test_a_kernel_that_cannot_be_built_costs_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no compiler here")

    monkeypatch.setattr("zotune.core.kernels.CpuKernel", refuse)
    digests = set()
    for compile in (False, True):
        net = nn.Module()
        net.w = nn.Parameter(torch.full((9001,), 0.02, dtype=torch.bfloat16))
        space = Space(net, seed=3, compile=compile)
        space.assign(space.theta - 1e-4 * Noise("normal", 0, 0))
        digests.add(space.digest())
    assert len(digests) == 1


def test_the_change_of_a_sum_never_holds_theta_itself() -> None:
    z = Noise("normal", 0, 0)
    assert change_of(THETA + z) is z
    assert change_of(z + THETA) is z
    decayed = change_of(0.9 * THETA + z)
    assert isinstance(decayed, Op)
    assert abs(decayed.args[0].args[0].value + 0.1) < 1e-15  # type: ignore[attr-defined]
    assert isinstance(change_of(where(THETA > 0, THETA - z, THETA)), Op)
    assert change_of(THETA * z) is None
    assert change_of(where(THETA > 0, THETA, z)) is None
    assert rounding.VERSION == 2
