"""Code generation: recipes as straight-line code, written once and run in two ways.

`lower` turns recipes into the source of one Python function over flat tensors. Numbers, keys and fields are arguments,
so all steps of an optimizer that write the same expression share one source. The source runs chunk by chunk as plain
Python (eager), or compiled into one kernel (`kernels`): the same operations in the same order, and the same bits. The
source of theta + c * z:

    def kernel(theta, a1, s, k, n):
        i = place(n, k)
        v0 = load(theta)
        u0 = units_normal(i, k[0], k[1])
        v1 = u0 * s[0]
        v2 = v0 + v1
        store(a1, rounded(v2, a1, i, k[2], k[3]))

Knows recipes and noise; knows no model, no memory and no journal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zotune.core import noise
from zotune.core.recipe import (
    Bits,
    Constant,
    DirectionSum,
    Each,
    Factor,
    Field,
    Noise,
    Only,
    Op,
    Outer,
    PerTensor,
    Recipe,
    Theta,
    WeightedSum,
)
from zotune.core.rounding import change_of, round_sum, round_value
from zotune.errors import RecipeError

BATCH = 8
"""Terms of a weighted sum that one call of a kernel adds."""


@dataclass(frozen=True)
class Output:
    """A recipe and where its values go.

    target: "theta" or "field NAME" in place, or "out", a tensor of its own. rounded: the version of stochastic rounding
    (`rounding`), with the step's noise, where the target is narrower than the arithmetic; 0: none.
    """

    recipe: Recipe
    target: str
    rounded: int = 0


@dataclass(frozen=True)
class Program:
    """One function over flat tensors.

    text: its source. inputs: its tensor arguments in order: "theta", "field NAME", "sum J", "outer J", and "out J" for
    the J-th output. scalars: the numbers s, each with the kind of noise that it multiplies, if any. streams: the noise
    of the keys k, two words each; the last word of k is the index of the first element. The last argument n selects the
    elements (see `vocabulary`). targets: the inputs that are written. sums, outers: the weighted sums and outer
    products that "sum J" and "outer J" stand for.
    """

    text: str
    inputs: tuple[str, ...]
    scalars: tuple[tuple[Recipe, str | None], ...]
    streams: tuple[Noise, ...]
    sums: tuple[WeightedSum, ...]
    outers: tuple[Outer | DirectionSum, ...]
    targets: frozenset[str]

    @functools.cached_property
    def reads(self) -> tuple[tuple[str, str], ...]:
        """The inputs as pairs, such as ("field", "m")."""
        return tuple((what, which) for what, _, which in (i.partition(" ") for i in self.inputs))

    @property
    def buffered(self) -> bool:
        """Whether it reads a sum or an outer product, which is computed into a buffer before."""
        return bool(self.sums or self.outers)


_INFIX = {"add": "+", "sub": "-", "mul": "*", "le": "<=", "lt": "<", "ge": ">=", "gt": ">"}
_CONDITIONS = frozenset({"le", "lt", "ge", "gt"})


class _Writer:
    """Writes the source of a program while it walks recipes. A subtree that recipes share is written once."""

    def __init__(self, absent: Collection[str]) -> None:
        self.absent = absent
        self.lines: list[str] = []
        self.inputs: dict[str, str] = {}
        self.scalars: list[tuple[Recipe, str | None]] = []
        self.streams: dict[tuple[str, int, int], tuple[int, Noise]] = {}
        self.sums: list[WeightedSum] = []
        self.outers: list[Outer | DirectionSum] = []
        self.conditions: set[str] = set()
        self._done: dict[int, str] = {}
        self._loaded: dict[str, str] = {}
        self._keep: list[Recipe] = []  # `_done` is keyed by id, so no recipe may be freed
        self._count = 0

    def let(self, expression: str) -> str:
        name = f"v{self._count}"
        self._count += 1
        self.lines.append(f"{name} = {expression}")
        return name

    def argument(self, what: str) -> str:
        return self.inputs.setdefault(what, "theta" if what == "theta" else f"a{len(self.inputs)}")

    def load(self, what: str) -> str:
        if what not in self._loaded:
            self._loaded[what] = self.let(f"load({self.argument(what)})")
        return self._loaded[what]

    def number(self, x: Recipe, kind: str | None = None) -> str:
        self.scalars.append((x, kind))
        return f"s[{len(self.scalars) - 1}]"

    def stream(self, z: Noise) -> str:
        slot, _ = self.streams.setdefault((z.kind, z.step, z.draw), (len(self.streams), z))
        return f"k[{2 * slot}], k[{2 * slot + 1}]"

    def units(self, z: Noise) -> str:
        written = (z.kind, z.step, z.draw) in self.streams
        keys = self.stream(z)
        name = f"u{keys}".replace("[", "").replace("]", "").replace(", ", "_")
        if not written:
            self.lines.append(f"{name} = units_{z.kind}(i, {keys})")
        return name

    def visit(self, x: Recipe) -> str:
        if id(x) not in self._done:
            self._keep.append(x)
            self._done[id(x)] = self.build(x)
        return self._done[id(x)]

    def value(self, x: Recipe) -> str:
        """As `visit`, with a condition as the number 0 or 1."""
        name = self.visit(x)
        return f"as_number({name})" if name in self.conditions else name

    def build(self, x: Recipe) -> str:
        match x:
            case Theta():
                return self.load("theta")
            case Field(path=path):
                what = f"field {path}"
                return self.number(Constant(0.0)) if what in self.absent else self.load(what)
            case Constant() | PerTensor():
                return self.number(x)
            case Noise():
                return self.let(f"{self.units(x)} * {self.number(Constant(1.0), x.kind)}")
            case WeightedSum(terms=((c, z),), power=1):
                return self.let(f"{self.units(z)} * {self.number(Constant(c), z.kind)}")
            case WeightedSum():
                self.sums.append(x)
                return self.load(f"sum {len(self.sums) - 1}")
            case Outer() | DirectionSum():
                self.outers.append(x)
                what = f"outer {len(self.outers) - 1}"
                return self.number(Constant(0.0)) if what in self.absent else self.load(what)
            case Op(name="mul", args=(Constant() | PerTensor() as c, Noise() as z)):
                return self.let(f"{self.units(z)} * {self.number(c, z.kind)}")
            case Op(name="where", args=(condition, a, b)):
                test = self.visit(condition)
                test = test if test in self.conditions else f"{test} != 0"
                return self.let(f"choose({test}, {self.value(a)}, {self.value(b)})")
            case Op(name=name, args=args):
                values = [self.value(a) for a in args]
                if name not in _INFIX:
                    return self.let(f"{name}({', '.join(values)})")
                out = self.let(f"{values[0]} {_INFIX[name]} {values[1]}")
                if name in _CONDITIONS:
                    self.conditions.add(out)
                return out
            case Only():
                raise RecipeError("only(...) selects what a state stores; it cannot stand inside arithmetic")
            case Bits():
                raise RecipeError("bits(...) is how a state stores a condition; it cannot stand inside arithmetic")
        raise RecipeError(f"not a recipe: {x!r}")


ROUNDING = Noise("rounding", 0, 0)
"""The step's rounding noise, among a program's streams."""


def lower(outputs: Sequence[Output], absent: Collection[str] = ()) -> Program:
    """One program for these recipes. Every right-hand side is computed before anything is stored.

    absent: inputs ("field NAME", "outer J") that the tensors at hand lack; they read as 0. Raises RecipeError.
    """
    w = _Writer(absent)
    changes = [change_of(o.recipe) if o.rounded > 1 else None for o in outputs]
    values = [
        w.value(o.recipe) if change is None else f"{w.load('theta')}, {w.value(change)}"
        for o, change in zip(outputs, changes, strict=True)
    ]
    stores = []
    for j, (o, value, change) in enumerate(zip(outputs, values, changes, strict=True)):
        target = w.argument(f"out {j}" if o.target == "out" else o.target)
        if len(outputs) > 1 and change is None and isinstance(o.recipe, Theta | Field):
            value = w.let(f"apart({value})")  # no view of memory that another line overwrites
        if o.rounded > 1:
            value += "" if change is not None else f", {w.number(Constant(0.0))}"
            value = f"rounded_sum({value}, {target}, i, {w.stream(ROUNDING)})"
        elif o.rounded:
            value = f"rounded({value}, {target}, i, {w.stream(ROUNDING)})"
        stores.append(f"store({target}, {value})")
    arguments = [*w.inputs.values(), "s", "k", "n"]
    lines = [f"def kernel({', '.join(arguments)}):", "    i = place(n, k)"]
    text = "\n".join([*lines, *(f"    {line}" for line in w.lines + stores)]) + "\n"
    streams = tuple(z for _, z in w.streams.values())
    targets = frozenset(f"out {j}" if o.target == "out" else o.target for j, o in enumerate(outputs))
    return Program(text, tuple(w.inputs), tuple(w.scalars), streams, tuple(w.sums), tuple(w.outers), targets)


def sum_text(kind: str, power: int) -> str:
    """Source that adds BATCH terms c * z**power to a buffer. A shorter batch is padded with c = 0, which changes no
    bit."""
    lines = ["def kernel(out, s, k, n):", "    i = place(n, k)", "    total = load(out)"]
    for j in range(BATCH):
        lines.append(f"    z = units_{kind}(i, k[{2 * j}], k[{2 * j + 1}]) * s[{2 * j}]")
        lines.append(f"    total = total + {'z' if power == 1 else f'(z * z) * s[{2 * j + 1}]'}")
    return "\n".join([*lines, "    store(out, total)"]) + "\n"


def sum_batches(kinds: Sequence[str]) -> list[tuple[str, range]]:
    """Runs of at most BATCH neighbouring terms of one kind, in order."""
    runs: list[tuple[str, range]] = []
    start = 0
    for end in range(1, len(kinds) + 1):
        if end == len(kinds) or kinds[end] != kinds[start] or end - start == BATCH:
            runs.append((kinds[start], range(start, end)))
            start = end
    return runs


def sum_scalars(c: float, kind: str, power: int, dtype: torch.dtype) -> tuple[float, float]:
    """The two numbers of one term of `sum_text`."""
    return (noise.coefficient(c if power == 1 else 1.0, kind, dtype), 0.0 if power == 1 else c)


def factor_value(x: Factor | Each, tensor: str, key: Callable[[Noise], int], device: torch.device) -> Tensor | None:
    """A factor of one tensor, or None where it has none. key: the 64-bit key of a stream for this tensor."""
    if isinstance(x, Factor):
        if tensor not in x.shapes:
            return None
        return noise.factor(key(Noise("factor", x.step, x.draw)), *x.shapes[tensor], device)
    parts = [factor_value(f, tensor, key, device) for f in x.factors]
    return None if any(p is None for p in parts) else x.fn(*parts)


def vocabulary(dtype: torch.dtype, fused: bool) -> dict[str, Any]:
    """The functions that a source calls, for arithmetic in `dtype`.

    fused: for the compiler, built of plain operations; otherwise built of what is fast where every operation is a pass
    over memory. Numbers are Python floats or 0-d float64 tensors, and conditions on them Python bools or 0-d bool
    tensors. n selects the elements: uncompiled, it is their Span or their indices (int32); compiled, it is 0, 1, 2 … on
    a CPU and any tensor of that many elements on a GPU, to which the index of the first element is added.
    """

    def wide(x: Any) -> Any:
        return x.double() if isinstance(x, Tensor) else x

    def narrow(x: Any) -> Any:
        return x.to(dtype) if isinstance(x, Tensor) else torch.tensor(x, dtype=dtype).item()

    def some(x: Any, like: torch.dtype = dtype) -> Tensor:
        """A number as a tensor: an operation may have numbers alone, where a tensor lacks a field."""
        return x if isinstance(x, Tensor) else torch.tensor(x, dtype=like)

    def apart(x: Tensor) -> Tensor:
        # a compiler drops a plain copy, and would read memory that was overwritten since
        return torch.maximum(x, x) if fused else x.clone()

    def div(a: Any, b: Any) -> Tensor:
        quotient: Tensor = wide(a) / (wide(b) if isinstance(a, Tensor) else some(wide(b), torch.float64))
        return quotient.to(dtype)

    def sqrt(x: Any) -> Tensor:
        values = some(x)
        if fused or values.device.type != "cpu":
            return values.double().sqrt().to(dtype)
        with np.errstate(invalid="ignore"):  # torch's float64 root on a CPU is wrong in the last bit of some values
            return torch.from_numpy(np.asarray(np.sqrt(values.double().numpy()))).to(dtype)

    def sign(x: Any) -> Tensor:
        values = some(x)
        return (values > 0).to(dtype) - (values < 0).to(dtype)

    def choose(condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, Tensor):
            return torch.where(condition, a, b).to(dtype)
        return narrow(a if condition else b)

    def maximum(a: Any, b: Any) -> Tensor:
        a = a if isinstance(b, Tensor) else some(a)
        return torch.where((a > b) | (a != a), a, b).to(dtype)  # of 0 and -0 the same one on all devices

    def minimum(a: Any, b: Any) -> Tensor:
        a = a if isinstance(b, Tensor) else some(a)
        return torch.where((a < b) | (a != a), a, b).to(dtype)

    def units(kind: str) -> Callable[..., Tensor]:
        return lambda i, k0, k1: noise.draw(kind, i, k0, k1).to(dtype)

    def place(n: Any, k: Any) -> Any:
        if not fused:
            return n
        if n.device.type == "cpu":
            return n.to(torch.int32) + k[-1]
        return torch.arange(n.numel(), dtype=torch.int32, device=n.device) + k[-1]

    def rounded(x: Any, like: Tensor, i: Any, k0: Any, k1: Any) -> Any:
        if like.dtype == dtype:
            return x
        if not isinstance(x, Tensor) or x.dim() == 0:
            x = torch.zeros(like.shape, dtype=dtype, device=like.device) + x
        return round_value(x, like.dtype, noise.draw("rounding", i, k0, k1))

    def rounded_sum(a: Any, b: Any, like: Tensor, i: Any, k0: Any, k1: Any) -> Any:
        if like.dtype == dtype:
            return a + b
        if not isinstance(a, Tensor) or a.dim() == 0:
            a = torch.zeros(like.shape, dtype=dtype, device=like.device) + a
        return round_sum(a, b, like.dtype, noise.rounding_words(i, k0, k1))

    def store(target: Tensor, value: Any) -> None:
        if isinstance(value, Tensor):
            target.copy_(value)
        else:
            target.fill_(value)

    return {
        "load": lambda x: x.to(dtype),
        "apart": apart,
        "as_number": lambda x: x.to(dtype) if isinstance(x, Tensor) else float(x),
        "abs": lambda x: torch.abs(some(x)),
        "sqrt": sqrt,
        "sign": sign,
        "div": div,
        "choose": choose,
        "maximum": maximum,
        "minimum": minimum,
        "units_normal": units("normal"),
        "units_rademacher": units("rademacher"),
        "place": place,
        "rounded": rounded,
        "rounded_sum": rounded_sum,
        "store": store,
    }


def function(text: str, dtype: torch.dtype, *, fused: bool) -> Callable[..., None]:
    """The function that a source defines, for arithmetic in `dtype`; a new code object at every call."""
    names = vocabulary(dtype, fused)
    exec(compile(text, f"<recipe {abs(hash((text, dtype, fused))):x}>", "exec"), names)
    kernel: Callable[..., None] = names["kernel"]
    return kernel
