"""Joint forward: several points of weight space evaluated in one forward pass, where few weights are tuned.

The rows of a batch are repeated, once for each point. Modules that own tuned weights run part by part, each part of the
rows with the weights of its point; all other modules, which do most of the work, run once on all rows. Besides the
larger pass this takes one copy of the tuned weights for each point. The outputs equal those of separate passes up to
rounding.

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

TOLERANCE, HALF_TOLERANCE = 1e-3, 0.05
"""Largest difference from a separate pass, as a share of the largest output: in float32 and wider, and below."""


class JointForward:
    """Evaluates up to `most` rows of several points in one forward pass.

    called: the modules that a forward pass calls. Inside `at(points)`, a pass made through `run` covers all points the
    first time that one of them asks for it; the others read their part of its output.
    """

    def __init__(self, space: Space, called: Sequence[nn.Module], most: int) -> None:
        self.space, self.most = space, most
        self._owners = owners(space.module, space.params, called)
        self._copies: list[dict[str, Tensor]] = []
        self._live: list[dict[str, Tensor]] = []
        self._outputs: dict[Hashable, Any] = {}
        self._selected = self._rows = 0

    @property
    def count(self) -> int:
        """Points that share a pass: 1 outside of `at`."""
        return len(self._live) or 1

    @property
    def supported(self) -> bool:
        """Whether every module that owns tuned weights returns one row for each row that it reads."""
        return bool(self._owners) and all(map(_keeps_rows, self._owners))

    def groups(self, points: Sequence[Recipe], rows: int) -> list[Sequence[Recipe]]:
        """Points split into groups that share a pass, with so many rows each; [] where two points do not fit."""
        size = self.most // rows
        if size < 2 or len(points) < 2:
            return []
        return [points[k : k + size] for k in range(0, len(points), size)]

    def agrees(self, forward: Callable[[], Tensor]) -> bool:
        """Whether a joint pass gives each of two points what a separate pass gives it, up to rounding.

        forward: makes one pass through `run` and returns its output.
        """
        if not self.supported:
            return False
        points = [self.space.theta + c * Noise("normal", -1, 0) for c in (0.01, -0.01)]
        expected = []
        for point in points:
            with self.space.at(point):
                expected.append(forward().float())
        try:
            with self.at(points) as select:
                for k, separate in enumerate(expected):
                    select(k)
                    output = forward()
                    wide = output.dtype in (torch.float32, torch.float64)
                    most = TOLERANCE if wide else HALF_TOLERANCE
                    if not (output.float() - separate).abs().max() <= most * separate.abs().max():
                        return False
        except (ModelError, RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError):
            return False  # the model calls its modules in another way, or memory is short
        return True

    @contextlib.contextmanager
    def at(self, points: Sequence[Recipe]) -> Iterator[Callable[[int], None]]:
        """Evaluate these points jointly inside the block.

        Yields a function that gives the module the weights of a point, by its index. The weights are unchanged after
        the block, also where it raises.
        """
        params = self.space.params
        while len(self._copies) < len(points):
            self._copies.append({name: torch.empty_like(p.data) for name, p in params.items()})
        for point, copy in zip(points, self._copies, strict=False):
            self.space.write(point, copy)
        base = {name: p.data for name, p in params.items()}
        self._live = self._copies[: len(points)]
        try:
            self._select(0)
            yield self._select
        finally:
            self._live = []
            self._outputs.clear()
            for name, p in params.items():
                p.data = base[name]

    def _select(self, k: int) -> None:
        self._selected = k
        self._set_weights(k, self.space.params)

    def _set_weights(self, k: int, names: Any) -> None:
        for name in names:
            self.space.params[name].data = self._live[k][name]

    def run(self, key: Hashable, rows: int, forward: Callable[[], Any]) -> Any:
        """The selected point's part of `forward`'s output.

        forward: makes a pass on `count` times `rows` rows; called once for each key inside a block of `at`.
        """
        if key not in self._outputs:
            with self._by_parts(), self.rows_per_point(rows):
                self._outputs[key] = forward()
        return part_of(self._outputs[key], self._selected, self.count, rows)

    @contextlib.contextmanager
    def rows_per_point(self, rows: int) -> Iterator[None]:
        """Inside the block, a pass holds so many rows of each point."""
        before, self._rows = self._rows, rows
        try:
            yield
        finally:
            self._rows = before

    @contextlib.contextmanager
    def _by_parts(self) -> Iterator[None]:
        """Inside the block, modules that own tuned weights run part by part."""
        before = {module: module.__dict__.get("forward") for module in self._owners}
        try:
            for module, names in self._owners.items():
                module.__dict__["forward"] = self._wrapped(module.forward, names)
            yield
        finally:
            for module, old in before.items():
                if old is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = old
            self._set_weights(self._selected, self.space.params)

    def _wrapped(self, forward: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
        """`forward`, run once for each point on its part of the arguments."""
        inside = False

        @functools.wraps(forward)
        def by_parts(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:  # a module that calls itself
                return forward(*args, **kwargs)
            inside = True
            try:
                outputs, rows = [], self._rows
                reads_rows = has_rows((args, kwargs), self.count * rows)
                for k in range(self.count):
                    self._set_weights(k, names)
                    own_args, own_kwargs = part_of((args, kwargs), k, self.count, rows)
                    outputs.append(forward(*own_args, **own_kwargs))
                return joined(outputs, rows, reads_rows)
            finally:
                inside = False

        return by_parts


def part_of(x: Any, k: int, count: int, rows: int) -> Any:
    """The k-th of `count` parts of `rows` rows of tensors and lists, in containers too; other lengths stay whole."""
    whole = count * rows
    if isinstance(x, Tensor):
        return x[k * rows : (k + 1) * rows] if x.dim() and x.shape[0] == whole else x
    if isinstance(x, Mapping):
        parts = {name: part_of(v, k, count, rows) for name, v in x.items()}
        return parts if type(x) is dict else type(x)(**parts)
    if isinstance(x, list) and len(x) == whole:
        return x[k * rows : (k + 1) * rows]
    if type(x) in (tuple, list):
        return type(x)(part_of(v, k, count, rows) for v in x)
    return x


def has_rows(x: Any, whole: int) -> bool:
    """Whether a tensor or a list in `x` has `whole` rows."""
    if isinstance(x, Tensor):
        return x.dim() > 0 and x.shape[0] == whole
    if isinstance(x, Mapping):
        return any(has_rows(v, whole) for v in x.values())
    return isinstance(x, list | tuple) and (len(x) == whole or any(has_rows(v, whole) for v in x))


def joined(parts: Sequence[Any], rows: int, reads_rows: bool) -> Any:
    """A module's outputs for all points, concatenated.

    An output of one row for the whole part is repeated. reads_rows: whether the module's arguments have rows; where
    they have none, an output of one row is all that is accepted. Raises ModelError on any other output.
    """
    lengths = (1, rows) if reads_rows else (1,)
    if not all(isinstance(x, Tensor) and x.dim() and x.shape[0] in lengths for x in parts):
        raise ModelError("a module returns another number of rows than it reads", hint="--perturb copy")
    return torch.cat([x.expand(rows, *x.shape[1:]) for x in parts])


def _keeps_rows(module: nn.Module) -> bool:
    """Linear maps and norms. An embedding may be read by positions, which are no rows."""
    name = type(module).__name__
    return isinstance(module, nn.Linear | nn.LayerNorm) or name == "Conv1D" or name.endswith("Norm")


__all__ = ["JointForward"]
