"""Several points of weight space in one forward pass, where few weights are tuned.

The rows are repeated, once for each point. Modules that own tuned weights run part by part, each part of the rows with
its point's weights; all other modules, which is most of the work, run once on all of them. A copy of the tuned weights
for each point is all the memory that it takes beside the larger pass. What comes out is what the points give one by
one, to rounding.

Knows modules and points; knows no task and no objective.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zotune.core.in_forward import owners
from zotune.core.recipe import Noise, Recipe
from zotune.core.space import Space
from zotune.errors import ModelError


class Together:
    """Evaluates up to `most` rows of several points at once.

    called: the modules that a forward pass calls. While points are put `at` together, `turn(k)` makes the weights those
    of point k, and a pass through `run` is made for all of them the first time that one asks for it.
    """

    def __init__(self, space: Space, called: Sequence[nn.Module], most: int) -> None:
        self.space, self.most = space, most
        self._owners = owners(space.module, space.params, called)
        self._copies: list[dict[str, Tensor]] = []
        self._live: list[dict[str, Tensor]] = []
        self._passes: dict[Hashable, Any] = {}
        self._turn = self._rows = 0

    @property
    def count(self) -> int:
        """Points that share a pass now; 1 where they are not put together."""
        return len(self._live) or 1

    @property
    def possible(self) -> bool:
        """Whether every tuned weight belongs to modules whose outputs have a row for each row that they read."""
        return bool(self._owners) and all(map(_by_rows, self._owners))

    def groups(self, points: Sequence[Recipe], rows: int) -> list[Sequence[Recipe]]:
        """Points that go together, so many rows each; none where a pass has no room for two."""
        size = self.most // rows
        if size < 2 or len(points) < 2:
            return []
        return [points[k : k + size] for k in range(0, len(points), size)]

    def tried(self, forward: Callable[[], Tensor]) -> bool:
        """Whether points that share a pass give what each gives by itself, to rounding. forward: a pass by `run`."""
        if not self.possible:
            return False
        points = [self.space.theta + c * Noise("normal", -1, 0) for c in (0.01, -0.01)]
        expected = []
        for point in points:
            with self.space.at(point):
                expected.append(forward().float())
        try:
            with self.at(points) as turn:
                for k, one in enumerate(expected):
                    turn(k)
                    found = forward()
                    most = 1e-3 if found.dtype in (torch.float32, torch.float64) else 0.05
                    if not (found.float() - one).abs().max() <= most * one.abs().max():
                        return False
        except (ModelError, RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError):
            return False  # its modules are called in another way, or there is no memory for it
        return True

    @contextlib.contextmanager
    def at(self, points: Sequence[Recipe]) -> Iterator[Callable[[int], None]]:
        """Inside, the function that is handed out makes the module's weights those of a point by its number. They are
        untouched afterwards, whatever happens."""
        params = self.space.params
        while len(self._copies) < len(points):
            self._copies.append({name: torch.empty_like(p.data) for name, p in params.items()})
        for point, copy in zip(points, self._copies, strict=False):
            self.space.write(point, copy)
        base = {name: p.data for name, p in params.items()}
        self._live = self._copies[: len(points)]
        try:
            self._take(0)
            yield self._take
        finally:
            self._live = []
            self._passes.clear()
            for name, p in params.items():
                p.data = base[name]

    def _take(self, k: int) -> None:
        self._turn = k
        self._put(k, self.space.params)

    def _put(self, k: int, names: Any) -> None:
        for name in names:
            self.space.params[name].data = self._live[k][name]

    def run(self, key: Hashable, rows: int, forward: Callable[[], Any]) -> Any:
        """This point's part of what `forward` gives for `count` times as many rows; computed once for each key."""
        if key not in self._passes:
            with self._parted(), self.rows_a_point(rows):
                self._passes[key] = forward()
        return part_of(self._passes[key], self._turn, self.count, rows)

    @contextlib.contextmanager
    def rows_a_point(self, rows: int) -> Iterator[None]:
        """Inside, each point has so many rows in a pass."""
        before, self._rows = self._rows, rows
        try:
            yield
        finally:
            self._rows = before

    @contextlib.contextmanager
    def _parted(self) -> Iterator[None]:
        """Inside, modules that own tuned weights run part by part."""
        before = {module: module.__dict__.get("forward") for module in self._owners}
        try:
            for module, names in self._owners.items():
                module.__dict__["forward"] = self._around(module.forward, names)
            yield
        finally:
            for module, old in before.items():
                if old is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = old
            self._put(self._turn, self.space.params)

    def _around(self, forward: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
        inside = False

        @functools.wraps(forward)
        def parted(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:  # called by itself
                return forward(*args, **kwargs)
            inside = True
            try:
                found, rows = [], self._rows
                reads = has_rows((args, kwargs), self.count * rows)
                for k in range(self.count):
                    self._put(k, names)
                    own = part_of((args, kwargs), k, self.count, rows)
                    found.append(forward(*own[0], **own[1]))
                return joined(found, rows, reads)
            finally:
                inside = False

        return parted


def part_of(x: Any, k: int, count: int, rows: int) -> Any:
    """The k-th of `count` parts of `rows` rows, in whatever holds tensors and lists; what has another length stays."""
    whole = count * rows
    if isinstance(x, Tensor):
        return x[k * rows : (k + 1) * rows] if x.dim() and x.shape[0] == whole else x
    if isinstance(x, Mapping):
        made = {name: part_of(v, k, count, rows) for name, v in x.items()}
        return made if type(x) is dict else type(x)(**made)
    if isinstance(x, list) and len(x) == whole:
        return x[k * rows : (k + 1) * rows]
    if type(x) in (tuple, list):
        return type(x)(part_of(v, k, count, rows) for v in x)
    return x


def has_rows(x: Any, whole: int) -> bool:
    """Whether anything in there has so many rows."""
    if isinstance(x, Tensor):
        return x.dim() > 0 and x.shape[0] == whole
    if isinstance(x, Mapping):
        return any(has_rows(v, whole) for v in x.values())
    return isinstance(x, list | tuple) and (len(x) == whole or any(has_rows(v, whole) for v in x))


def joined(parts: Sequence[Any], rows: int, reads: bool) -> Any:
    """What a module gives for each part, as one. What has one row for all is repeated. reads: whether its rows are read
    from rows; where it reads none, one for all is what it can give. Raises ModelError where it gives anything else."""
    known = (1, rows) if reads else (1,)
    if not all(isinstance(x, Tensor) and x.dim() and x.shape[0] in known for x in parts):
        raise ModelError("a module gives no row for each that it reads", hint="--probe copy takes points one by one")
    return torch.cat([x.expand(rows, *x.shape[1:]) for x in parts])


def _by_rows(module: nn.Module) -> bool:
    """Linear maps and norms. An embedding may be read by positions, which are no rows."""
    name = type(module).__name__
    return isinstance(module, nn.Linear | nn.LayerNorm) or name == "Conv1D" or name.endswith("Norm")


__all__ = ["Together"]
