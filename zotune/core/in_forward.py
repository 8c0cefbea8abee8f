"""Probing while a forward pass is under way: no copy of the model, and the base weights are never written.

While the module that owns a tensor runs, its probed weights lie in reused scratch, written when it is entered, and are
swapped in for the base weights. Scratch is a stack: as much as is live at one time is ever used. A parameter belongs to
every module that holds it and is called; where none is, to the nearest called ancestors of its holders. Of an embedding
only the rows that a batch looks up are written.

Who may be probed so is not believed but tried (`Space.probe_in_forward`): with `poisoned`, base weights and the scratch
that was left are NaN, and the module must return what it returns for written weights, bit for bit.

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
"""Elements: every tensor in scratch starts at a multiple."""
Place = tuple[torch.dtype, torch.device]


class Probe(Protocol):
    """What writes the probed weights of one tensor, or of those `rows` of it where it can, to flat tensors."""

    def run(self, name: str, outs: Sequence[Tensor], *, rows: Tensor | None = None) -> None: ...

    def rowwise(self, name: str) -> bool: ...


class Scratch:
    """A stack of tensors in one reused buffer for each dtype and device."""

    def __init__(self) -> None:
        self._buffers: dict[Place, Tensor] = {}
        self._views: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self.top: dict[Place, int] = {}

    def push(self, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """An uninitialised tensor of this shape on top, flat and as `like` is. name: of what lies there, to find the
        views again."""
        place = (like.dtype, like.device)
        top = self.top.get(place, 0)
        self.top[place] = end = top + -(-like.numel() // ALIGNMENT) * ALIGNMENT
        found = self._views.get((name, top))
        if found is None:
            buffer = self._buffers.get(place)
            if buffer is None or end > buffer.numel():  # what lies below keeps the old buffer alive until it is popped
                buffer = self._buffers[place] = torch.empty(end, dtype=like.dtype, device=like.device)
                self._views.clear()
            flat = buffer[top : top + like.numel()]
            found = self._views[name, top] = (flat, flat.view(like.shape))
        return found

    def pop(self, like: Tensor) -> None:
        """Take the topmost tensor, of as many elements, off again."""
        self.top[like.dtype, like.device] -= -(-like.numel() // ALIGNMENT) * ALIGNMENT

    @property
    def nbytes(self) -> int:
        return sum(b.numel() * b.element_size() for b in self._buffers.values())


class InForward:
    """Puts itself around the forward of every module that owns tuned parameters, and swaps probed weights in and out.

    params: the tuned parameters by name. called: modules that a forward pass calls (`watch`). names: the parameters
    that are probed so, all to begin with.
    """

    def __init__(self, module: nn.Module, params: Mapping[str, nn.Parameter], called: Sequence[nn.Module]) -> None:
        self.params = params
        self.names = frozenset(params)
        self.scratch = Scratch()
        self._owners = owners(module, params, called)
        self._base: dict[str, Tensor] = {}
        self._poison = False

    @staticmethod
    def refuses(module: nn.Module) -> str:
        """Why a module cannot be probed so whatever it returns, or nothing."""
        for m in module.modules():
            if isinstance(m, nn.DataParallel | nn.parallel.DistributedDataParallel):
                return f"{type(m).__name__} copies weights before its modules run"
            if isinstance(m, torch.jit.ScriptModule) or hasattr(m, "_orig_mod"):
                return "a compiled module reads weights where it likes"
            if getattr(getattr(m, "_hf_hook", None), "offload", False):
                return "offloaded weights are not on the device between calls"
        return ""

    @staticmethod
    @contextlib.contextmanager
    def watch(module: nn.Module) -> Iterator[list[nn.Module]]:
        """The modules that are called inside the block."""
        called: dict[nn.Module, None] = {}
        found: list[nn.Module] = []
        handles = [m.register_forward_pre_hook(lambda m, _: called.setdefault(m)) for m in module.modules()]
        try:
            yield found
        finally:
            found.extend(called)
            for h in handles:
                h.remove()

    @contextlib.contextmanager
    def poisoned(self) -> Iterator[None]:
        """Inside, base weights are NaN outside their owners, and so is scratch before it is written and when left."""
        self._poison = True
        try:
            yield
        finally:
            self._poison = False

    @contextlib.contextmanager
    def probing(self, probe: Probe) -> Iterator[None]:
        """Forward passes inside the block see probed weights; afterwards every parameter has its base data again."""
        self._base = {name: p.data for name, p in self.params.items() if name in self.names}
        patched: list[tuple[nn.Module, Any]] = []
        try:
            for module, names in self._owners.items():
                wanted = [name for name in names if name in self.names]
                if wanted:
                    patched.append((module, module.__dict__.get("forward")))
                    module.__dict__["forward"] = self._around(module, module.forward, wanted, probe)
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

    def _around(self, module: nn.Module, forward: Callable[..., Any], names: Sequence[str], probe: Probe) -> Any:
        """`forward` with the probed weights of `names` in place while it runs."""
        inside = False
        lookup = _is_lookup(module)

        @functools.wraps(forward)
        def probed(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:  # called by itself
                return forward(*args, **kwargs)
            inside = True
            swapped: list[tuple[nn.Parameter, Tensor, Tensor]] = []
            try:
                for name in names:
                    few = lookup and probe.rowwise(name)
                    rows = _looked_up(self._base[name], args, kwargs) if few else None
                    self._swap_in(name, rows, probe, swapped)
                return forward(*args, **kwargs)
            finally:
                for p, before, flat in reversed(swapped):
                    p.data = before
                    if self._poison:
                        flat.fill_(torch.nan)
                    self.scratch.pop(flat)
                inside = False

        return probed

    def _swap_in(self, name: str, rows: Tensor | None, probe: Probe, swapped: list[Any]) -> None:
        p, base = self.params[name], self._base[name]
        flat, shaped = self.scratch.push(name, base)
        swapped.append((p, p.data, flat))
        if self._poison:
            flat.fill_(torch.nan)
        if rows is None:
            probe.run(name, [flat])
        else:
            part = base.new_empty(rows.numel() * base.shape[1])
            probe.run(name, [part], rows=rows)
            shaped.index_copy_(0, rows, part.view(-1, base.shape[1]))
        p.data = shaped


def _is_lookup(module: nn.Module) -> bool:
    """Whether the module reads nothing but rows of its weight."""
    plain = type(module).forward is nn.Embedding.forward and "forward" not in module.__dict__
    return plain and module.max_norm is None


def _looked_up(weight: Tensor, args: Any, kwargs: Any) -> Tensor | None:
    """The rows of an embedding that this call looks up, where that is few of them; else None."""
    ids = args[0] if args else kwargs.get("input")
    if not isinstance(ids, Tensor) or 4 * ids.numel() > 3 * weight.shape[0]:
        return None
    flat = ids.reshape(-1).long()
    return torch.unique(flat) if flat.device.type == "cpu" else flat  # elsewhere a repeated row is cheaper than a wait


def owners(
    module: nn.Module, params: Mapping[str, nn.Parameter], called: Sequence[nn.Module]
) -> dict[nn.Module, list[str]]:
    """For each module, the parameters to be swapped in while it runs."""
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

    def ancestors(m: nn.Module) -> set[nn.Module]:
        """The nearest called modules above, by every path."""
        found: set[nn.Module] = set()
        for parent in parents.get(m, []):
            found |= {parent} if parent in reached else ancestors(parent)
        return found

    out: dict[nn.Module, list[str]] = {}
    for name, p in params.items():
        held = holders.get(id(p), [])
        owners = {m for m in held if m in reached} or set().union(*(ancestors(m) for m in held))
        for m in owners:
            out.setdefault(m, []).append(name)
    return out


# -- what a module returns --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Every tensor that the module returns inside the block, in order, copied."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda m, args, output: found.extend(t.clone() for t in _tensors(output)))
    try:
        yield found
    finally:
        handle.remove()


def _tensors(x: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """The tensors in an output: in containers, and in records such as caches; each object once."""
    seen = set() if seen is None else seen
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, nn.Module | type) or id(x) in seen:
        return
    else:
        seen.add(id(x))
        parts = (
            x.values() if isinstance(x, Mapping) else x if isinstance(x, list | tuple) else getattr(x, "__dict__", {})
        )
        for v in list(parts.values() if isinstance(parts, Mapping) else parts):
            yield from _tensors(v, seen)


def same_outputs(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Bit for bit; a NaN equals no number."""
    return len(a) == len(b) and all(
        x.shape == y.shape and x.dtype == y.dtype and _bytes(x).equal(_bytes(y)) for x, y in zip(a, b, strict=True)
    )


def _bytes(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(-1).view(torch.uint8) if x.numel() else x.new_empty(0, dtype=torch.uint8)


__all__ = ["InForward", "Scratch", "outputs_of", "owners", "same_outputs"]
