"""The space of tuned weights: reading, probing, and the only place that writes them.

While points are probed the base weights are read-only: a point is written to reused scratch and swapped in, either
module by module while a forward pass is under way (`probing`) or all at once into one copy, so nothing is ever restored
by subtraction and an exception anywhere leaves every bit as it was. The single write is `assign`, once a step, piece by
piece, with every right-hand side read before anything in the piece is written. Below float32 that write, and every
probe, rounds stochastically with the step's own stream: an accepted candidate is written exactly as it was evaluated,
and small updates are kept on average instead of lost.

Memory: the scratch or one copy of the tuned weights, plus the fields that the optimizer declares.
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

from zotune import seeds
from zotune.core import noise
from zotune.core.codegen import Output
from zotune.core.evaluation import SMALL, Evaluation, Keys, compute_dtype
from zotune.core.in_forward import InForward, outputs_of, same_outputs
from zotune.core.kernels import CHUNK, Kernels
from zotune.core.recipe import Field, Noise, Only, PerTensor, Recipe, TensorInfo, Theta, scalar_at
from zotune.core.state_codec import map_recipes
from zotune.errors import UsageError

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
        dtype = str(p.dtype).removeprefix("torch.")
        out[name] = TensorInfo(name, tuple(p.shape), _kind(*owners[id(p)]), int(block[1]) if block else None, dtype)
    return out


class Space:
    """The tuned tensors of one module.

    module: any torch module; its floating-point parameters that require grad are tuned, or those for which
    `select(TensorInfo)` is true. seed: the run seed, part of every noise key. compile: whether recipes are compiled.
    Raises UsageError where nothing is left to tune.
    """

    def __init__(
        self,
        module: nn.Module,
        seed: int,
        select: Callable[[TensorInfo], bool] | None = None,
        chunk: int = CHUNK,
        compile: bool = False,
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
        self.seed, self.step = seed, -1
        self.module = module
        self.kernels = Kernels(compile, chunk)
        self.params: dict[str, nn.Parameter] = chosen
        self.theta = Theta(tuple(infos[name] for name in chosen))
        self.fields: dict[str, dict[str, Tensor]] = {}
        self.in_forward: InForward | None = None
        self.most_in_forward: float = 1
        self.small = SMALL
        self._key_tables = Keys(self.key)
        self._rounded = any(p.dtype != compute_dtype(p.dtype) for p in chosen.values())
        self._keys = {name: seeds.name_key(name) for name in chosen}
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
        out = {
            name: torch.empty(p.shape, dtype=compute_dtype(p.dtype), device=p.device) for name, p in self.params.items()
        }
        evaluation = self.evaluation([Output(recipe, "out")])
        for name, x in out.items():
            evaluation.run(name, [x.view(-1)])
        return out

    def reduce(
        self, recipe: Recipe, fold: Callable[[Tensor], Any], join: Callable[[Sequence[Any]], float]
    ) -> dict[str, float]:
        """One float a tensor: `join` of what `fold` makes of each chunk of the recipe. Sums over chunks may differ in
        the last bits between machines, which is why whoever calls this journals the result."""
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
        """Of each tensor's elements in ascending order, the one at its place (from 0), by counting digits of 8 bits
        from the highest on: the memory of a chunk, whatever the tensor. NaN counts as the largest or smallest."""
        evaluation, out = self.evaluation([Output(recipe, "out")]), {}
        for name, p in self.params.items():
            dtype = compute_dtype(p.dtype)
            integers, digits = (torch.int64, 8) if dtype == torch.float64 else (torch.int32, 4)
            top = torch.iinfo(integers).min
            found, place = 0, places[name]
            for digit in reversed(range(digits)):
                counts = torch.zeros(256, dtype=torch.int64, device=p.device)
                for start in range(0, p.numel(), self.kernels.chunk):
                    part = torch.empty(min(self.kernels.chunk, p.numel() - start), dtype=dtype, device=p.device)
                    evaluation.run(name, [part], start)
                    x = part.view(integers)
                    x = torch.where(x < 0, ~x, x ^ top)  # ordered as the numbers are, when read as unsigned
                    if digit < digits - 1:
                        x = x[(x >> 8 * (digit + 1)) == found]
                    counts += torch.bincount((x >> 8 * digit) & 0xFF, minlength=256)
                below = torch.cumsum(counts, 0).tolist()
                value = next(k for k in range(256) if below[k] > place)
                place -= below[value - 1] if value else 0
                found = found * 256 + value if found or digit < digits - 1 else value - 256 * (value >= 128)
            bits = found ^ top if found < 0 else ~found
            out[name] = float(torch.tensor(bits, dtype=integers).view(dtype))
        return out

    @property
    def probe_bytes(self) -> int:
        """Memory that probes have needed so far: copies, and scratch of passes under way."""
        copied = sum(c.numel() * c.element_size() for c in self._copy.values())
        return copied + (self.in_forward.scratch.nbytes if self.in_forward else 0)

    def digest(self) -> str:
        """A hash of every bit of the tuned weights."""
        h = hashlib.blake2b(digest_size=16)
        for name, p in self.params.items():
            h.update(name.encode())
            h.update(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return h.hexdigest()

    # -- probing -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def at(self, point: Recipe, forwards: int | None = None) -> Iterator[None]:
        """The module's weights are those of `point` inside the block, and untouched after it, whatever happens.

        forwards: forward passes that the block is going to make, where that is known. For no more than
        `most_in_forward` the weights are swapped in while a pass is under way, where `probe_in_forward` has found that
        to work; for more they are written once, to a copy.
        """
        if isinstance(point, Theta):
            yield
            return
        probes = self.in_forward if forwards is not None and forwards <= self.most_in_forward else None
        evaluation = self.evaluation([Output(point, "out", self._rounded)])
        copied = list(self.params) if probes is None else [n for n in self.params if n not in probes.names]
        for name in copied:
            if name not in self._copy:
                self._copy[name] = torch.empty_like(self.params[name].data)
        evaluation.run_all(copied, self._copy)
        base = {name: p.data for name, p in self.params.items()}
        try:
            for name in copied:
                self.params[name].data = self._copy[name]
            with probes.probing(evaluation) if probes else contextlib.nullcontext():
                yield
        finally:
            for name, p in self.params.items():
                p.data = base[name]

    def write(self, point: Recipe, outs: Mapping[str, Tensor]) -> None:
        """The weights of `point`, as a probe sees them, to tensors like the tuned ones, by name."""
        if isinstance(point, Theta):
            for name, p in self.params.items():
                outs[name].copy_(p.data)
        else:
            self.evaluation([Output(point, "out", self._rounded)]).run_all(list(self.params), outs)

    def probe_in_forward(self, forward: Callable[[], Any]) -> list[str]:
        """Find out which tensors may be probed while a forward pass is under way, and do so from now on.

        forward: one forward pass as the objective makes it; what the module returned in it is compared. A tensor
        qualifies where base weights of NaN, and scratch that is NaN again when its module is left, change no bit of the
        output: no one reads it but the module that owns it, while it runs. Returns the names that do not qualify and
        are probed by copy, as before. So are tensors of at most SMALL elements: all of them together are no memory, and
        cheaper to write in one go than one by one in the middle of a pass.
        """
        self.in_forward = None
        point = self.theta + 0.0 * Noise("normal", -1, 0)  # the weights themselves, so that none need be copied
        with outputs_of(self.module) as expected, InForward.watch(self.module) as called:
            forward()
        if not expected or InForward.refuses(self.module):  # called in parts only: nothing to compare
            return list(self.params)
        found = InForward(self.module, self.params, called)

        def agrees(names: Sequence[str]) -> bool:
            found.names = frozenset(names)
            self.in_forward = found
            try:
                with found.poisoned(), outputs_of(self.module) as got, self.at(point, 1):
                    forward()
            except Exception:  # whatever a model raises on NaN: it read a weight that it should not see
                return False
            finally:
                self.in_forward = None
            return same_outputs(expected, got)

        large = [n for n, p in self.params.items() if p.numel() > self.small]
        bad = _culprits(large, agrees)
        found.names = frozenset(large) - set(bad)
        if found.names:
            self.in_forward = found
            self._copy = {n: c for n, c in self._copy.items() if n not in found.names}
        return bad

    # -- writing -------------------------------------------------------------------------------------------------------

    def assign(self, theta: Recipe, state: Any = None) -> Any:
        """Write the next weights and fields in one pass; returns the state with its recipes replaced by fields.

        The pass cannot be torn by Ctrl-C: the interrupt is delivered after it.
        """
        targets: dict[str, Recipe] = {}
        masks: dict[str, PerTensor] = {}

        def place(path: str, recipe: Recipe) -> Field:
            if isinstance(recipe, Only):
                masks[path] = recipe.mask
                recipe = recipe.recipe
            if not (isinstance(recipe, Field) and recipe.path == path):
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
        resized = {path: self._allocate(path, mask) for path, mask in masks.items() if path not in targets}
        outputs = [] if isinstance(theta, Theta) else [Output(theta, "theta", self._rounded)]
        outputs += [Output(recipe, f"field {path}") for path, recipe in targets.items()]
        with _uninterrupted():
            if outputs:
                readable = {path: {**old.get(path, {}), **f} for path, f in fields.items()}  # also what goes
                evaluation = self.evaluation(outputs, {**old, **readable})
                evaluation.run_all(list(self.params))
            self.fields = {path: f for path, f in {**old, **resized, **fields}.items() if path in kept}
        return new_state

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Overwrite the tuned weights with saved ones of the same names and shapes."""
        for name, p in self.params.items():
            p.data.copy_(weights[name].to(p.dtype))

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the tuned weights on the CPU."""
        return {name: p.data.detach().to("cpu", copy=True) for name, p in self.params.items()}

    def _allocate(self, path: str, mask: PerTensor | None) -> dict[str, Tensor]:
        known = self.fields.get(path, {})
        names = [n for n in self.params if mask is None or scalar_at(mask, n)]
        return {n: known[n] if n in known else self._empty_field(self.params[n]) for n in names}

    @staticmethod
    def _empty_field(p: Tensor) -> Tensor:
        return torch.zeros(p.shape, dtype=compute_dtype(p.dtype), device=p.device)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def key(self, name: str, z: Noise) -> int:
        """The 64-bit key of one tensor's noise; rounding belongs to the step under way."""
        step = self.step if z.kind == "rounding" else z.step
        return noise.stream_key(self.seed, step, z.draw, z.kind, self._keys[name])

    def evaluation(
        self, outputs: Sequence[Output], fields: Mapping[str, Mapping[str, Tensor]] | None = None
    ) -> Evaluation:
        base = {name: p.data for name, p in self.params.items()}
        return Evaluation(outputs, base, self.fields if fields is None else fields, self.kernels, self._key_tables)


def _culprits(names: list[str], agrees: Callable[[Sequence[str]], bool]) -> list[str]:
    """The names that no agreeing set may hold, by halving."""
    if agrees(names):
        return []
    if len(names) == 1:
        return names
    half = len(names) // 2
    return _culprits(names[:half], agrees) + _culprits(names[half:], agrees)


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


__all__ = ["CHUNK", "Space", "canonical_name", "describe", "named_tensors"]
