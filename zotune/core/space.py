"""The space of tuned weights: reads them, perturbs them, and is the only place that writes them.

While points are evaluated the base weights are read-only. A point is written to reused memory and swapped in, either
module by module in the forward pass or all at once as a copy, so nothing is ever restored by subtraction, and an
exception anywhere leaves every bit unchanged. The single write is `assign`, once a step, chunk by chunk; every
right-hand side is read before anything in its chunk is written. Below float32 that write, and every perturbed point, is
rounded stochastically with the step's noise: an accepted candidate is written exactly as it was evaluated, and small
updates survive on average.

Memory: the scratch memory of a forward pass or one copy of the tuned weights, and the optimizer's fields.

Knows torch modules and recipes; knows no model family, no objective and no optimizer.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zotune import seeds
from zotune.core import bits, noise
from zotune.core.codegen import Output
from zotune.core.evaluation import SMALL, Evaluation, Keys, compute_dtype
from zotune.core.in_forward import InForward, outputs_of, same_outputs
from zotune.core.kernels import CHUNK, Kernels
from zotune.core.plain_parts import plain_parts
from zotune.core.recipe import Bits, Field, Noise, Only, PerTensor, Recipe, Theta, scalar_at
from zotune.core.rounding import VERSION
from zotune.core.state_codec import map_recipes
from zotune.errors import UsageError
from zotune.types import TensorInfo

T = TypeVar("T")
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:base_model\.model|_orig_mod|base_layer|_fsdp_wrapped_module)\.")
_BLOCK = re.compile(r"(?:^|\.)(\d+)\.")


def canonical_name(name: str) -> str:
    """A parameter's name without the prefixes that wrappers (peft, torch.compile) add."""
    return _WRAPPERS.sub("", name)


def named_tensors(module: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by canonical name. A tied parameter appears once, under the first of its sorted names."""
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
        dtype = str(p.dtype).removeprefix("torch.")
        out[name] = TensorInfo(name, tuple(p.shape), _kind(*owners[id(p)]), int(block[1]) if block else None, dtype)
    return out


class Space:
    """The tuned tensors of one module.

    module: any torch module. select: which floating-point parameters are tuned; by default those that require grad.
    seed: the run seed, part of every noise key. chunk: elements that an uncompiled recipe evaluates at a time, a power
    of two. compile: whether recipes are compiled. rounding: the version of stochastic rounding. Raises UsageError where
    no weight is selected, and where a selected one is complex or shares memory with another tensor. A tensor that is
    not contiguous is copied to contiguous memory.

    step: the present step, part of the key of stochastic rounding; rounding: its version, 0 where no weight is rounded.
    max_in_forward: the most forward passes of an evaluation for which weights are perturbed in the pass; an evaluation
    of more passes uses a copy. small: elements up to which a tensor is always perturbed by copy.
    version: of the weights that the module has now, another number for each point and each write. on_assign: called
    after each step's write with its recipe and the version before it.
    """

    def __init__(
        self,
        module: nn.Module,
        seed: int,
        select: Callable[[TensorInfo], bool] | None = None,
        chunk: int = CHUNK,
        compile: bool = False,
        rounding: int = VERSION,
    ) -> None:
        if chunk < 32 or chunk & (chunk - 1):
            raise UsageError(f"chunk must be a power of two of at least 32, got {chunk}")
        infos = describe(module)
        selected = {
            name: p
            for name, p in named_tensors(module).items()
            if p.numel() and (select(infos[name]) if select else p.requires_grad)
        }
        _check_tunable(module, selected)
        chosen = {name: p for name, p in selected.items() if p.is_floating_point()}
        if not chosen:
            raise UsageError("no weight is left to tune", hint="loosen --tune, or set requires_grad on some parameters")
        self.seed, self.step = seed, -1
        self.module = module
        self.kernels = Kernels(compile, chunk)
        self.params: dict[str, nn.Parameter] = chosen
        self.theta = Theta(tuple(infos[name] for name in chosen))
        self.fields: dict[str, dict[str, Tensor]] = {}
        self.in_forward: InForward | None = None
        self.max_in_forward: float = 1
        self.small = SMALL
        self._versions = itertools.count(1)
        self.version = 0
        self.on_assign: Callable[[Recipe, int], None] = lambda theta, before: None
        self._key_tables = Keys(self.key)
        self.rounding = rounding if any(p.dtype != compute_dtype(p.dtype) for p in chosen.values()) else 0
        self._keys = {name: seeds.name_key(name) for name in chosen}
        if len(set(self._keys.values())) != len(self._keys):
            raise UsageError("two parameter names have the same 64-bit hash; rename one")
        self._copy: dict[str, Tensor] = {}
        for p in chosen.values():
            if not p.data.is_contiguous():
                p.data = p.data.contiguous()

    @property
    def numel(self) -> int:
        """Number of tuned weights."""
        return sum(p.numel() for p in self.params.values())

    def value(self, recipe: Recipe) -> dict[str, Tensor]:
        """The recipe's values by tensor name, in the dtype of its arithmetic. For tests: it allocates."""
        out = {
            name: torch.empty(p.shape, dtype=compute_dtype(p.dtype), device=p.device) for name, p in self.params.items()
        }
        evaluation = self.evaluation([Output(recipe, "out")])
        for name, x in out.items():
            evaluation.run(name, [x.view(-1)])
        return out

    def reduce(self, recipe: Recipe, fold: Callable[[Tensor], Any], join: Callable[[Sequence[Any]], T]) -> dict[str, T]:
        """One value a tensor: `fold` reduces each chunk of the recipe, `join` the results of all chunks.

        Sums may differ in the last bits between machines, so callers journal the result.
        """
        evaluation, out = self.evaluation([Output(recipe, "out")]), {}
        for name, p in self.params.items():
            parts = []
            for start in range(0, p.numel(), self.kernels.chunk):
                count = min(self.kernels.chunk, p.numel() - start)
                part = torch.empty(count, dtype=compute_dtype(p.dtype), device=p.device)
                evaluation.run(name, [part], start)
                parts.append(fold(part))
            out[name] = join(parts)
        return out

    def ordered(self, recipe: Recipe, places: Mapping[str, int]) -> dict[str, float]:
        """An order statistic of each tensor: its element at an index (`places`, from 0) in ascending order.

        Radix selection on digits of 8 bits, in the memory of one chunk. NaN counts as the largest or smallest value.
        """
        evaluation, out = self.evaluation([Output(recipe, "out")]), {}
        for name, p in self.params.items():
            dtype = compute_dtype(p.dtype)
            integers, digits = (torch.int64, 8) if dtype == torch.float64 else (torch.int32, 4)
            top = torch.iinfo(integers).min
            prefix, place = 0, places[name]
            for digit in reversed(range(digits)):
                counts = torch.zeros(256, dtype=torch.int64, device=p.device)
                for start in range(0, p.numel(), self.kernels.chunk):
                    part = torch.empty(min(self.kernels.chunk, p.numel() - start), dtype=dtype, device=p.device)
                    evaluation.run(name, [part], start)
                    x = part.view(integers)
                    x = torch.where(x < 0, ~x, x ^ top)  # read as unsigned, in the order of the floats
                    if digit < digits - 1:
                        x = x[(x >> 8 * (digit + 1)) == prefix]
                    counts += torch.bincount((x >> 8 * digit) & 0xFF, minlength=256)
                below = torch.cumsum(counts, 0).tolist()
                value = next(k for k in range(256) if below[k] > place)
                place -= below[value - 1] if value else 0
                prefix = prefix * 256 + value if prefix or digit < digits - 1 else value - 256 * (value >= 128)
            bits = prefix ^ top if prefix < 0 else ~prefix
            out[name] = float(torch.tensor(bits, dtype=integers).view(dtype))
        return out

    @property
    def perturb_bytes(self) -> int:
        """Memory that perturbed weights have taken so far: copies, and scratch memory of forward passes."""
        copied = sum(c.numel() * c.element_size() for c in self._copy.values())
        return copied + (self.in_forward.scratch.nbytes if self.in_forward else 0)

    def digest(self) -> str:
        """A hash of every bit of the tuned weights."""
        h = hashlib.blake2b(digest_size=16)
        for name, p in self.params.items():
            h.update(name.encode())
            h.update(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return h.hexdigest()

    @contextlib.contextmanager
    def at(self, point: Recipe, forwards: int | None = None) -> Iterator[None]:
        """Inside the block the module has the weights of `point`; they are unchanged after it, also where it raises.

        forwards: forward passes that the block makes, None where unknown. Up to `max_in_forward` passes the weights are
        perturbed in the pass, for the tensors that `perturb_in_forward` found suitable; otherwise they are written
        once, to a copy.
        """
        if isinstance(point, Theta):
            yield
            return
        in_forward = None if self.copies(forwards) else self.in_forward
        evaluation = self.evaluation([Output(point, "out", self.rounding)])
        copied = list(self.params) if in_forward is None else [n for n in self.params if n not in in_forward.names]
        for name in copied:
            if name not in self._copy:
                self._copy[name] = torch.empty_like(self.params[name].data)
        evaluation.run_all(copied, self._copy)
        base, version = {name: p.data for name, p in self.params.items()}, self.version
        try:
            self.version = next(self._versions)
            for name in copied:
                self.params[name].data = self._copy[name]
            with in_forward.perturbed(evaluation) if in_forward else contextlib.nullcontext():
                yield
        finally:
            for name, p in self.params.items():
                p.data = base[name]
            self.version = version

    def copies(self, forwards: int | None) -> bool:
        """Whether all weights of a point are written to a copy before so many forward passes."""
        return self.in_forward is None or forwards is None or forwards > self.max_in_forward

    def write(self, point: Recipe, outs: Mapping[str, Tensor]) -> None:
        """Write the weights of `point`, as an evaluation sees them, to tensors like the tuned ones, by name."""
        if isinstance(point, Theta):
            for name, p in self.params.items():
                outs[name].copy_(p.data)
        else:
            self.evaluation([Output(point, "out", self.rounding)]).run_all(list(self.params), outs)

    def perturb_in_forward(self, forward: Callable[[], Any]) -> list[str]:
        """Test which tensors can be perturbed in the forward pass, and perturb those that way from here on.

        forward: makes one forward pass as the objective does; what the module returns in it is compared. A tensor
        qualifies where NaN in the base weights outside its module, and in scratch memory that was left, changes no bit
        of the output: only the module that owns the tensor reads it, while it runs. Returns the names of tensors that
        do not qualify; they are perturbed by copy. Tensors of at most `small` elements are copied too: they take little
        memory, and one write of all of them is cheaper than many during a pass.
        """
        self.in_forward = None
        point = self.theta + 0.0 * Noise("normal", -1, 0)  # equals theta, so that `expected` needs no copy
        with outputs_of(self.module) as expected, InForward.called_modules(self.module) as called:
            forward()
        if not expected or InForward.unsupported(self.module):  # no output of the whole module to compare
            return list(self.params)
        candidate = InForward(self.module, self.params, called)

        def agrees(names: Sequence[str]) -> bool:
            candidate.names = frozenset(names)
            self.in_forward = candidate
            try:
                with candidate.poisoned(), outputs_of(self.module) as outputs, self.at(point, 1):
                    forward()
            except Exception:  # a model may raise anything on NaN: it read a weight outside the module that owns it
                return False
            finally:
                self.in_forward = None
            return same_outputs(expected, outputs)

        large = [n for n, p in self.params.items() if p.numel() > self.small]
        bad = _disagreeing(large, agrees)
        candidate.names = frozenset(large) - set(bad)
        if candidate.names:
            self.in_forward = candidate
            self._copy = {n: c for n, c in self._copy.items() if n not in candidate.names}
        return bad

    def assign(self, theta: Recipe, state: Any = None) -> Any:
        """Write the next weights and fields in one pass; returns the state with its recipes replaced by fields.

        Ctrl-C and SIGTERM are delivered after the pass, so it is never half done.
        """
        targets: dict[str, Recipe] = {}
        masks: dict[str, PerTensor] = {}
        conditions: dict[str, Recipe] = {}

        def place(path: str, recipe: Recipe) -> Field:
            if isinstance(recipe, Only):
                masks[path] = recipe.mask
                recipe = recipe.recipe
            if isinstance(recipe, Bits):
                conditions[path] = recipe.condition
            elif not (isinstance(recipe, Field) and recipe.path == path):
                targets[path] = recipe
            return Field(path)

        kept: set[str] = set()
        new_state = map_recipes(state, place)
        map_recipes(new_state, lambda path, _: kept.add(path))
        old = self.fields
        for path, recipe in targets.items():
            if path not in masks and isinstance(recipe, Field) and recipe.path in old:
                masks[path] = PerTensor({n: float(n in old[recipe.path]) for n in self.params})
        fields = {path: self._allocate(path, masks.get(path)) for path in targets}
        computed = {*targets, *conditions}
        resized = {path: self._allocate(path, mask) for path, mask in masks.items() if path not in computed}
        packed = {path: self._pack(recipe, masks.get(path)) for path, recipe in conditions.items()}
        outputs = [] if isinstance(theta, Theta) else [Output(theta, "theta", self.rounding)]
        outputs += [Output(recipe, f"field {path}") for path, recipe in targets.items()]
        with _uninterrupted():
            if outputs:
                readable = {path: {**old.get(path, {}), **f} for path, f in fields.items()}  # old elements are read too
                evaluation = self.evaluation(outputs, {**old, **readable})
                evaluation.run_all(list(self.params))
            self.fields = {path: f for path, f in {**old, **resized, **fields, **packed}.items() if path in kept}
        if not isinstance(theta, Theta):
            before, self.version = self.version, next(self._versions)
            self.on_assign(theta, before)
        return new_state

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Overwrite the tuned weights with saved ones of the same names and shapes, converted to their dtypes."""
        self.version = next(self._versions)
        for name, p in self.params.items():
            p.data.copy_(weights[name].to(p.dtype))

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the tuned weights on the CPU."""
        return {name: p.data.detach().to("cpu", copy=True) for name, p in self.params.items()}

    def _allocate(self, path: str, mask: PerTensor | None) -> dict[str, Tensor]:
        stored = self.fields.get(path, {})
        if any(bits.is_packed(x) for x in stored.values()):  # only(mask, field) of a one-bit field
            return {n: x for n, x in stored.items() if mask is None or scalar_at(mask, n)}
        names = [n for n in self.params if mask is None or scalar_at(mask, n)]
        return {n: stored[n] if n in stored else self._empty_field(self.params[n]) for n in names}

    @staticmethod
    def _empty_field(p: Tensor) -> Tensor:
        return torch.zeros(p.shape, dtype=compute_dtype(p.dtype), device=p.device)

    def _pack(self, condition: Recipe, mask: PerTensor | None) -> dict[str, Tensor]:
        """A one-bit field: 1 where the condition, of the present weights and fields, holds."""
        packed = self.reduce(condition, bits.pack, lambda parts: torch.cat(list(parts)))
        return {n: x for n, x in packed.items() if mask is None or scalar_at(mask, n)}

    def key(self, name: str, z: Noise) -> int:
        """The 64-bit key of one tensor's noise. Rounding noise belongs to the present step."""
        step = self.step if z.kind == "rounding" else z.step
        return noise.stream_key(self.seed, step, z.draw, z.kind, self._keys[name])

    def evaluation(
        self, outputs: Sequence[Output], fields: Mapping[str, Mapping[str, Tensor]] | None = None
    ) -> Evaluation:
        """Recipes prepared to run on the tuned tensors, with these fields, by default the stored ones."""
        base = {name: p.data for name, p in self.params.items()}
        return Evaluation(outputs, base, self.fields if fields is None else fields, self.kernels, self._key_tables)


def _check_tunable(module: nn.Module, selected: Mapping[str, Tensor]) -> None:
    """Raise UsageError for a selected tensor that is complex, or whose memory another tensor, or another element of
    its own, uses too: noise for one would change the other."""
    for name, p in selected.items():
        if p.is_complex():
            raise UsageError(f"tensor {name} is complex: only real weights can be tuned", hint="leave it out of --tune")
    storages: dict[int, list[tuple[str, Tensor]]] = {}
    for name, x in [*named_tensors(module).items(), *module.named_buffers()]:
        for part in plain_parts(x):
            if part.numel() and part.layout == torch.strided and part.device.type != "meta":
                storages.setdefault(part.untyped_storage().data_ptr(), []).append((name, part))
    for tensors in storages.values():
        for name, x in tensors:
            if name not in selected:
                continue
            if any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)):
                raise UsageError(f"tensor {name} is expanded: its elements share memory and cannot be tuned one by one")
            for other, y in tensors:
                if other != name and _overlap(x, y):
                    raise UsageError(
                        f"tensors {name} and {other} share memory, so that tuning one changes the other",
                        hint="make them one parameter, or clone one",
                    )


def _overlap(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors of one storage have an element in common."""
    (x_low, x_high), (y_low, y_high) = _byte_range(x), _byte_range(y)
    if x_high <= y_low or y_high <= x_low:
        return False
    if x.is_contiguous() and y.is_contiguous():
        return True
    size, low = x.element_size(), min(x_low, y_low)
    if y.element_size() != size or (x_low - y_low) % size:
        return True
    used = torch.zeros((max(x_high, y_high) - low) // size, dtype=torch.bool)
    used.as_strided(x.shape, x.stride(), (x_low - low) // size).fill_(True)
    return bool(used.as_strided(y.shape, y.stride(), (y_low - low) // size).any())


def _byte_range(x: Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its storage, and the first one after it."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    start, size = int(x.storage_offset()), x.element_size()
    return start * size, (start + int(last) + 1) * size


def _disagreeing(names: list[str], agrees: Callable[[Sequence[str]], bool]) -> list[str]:
    """The names that make a set disagree, found by halving."""
    if agrees(names):
        return []
    if len(names) == 1:
        return names
    half = len(names) // 2
    return _disagreeing(names[:half], agrees) + _disagreeing(names[half:], agrees)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM until the block is done. Python delivers them to the main thread alone."""
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


__all__ = ["CHUNK", "Space", "canonical_name", "describe", "named_tensors"]
