"""Probing while a forward pass is under way: no copy of the model, and the base weights are never written.

On entering the module that owns a tensor its probed weights are written to reused scratch and swapped in; on leaving
they are swapped out. Scratch is a stack: as much as is live at one time is ever used. A parameter belongs to every
module that holds it and is called; where none is, to the nearest called ancestors of its holders. Of an embedding only
the rows that a batch looks up are written.

Who may be probed so is not believed but tried (`Space.probe_in_forward`): with `poisoned`, base weights and the scratch
that was left are NaN, and the module must return what it returns for written weights, bit for bit.

Knows modules; knows no recipes and no metric.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

ALIGNMENT = 64
"""Elements: every tensor in scratch starts at a multiple."""


class Write(Protocol):
    """Write the probed weights of one tensor, or those `rows` of it, to flat tensors."""

    def __call__(self, name: str, outs: Sequence[Tensor], *, rows: Tensor | None = None) -> None: ...


class Scratch:
    """A stack of tensors in one reused buffer for each dtype and device."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._top: dict[tuple[torch.dtype, torch.device], int] = {}

    def push(self, like: Tensor) -> Tensor:
        """An uninitialised flat tensor of as many elements, on top."""
        key = (like.dtype, like.device)
        top = self._top.get(key, 0)
        end = top + -(-like.numel() // ALIGNMENT) * ALIGNMENT
        buffer = self._buffers.get(key)
        if buffer is None or end > buffer.numel():  # what lies below keeps the old buffer alive until it is popped
            buffer = self._buffers[key] = torch.empty(end, dtype=like.dtype, device=like.device)
        self._top[key] = end
        return buffer[top : top + like.numel()]

    def pop(self, like: Tensor) -> None:
        self._top[like.dtype, like.device] -= -(-like.numel() // ALIGNMENT) * ALIGNMENT

    def reset(self) -> None:
        self._top.clear()

    @property
    def nbytes(self) -> int:
        return sum(b.numel() * b.element_size() for b in self._buffers.values())


class InForward:
    """Hooks that swap probed weights in and out.

    params: the tuned parameters by name. called: modules that a forward pass calls (`watch`). names: the parameters
    that are probed so, all to begin with.
    """

    def __init__(self, module: nn.Module, params: Mapping[str, nn.Parameter], called: Sequence[nn.Module]) -> None:
        self.params = params
        self.names = frozenset(params)
        self.scratch = Scratch()
        self._owners = _owners(module, params, called)
        self._base = {name: p.data for name, p in params.items()}
        self._poison = False

    @staticmethod
    @contextlib.contextmanager
    def watch(module: nn.Module) -> Iterator[list[nn.Module]]:
        """The modules that are called inside the block."""
        called: list[nn.Module] = []
        seen: set[int] = set()

        def note(m: nn.Module, args: Any) -> None:
            if id(m) not in seen:
                seen.add(id(m))
                called.append(m)

        handles = [m.register_forward_pre_hook(note) for m in module.modules()]
        try:
            yield called
        finally:
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
    def probing(self, write: Write) -> Iterator[None]:
        """Forward passes inside the block see probed weights; afterwards every parameter has its base data again."""
        self._base = {name: p.data for name, p in self.params.items() if name in self.names}
        handles: list[Any] = []
        stack: list[tuple[nn.Module, list[tuple[nn.Parameter, Tensor, Tensor]]]] = []
        depth: dict[nn.Module, int] = {}

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            depth[module] = depth.get(module, 0) + 1
            if depth[module] > 1:
                return
            swapped: list[tuple[nn.Parameter, Tensor, Tensor]] = []
            stack.append((module, swapped))
            for name in self._owners[module]:
                if name in self.names:
                    swapped.append(self._swap_in(name, module, args, kwargs, write))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if module not in depth:  # left by an exception before it was entered
                return
            depth[module] -= 1
            if depth[module]:
                return
            _, swapped = stack.pop()
            for p, before, flat in reversed(swapped):
                p.data = before
                if self._poison:
                    flat.fill_(torch.nan)
                self.scratch.pop(flat)

        try:
            for module, names in self._owners.items():
                if any(name in self.names for name in names):
                    handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                    handles.append(module.register_forward_hook(leave, always_call=True))
            if self._poison:
                for name, base in self._base.items():
                    self.params[name].data = torch.full((), torch.nan, dtype=base.dtype, device=base.device).expand(
                        base.shape
                    )
            yield
        finally:
            for h in handles:
                h.remove()
            for name, base in self._base.items():
                self.params[name].data = base
            self.scratch.reset()

    def _swap_in(
        self, name: str, module: nn.Module, args: Any, kwargs: Any, write: Write
    ) -> tuple[nn.Parameter, Tensor, Tensor]:
        p, base = self.params[name], self._base[name]
        flat = self.scratch.push(base)
        if self._poison:
            flat.fill_(torch.nan)
        rows = _looked_up(module, base, args, kwargs)
        if rows is None:
            write(name, [flat])
        else:
            part = base.new_empty(rows.numel() * base.shape[1])
            write(name, [part], rows=rows)
            flat.view(base.shape).index_copy_(0, rows, part.view(-1, base.shape[1]))
        before, p.data = p.data, flat.view(base.shape)
        return p, before, flat


def _looked_up(module: nn.Module, weight: Tensor, args: Any, kwargs: Any) -> Tensor | None:
    """The rows of a plain embedding that this call looks up, where that is few of them; else None."""
    if type(module).forward is not nn.Embedding.forward or "forward" in module.__dict__ or module.max_norm is not None:
        return None
    ids = args[0] if args else kwargs.get("input")
    if not isinstance(ids, Tensor) or 4 * ids.numel() > 3 * weight.shape[0]:
        return None
    flat = ids.reshape(-1).long()
    return flat.unique() if flat.device.type == "cpu" else flat  # elsewhere a repeated row is cheaper than a wait


def _owners(
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


def _tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, Mapping):
        for v in x.values():
            yield from _tensors(v)
    elif isinstance(x, list | tuple):
        for v in x:
            yield from _tensors(v)
    elif hasattr(x, "__dict__") and not isinstance(x, nn.Module):  # caches and other plain records
        for v in vars(x).values():
            yield from _tensors(v)


def same_outputs(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Bit for bit; a NaN equals no number."""
    return len(a) == len(b) and all(
        x.shape == y.shape and x.dtype == y.dtype and _bytes(x).equal(_bytes(y)) for x, y in zip(a, b, strict=True)
    )


def _bytes(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(-1).view(torch.uint8) if x.numel() else x.new_empty(0, dtype=torch.uint8)


Forward = Callable[[], Any]

__all__ = ["InForward", "Scratch", "outputs_of", "same_outputs"]
