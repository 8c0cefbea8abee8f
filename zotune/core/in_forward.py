"""Perturbing in the forward pass: no copy of the model, and the base weights are never written.

While the module that owns a tensor runs, its perturbed weights lie in reused scratch memory: they are written when the
module is entered and replace the base weights until it is left. Scratch memory is a stack, as large as what is live at
one time. A parameter belongs to every called module that holds it; where none of its holders is called, to their
nearest called ancestors. Of an embedding only the rows that a batch looks up are written.

Whether a tensor can be perturbed this way is tested on the model (`Space.perturb_in_forward`): inside `poisoned`, base
weights and left scratch memory are NaN, and the model must still return what it returns for written weights, bit for
bit.

Knows modules; knows no recipes and no metric.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

ALIGNMENT = 64
"""Every tensor in scratch memory starts at a multiple of so many elements."""
Place = tuple[torch.dtype, torch.device]


class PerturbedWeights(Protocol):
    """Writes the perturbed weights of a tensor to flat tensors: all of them, or some rows where `rowwise` is true."""

    def run(self, name: str, outs: Sequence[Tensor], *, rows: Tensor | None = None) -> None: ...

    def rowwise(self, name: str) -> bool: ...


class Scratch:
    """A stack of tensors in one reused buffer for each dtype and device."""

    def __init__(self) -> None:
        self._buffers: dict[Place, Tensor] = {}
        self._views: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self.top: dict[Place, int] = {}

    def push(self, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """Put an uninitialised tensor on top; returns it flat and in the shape of `like`.

        name: identifies the tensor, so that its views are made once.
        """
        place = (like.dtype, like.device)
        top = self.top.get(place, 0)
        self.top[place] = end = top + -(-like.numel() // ALIGNMENT) * ALIGNMENT
        views = self._views.get((name, top))
        if views is None:
            buffer = self._buffers.get(place)
            if buffer is None or end > buffer.numel():  # tensors below keep the old buffer alive until they are popped
                buffer = self._buffers[place] = torch.empty(end, dtype=like.dtype, device=like.device)
                self._views.clear()
            flat = buffer[top : top + like.numel()]
            views = self._views[name, top] = (flat, flat.view(like.shape))
        return views

    def pop(self, like: Tensor) -> None:
        """Take the topmost tensor, which has as many elements as `like`, off the stack."""
        self.top[like.dtype, like.device] -= -(-like.numel() // ALIGNMENT) * ALIGNMENT

    @property
    def nbytes(self) -> int:
        return sum(b.numel() * b.element_size() for b in self._buffers.values())


class InForward:
    """Wraps the forward of every module that owns tuned parameters, to swap perturbed weights in and out.

    params: the tuned parameters by name. called: modules that a forward pass calls (`called_modules`). names: the
    parameters that are perturbed this way, at first all of them.
    """

    def __init__(self, module: nn.Module, params: Mapping[str, nn.Parameter], called: Sequence[nn.Module]) -> None:
        self.params = params
        self.names = frozenset(params)
        self.scratch = Scratch()
        self._owners = owners(module, params, called)
        self._base: dict[str, Tensor] = {}
        self._poison = False

    @staticmethod
    def unsupported(module: nn.Module) -> str:
        """Why no tensor of the module can be perturbed this way, or "" where there is no such reason."""
        for m in module.modules():
            if isinstance(m, nn.DataParallel | nn.parallel.DistributedDataParallel):
                return f"{type(m).__name__} copies weights before its modules run"
            if isinstance(m, torch.jit.ScriptModule) or "_orig_mod" in m._modules:  # torch.compile's wrapper
                return "a compiled module reads weights at any time"
            hook = vars(m).get("_hf_hook")  # accelerate's; AlignDevicesHook has `offload`, others have not
            if hook is not None and vars(hook).get("offload"):
                return "offloaded weights are not on the device between calls"
        return ""

    @staticmethod
    @contextlib.contextmanager
    def called_modules(module: nn.Module) -> Iterator[list[nn.Module]]:
        """Yields a list that holds, after the block, the modules that were called inside it."""
        seen: dict[nn.Module, None] = {}
        called: list[nn.Module] = []
        handles = [m.register_forward_pre_hook(lambda m, _: seen.setdefault(m)) for m in module.modules()]
        try:
            yield called
        finally:
            called.extend(seen)
            for h in handles:
                h.remove()

    @contextlib.contextmanager
    def poisoned(self) -> Iterator[None]:
        """Inside the block, base weights are NaN outside their owners, and scratch memory is NaN before it is written
        and after it is left."""
        self._poison = True
        try:
            yield
        finally:
            self._poison = False

    @contextlib.contextmanager
    def perturbed(self, weights: PerturbedWeights) -> Iterator[None]:
        """Forward passes inside the block use perturbed weights; afterwards every parameter has its base data again."""
        self._base = {name: p.data for name, p in self.params.items() if name in self.names}
        patched: list[tuple[nn.Module, Any]] = []
        try:
            for module, names in self._owners.items():
                wanted = [name for name in names if name in self.names]
                if wanted:
                    patched.append((module, module.__dict__.get("forward")))
                    module.__dict__["forward"] = self._wrapped(module, module.forward, wanted, weights)
            if self._poison:
                for name, base in self._base.items():
                    self.params[name].data = base.new_full((), torch.nan).expand(base.shape)
            yield
        finally:
            for module, before in patched:
                if before is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = before
            for name, base in self._base.items():
                self.params[name].data = base
            self.scratch.top.clear()

    def _wrapped(
        self, module: nn.Module, forward: Callable[..., Any], names: Sequence[str], weights: PerturbedWeights
    ) -> Callable[..., Any]:
        """`forward` with the perturbed weights of `names` in place while it runs."""
        inside = False
        lookup = _is_lookup(module)

        @functools.wraps(forward)
        def perturbed_forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:  # a module that calls itself
                return forward(*args, **kwargs)
            inside = True
            swapped: list[tuple[nn.Parameter, Tensor, Tensor]] = []
            try:
                for name in names:
                    few = lookup and weights.rowwise(name)
                    rows = _looked_up_rows(self._base[name], args, kwargs) if few else None
                    self._swap_in(name, rows, weights, swapped)
                return forward(*args, **kwargs)
            finally:
                for p, before, flat in reversed(swapped):
                    p.data = before
                    if self._poison:
                        flat.fill_(torch.nan)
                    self.scratch.pop(flat)
                inside = False

        return perturbed_forward

    def _swap_in(self, name: str, rows: Tensor | None, weights: PerturbedWeights, swapped: list[Any]) -> None:
        p, base = self.params[name], self._base[name]
        flat, shaped = self.scratch.push(name, base)
        swapped.append((p, p.data, flat))
        if self._poison:
            flat.fill_(torch.nan)
        if rows is None:
            weights.run(name, [flat])
        else:
            part = base.new_empty(rows.numel() * base.shape[1])
            weights.run(name, [part], rows=rows)
            shaped.index_copy_(0, rows, part.view(-1, base.shape[1]))
        p.data = shaped


def _is_lookup(module: nn.Module) -> bool:
    """Whether the module reads nothing but rows of its weight."""
    plain = type(module).forward is nn.Embedding.forward and "forward" not in module.__dict__
    return plain and module.max_norm is None


def _looked_up_rows(weight: Tensor, args: Any, kwargs: Any) -> Tensor | None:
    """The rows of an embedding that this call looks up; None where writing all of them is cheaper."""
    ids = args[0] if args else kwargs.get("input")
    if not isinstance(ids, Tensor) or 4 * ids.numel() > 3 * weight.shape[0]:
        return None
    flat = ids.reshape(-1).long()
    # on a GPU a repeated row costs less than the wait that `unique` needs
    return torch.unique(flat) if flat.device.type == "cpu" else flat


def owners(
    module: nn.Module, params: Mapping[str, nn.Parameter], called: Sequence[nn.Module]
) -> dict[nn.Module, list[str]]:
    """For each called module, the parameters that are swapped in while it runs."""
    reached = set(called)
    parents: dict[nn.Module, list[nn.Module]] = {}
    for m in module.modules():
        for child in m.children():
            parents.setdefault(child, []).append(m)
    holders: dict[int, list[nn.Module]] = {}
    for m in module.modules():
        for p in m._parameters.values():
            if p is not None:
                holders.setdefault(id(p), []).append(m)

    def nearest_called(m: nn.Module) -> set[nn.Module]:
        """The nearest called ancestors, by every path."""
        nearest: set[nn.Module] = set()
        for parent in parents.get(m, []):
            nearest |= {parent} if parent in reached else nearest_called(parent)
        return nearest

    owned: dict[nn.Module, list[str]] = {}
    for name, p in params.items():
        holding = holders.get(id(p), [])
        for m in {m for m in holding if m in reached} or set().union(*(nearest_called(m) for m in holding)):
            owned.setdefault(m, []).append(name)
    return owned


@contextlib.contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Yields a list that collects copies of every tensor that the module returns inside the block, in order."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda m, args, output: outputs.extend(t.clone() for t in _tensors(output)))
    try:
        yield outputs
    finally:
        handle.remove()


def _tensors(x: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """The tensors in an output, in its containers and in the attributes of its objects (caches); each object once."""
    seen = set() if seen is None else seen
    if isinstance(x, Tensor):
        yield x
        return
    if isinstance(x, nn.Module | type) or id(x) in seen:
        return
    seen.add(id(x))
    if isinstance(x, Mapping):
        parts: Sequence[Any] = list(x.values())
    elif isinstance(x, list | tuple):
        parts = x
    else:
        try:
            parts = list(vars(x).values())
        except TypeError:  # a number, a text, an object with slots: no attributes to look at
            return
    for part in parts:
        yield from _tensors(part, seen)


def same_outputs(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal bit for bit."""
    return len(a) == len(b) and all(
        x.shape == y.shape and x.dtype == y.dtype and _bytes(x).equal(_bytes(y)) for x, y in zip(a, b, strict=True)
    )


def _bytes(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(-1).view(torch.uint8) if x.numel() else x.new_empty(0, dtype=torch.uint8)


__all__ = ["InForward", "Scratch", "outputs_of", "owners", "same_outputs"]
