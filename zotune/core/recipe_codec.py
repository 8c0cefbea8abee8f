"""Recipes as text, for engines that compute a run's updates on weights of their own.

A text holds numbers, names and noise handles; reading one runs no code. Knows recipes; knows no tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zotune.core.recipe import (
    Constant,
    Directions,
    DirectionSum,
    Factor,
    Noise,
    Op,
    Outer,
    PerTensor,
    Recipe,
    Theta,
    WeightedSum,
)
from zotune.errors import RecipeError

OPERATIONS = frozenset(
    [*("add", "sub", "mul", "div", "abs", "sign", "sqrt", "maximum", "minimum"), *("le", "lt", "ge", "gt", "where")]
)


def encode(recipe: Recipe) -> str:
    """The recipe as JSON; numbers keep every bit. Raises RecipeError for what a text does not describe: stored fields,
    and functions of the optimizer."""
    return json.dumps(_encoded(recipe))


def decode(text: str, theta: Theta) -> Recipe:
    """The recipe of a text. theta: what stands for the present weights. Raises RecipeError."""
    try:
        return _decoded(json.loads(text), theta)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecipeError(f"no recipe: {type(error).__name__}: {error}") from error


def _encoded(x: Recipe) -> Any:
    match x:
        case Theta():
            return {"theta": True}
        case Constant():
            return x.value
        case PerTensor():
            return {"per": dict(x.values)}
        case Noise():
            return {"noise": [x.kind, x.step, x.draw]}
        case Op():
            return {"op": x.name, "of": [_encoded(a) for a in x.args]}
        case WeightedSum():
            return {"sum": [[c, z.kind, z.step, z.draw] for c, z in x.terms], "power": x.power}
        case DirectionSum():
            d = x.directions
            shapes = {n: list(shape) for n, shape in d.shapes.items()}
            return {"directions": [shapes, d.count, d.step, d.draw], "weights": list(x.weights)}
        case Outer(left=Factor() as left, right=Factor() as right):
            factors = [[{n: list(s) for n, s in f.shapes.items()}, f.step, f.draw] for f in (left, right)]
            return {"outer": factors}
    raise RecipeError(f"a recipe with {type(x).__name__} has no text")


def _decoded(x: Any, theta: Theta) -> Recipe:
    if isinstance(x, int | float):
        return Constant(float(x))
    if "theta" in x:
        return theta
    if "per" in x:
        return PerTensor({str(n): float(v) for n, v in x["per"].items()})
    if "noise" in x:
        return _noise(*x["noise"])
    if "op" in x:
        if x["op"] not in OPERATIONS:
            raise RecipeError(f"no operation {x['op']!r:.40}")
        return Op(x["op"], tuple(_decoded(a, theta) for a in x["of"]))
    if "sum" in x:
        return WeightedSum(tuple((float(c), _noise(*z)) for c, *z in x["sum"]), int(x["power"]))
    if "directions" in x:
        shapes, count, step, draw = x["directions"]
        directions = Directions(_shapes(shapes), int(count), int(step), int(draw))
        return DirectionSum(directions, tuple(map(float, x["weights"])))
    left, right = (Factor(_shapes(shapes), int(step), int(draw)) for shapes, step, draw in x["outer"])
    return Outer(left, right)


def _noise(kind: str, step: int, draw: int) -> Noise:
    if kind not in ("normal", "rademacher"):
        raise RecipeError(f"no noise {kind!r:.40}")
    return Noise(kind, int(step), int(draw))


def _shapes(shapes: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    return {str(n): (int(rows), int(columns)) for n, (rows, columns) in shapes.items()}


__all__ = ["decode", "encode"]
