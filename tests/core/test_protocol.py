"""Every part of the optimizer protocol, used by a small optimizer that needs it, under the common contract."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from zotune import Tuner, each, only, outer, weighted_sum, where
from zotune.core import noise
from zotune.core.recipe import Factor, Noise, maximum, minimum, sign, sqrt
from zotune.core.space import Space
from zotune.declarations import objective
from zotune.errors import ObjectiveError, RecipeError, UsageError
from zotune.scoring.objective import wrap
from zotune.search.batches import Batches
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.search.optimizer_spec import check_needs
from zotune.search.oracle import Oracle
from zotune.testing import OptimizerContract, TinyNet
from zotune.types import Score


class Stateless:
    """Two evaluations a step and no state, by default."""

    forwards: int | None = 2

    def init(self, theta: Any) -> None:
        return None


@dataclass(frozen=True)
class Sphere(Stateless):
    """Noise of a fixed length."""

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
        z = at.sphere()
        up, down = oracle(theta + 0.01 * z, theta - 0.01 * z)
        return theta + weighted_sum([(-(up - down) / 2, z)]), None


@dataclass(frozen=True)
class LowRank(Stateless):
    """LOZO's kind: U Vᵀ where a tensor is a matrix, V kept for three steps; plain noise elsewhere."""

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
        U = at.factor(lambda t: (t.shape[0], 2) if len(t.shape) == 2 else None)
        V = at.factor(lambda t: (t.shape[1], 2) if len(t.shape) == 2 else None, draw=1, step=at.t - at.t % 3)
        z = where(theta.per(lambda t: len(t.shape) == 2), outer(U, V), at.normal())
        up, down = oracle(theta + 0.01 * z, theta - 0.01 * z)
        return theta - (up - down) / 2 * z, None


@dataclass(frozen=True)
class Orthogonal(Stateless):
    """ZO-Muon's kind: the factors made orthonormal first."""

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
        U, V = (at.factor(lambda t: (t.shape[0], 2) if t.shape == (8, 8) else None, draw=d) for d in (0, 1))
        z = outer(each(orthonormal, U), each(orthonormal, V))
        up, down = oracle(theta + 0.05 * z, theta - 0.05 * z)
        return theta - 5 * (up - down) * z, None


def orthonormal(x: torch.Tensor) -> torch.Tensor:
    """Gram and Schmidt's columns."""
    columns: list[torch.Tensor] = []
    for c in x.double().T:
        for e in columns:
            c = c - (c * e).sum() * e
        columns.append(c / c.square().sum().sqrt())
    return torch.stack(columns, 1).float()


@dataclass(frozen=True)
class Anchored:
    """DiZO's kind: an anchor of some tensors only, ratios by tensor from a small search on the host."""

    forwards = 2
    fields = 1

    def init(self, theta: Any) -> Any:
        return {"anchor": only(theta.per(chosen), theta)}

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> Any:
        z, anchor = at.normal(), state["anchor"]
        (u,) = at.vector(1)
        ratio = theta.per(lambda t: 1 + 0.05 * u if chosen(t) else 1.0)
        d = at.norm(where(theta.per(chosen), theta - anchor, 0.0))
        up, down = oracle(theta + 0.01 * z, theta - 0.01 * z)
        moved = where(d, anchor + ratio * (theta - anchor), theta)
        return moved - (up - down) / 2 * z, {"anchor": anchor}


def chosen(t: Any) -> bool:
    return t.name.startswith("layers")


@dataclass(frozen=True)
class Population(Stateless):
    """ES and n-SPSA with growing n: any number of directions in one sum, squares beside them."""

    forwards = None

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
        zs = [at.normal(j) for j in range(2 + min(at.t, 10))]
        values = oracle(*(theta + 0.02 * z for z in zs))
        mean = sum(values) / len(values)
        scores = [(v - mean) / len(values) for v in values]
        spread = weighted_sum([(1 / len(zs), z) for z in zs], power=2)
        return theta - weighted_sum(zip(scores, zs, strict=True)) / (0.5 + spread), None


@dataclass(frozen=True)
class PerSample(Stateless):
    """ZO-SVRG's kind: a direction's slope from the rows that moved most, on another batch than the step's own."""

    needs = "per_sample"

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
        z = at.rademacher()
        up, down = oracle(theta + 0.01 * z, theta - 0.01 * z, batch=at.sample(1), per_sample=True)
        slopes = sorted((a - b) / 0.02 for a, b in zip(up, down, strict=True))
        return theta - 0.02 * slopes[len(slopes) // 2] * z, None


@dataclass(frozen=True)
class Ranked(Stateless):
    """RankSGD's kind: nothing but the order of four candidates."""

    forwards = 4
    needs = "order"

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
        zs = [at.normal(j) for j in range(4)]
        ranks = oracle.rank(*(theta + 0.02 * z for z in zs))
        pairs = [(i, j) for i in range(4) for j in range(4) if ranks[i] < ranks[j]]
        weights = [sum(i == k for i, _ in pairs) - sum(j == k for _, j in pairs) for k in range(4)]
        return theta + weighted_sum((0.01 * w / max(len(pairs), 1), z) for w, z in zip(weights, zs, strict=True)), None


@dataclass(frozen=True)
class Masked:
    """Sparse-MeZO's kind: thresholds measured once, before the first step, with a probe on the full data."""

    forwards = 2

    def init(self, theta: Any, oracle: Any, at: Any) -> Any:
        (clean,) = oracle(theta, batch=at.full)
        return {"h": at.quantile(abs(theta), 0.6), "scale": 1 / clean}

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> Any:
        z = where(abs(theta) <= state["h"], at.normal(), 0.0)
        up, down = oracle(theta + 0.01 * z, theta - 0.01 * z)
        return theta - (up - down) / 2 * state["scale"] * z, state


EXAMPLES = [Sphere, LowRank, Orthogonal, Anchored, Population, PerSample, Ranked, Masked]


@pytest.mark.parametrize("example", EXAMPLES)
class TestEveryPart(OptimizerContract):
    @pytest.fixture(autouse=True)
    def _chosen(self, example: Any) -> None:
        self.example = example

    def optimizer(self) -> Any:
        return self.example()

    def test_compiling_changes_no_bit(self) -> None:
        if self.example in (LowRank, Population):  # what has kernels that tests/core/test_kernels.py has not
            super().test_compiling_changes_no_bit()

    def test_it_converges_on_four_small_problems(self) -> None:
        if self.example not in (PerSample, Orthogonal, Masked):  # rows, 8 x 8 tensors; a mask freezes what is far off
            super().test_it_converges_on_four_small_problems()

    def test_memory_stays_within_what_is_declared(self) -> None:
        if self.example not in (PerSample, Masked):  # rows; a quantile sorts
            super().test_memory_stays_within_what_is_declared()


def made(space: Space, tape: Tape | None = None) -> At:
    return At(space, Batches(24, 6, 0), tape or Tape(), 3, 10, 0.3)


def test_a_sphere_has_its_radius() -> None:
    space = Space(TinyNet(torch.float64), 0)
    values = space.value(made(space).sphere(draw=2))
    length = math.sqrt(sum(float(v.square().sum()) for v in values.values()))
    assert length == pytest.approx(math.sqrt(space.numel), rel=1e-12)
    z = space.value(Noise("normal", 3, 2))
    for name, x in z.items():
        torch.testing.assert_close(values[name], x * (values["embed.weight"][0, 0] / z["embed.weight"][0, 0]))


def test_outer_equals_the_product_of_its_factors() -> None:
    space = Space(TinyNet(torch.float64), 1, chunk=32)
    at = made(space)
    U = at.factor(lambda t: (t.shape[0], 3) if len(t.shape) == 2 else None)
    V = at.factor(lambda t: (t.shape[1], 3) if len(t.shape) == 2 else None, draw=1)
    got = space.value(space.theta + 2.0 * outer(U, V))
    for name, p in space.params.items():
        key = lambda d, n=name: space.key(n, Noise("factor", 3, d))  # noqa: E731
        if p.dim() == 2:
            u = noise.factor(key(0), p.shape[0], 3, p.device).double()
            v = noise.factor(key(1), p.shape[1], 3, p.device).double()
            assert abs(float(u.mean())) < 0.5
            torch.testing.assert_close(got[name], p.detach() + 2.0 * u @ v.T, rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(got[name], p.detach())


def test_factors_of_other_shapes_are_reported() -> None:
    space = Space(TinyNet(), 1)
    bad = Factor({"layers.0.weight": (3, 2)}, 0, 0)
    with pytest.raises(RecipeError, match=r"layers\.0\.weight"):
        space.value(outer(bad, bad))
    with pytest.raises(RecipeError, match="takes factors"):
        outer(bad, space.theta)  # type: ignore[arg-type]


def test_a_partial_field_reads_as_zero_in_every_operation() -> None:
    space = Space(TinyNet(), 1)
    state = space.assign(space.theta, {"m": only(space.theta.per(chosen), space.theta)})
    m, held = state["m"], space.fields["m"]
    for recipe, function in (
        (m / 2.0, lambda x: x / 2),
        (2.0 / (m + 1e3), lambda x: 2 / (x + 1e3)),
        (sqrt(abs(m)), lambda x: x.abs().double().sqrt().float()),
        (sign(m), torch.sign),
        (maximum(m, 0.01), lambda x: x.clamp(min=0.01)),
        (minimum(-0.01, m), lambda x: x.clamp(max=-0.01)),
        (where(m > 0.0, m, -1.0), lambda x: torch.where(x > 0, x, -torch.ones_like(x))),
    ):
        got = space.value(space.theta + recipe)
        for n, p in space.params.items():
            x = held.get(n, torch.zeros_like(p.detach()))
            torch.testing.assert_close(got[n], p.detach() + function(x), rtol=1e-6, atol=1e-7)


def test_a_partial_field_is_stored_by_its_mask_and_reads_as_zero_elsewhere() -> None:
    space = Space(TinyNet(), 1)
    start = {n: p.detach().clone() for n, p in space.params.items()}
    state = space.assign(space.theta, {"m": only(space.theta.per(chosen), space.theta)})
    names = {n for n in space.params if n.startswith("layers")}
    assert set(space.fields["m"]) == names
    state = space.assign(space.theta + 1.0, state)
    got = space.value(space.theta - state["m"])
    for n, p in start.items():
        expected = torch.ones_like(p) if n in names else p + 1.0
        torch.testing.assert_close(got[n], expected)
    mask = space.theta.per(chosen)
    state = space.assign(space.theta, {"m": only(mask, 2.0 * state["m"]), "copy": state["m"]})
    assert set(space.fields["copy"]) == names
    torch.testing.assert_close(space.fields["m"]["layers.0.bias"], 2 * start["layers.0.bias"])
    torch.testing.assert_close(space.fields["copy"]["layers.0.bias"], start["layers.0.bias"])
    before = {n: x.clone() for n, x in space.fields["m"].items()}
    theta = {n: p.detach().clone() for n, p in space.params.items()}
    fewer = space.theta.per(lambda t: t.name == "layers.0.bias")
    space.assign(space.theta + state["m"], {"m": only(fewer, state["m"])})
    assert set(space.fields["m"]) == {"layers.0.bias"}
    name = "layers.1.bias"  # read in the very step that gives it up
    torch.testing.assert_close(space.params[name].detach(), theta[name] + before[name])
    with pytest.raises(RecipeError, match="state"):
        space.value(1.0 + only(mask, space.theta))
    with pytest.raises(RecipeError, match="mask"):
        only(space.theta, space.theta)  # type: ignore[arg-type]


def ordered(compare: Any) -> Oracle:
    space = Space(TinyNet(), 0)

    def collect(rows: Sequence[int]) -> float:
        return float(space.params["norm.bias"].detach().sum())

    def never(rows: Sequence[int]) -> Score:
        raise AssertionError("an order has no values")

    return Oracle(space, never, Batches(24, 6, 0), "maximize", collect=collect, compare=compare)


def test_an_order_objective_ranks_and_keeps_unranked_points() -> None:
    oracle = ordered(lambda candidates: [None if c is max(candidates) else int(c >= 0) for c in candidates])
    theta = oracle._space.theta
    assert oracle.rank(theta + 1.0, theta - 10.0, theta - 11.0, theta + 0.5) == (None, 1, 1, 0)
    assert oracle.evaluations == 4
    with pytest.raises(UsageError, match="no value for a single one"):
        oracle(theta)


def test_comparisons_serve_as_values_of_several_points() -> None:
    oracle = ordered(lambda candidates: [float(c == max(candidates)) for c in candidates])
    oracle.unit = 0.02
    theta = oracle._space.theta
    assert oracle(theta + 1.0, theta - 1.0) == (0.0, 0.02)  # g = ±1 at ε = 0.01
    assert oracle(theta, theta) == (0.0, 0.0)
    unknown = ordered(lambda candidates: [None for _ in candidates])
    assert unknown(theta, theta + 1.0) == (0.5, 0.5)


def test_a_failing_candidate_is_generated_again() -> None:
    oracle = ordered(lambda candidates: [1, 0])
    collect, calls = oracle._collect, []

    def failing(rows: Sequence[int]) -> Any:
        calls.append(rows)
        if len(calls) == 1:
            raise ObjectiveError("once")
        return collect(rows)

    oracle._collect = failing
    assert oracle.rank(oracle._space.theta, oracle._space.theta + 1.0) == (0, 1)
    assert len(calls) == 3


@pytest.mark.parametrize("answer", [[0], [0, math.nan], ["a", "b"], [0, 1, 2]])
def test_an_invalid_order_is_a_failed_score(answer: Any) -> None:
    oracle = ordered(lambda candidates: answer)
    with pytest.raises(ObjectiveError, match="2 points must return 2 finite"):
        oracle.rank(oracle._space.theta, oracle._space.theta + 1.0)


def test_unmet_needs_are_refused_before_anything_is_loaded() -> None:
    @objective(level="set")
    def whole(model: Any) -> float:
        return 0.0

    @objective(gives="order")
    def human(candidates: Any) -> list[int]:
        return []

    with pytest.raises(UsageError, match="scores all rows together"):
        Tuner(TinyNet(), whole, PerSample())
    with pytest.raises(UsageError, match="no values"):
        check_needs(Sphere(), wrap(human, "human"))
    check_needs(Ranked(), wrap(human, "human"))
    check_needs(PerSample(), wrap(lambda model: 0.0, "unknown"))


def test_per_sample_keeps_rows_that_are_not_applicable() -> None:
    space = Space(TinyNet(), 0)
    oracle = Oracle(space, lambda rows: Score(1.0, (1.0, None, 2.0)), Batches(3, 3, 0), "maximize")
    assert oracle(space.theta, per_sample=True) == ((-1.0, None, -2.0),)


def test_vectors_are_normal() -> None:
    space = Space(TinyNet(), 0)
    x = np.array(made(space).vector(20_000))
    assert abs(x.mean()) < 0.03
    assert abs(x.std() - 1) < 0.03
