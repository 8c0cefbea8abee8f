"""A cache of the hidden states before the first tuned block, computed once.

If only later blocks are tuned, or a head after all blocks, the output of the earlier blocks for a row never changes. It
is stored row by row, without padding, and the frozen blocks return it instead of computing it. Rows are stored in an
order that does not depend on the run, so the bits do not depend on it either. Knows modules and tokens; knows no task
and no objective.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MAX_BYTES = 512 << 20
"""Bytes of stored states at most."""
Tokens = tuple[int, ...]
_BLOCK = re.compile(r"(.*?)\.(\d+)\.")


def find_blocks(module: nn.Module, tuned: Iterable[str], run: Callable[[], Any]) -> tuple[nn.ModuleList, int] | None:
    """The model's list of blocks, and the index of the first block with a tuned tensor; the last block where all tuned
    tensors come after the blocks. None where a cache saves nothing, or where the blocks cannot be identified.

    tuned: names of the tuned tensors; run: makes a forward pass, which shows the order of the modules.
    """
    names = list(tuned)
    inside = [p for name in names if (p := _BLOCK.match(name))]
    outside = [name for name in names if not _BLOCK.match(name)]
    paths = {p[1] for p in inside} or {p[1] for name, _ in module.named_parameters() if (p := _BLOCK.match(name))}
    if len(paths) != 1:
        return None
    try:
        blocks = module.get_submodule(paths.pop())
    except AttributeError:
        return None
    if not isinstance(blocks, nn.ModuleList):
        return None
    first = min((int(p[2]) for p in inside), default=len(blocks) - 1)
    if not 0 < first < len(blocks) or not _come_after(module, blocks, outside, run):
        return None
    return blocks, first


def _come_after(module: nn.Module, blocks: nn.ModuleList, names: Sequence[str], run: Callable[[], Any]) -> bool:
    """Whether all modules that own these tensors, or tensors tied to them, are called after the last block."""
    if not names:
        return True
    params = dict(module.named_parameters(remove_duplicate=False))
    if not params.keys() >= set(names):
        return False
    wanted = {id(params[name]) for name in names}
    owners = [m for m in module.modules() if any(id(p) in wanted for p in m._parameters.values())]
    called: list[nn.Module] = []
    handles = [m.register_forward_pre_hook(lambda m, args: called.append(m)) for m in [*blocks, *owners]]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    last = max((k for k, m in enumerate(called) if m in set(blocks)), default=len(called))
    return all(m in called and called.index(m) > last for m in owners)


class FrozenPrefix:
    """Stored hidden states before block `first`. `fill` stores them; a forward pass inside `feed(rows)` uses them."""

    def __init__(self, blocks: nn.ModuleList, first: int) -> None:
        self.blocks, self.first = blocks, first
        self._states: dict[Tokens, Tensor] = {}

    def __contains__(self, row: Tokens) -> bool:
        return row in self._states

    @property
    def bytes(self) -> int:
        """Bytes of the stored states."""
        return sum(x.numel() * x.element_size() for x in self._states.values())

    def fill(self, rows: Iterable[Tokens], run: Callable[[Sequence[Tokens]], Any], micro_batch: int) -> bool:
        """Store the states of all rows, in order of (length, tokens).

        run: makes a forward pass on some rows; micro_batch: rows a pass. Returns False, with nothing stored, where the
        states would take more than MAX_BYTES.
        """
        missing = sorted(set(rows) - set(self._states), key=lambda r: (len(r), r))
        inputs: list[Tensor] = []

        def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
            inputs.append(args[0] if args else kwargs["hidden_states"])

        handle = self.blocks[self.first].register_forward_pre_hook(keep, with_kwargs=True)
        total, length = 0, sum(map(len, missing))
        try:
            for start in range(0, len(missing), micro_batch):
                part = missing[start : start + micro_batch]
                inputs.clear()
                run(part)
                for row, hidden in zip(part, inputs[0], strict=True):
                    self._states[row] = hidden[: len(row)].clone()
                    total += self._states[row].numel() * hidden.element_size()
                expected = length * inputs[0].shape[-1] * inputs[0].element_size()
                if max(total, expected) > MAX_BYTES:
                    self._states.clear()
                    return False
        finally:
            handle.remove()
        return True

    @contextlib.contextmanager
    def feed(self, rows: Sequence[Tokens]) -> Iterator[None]:
        """Inside the block, the frozen blocks return the stored states of `rows`, padded on the right with zeros."""
        states = [self._states[row] for row in rows]
        hidden = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)

        def stored(*args: Any, **kwargs: Any) -> Tensor:
            return hidden

        frozen = list(self.blocks)[: self.first]
        try:
            for block in frozen:
                block.forward = stored
            yield
        finally:
            for block in frozen:
                block.__dict__.pop("forward", None)


__all__ = ["FrozenPrefix", "Tokens", "find_blocks"]
