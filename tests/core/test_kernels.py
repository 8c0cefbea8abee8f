"""Kernels: compiled and uncompiled give the same bits, one compilation each, and a failing compiler does no harm."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zotune.core import kernels
from zotune.core.recipe import Factor, Noise, Recipe, maximum, only, outer, sign, sqrt, weighted_sum, where
from zotune.core.space import Space
from zotune.events import Event, StepDone
from zotune.testing import Bench


class Net(nn.Module):
    """Sizes around every edge of a vector unit, one element, and one that takes several chunks."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.blocks = nn.ParameterList()
        for j, n in enumerate((1, 2, 3, 7, 8, 9, 31, 33, 63, 1000, 70_001)):
            z = torch.linspace(-1, 1, n) if n > 1 else torch.ones(1)
            self.blocks.append(nn.Parameter((0.02 * (z + 0.1 * j)).to(dtype)))


Step = Callable[[Space, Any, int], tuple[Recipe, Any]]


def mezo(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    z = Noise("normal", t, 0)
    decay = space.theta.per(lambda x: 0.0 if x.numel < 9 else 1e-3)
    return space.theta - 0.0371 * z - decay * space.theta, None


def adam(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    z, g = Noise("normal", t, 0), 0.3 - 0.2 * t
    m = g * z if state is None else 0.9 * state["m"] + 0.1 * g * z
    v = (g * z) ** 2 if state is None else 0.99 * state["v"] + 0.01 * (g * z) ** 2
    return space.theta - 1e-2 * m / (sqrt(v) + 1e-8), {"m": m, "v": v}


def masked(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    z = Noise("rademacher", t, 0)
    h = space.theta.per(lambda x: 0.015)
    return space.theta - 0.01 * where(abs(space.theta) <= h, z, 0.0) + maximum(sign(z), 0.0) * 1e-3, None


def several(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    terms = [(0.01 * (k - 3.3), Noise("rademacher" if k % 5 == 4 else "normal", t, k)) for k in range(2 + 4 * t)]
    squares = [(abs(c), z) for c, z in terms]
    return space.theta + weighted_sum(terms) / sqrt(1e-3 + weighted_sum(squares, power=2)), None


def partial(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    mask = space.theta.per(lambda x: x.numel > 8)
    anchor = space.theta if state is None else state["anchor"]
    z = Noise("normal", t, 0)
    return anchor + 1.01 * (space.theta - anchor) - 1e-3 * z, {"anchor": only(mask, anchor)}


FACTORS = {1000: (40, 25), 70_001: (70_001, 1), 63: (9, 7), 33: (33, 1), 8: (2, 4)}


def low_rank(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    """Products of one to ten terms, on tensors of which some have a row or a column of one."""
    sides = {x.name: FACTORS[x.numel] for x in space.theta.tensors if x.numel in FACTORS}
    u, v = (Factor({name: (side[k], 1 + 3 * t) for name, side in sides.items()}, t, k) for k in (0, 1))
    mask = space.theta.per(lambda x: x.name in sides)
    return where(mask, space.theta - 0.01 * outer(u, v), space.theta), None


STEPS: dict[str, Step] = {
    "mezo": mezo,
    "adam": adam,
    "masked": masked,
    "several": several,
    "partial": partial,
    "low-rank": low_rank,
}


def run(step: Step, dtype: torch.dtype, **options: Any) -> tuple[Space, dict[str, Tensor]]:
    space = Space(Net(dtype), seed=9, **options)
    state: Any = None
    for t in range(4):
        space.step = t
        before = space.digest()
        with space.at(space.theta + 1e-1 * Noise("normal", t, 0)):
            assert space.digest() != before
        assert space.digest() == before
        theta, state = step(space, state, t)
        state = space.assign(theta, state)
    found = {n: p.detach().clone() for n, p in space.params.items()}
    found |= {f"{path}:{n}": x for path, f in space.fields.items() for n, x in f.items()}
    return space, found


def bits(x: Tensor) -> Tensor:
    return x.view(-1).view(torch.uint8)


def same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(bits(a[n]), bits(b[n])) for n in a)


@pytest.fixture(scope="module")
def compiler() -> None:
    space, _ = run(mezo, torch.float32, compile=True)
    if space.kernels.notes:
        pytest.skip(space.kernels.notes[0])


def compiled_as_eager(step: Step, dtype: torch.dtype) -> None:
    space, compiled = run(step, dtype, compile=True)
    _, eager = run(step, dtype)
    assert space.kernels.notes == []
    assert space.kernels.compilations > 0
    assert space.kernels.recompilations == 0
    assert same_bits(compiled, eager)


@pytest.mark.parametrize("name", ["mezo", "adam", "several", "partial", "low-rank"])
@pytest.mark.usefixtures("compiler")
def test_compiled_gives_the_bits_of_eager(name: str) -> None:
    compiled_as_eager(STEPS[name], torch.float32)


@pytest.mark.usefixtures("compiler")
def test_compiled_gives_the_bits_of_eager_in_half_precision() -> None:
    compiled_as_eager(masked, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.usefixtures("compiler")
def test_compiled_gives_the_bits_of_eager_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    compiled_as_eager(STEPS[name], dtype)


@pytest.mark.parametrize("name", STEPS)
def test_chunks_change_no_bit(name: str) -> None:
    assert same_bits(run(STEPS[name], torch.float32, chunk=512)[1], run(STEPS[name], torch.float32)[1])


@pytest.mark.usefixtures("compiler")
def test_a_thousand_steps_compile_nothing_more() -> None:
    space = Space(Net(torch.float32), seed=9, compile=True)
    state: Any = None
    for t in range(3):
        theta, state = adam(space, state, t)
        state = space.assign(theta, state)
    warm = space.kernels.compilations
    for t in range(3, 1003):
        theta, state = adam(space, state, t)
        state = space.assign(theta, state)
    assert space.kernels.compilations == warm
    assert space.kernels.recompilations == 0


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("compile", [False, True])
def test_a_thousand_steps_keep_no_memory(compile: bool) -> None:
    """Whole steps of the engine: the process after 1,000 is as large as after 100, but for the journal's own lines."""
    from zotune_optimizers.mezo import MeZO

    bench = Bench(MeZO(lr=1e-3), steps=1_000, compile=compile)
    resident: dict[int, int] = {}

    def watch(event: Event) -> None:
        if isinstance(event, StepDone) and event.step in (100, 1_000):
            gc.collect()
            resident[event.step] = int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    bench.engine.hooks.emit = watch
    bench.run()
    assert bench.space.kernels.recompilations == 0
    assert resident[1_000] - resident[100] < 8 << 20


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_summed_in_order(dtype: torch.dtype) -> None:
    made = kernels.Kernels(compile=True)
    for terms in (1, 2, 8, 9, 17):
        for height, width in ((2, 2), (5, 384), (384, 384), (97, 3), (2, 1000)):
            generator = torch.Generator().manual_seed(terms)
            rows, columns = (torch.randn(terms, n, dtype=dtype, generator=generator) for n in (height, width))
            found, expected = (
                torch.full((height, width), torch.nan, dtype=dtype),
                torch.zeros(height, width, dtype=dtype),
            )
            assert made.products(found, rows, columns)
            for u, v in zip(rows, columns, strict=True):
                expected += u[:, None] * v
            assert torch.equal(found, expected)
    assert (made.compilations, made.recompilations, made.notes) == (5, 0, [])
    assert not made.products(torch.empty(1, 9), torch.ones(1, 1), torch.ones(1, 9))


@pytest.mark.usefixtures("compiler")
def test_products_with_other_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels._products

    def wrong(begin: bool, terms: int) -> Callable[..., None]:
        fn = right(begin, terms)

        def kernel(out: Tensor, *factors: Tensor) -> None:
            fn(out, *factors)
            if torch.compiler.is_compiling():
                out.mul_(1 + 2**-23)

        return kernel

    monkeypatch.setattr(kernels, "_products", wrong)
    made = kernels.Kernels(compile=True)
    assert not made.products(torch.empty(4, 5), torch.ones(1, 4), torch.ones(1, 5))
    assert "other bits" in made.notes[0]


@pytest.mark.usefixtures("compiler")
def test_any_number_of_terms_is_one_kernel() -> None:
    space = Space(Net(torch.float32), seed=9, compile=True)
    for n in range(2, 30):
        terms = [(0.01, Noise("normal", n, k)) for k in range(n)]
        space.assign(space.theta + weighted_sum(terms))
    assert space.kernels.compilations == 2


def test_a_compiler_that_fails_costs_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.compile_fx as inductor

    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(inductor, "compile_fx", broken)
    space, found = run(mezo, torch.float32, compile=True)
    assert "no compiler here" in space.kernels.notes[0]
    assert same_bits(found, run(mezo, torch.float32)[1])


def test_a_compiler_that_gives_other_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.compile_fx as inductor

    def wrong(graph: Any, inputs: Any, **options: Any) -> Any:
        def call(*args: Any) -> Any:
            out = graph(*args)
            for x in args:
                if isinstance(x, Tensor) and x.dtype == torch.float32:
                    x.add_(1e-6)
            return out

        return call

    monkeypatch.setattr(inductor, "compile_fx", wrong)
    space, found = run(mezo, torch.float32, compile=True)
    assert "other bits" in space.kernels.notes[0]
    assert same_bits(found, run(mezo, torch.float32)[1])


def test_a_kernel_with_unexpected_arguments_is_refused() -> None:
    a, b = torch.zeros(5), torch.zeros(4)
    seen: list[tuple[Any, ...]] = []
    call = kernels._direct(lambda *given: seen.append(given), [4, b, a], [a, b])
    call(torch.ones(7), torch.ones(6))
    assert [x if isinstance(x, int) else x.numel() for x in seen[0]] == [6, 6, 7]
    with pytest.raises(RuntimeError, match="unexpected float"):
        kernels._direct(print, [a, 1.5], [a, b])


def test_uncompiled_programs_evaluate_large_chunks_on_a_gpu_only() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert kernels.Kernels().piece(False, cpu) == kernels.CHUNK
    assert kernels.Kernels().piece(False, gpu) == kernels.LAUNCHED > kernels.CHUNK
    assert kernels.Kernels(chunk=64).piece(False, gpu) == 64, "a chunk that was asked for"


def test_options_of_the_compiler_keep_eager_bits_on_a_gpu() -> None:
    assert kernels.exact_options(torch.device("cpu")) == {}
    options = kernels.exact_options(torch.device("cuda"))
    assert options["emulate_precision_casts"], "without it Triton fuses multiply and add"
    from torch._inductor import config

    with config.patch(options):  # torch knows every one of them
        assert config.emulate_precision_casts


WORKER = """
import hashlib, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from tests.core.test_kernels import STEPS, bits, run
for name in sys.argv[3:]:
    found = run(STEPS[name], torch.float32, compile=sys.argv[2] == "compiled")[1]
    h = hashlib.sha256(b"".join(bits(found[n]).numpy().tobytes() for n in sorted(found)))
    print(name, h.hexdigest())
"""


def test_threads_and_processes_change_no_bit() -> None:
    root = Path(__file__).resolve().parents[2]

    def worker(threads: int, how: str) -> str:
        command = [sys.executable, "-c", WORKER, str(threads), how, "mezo", "adam"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True, timeout=300)
        return done.stdout

    one = worker(1, "eager")
    assert one.count("\n") == 2
    assert worker(2, "eager") == one
    assert worker(2, "compiled") == one


def test_short_runs_do_not_pay_for_compiling() -> None:
    assert not kernels.worth_compiling(4_224, 2_400)
    assert not kernels.worth_compiling(22_700_000, 100)
    assert kernels.worth_compiling(22_700_000, 2_400)
    assert kernels.worth_compiling(22_700_000, None)
