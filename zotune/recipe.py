"""Recipes: lazy elementwise arithmetic over weights, fields and noise.

An optimizer writes `theta - lr * g * z` and gets a *recipe*: a small tree that says how to compute every element. It is
never a stored tensor of the model's size; the space evaluates it chunk by chunk, noise included, in one pass over
memory. All right-hand sides read the values from before the step.

    leaves       theta, Field, Noise, numbers, PerTensor (one number a tensor)
    arithmetic   + - * / **2, abs, sign, sqrt, clip, maximum, minimum, where, <= < >= >
    sums         weighted_sum([(c, z), ...]) for any number of noises

Precision: arithmetic is float64 where the weights are float64 and float32 otherwise; `sqrt` and `/` are computed in
float64 and rounded once. A number times a noise is exact (see `noise.coefficient`).

This module imports only `noise`: it knows nothing of models, memory or journals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from zotune import noise
from zotune.errors import RecipeError

__all__ = [
    "Field",
    "Noise",
    "PerTensor",
    "Recipe",
    "TensorInfo",
    "Theta",
    "absolute",
    "clip",
    "maximum",
    "minimum",
    "sign",
    "sqrt",
    "weighted_sum",
    "where",
]

Number = float | int


@dataclass(frozen=True)
class TensorInfo:
    """One tuned tensor, as optimizers see it.

    name: canonical name; shape: its shape; kind: "bias", "norm", "embedding", "linear" or "other", decided by the
    type of the module that owns it; block: index of the layer it belongs to, or None.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    block: int | None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class Recipe:
    """Base of everything that can stand in a recipe. Recipes are immutable and compare by identity."""

    __slots__ = ()
    __array_ufunc__ = None  # numpy scalars on the left defer to the methods below

    def __add__(self, other: Recipe | Number) -> Recipe:
        return _op("add", self, other)

    def __radd__(self, other: Number) -> Recipe:
        return _op("add", other, self)

    def __sub__(self, other: Recipe | Number) -> Recipe:
        return _op("sub", self, other)

    def __rsub__(self, other: Number) -> Recipe:
        return _op("sub", other, self)

    def __mul__(self, other: Recipe | Number) -> Recipe:
        return _op("mul", self, other)

    def __rmul__(self, other: Number) -> Recipe:
        return _op("mul", other, self)

    def __truediv__(self, other: Recipe | Number) -> Recipe:
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

    def __le__(self, other: Recipe | Number) -> Recipe:
        return _op("le", self, other)

    def __lt__(self, other: Recipe | Number) -> Recipe:
        return _op("lt", self, other)

    def __ge__(self, other: Recipe | Number) -> Recipe:
        return _op("ge", self, other)

    def __gt__(self, other: Recipe | Number) -> Recipe:
        return _op("gt", self, other)

    def __bool__(self) -> bool:
        raise RecipeError(
            "a recipe has no truth value while it is not evaluated; choose elements with where(cond, a, b)"
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
    """A stored tensor for every tuned tensor, kept by the space in float32 under its place in the state."""

    path: str


@dataclass(frozen=True, eq=False)
class Noise(Recipe):
    """A handle of noise: `kind` "normal" or "rademacher", fixed by (run seed, step, draw). Nothing is drawn or stored;
    a state may keep it and use it again steps later."""

    kind: str
    step: int
    draw: int


@dataclass(frozen=True, eq=False)
class Constant(Recipe):
    value: float


@dataclass(frozen=True, eq=False)
class PerTensor(Recipe):
    """One float for every tuned tensor, by canonical name. Arithmetic with numbers and with other PerTensors is done
    on the host in float64."""

    values: Mapping[str, float]

    def map(self, fn: Callable[[float], float]) -> PerTensor:
        return PerTensor({name: fn(v) for name, v in self.values.items()})


@dataclass(frozen=True, eq=False)
class Op(Recipe):
    name: str
    args: tuple[Recipe, ...]


@dataclass(frozen=True, eq=False)
class WeightedSum(Recipe):
    terms: tuple[tuple[float, Noise], ...]
    power: int


def absolute(x: Recipe) -> Recipe:
    """|x|, elementwise; `abs(x)` is the same."""
    return _op("abs", x)


def sign(x: Recipe | Number) -> Recipe:
    """-1, 0 or 1."""
    return _op("sign", x)


def sqrt(x: Recipe | Number) -> Recipe:
    """Square root, computed in float64 and rounded once."""
    return _op("sqrt", x)


def maximum(a: Recipe | Number, b: Recipe | Number) -> Recipe:
    return _op("maximum", a, b)


def minimum(a: Recipe | Number, b: Recipe | Number) -> Recipe:
    return _op("minimum", a, b)


def clip(x: Recipe | Number, low: Recipe | Number, high: Recipe | Number) -> Recipe:
    """min(max(x, low), high)."""
    return minimum(maximum(x, low), high)


def where(condition: Recipe, a: Recipe | Number, b: Recipe | Number) -> Recipe:
    """`a` where the condition holds, else `b`. A PerTensor condition holds where it is not 0."""
    return _op("where", condition, a, b)


def weighted_sum(pairs: Iterable[tuple[Number, Recipe]], power: int = 1) -> Recipe:
    """The sum of c * z**power over pairs (c, z) of a number and a noise; power is 1 or 2."""
    terms = tuple((float(c), z) for c, z in pairs)
    if power not in (1, 2):
        raise RecipeError(f"weighted_sum takes power 1 or 2, got {power!r}")
    for _, z in terms:
        if not isinstance(z, Noise):
            raise RecipeError(f"weighted_sum adds noises (at.normal(), at.rademacher()), got {type(z).__name__}")
    return WeightedSum(terms, power) if terms else Constant(0.0)  # type: ignore[arg-type]


# -- building: numbers are folded on the host -------------------------------------------------------------------------

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
    args = tuple(_lift(a) for a in operands)
    if all(_scalar(a) for a in args):
        return _fold(name, args)
    if name == "div" and _scalar(args[1]) and isinstance(args[0], Noise):
        return _op("mul", _fold("div", (Constant(1.0), args[1])), args[0])
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


# -- lowering: a tree becomes straight-line code, shared subtrees once ------------------------------------------------


@dataclass(frozen=True)
class Program:
    """Straight-line code for one or more recipes.

    code: instructions (operation, operands); an operand is the index of an earlier instruction. Numbers and noises are
    referred to by slot, so that two recipes of the same shape have equal code whatever their numbers and seeds.
    """

    code: tuple[tuple[Any, ...], ...]
    outputs: tuple[int, ...]
    scalars: tuple[Recipe, ...]
    noises: tuple[Noise, ...]


def lower(outputs: Sequence[Recipe]) -> Program:
    """Recipes to one program; a subtree that is shared by identity is computed once."""
    code: list[tuple[Any, ...]] = []
    scalars: list[Recipe] = []
    noises: list[Noise] = []
    done: dict[int, int] = {}
    keep: list[Recipe] = []  # `done` is keyed by id: nothing may be freed while it is in use

    def emit(*instruction: Any) -> int:
        code.append(instruction)
        return len(code) - 1

    def number(x: Recipe) -> int:
        scalars.append(x)
        return len(scalars) - 1

    def stream(z: Noise) -> int:
        noises.append(z)
        return len(noises) - 1

    def visit(x: Recipe) -> int:
        if id(x) not in done:
            keep.append(x)
            done[id(x)] = build(x)
        return done[id(x)]

    def build(x: Recipe) -> int:
        match x:
            case Theta():
                return emit("theta")
            case Field(path=path):
                return emit("field", path)
            case Constant() | PerTensor():
                return emit("scalar", number(x))
            case Noise():
                return emit("noise", x.kind, stream(x), number(Constant(1.0)))
            case WeightedSum(terms=terms, power=power):
                slots = tuple((z.kind, stream(z), number(Constant(c))) for c, z in terms)
                return emit("weighted_sum", power, slots)
            case Op(name="mul", args=(c, Noise() as z)) if _scalar(c):
                return emit("noise", z.kind, stream(z), number(c))
            case Op(name=name, args=args):
                return emit(name, *[visit(a) for a in args])
        raise RecipeError(f"not a recipe: {x!r}")

    out = tuple(visit(x) for x in outputs)
    return Program(tuple(code), out, tuple(scalars), tuple(noises))


def scalar_at(x: Recipe, tensor: str) -> float:
    """The number that stands for `x` on one tensor."""
    if isinstance(x, Constant):
        return x.value
    assert isinstance(x, PerTensor)
    try:
        return x.values[tensor]
    except KeyError:
        raise RecipeError(f"no per-tensor value for {tensor!r}") from None


class Chunk(Protocol):
    """What a program reads while it is evaluated on one piece of one tensor."""

    dtype: torch.dtype

    def theta(self) -> Tensor: ...
    def field(self, path: str) -> Tensor: ...
    def units(self, kind: str, slot: int) -> Tensor: ...


_TORCH: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "abs": torch.abs,
    "sign": torch.sign,
    "le": torch.le,
    "lt": torch.lt,
    "ge": torch.ge,
    "gt": torch.gt,
}
_MIRROR = {"le": "ge", "lt": "gt", "ge": "le", "gt": "lt"}


def run(program: Program, scalars: Sequence[float], chunk: Chunk) -> list[Tensor | float]:
    """Evaluate a program on one chunk. `scalars` are the numbers by slot; results are tensors in `chunk.dtype`, or a
    float where a recipe is one number for the whole tensor."""
    v: list[Tensor | float] = []
    dtype = chunk.dtype

    def scaled(kind: str, slot: int, value: float) -> Tensor:
        return chunk.units(kind, slot).to(dtype).mul_(noise.coefficient(value, kind, dtype))

    for name, *a in program.code:
        if name == "theta":
            x: Any = chunk.theta()
        elif name == "field":
            x = chunk.field(a[0])
        elif name == "scalar":
            x = scalars[a[0]]
        elif name == "noise":
            x = scaled(a[0], a[1], scalars[a[2]])
        elif name == "weighted_sum":
            x = None
            for kind, slot, number in a[1]:
                if a[0] == 1:
                    term = scaled(kind, slot, scalars[number])
                else:
                    z = scaled(kind, slot, 1.0)
                    term = z.mul_(z).mul_(scalars[number])
                x = term if x is None else x.add_(term)
        elif name == "div":
            p, q = v[a[0]], v[a[1]]
            x = (_double(p) / _double(q)).to(dtype)
        elif name == "sqrt":
            x = _double(v[a[0]]).sqrt().to(dtype)  # type: ignore[union-attr]
        elif name in ("maximum", "minimum"):
            x = _extremum(name, v[a[0]], v[a[1]])
        elif name == "where":
            c, p, q = (v[i] for i in a)
            if isinstance(c, float):
                x = p if c else q
            else:
                x = torch.where(c if c.dtype == torch.bool else c != 0, p, q).to(dtype)
        else:
            args = [v[i] for i in a]
            if isinstance(args[0], float) and len(args) == 2:  # torch wants its tensor first
                if name == "sub":
                    x = torch.sub(torch.full_like(args[1], args[0]), args[1])
                else:
                    x = _TORCH[_MIRROR.get(name, name)](args[1], args[0])
            else:
                x = _TORCH[name](*args)
            if name not in _BOOLEAN and x.dtype != dtype:  # arithmetic on a condition counts it as 0 or 1
                x = x.to(dtype)
        v.append(x)
    return [v[i] for i in program.outputs]


def _double(x: Tensor | float) -> Any:
    return x if isinstance(x, float) else x.double()


def _extremum(name: str, a: Any, b: Any) -> Tensor:
    if isinstance(a, float):
        a, b = b, a
    if isinstance(b, float):
        return torch.clamp_min(a, b) if name == "maximum" else torch.clamp_max(a, b)
    return torch.maximum(a, b) if name == "maximum" else torch.minimum(a, b)
