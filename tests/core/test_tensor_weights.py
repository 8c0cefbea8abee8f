"""Weights that an engine holds: the bits of the run's, from text, also as views of fused tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zotune import maximum, outer, sqrt, weighted_sum, where
from zotune.core.population import Population
from zotune.core.recipe import Constant, Directions, Factor, Field, Noise, Recipe, direction_sum, each
from zotune.core.recipe_codec import decode, encode
from zotune.core.space import Space
from zotune.core.tensor_weights import TensorWeights
from zotune.errors import RecipeError
from zotune.inference import Members, WeightUpdate

SHAPES = {"layers.0.q.weight": (6, 8), "layers.0.k.weight": (4, 8), "norm.weight": (8,)}


class Model(nn.Module):
    """Three tensors by dotted names."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        block = nn.Module()
        block.q, block.k = nn.Linear(8, 6, bias=False), nn.Linear(8, 4, bias=False)
        self.layers, self.norm = nn.ModuleList([block]), nn.LayerNorm(8, bias=False)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(torch.sin(torch.arange(p.numel()) * 0.7 + i).view_as(p))
        self.to(dtype)


def both(dtype: torch.dtype) -> tuple[Space, TensorWeights, torch.Tensor]:
    """A run's weights, the same in an engine, and the tensor that holds q and k of the engine, one after the other."""
    space = Space(Model(dtype), 11)
    values = {n: p.data for n, p in space.params.items()}
    fused = torch.cat([values["layers.0.q.weight"], values["layers.0.k.weight"]])
    tensors = {"layers.0.q.weight": fused[:6], "layers.0.k.weight": fused[6:], "norm.weight": values["norm.weight"] + 0}
    return space, TensorWeights(tensors, 11, space.rounding), fused


DIRECTIONS = Directions({n: s for n, s in SHAPES.items() if len(s) == 2}, 3, 7, 1)  # type: ignore[misc]


def recipes(space: Space) -> dict[str, Recipe]:
    theta, z, rademacher = space.theta, Noise("normal", 7, 0), Noise("rademacher", 3, 2)
    scale = theta.per(lambda t: 0.1 + 1e-17 * len(t.name))
    factors = [Factor({n: (s[k], 2) for n, s in DIRECTIONS.shapes.items()}, 7, k) for k in (0, 1)]
    return {
        "population": theta + scale * direction_sum(DIRECTIONS, [0.3, -1e-9, 1 / 3]),
        "point": theta - 0.01 * z * sqrt(abs(theta)) / (1.0 + theta**2),
        "sum": theta - weighted_sum([(0.1, z), (1e-3, rademacher)]),
        "mask": where(abs(theta) <= 0.5, theta + 0.1 * rademacher, maximum(theta, scale)),
        "factors": theta + 0.1 * outer(*factors),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_updates_from_text_write_the_bits_of_the_run(dtype: torch.dtype) -> None:
    space, weights, fused = both(dtype)
    assert weights.hash() == space.digest()
    for step, recipe in enumerate(recipes(space).values()):
        before = fused.clone()
        space.step = step
        text = encode(recipe)
        space.assign(recipe)
        weights.update(WeightUpdate(step, text))
        assert weights.hash() == space.digest()
        assert not fused.equal(before), "the fused tensor is what is written"


def test_members_are_those_of_the_population() -> None:
    space, weights, _ = both(torch.float64)
    population = Population(DIRECTIONS, {"layers.0.q.weight": 0.5, "layers.0.k.weight": 0.25}, (1.0, 0.5, 2.0))
    members = Members(7, 1, 3, DIRECTIONS.shapes, population.sizes, population.scales, 1, 3)
    member = space.value(population.member(space.theta, 2, -1))
    for name, size in population.sizes.items():
        u, v = weights.factors(members, name)
        assert (u.shape, v.shape) == ((2, SHAPES[name][0]), (2, 8))
        written = space.params[name].data - size * 2.0 * torch.outer(u[1].double(), v[1].double())
        assert torch.allclose(member[name], written, rtol=0, atol=1e-6)


def test_files_hold_every_bit(tmp_path: Path) -> None:
    space, weights, fused = both(torch.bfloat16)
    weights.update(WeightUpdate(0, encode(recipes(space)["point"])))
    changed = weights.hash()
    weights.export(tmp_path / "tuned.safetensors")
    fused.zero_()
    weights.load(tmp_path / "tuned.safetensors")
    assert weights.hash() == changed != space.digest()
    with pytest.raises(ValueError, match=r"a\.weight is not contiguous"):
        TensorWeights({"a.weight": torch.ones(4, 4).T}, 0, 0)


def test_what_a_text_does_not_describe_is_refused() -> None:
    space, _, _ = both(torch.float32)
    theta = space.theta
    factor = Factor({}, 0, 0)
    for recipe in (theta + Field("m"), outer(factor, each(torch.relu, factor))):
        with pytest.raises(RecipeError, match="has no text"):
            encode(recipe)
    wrong: list[Any] = [{"op": "system", "of": []}, {"noise": ["member", 0, 0]}, {"outer": 3}, [], {}]
    for value in wrong:
        with pytest.raises(RecipeError):
            decode(json.dumps(value), theta)
    assert isinstance(decode("0.1", theta), Constant)
