"""Recipes against the same arithmetic written with plain float64 tensors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zotune import clip, maximum, minimum, sign, sqrt, weighted_sum, where
from zotune.core.codegen import Output, lower
from zotune.core.recipe import Constant, Noise, Op, PerTensor
from zotune.core.space import Space
from zotune.errors import RecipeError
from zotune.testing import TinyNet


@pytest.fixture
def space() -> Space:
    return Space(TinyNet(torch.float64), seed=3, chunk=32)


def plain(space: Space, z: Noise) -> dict[str, torch.Tensor]:
    return space.value(z)


def test_arithmetic_equals_float64(space: Space) -> None:
    theta, z, w = space.theta, Noise("normal", 0, 0), Noise("rademacher", 0, 1)
    per = theta.per(lambda t: len(t.shape) + 0.5)
    recipe = where(
        abs(theta) <= 0.2, 2.0 * z + per * theta, sqrt(abs(w * z)) / (1.5 + theta**2) - maximum(z, theta)
    ) + sign(z) * clip(theta, -0.1, minimum(0.3, z))
    got, zs, ws = space.value(recipe), plain(space, z), plain(space, w)
    for name, p in space.params.items():
        t, a, b = p.detach(), zs[name], ws[name]
        d = p.dim() + 0.5
        expected = torch.where(
            t.abs() <= 0.2, 2 * a + d * t, (b * a).abs().sqrt() / (1.5 + t * t) - torch.maximum(a, t)
        ) + a.sign() * torch.minimum(torch.clamp_min(t, -0.1), torch.clamp_max(a, 0.3))
        torch.testing.assert_close(got[name], expected, rtol=1e-11, atol=1e-12)


def test_weighted_sum_and_squares(space: Space) -> None:
    zs = [Noise("normal", k, 0) for k in range(5)]
    c = [0.1, -2.0, 3e-5, 0.0, 7.0]
    for power in (1, 2):
        got = space.value(weighted_sum(zip(c, zs, strict=True), power=power))
        for name in space.params:  # a number times a noise is one rounded coefficient: its own, not that of 1
            each = [
                space.value(k * z)[name] if power == 1 else k * space.value(z)[name] ** 2
                for k, z in zip(c, zs, strict=True)
            ]
            torch.testing.assert_close(got[name], sum(each), rtol=1e-12, atol=1e-13)


def test_numbers_are_folded_and_shared_noise_is_drawn_once(space: Space) -> None:
    z = Noise("normal", 0, 0)
    recipe = 2.0 * (3.0 * z)
    assert isinstance(recipe, Op)
    assert recipe.args[0].value == 6.0  # type: ignore[attr-defined]
    d = 0.5 * z
    program = lower([Output(space.theta - d, "theta"), Output(d * d, "field m")])
    assert program.text.count("units_normal") == 1


def test_code_does_not_depend_on_numbers_or_seeds(space: Space) -> None:
    def mezo(lr: float, step: int) -> Output:
        z = Noise("normal", step, 0)
        return Output(space.theta - lr * z, "theta", rounded=True)

    assert lower([mezo(0.1, 1)]).text == lower([mezo(0.7, 9)]).text


def test_per_tensor_numbers_fold_on_the_host() -> None:
    a, b = PerTensor({"x": 4.0, "y": 9.0}), PerTensor({"x": 2.0, "y": 3.0})
    ratio = sqrt(a) / b
    assert isinstance(ratio, PerTensor)
    assert ratio.values == {"x": 1.0, "y": 1.0}
    with pytest.raises(RecipeError, match="different tensors"):
        a + PerTensor({"x": 1.0})


def test_numpy_scalars_on_the_left(space: Space) -> None:
    got = space.value(np.float64(2.0) * space.theta)
    torch.testing.assert_close(got["norm.bias"], 2 * space.params["norm.bias"].detach())


def test_misuse_is_reported(space: Space) -> None:
    with pytest.raises(RecipeError, match="truth value"):
        bool(space.theta <= 0.0)
    with pytest.raises(RecipeError, match="squared"):
        space.theta**3
    with pytest.raises(RecipeError, match="list"):
        space.theta * [1]  # type: ignore[operator]
    with pytest.raises(RecipeError, match="weighted_sum sums noises"):
        weighted_sum([(1.0, space.theta)])


def test_division_and_root_round_once_in_float32() -> None:
    space = Space(TinyNet(), seed=0)
    got = space.value(sqrt(abs(space.theta)) / 3.0)
    for name, p in space.params.items():
        root = p.detach().abs().double().sqrt().float()
        assert torch.equal(got[name], (root.double() / 3.0).float())


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.sampled_from(["add", "sub", "mul", "maximum", "minimum"]))
def test_constants_fold_as_python_does(a: float, b: float, name: str) -> None:
    from zotune.core.recipe import _op

    result = _op(name, a, b)
    expected = {"add": a + b, "sub": a - b, "mul": a * b, "maximum": max(a, b), "minimum": min(a, b)}[name]
    assert isinstance(result, Constant)
    assert result.value == expected or math.isnan(expected)


def test_operations_with_the_number_first(space: Space) -> None:
    t = space.params["head.weight" if "head.weight" in space.params else "embed.weight"].detach()
    name = next(n for n, p in space.params.items() if p.shape == t.shape)
    assert torch.equal(space.value(1.0 - space.theta)[name], 1.0 - t)
    assert torch.equal(space.value(where(space.theta <= 0.1, 1.0, 0.0))[name], (t <= 0.1).double())
    torch.testing.assert_close(space.value(1.0 / (2.0 + space.theta))[name], 1.0 / (2.0 + t))


def test_roots_are_rounded_once() -> None:
    """torch's own square root on a CPU is wrong in the last bit of some float64 numbers."""
    module = nn.Module()
    module.w = nn.Parameter(torch.rand(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    space = Space(module, 0)
    assert space.value(sqrt(space.theta))["w"].tolist() == [math.sqrt(x) for x in module.w.tolist()]
