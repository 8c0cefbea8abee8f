"""The space of tuned weights: reading, probing, and the only place that writes them.

While points are probed the base weights are read-only: a point is written to one reused copy and swapped in, so nothing
is ever restored by subtraction and an exception anywhere leaves every bit as it was. The single write is `assign`, once
a step, chunk by chunk, with every right-hand side read before anything in the chunk is written. Below float32 that
write, and every probe, rounds stochastically with the step's own stream: an accepted candidate is written exactly as it
was evaluated, and small updates are kept on average instead of lost.

Memory: one copy of the tuned weights, plus the fields that the optimizer declares.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zotune import keys, noise
from zotune.errors import RecipeError, UsageError
from zotune.recipe import Field, PerTensor, Program, Recipe, TensorInfo, Theta, lower, run, scalar_at
from zotune.state import map_recipes

CHUNK = 1 << 18
"""Elements evaluated at a time: a few megabytes of temporaries, small enough for the cache. A power of two >= 32, so
that a chunk never straddles a noise block."""

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:base_model\.model|_orig_mod|base_layer|_fsdp_wrapped_module)\.")
_BLOCK = re.compile(r"(?:^|\.)(\d+)\.")


def canonical_name(name: str) -> str:
    """A parameter's name without the prefixes that wrappers (peft, torch.compile) add."""
    return _WRAPPERS.sub("", name)


def named_tensors(module: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by canonical name. A tied parameter counts once, under the first of its sorted names."""
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, p in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(canonical_name(name))
        parameters[id(p)] = p
    return {min(names[key]): p for key, p in sorted(parameters.items(), key=lambda item: min(names[item[0]]))}


def _kind(owner: nn.Module, leaf: str) -> str:
    norms = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    if isinstance(owner, norms) or "norm" in type(owner).__name__.lower():
        return "norm"
    if leaf == "bias":
        return "bias"
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    convolutions = (nn.Linear, nn.modules.conv._ConvNd)
    return "linear" if isinstance(owner, convolutions) or type(owner).__name__ == "Conv1D" else "other"


def describe(module: nn.Module) -> dict[str, TensorInfo]:
    """TensorInfo of every parameter by canonical name, its kind decided by the type of the owning module."""
    owners: dict[int, tuple[nn.Module, str]] = {}
    for owner in module.modules():
        for leaf, p in owner.named_parameters(recurse=False, remove_duplicate=False):
            if id(p) not in owners or isinstance(owner, nn.Embedding):  # tied: the embedding owns
                owners[id(p)] = (owner, leaf)
    out = {}
    for name, p in named_tensors(module).items():
        block = _BLOCK.search(name)
        out[name] = TensorInfo(name, tuple(p.shape), _kind(*owners[id(p)]), int(block[1]) if block else None)
    return out


class Space:
    """The tuned tensors of one module.

    module: any torch module; its floating-point parameters that require grad are tuned, or those for which
    `select(TensorInfo)` is true. seed: the run seed, part of every noise key. Raises UsageError where nothing is
    left to tune.
    """

    def __init__(
        self, module: nn.Module, seed: int, select: Callable[[TensorInfo], bool] | None = None, chunk: int = CHUNK
    ) -> None:
        if chunk < 32 or chunk & (chunk - 1):
            raise UsageError(f"chunk must be a power of two of at least 32, got {chunk}")
        infos = describe(module)
        chosen = {
            name: p
            for name, p in named_tensors(module).items()
            if p.is_floating_point() and p.numel() and (select(infos[name]) if select else p.requires_grad)
        }
        if not chosen:
            raise UsageError("no weight is left to tune", hint="loosen --tune, or set requires_grad on some parameters")
        self.seed, self.chunk, self.step = seed, chunk, -1
        self.params: dict[str, nn.Parameter] = chosen
        self.theta = Theta(tuple(infos[name] for name in chosen))
        self.fields: dict[str, dict[str, Tensor]] = {}
        self._keys = {name: keys.name_key(name) for name in chosen}
        if len(set(self._keys.values())) != len(self._keys):
            raise UsageError("two parameter names have the same 64-bit hash; rename one")
        self._copy: dict[str, Tensor] = {}
        for p in chosen.values():
            if not p.data.is_contiguous():
                p.data = p.data.contiguous()

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def numel(self) -> int:
        return sum(p.numel() for p in self.params.values())

    def value(self, recipe: Recipe) -> dict[str, Tensor]:
        """The recipe as tensors, by name, in the dtype of its arithmetic. For tests and inspection: it allocates."""
        out = {name: torch.empty(p.shape, dtype=_compute(p.dtype), device=p.device) for name, p in self.params.items()}
        self._evaluate([recipe], lambda name, part, values: _fill(out[name].view(-1)[part], values[0]))
        return out

    def reduce(self, recipe: Recipe, fn: Callable[[Sequence[Tensor]], float]) -> dict[str, float]:
        """One float a tensor: `fn` of the recipe's float64 chunks. Sums over chunks may differ in the last bits between
        machines, which is why whoever calls this journals the result."""
        parts: dict[str, list[Tensor]] = {name: [] for name in self.params}

        def collect(name: str, part: slice, values: list[Any]) -> None:
            x = values[0]
            like = self.params[name].view(-1)[part]
            parts[name].append(x.double() if isinstance(x, Tensor) else torch.full_like(like, x, dtype=torch.float64))

        out = {}
        for name in self.params:
            self._evaluate([recipe], collect, only=name)
            out[name] = fn(parts.pop(name))
        return out

    def digest(self) -> str:
        """A hash of every bit of the tuned weights."""
        h = hashlib.blake2b(digest_size=16)
        for name, p in self.params.items():
            h.update(name.encode())
            h.update(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return h.hexdigest()

    # -- probing -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def at(self, point: Recipe) -> Iterator[None]:
        """The module's weights are those of `point` inside the block, and untouched after it, whatever happens."""
        if isinstance(point, Theta):
            yield
            return
        if not self._copy:
            self._copy = {name: torch.empty_like(p.data) for name, p in self.params.items()}
        copy = self._copy
        self._evaluate([point], lambda name, part, values: self._store(copy[name].view(-1), name, part, values[0]))
        base = {name: p.data for name, p in self.params.items()}
        try:
            for name, p in self.params.items():
                p.data = copy[name]
            yield
        finally:
            for name, p in self.params.items():
                p.data = base[name]

    # -- writing -------------------------------------------------------------------------------------------------------

    def assign(self, theta: Recipe, state: Any = None) -> Any:
        """Write the next weights and fields in one pass; returns the state with its recipes replaced by fields.

        The pass cannot be torn by Ctrl-C: the interrupt is delivered after it.
        """
        targets: dict[str, Recipe] = {}

        def place(path: str, recipe: Recipe) -> Field:
            if not (isinstance(recipe, Field) and recipe.path == path):
                targets[path] = recipe
            return Field(path)

        kept: set[str] = set()
        new_state = map_recipes(state, place)
        map_recipes(new_state, lambda path, _: kept.add(path))
        fields = {path: self.fields.get(path) or self._allocate() for path in targets}
        outputs = [theta, *targets.values()]
        if isinstance(theta, Theta):
            outputs = outputs[1:]

        leaves = [isinstance(r, Theta | Field) for r in outputs]

        def write(name: str, part: slice, values: list[Any]) -> None:
            values = [v.clone() if leaf else v for v, leaf in zip(values, leaves, strict=True)]  # no views of targets
            if not isinstance(theta, Theta):
                self._store(self.params[name].data.view(-1), name, part, values[0])
                values = values[1:]
            for path, value in zip(targets, values, strict=True):
                _fill(fields[path][name].view(-1)[part], value)

        with _uninterrupted():
            if outputs:
                self._evaluate(outputs, write)
            self.fields = {p: f for p, f in {**self.fields, **fields}.items() if p in kept}
        return new_state

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Overwrite the tuned weights with saved ones of the same names and shapes."""
        for name, p in self.params.items():
            p.data.copy_(weights[name].to(p.dtype))

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the tuned weights on the CPU."""
        return {name: p.data.detach().to("cpu", copy=True) for name, p in self.params.items()}

    def _allocate(self) -> dict[str, Tensor]:
        return {n: torch.zeros(p.shape, dtype=_compute(p.dtype), device=p.device) for n, p in self.params.items()}

    def _store(self, flat: Tensor, name: str, part: slice, value: Any) -> None:
        if isinstance(value, Tensor) and flat.dtype != value.dtype:
            key = noise.stream_key(self.seed, self.step, 0, "rounding", self._keys[name])
            words = noise.units("rounding", key, part.start, value.numel(), value.device)
            value = round_stochastically(value, flat.dtype, words)
        _fill(flat[part], value)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def _evaluate(
        self, recipes: Sequence[Recipe], sink: Callable[[str, slice, list[Any]], None], only: str | None = None
    ) -> None:
        """Run the recipes over every tensor, chunk by chunk, and hand the values to `sink`."""
        program = lower(recipes)
        with torch.no_grad():
            for name in [only] if only else self.params:
                p = self.params[name]
                flat = p.data.view(-1)
                scalars = [scalar_at(s, name) for s in program.scalars]
                keys = [noise.stream_key(self.seed, z.step, z.draw, z.kind, self._keys[name]) for z in program.noises]
                for start in range(0, flat.numel(), self.chunk):
                    part = slice(start, min(start + self.chunk, flat.numel()))
                    sink(name, part, run(program, scalars, _Chunk(self, name, flat, part, keys)))


class _Chunk:
    """One piece of one tensor, as `recipe.run` reads it."""

    def __init__(self, space: Space, name: str, flat: Tensor, part: slice, keys: list[int]) -> None:
        self._space, self._name, self._flat, self._part, self._keys = space, name, flat, part, keys
        self.dtype = _compute(flat.dtype)

    def theta(self) -> Tensor:
        return self._flat[self._part].to(self.dtype)

    def field(self, path: str) -> Tensor:
        try:
            return self._space.fields[path][self._name].view(-1)[self._part]
        except KeyError:
            raise RecipeError(f"no field {path!r} is stored; fields: {sorted(self._space.fields)}") from None

    def units(self, kind: str, slot: int) -> Tensor:
        start, stop = self._part.start, self._part.stop
        return noise.units(kind, self._keys[slot], start, stop - start, self._flat.device)


def _compute(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _fill(target: Tensor, value: Any) -> None:
    if isinstance(value, Tensor):
        target.copy_(value)
    else:
        target.fill_(value)


def round_stochastically(x: Tensor, dtype: torch.dtype, words: Tensor) -> Tensor:
    """float32 `x` rounded to bfloat16 or float16, up or down with probability by distance; int32 `words` decide.

    Values that the dtype holds exactly stay as they are.
    """
    if dtype == torch.bfloat16:
        bits = x.view(torch.int32)
        return (bits + (words & 0xFFFF)).bitwise_and_(-0x10000).view(torch.float32).to(dtype)
    if dtype == torch.float16:
        exponent = ((x.view(torch.int32) >> 23) & 0xFF).clamp_min_(127 - 14)  # subnormals share the smallest quantum
        quantum = ((exponent - 10) << 23).view(torch.float32)
        uniform = (words & 0x1FFF).to(torch.float32) * 2.0**-13
        rounded = torch.floor(x / quantum + uniform) * quantum
        return torch.where(torch.isfinite(x), rounded, x).to(dtype)
    raise UsageError(f"weights of dtype {dtype} cannot be tuned; use float32, bfloat16, float16 or float64")


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is done (main thread only; elsewhere Python delivers none)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for s in old:
        signal.signal(s, lambda number, _: pending.append(number))
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, signal.SIG_DFL if handler is None else handler)
        for number in pending:
            signal.raise_signal(number)


__all__ = ["CHUNK", "PerTensor", "Program", "Space", "canonical_name", "describe", "named_tensors"]
