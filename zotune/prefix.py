"""Hidden states before the first tuned block, computed once.

Where only later blocks are tuned, what the earlier ones compute for a row never changes. Their output is stored row
by row, without
padding, and fed back: the frozen blocks hand it on instead of computing. Rows are filled in an order that does not
depend on the run, so the bits do not either.

Knows modules and tokens; knows no task and no objective.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MAX_BYTES = 512 << 20
Tokens = tuple[int, ...]


def find_blocks(module: nn.Module, tuned: Iterable[str]) -> tuple[nn.ModuleList, int] | None:
    """The list of blocks that all tuned tensors lie in, and the first that holds one; None where that saves nothing."""
    places = [re.match(r"(.*?)\.(\d+)\.", name) for name in tuned]
    if not places or not all(places):
        return None
    paths = {p[1] for p in places if p}
    if len(paths) != 1:
        return None
    try:
        blocks = module.get_submodule(paths.pop())
    except AttributeError:
        return None
    first = min(int(p[2]) for p in places if p)
    return (blocks, first) if isinstance(blocks, nn.ModuleList) and 0 < first < len(blocks) else None


class Prefix:
    """The cache in front of block `first`: `fill` it, then put `feeding(rows)` around a forward of these rows."""

    def __init__(self, blocks: nn.ModuleList, first: int) -> None:
        self.blocks, self.first = blocks, first
        self._states: dict[Tokens, Tensor] = {}

    def __contains__(self, row: Tokens) -> bool:
        return row in self._states

    def fill(self, rows: Iterable[Tokens], run: Callable[[Sequence[Tokens]], Any], micro: int) -> bool:
        """Store the states of all rows, in order of (length, tokens), `micro` at a time.

        False, and nothing stored, where they would take more than MAX_BYTES.
        """
        wanted = sorted(set(rows) - set(self._states), key=lambda r: (len(r), r))
        seen: list[Tensor] = []

        def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
            seen.append(args[0] if args else kwargs["hidden_states"])

        handle = self.blocks[self.first].register_forward_pre_hook(keep, with_kwargs=True)
        total = 0
        try:
            for start in range(0, len(wanted), micro):
                part = wanted[start : start + micro]
                seen.clear()
                run(part)
                for row, hidden in zip(part, seen[0], strict=True):
                    self._states[row] = hidden[: len(row)].clone()
                    total += self._states[row].numel() * hidden.element_size()
                if total > MAX_BYTES:
                    self._states.clear()
                    return False
        finally:
            handle.remove()
        return True

    @contextlib.contextmanager
    def feeding(self, rows: Sequence[Tokens]) -> Iterator[None]:
        """Inside, the frozen blocks hand on the stored states of `rows`, padded on the right with zeros."""
        states = [self._states[row] for row in rows]
        hidden = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)

        def handed_on(*args: Any, **kwargs: Any) -> Tensor:
            return hidden

        frozen = list(self.blocks)[: self.first]
        try:
            for block in frozen:
                block.forward = handed_on
            yield
        finally:
            for block in frozen:
                block.__dict__.pop("forward", None)
