"""Recipes: lazy elementwise arithmetic over weights, fields and noise.

An optimizer writes `theta - lr * g * z` and gets a *recipe*: a small expression tree that describes every element. It
is never a tensor of the model's size: the space evaluates it chunk by chunk, noise included, in one pass over memory.
All right-hand sides read the values from before the step.

    leaves       theta, Field, Noise, numbers, PerTensor (one number a tensor)
    arithmetic   + - * / **2, abs, sign, sqrt, clip, maximum, minimum, where, <= < >= >
    sums         weighted_sum([(c, z), ...]) for any number of noises
    matrices     outer(U, V) of small random factors, each(fn, U, ...) on the factors themselves
    fields       a recipe in a state becomes a stored tensor; only(mask, recipe) stores it for some tensors alone,
                 bits(condition) with one bit an element

Precision: arithmetic is float64 where the weights are float64 and float32 otherwise; `sqrt` and `/` are computed in
float64 and rounded once. A number times a noise is exact (see `noise.coefficient`).

This module defines recipes; `codegen` turns them into code. Knows no model, no memory and no journal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zotune import types
from zotune.errors import RecipeError
from zotune.types import TensorInfo

__all__ = [
    "Bits",
    "Constant",
    "DirectionSum",
    "Directions",
    "Each",
    "Factor",
    "Field",
    "Noise",
    "Only",
    "Op",
    "Outer",
    "PerTensor",
    "Recipe",
    "TensorInfo",
    "Theta",
    "WeightedSum",
    "absolute",
    "bits",
    "clip",
    "concrete",
    "constant",
    "direction_sum",
    "each",
    "maximum",
    "minimum",
    "only",
    "outer",
    "scalar_at",
    "sign",
    "sqrt",
    "weighted_sum",
    "where",
]

Number = float | int
Operand = types.Recipe | Number
"""What arithmetic with a recipe takes; `types.Recipe` is the protocol that plugins are typed with."""


class Recipe:
    """Base of everything that can stand in a recipe. Recipes are immutable and compare by identity."""

    __slots__ = ()
    __array_ufunc__ = None  # numpy scalars on the left defer to the methods below

    def __add__(self, other: Operand) -> Recipe:
        return _op("add", self, other)

    def __radd__(self, other: Number) -> Recipe:
        return _op("add", other, self)

    def __sub__(self, other: Operand) -> Recipe:
        return _op("sub", self, other)

    def __rsub__(self, other: Number) -> Recipe:
        return _op("sub", other, self)

    def __mul__(self, other: Operand) -> Recipe:
        return _op("mul", self, other)

    def __rmul__(self, other: Number) -> Recipe:
        return _op("mul", other, self)

    def __truediv__(self, other: Operand) -> Recipe:
        return _op("div", self, other)

    def __rtruediv__(self, other: Number) -> Recipe:
        return _op("div", other, self)

    def __pow__(self, power: int) -> Recipe:
        if power != 2:
            raise RecipeError(f"a recipe can only be squared, got ** {power!r}; use sqrt() or repeated products")
        return _op("mul", self, self)

    def __neg__(self) -> Recipe:
        return _op("mul", -1.0, self)

    def __abs__(self) -> Recipe:
        return _op("abs", self)

    def __le__(self, other: Operand) -> Recipe:
        return _op("le", self, other)

    def __lt__(self, other: Operand) -> Recipe:
        return _op("lt", self, other)

    def __ge__(self, other: Operand) -> Recipe:
        return _op("ge", self, other)

    def __gt__(self, other: Operand) -> Recipe:
        return _op("gt", self, other)

    def __bool__(self) -> bool:
        raise RecipeError(
            "a recipe has no truth value before it is evaluated; choose elements with where(condition, a, b)"
        )


class Theta(Recipe):
    """The weights from before the step."""

    __slots__ = ("tensors",)

    def __init__(self, tensors: tuple[TensorInfo, ...]) -> None:
        self.tensors = tensors

    def per(self, fn: Callable[[TensorInfo], Number]) -> PerTensor:
        """One number (or bool, as 0 or 1) for every tensor: `theta.per(lambda t: t.kind != "bias")`."""
        return PerTensor({t.name: float(fn(t)) for t in self.tensors})


@dataclass(frozen=True, eq=False)
class Field(Recipe):
    """A stored tensor for every tuned tensor. The space keeps it, in float32 at least, under its path in the state."""

    path: str


@dataclass(frozen=True, eq=False)
class Noise(Recipe):
    """A handle of noise, fixed by (run seed, step, draw). kind: "normal" or "rademacher".

    Nothing is drawn or stored. A state may keep the handle and use it again steps later.
    """

    kind: str
    step: int
    draw: int


@dataclass(frozen=True, eq=False)
class Constant(Recipe):
    """A number, the same for all elements."""

    value: float


@dataclass(frozen=True, eq=False)
class PerTensor(Recipe):
    """One float for every tuned tensor, by canonical name.

    Arithmetic with numbers and with other PerTensors happens on the host, in float64.
    """

    values: Mapping[str, float]

    def map(self, fn: Callable[[float], float]) -> PerTensor:
        """`fn` of each float."""
        return PerTensor({name: fn(v) for name, v in self.values.items()})


@dataclass(frozen=True, eq=False)
class Op(Recipe):
    """An elementwise operation, such as "add" or "where"."""

    name: str
    args: tuple[Recipe, ...]


@dataclass(frozen=True, eq=False)
class WeightedSum(Recipe):
    """Σ c z**power over terms (c, z): see `weighted_sum`."""

    terms: tuple[tuple[float, Noise], ...]
    power: int


@dataclass(frozen=True, eq=False)
class Only(Recipe):
    """A field that is stored for some tensors alone: see `only`."""

    mask: PerTensor
    recipe: Recipe


@dataclass(frozen=True, eq=False)
class Bits(Recipe):
    """A field of one bit an element: see `bits`."""

    condition: Recipe


@dataclass(frozen=True, eq=False)
class Factor:
    """A handle of one small matrix of normal noise for every tensor in `shapes`, fixed by (run seed, step, draw).

    A factor is no recipe; `outer` makes a recipe of two factors.
    """

    shapes: Mapping[str, tuple[int, int]]
    step: int
    draw: int


@dataclass(frozen=True, eq=False)
class Directions:
    """`count` directions of rank 1, u_p v_pᵀ, for every matrix that `shapes` names: a handle, fixed by (run seed, step,
    draw). The elements of u_p and v_p have mean 0 and variance 1. shapes: (rows, columns) by tensor; u_p has `rows`
    elements, v_p has `columns`. It is no recipe: `direction_sum` makes one.

    Source: EGGROLL (arXiv:2511.16652), with rank 1.
    """

    shapes: Mapping[str, tuple[int, int]]
    count: int
    step: int
    draw: int = 0


@dataclass(frozen=True, eq=False)
class DirectionSum(Recipe):
    """Σ_p weights[p] u_p v_pᵀ: see `direction_sum`."""

    directions: Directions
    weights: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Each:
    """A torch function of factors, applied tensor by tensor: see `each`."""

    fn: Callable[..., Any]
    factors: tuple[Factor | Each, ...]


@dataclass(frozen=True, eq=False)
class Outer(Recipe):
    """left @ right.T of each tensor: see `outer`."""

    left: Factor | Each
    right: Factor | Each


def constant(value: Number) -> types.Recipe:
    """The same number in every element: in a state, a field that starts at this value, such as a moment at 0."""
    return Constant(float(value))


def absolute(x: types.Recipe) -> Recipe:
    """|x|, elementwise; `abs(x)` is the same."""
    return _op("abs", x)


def sign(x: Operand) -> Recipe:
    """-1, 0 or 1, elementwise."""
    return _op("sign", x)


def sqrt(x: Operand) -> Recipe:
    """Square root, computed in float64 and rounded once."""
    return _op("sqrt", x)


def maximum(a: Operand, b: Operand) -> Recipe:
    """The larger of two values, elementwise; NaN where `a` is NaN."""
    return _op("maximum", a, b)


def minimum(a: Operand, b: Operand) -> Recipe:
    """The smaller of two values, elementwise; NaN where `a` is NaN."""
    return _op("minimum", a, b)


def clip(x: Operand, low: Operand, high: Operand) -> Recipe:
    """min(max(x, low), high)."""
    return minimum(maximum(x, low), high)


def where(condition: types.Recipe, a: Operand, b: Operand) -> Recipe:
    """`a` where the condition holds, else `b`. A PerTensor condition holds where it is not 0."""
    return _op("where", condition, a, b)


def weighted_sum(pairs: Iterable[tuple[Number, types.Recipe]], power: int = 1) -> Recipe:
    """The sum of c * z**power over pairs (c, z) of a number and a noise; power is 1 or 2.

    A noise may carry a number of its own, as `at.sphere()` does. Any number of terms takes one pass over memory. Raises
    RecipeError for another power, and for z that is no noise.
    """
    if power not in (1, 2):
        raise RecipeError(f"weighted_sum takes power 1 or 2, got {power!r}")
    terms: list[tuple[float, Noise]] = []
    for c, z in pairs:
        match z:
            case Noise():
                terms.append((float(c), z))
            case Op(name="mul", args=(Constant(value=d), Noise() as inner)):
                terms.append((float(c) * d**power, inner))
            case _:
                raise RecipeError(f"weighted_sum sums noises (at.normal(), at.rademacher()), got {type(z).__name__}")
    return WeightedSum(tuple(terms), power) if terms else Constant(0.0)


def only(mask: types.PerTensor, recipe: Operand) -> Recipe:
    """In a state: a field that is stored for the tensors whose `mask` is not 0, and reads as 0 for all others.

    `only(theta.per(lambda t: "q_proj" in t.name), theta)` stores an anchor of the query projections alone.
    """
    if not isinstance(mask, PerTensor):
        raise RecipeError(f"only() takes a mask of one number a tensor (theta.per), got {type(mask).__name__}")
    return Only(mask, _lift(recipe))


def bits(condition: Operand) -> Recipe:
    """In a state: a field that is 1 where the condition holds (where it is not 0) and 0 elsewhere, stored as one bit an
    element: a thirty-second of a field in float32.

    `only(mask, bits(abs(theta) <= h))` stores it for some tensors alone.
    """
    return Bits(_lift(condition))


def outer(left: types.Factor | Each, right: types.Factor | Each) -> Recipe:
    """The matrix left @ right.T of every tensor that has both factors, flattened as the tensor is; 0 for all others.

    left: (rows, rank); right: (columns, rank); rows · columns: the elements of the tensor. Ranks are summed in order,
    so that all machines give the same bits.
    """
    return Outer(_matrix("outer", left), _matrix("outer", right))


def direction_sum(directions: types.Directions, weights: Sequence[Number]) -> Recipe:
    """The matrix Σ_p weights[p] u_p v_pᵀ of every tensor that has directions; 0 on all others.

    Where arithmetic is float32 the sum has the same bits on every device and for any number of threads: weights are
    rounded to 24 bits of the largest one, so that up to 512 terms add up without rounding in float64. Where it is
    float64 the terms are added in order. Raises RecipeError for a wrong number of weights.
    """
    if not isinstance(directions, Directions):
        raise RecipeError(f"direction_sum takes directions (at.directions), got {type(directions).__name__}")
    if len(weights) != directions.count:
        raise RecipeError(f"{directions.count} directions take as many weights, got {len(weights)}")
    return DirectionSum(directions, tuple(float(w) for w in weights))


def each(fn: Callable[..., Any], *factors: types.Factor | Each) -> Each:
    """`fn`, a torch function such as an orthogonalisation, of each tensor's factors.

    A run replays on machines where `fn` gives the same bits.
    """
    return Each(fn, tuple(_matrix("each", factor) for factor in factors))


def _matrix(function: str, x: object) -> Factor | Each:
    if not isinstance(x, Factor | Each):
        raise RecipeError(f"{function}() takes factors (at.factor), got {type(x).__name__}")
    return x


def concrete(recipe: types.Recipe) -> Recipe:
    """The recipe as it is. Raises RecipeError where it is anything else, such as a number or a tensor."""
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"a point is a recipe such as theta + eps * z, got {type(recipe).__name__}: {recipe!r:.60}")
    return recipe


_HOST: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "abs": abs,
    "sign": lambda a: float((a > 0) - (a < 0)),
    "sqrt": math.sqrt,
    "maximum": max,
    "minimum": min,
    "le": lambda a, b: float(a <= b),
    "lt": lambda a, b: float(a < b),
    "ge": lambda a, b: float(a >= b),
    "gt": lambda a, b: float(a > b),
    "where": lambda c, a, b: a if c else b,
}
_BOOLEAN = frozenset({"le", "lt", "ge", "gt"})


def _lift(x: object) -> Recipe:
    if isinstance(x, Recipe):
        return x
    try:
        return Constant(float(x))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise RecipeError(f"a recipe takes numbers and recipes, got {type(x).__name__}: {x!r}") from None


def _scalar(x: Recipe) -> bool:
    return isinstance(x, Constant | PerTensor)


def _op(name: str, *operands: Any) -> Recipe:
    """The operation as a recipe. What depends on numbers alone is computed here, on the host."""
    args = tuple(_lift(a) for a in operands)
    if all(_scalar(a) for a in args):
        return _fold(name, args)
    if name == "div" and _scalar(args[1]) and isinstance(args[0], Noise):
        return _op("mul", _fold("div", (Constant(1.0), args[1])), args[0])
    if name == "sub" and isinstance(args[1], Op) and args[1].name == "mul" and _scalar(args[1].args[0]):
        return Op("add", (args[0], _op("mul", -1.0, args[1])))  # the same bits; points and steps share their code
    if name == "mul":
        a, b = args if _scalar(args[0]) else (args[1], args[0])
        if _scalar(a):
            if isinstance(b, Op) and b.name == "mul" and _scalar(b.args[0]):  # c * (d * x) is (c * d) * x
                return Op("mul", (_fold("mul", (a, b.args[0])), b.args[1]))
            if isinstance(b, WeightedSum) and isinstance(a, Constant):
                return WeightedSum(tuple((a.value * c, z) for c, z in b.terms), b.power)
            return Op("mul", (a, b))
    return Op(name, args)


def _fold(name: str, args: Sequence[Recipe]) -> Recipe:
    fn = _HOST[name]
    if all(isinstance(a, Constant) for a in args):
        return Constant(fn(*(a.value for a in args)))  # type: ignore[attr-defined]
    names = [set(a.values) for a in args if isinstance(a, PerTensor)]
    if any(n != names[0] for n in names):
        raise RecipeError("two per-tensor values of different tensors cannot be combined")
    return PerTensor({n: fn(*(scalar_at(a, n) for a in args)) for n in sorted(names[0])})


def scalar_at(x: Recipe, tensor: str) -> float:
    """The number that a Constant or a PerTensor has for one tensor. Raises RecipeError where it has none."""
    if isinstance(x, Constant):
        return x.value
    assert isinstance(x, PerTensor)
    try:
        return x.values[tensor]
    except KeyError:
        raise RecipeError(f"no per-tensor value for {tensor!r}") from None
