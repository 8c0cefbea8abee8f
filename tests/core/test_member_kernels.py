"""Kernels of populations: torch's values, the same bits for any number of threads, a fall back without a compiler."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tests.core.test_population import FAMILIES, PAIRS, inputs, model, population
from zotune.core import kernels as core_kernels
from zotune.core import member_kernels, noise
from zotune.core.member_kernels import MemberKernels
from zotune.core.population import Population, RowWise
from zotune.core.recipe import Directions, direction_sum
from zotune.core.space import Space
from zotune.search.population_plan import PopulationPlan

KEY = noise.stream_key(3, 4, 5, "member", 6)


@pytest.fixture(scope="module")
def built() -> MemberKernels:
    found = member_kernels.member_kernels()
    if found is None:
        pytest.skip("no compiler for C++")
    return found


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def factors(built: MemberKernels, pairs: int, width: int, draw: int = 0) -> torch.Tensor:
    return built.units(KEY + draw, pairs * width).view(pairs, width)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 70_001])
def test_factors_are_those_of_noise(built: MemberKernels, count: int) -> None:
    expected = noise.units("member", KEY, 0, count, torch.device("cpu"))
    assert torch.equal(built.units(KEY, count).int(), expected)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("terms", [1, 7, 512])
@pytest.mark.parametrize(("rows", "width"), [(2, 2), (9, 17), (64, 48), (301, 203)])
def test_sums_are_exact(built: MemberKernels, terms: int, rows: int, width: int) -> None:
    u, v = factors(built, terms, rows), factors(built, terms, width, 1)
    weights = ((torch.arange(terms) * 7919 + 12345) % (1 << 24) - (1 << 23)).double()
    expected = (u.double() * weights[:, None]).T @ v.double() * 2.0**-40
    for threads, first in ((1, 0), (2, 1)):
        torch.set_num_threads(threads)
        out = torch.full((rows - first, width), torch.nan)
        built.product(out, u, v, weights, 2.0**-40, first)
        assert torch.equal(out, expected.float()[first:])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("pairs", "tokens", "width", "length"), [(2, 1, 2, 3), (3, 4, 64, 16), (5, 9, 131, 77)])
def test_rows_get_what_their_members_add(
    built: MemberKernels, dtype: torch.dtype, pairs: int, tokens: int, width: int, length: int
) -> None:
    u, v = factors(built, pairs, length), factors(built, pairs, width, 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * pairs, tokens, width, generator=generator).to(dtype)
    base = torch.randn(2 * pairs, tokens, length, generator=generator).to(dtype)
    signed = torch.tensor([1e-5 * (p + 1) * sign for sign in (1, -1) for p in range(pairs)])
    both = [torch.cat([f, f]).double()[:, None] for f in (u, v)]
    added = signed.double()[:, None, None] * (x.double() * both[1]).sum(-1, keepdim=True) * both[0]
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = base.clone()
        built.add(out, x, u, v, signed)
        results.append(out)
    assert torch.equal(*results)
    expected = base.double() + added
    unit = torch.finfo(dtype).eps * (expected.abs() + (1e-3 if dtype == torch.bfloat16 else 1))
    assert bool(((results[0].double() - expected).abs() <= 0.51 * unit + 1e-5 * added.abs().max()).all())
    assert not torch.equal(results[0], base)
    for wrong in (x[1:], x[..., 1:].contiguous()):
        with pytest.raises(ValueError, match="are no rows of"):
            built.add(base.clone(), wrong, u, v, signed)


def test_not_a_number_and_infinity_stay(built: MemberKernels) -> None:
    u, v = factors(built, 1, 33), factors(built, 1, 20, 1)
    for dtype in (torch.float32, torch.bfloat16):
        out = torch.ones(2, 33, dtype=dtype)
        out[0, 5], out[0, 32], out[1, 7], out[1, 32] = torch.nan, torch.nan, torch.inf, -torch.inf
        built.add(out, torch.zeros(2, 20, dtype=dtype), u, v, torch.ones(2))
        assert out[0].isnan().nonzero().flatten().tolist() == [5, 32]
        assert out[1].isinf().nonzero().flatten().tolist() == [7, 32]


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.no_grad()
def test_compiled_rows_give_what_written_weights_give(family: str, dtype: str) -> None:
    space = Space(model(family, dtype), seed=5)
    batch = inputs(4 * PAIRS)
    rows = RowWise(space, lambda: space.module(**batch), 4 * PAIRS, compiled=True)
    assert rows.compiled
    members = population(space, 0.1, without=rows.unsupported)
    assert rows.agrees(members, lambda: space.module(**batch).logits)
    by_torch = RowWise(space, lambda: space.module(**batch), 4 * PAIRS)
    with by_torch.at(members):
        expected = space.module(**batch).logits.double()
    with rows.at(members):
        found = space.module(**batch).logits.double()
    tolerance = 1e-4 if dtype == "float32" else 0.05
    assert (found - expected).square().mean().sqrt() < tolerance * expected.std()
    scaled = Population(members.directions, members.sizes, (1.0, 0.0, 1.0))
    with rows.at(scaled):
        silent = space.module(**batch).logits[2:4]
    assert torch.equal(silent, space.module(**batch).logits[2:4])


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updates_in_pieces_have_the_bits_of_torch(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    digests = set()
    for compile, piece in ((False, 1 << 20), (True, 1 << 20), (True, 1 << 10)):
        monkeypatch.setattr(core_kernels, "COUNTED", piece)
        torch.manual_seed(0)
        space = Space(nn.Linear(131, 203).to(dtype), seed=2, compile=compile)
        space.step = 3
        directions = Directions({"weight": (203, 131)}, 20, 3)
        weights = [(p % 5 - 2) * 0.01 for p in range(20)]  # some are 0
        space.assign(space.theta + space.theta.per(lambda t: 0.3) * direction_sum(directions, weights))
        assert not space.kernels.notes
        digests.add(space.digest())
    assert len(digests) == 1


def test_without_a_compiler_torch_adds_what_members_change(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no compiler")

    monkeypatch.setattr(member_kernels, "MemberKernels", Broken)
    member_kernels.member_kernels.cache_clear()
    try:
        space, batch = Space(model("llama"), seed=5), inputs(2 * PAIRS)
        with torch.no_grad():
            rows = RowWise(space, lambda: space.module(**batch), 2 * PAIRS, compiled=True)
            assert not rows.compiled
            assert rows.agrees(population(space), lambda: space.module(**batch).logits)
    finally:
        member_kernels.member_kernels.cache_clear()


def test_a_header_tells_which_kernels_a_run_began_with() -> None:
    old = {"rows": 64, "each": 1, "without": [], "max_kl": 0.3}
    assert PopulationPlan.from_json(old).compiled is False
    assert PopulationPlan.from_json(old).to_json() == old
    new = PopulationPlan(64, 1, frozenset(), 0.3, compiled=True)
    assert PopulationPlan.from_json(new.to_json()) == new
