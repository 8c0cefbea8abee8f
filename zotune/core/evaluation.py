"""Evaluation of recipes on tensors: on a whole tensor by chunks, on some of its rows, or on many small tensors at once.

Recipes are lowered to programs once; an evaluation passes them the numbers, keys, fields and buffers that they read.
Knows tensors by name; knows no module and no step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zotune.core import bits, noise
from zotune.core.codegen import BATCH, Output, Program, factor_value, lower, sum_batches, sum_scalars, sum_text
from zotune.core.kernels import CHUNK, Kernels, Numbers, padded_keys, padded_scalars
from zotune.core.member_kernels import EXACT_TERMS, MemberKernels
from zotune.core.members import exact_product, member_factors, whole_weights
from zotune.core.recipe import Constant, DirectionSum, Noise, Outer, WeightedSum, scalar_at
from zotune.errors import RecipeError

SMALL = 1 << 13
"""Tensors of at most so many elements are evaluated in groups, and perturbed by copy."""
BUNCH = CHUNK // SMALL
"""Small tensors in a group, at most: as many elements as an uncompiled program evaluates at a time."""
IN_CACHE = 1 << 17
"""Elements that fit into the cache of a CPU while it works on them."""
Key = Callable[[str, Noise], int]
"""Returns the 64-bit key of a noise for a tensor, by name."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic on weights of this dtype: float64 or float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Evaluation:
    """Recipes prepared to run on every tensor: lowered once, with their numbers and keys in tables.

    outputs: the recipes and where their values go; base: the weights that `theta` stands for, by name; fields: stored
    fields by path and name; keys: the tables of noise keys. Raises RecipeError where a recipe reads an unknown field.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        base: Mapping[str, Tensor],
        fields: Mapping[str, Mapping[str, Tensor]],
        kernels: Kernels,
        keys: Keys,
    ) -> None:
        self._base, self._fields, self._kernels, self._key = base, fields, kernels, keys.key
        self._factors: dict[tuple[int, str], tuple[Tensor, Tensor] | None] = {}
        self._latest: tuple[tuple[int, str], tuple[Tensor, Tensor]] | None = None
        self._integers: tuple[tuple[int, str], tuple[Tensor, Tensor]] | None = None
        whole = lower(outputs)
        used = [w.removeprefix("field ") for w in whole.inputs if w.startswith("field ")]
        if unknown := [path for path in used if path not in fields]:
            raise RecipeError(f"field {unknown[0]!r} is not stored; stored fields: {sorted(fields)}")
        self._group: dict[str, _Group] = {}
        members: dict[tuple[frozenset[str], torch.device, torch.dtype], list[str]] = {}  # tensors that share a program
        for name, p in base.items():
            missing = {f"field {path}" for path in used if name not in fields[path]}
            missing |= {f"outer {j}" for j in range(len(whole.outers)) if self._lacks(whole, j, name)}
            members.setdefault((frozenset(missing), p.device, p.dtype), []).append(name)
        for (absent, device, dtype), names in members.items():
            kept = [o for o in outputs if o.target not in absent]
            if kept:
                program = lower(kept, absent) if absent else whole
                group = _Group(program, names, device, compute_dtype(dtype), keys)
                self._group |= dict.fromkeys(names, group)

    def run(self, name: str, outs: Sequence[Tensor] = (), start: int = 0, rows: Tensor | None = None) -> None:
        """Evaluate on one tensor.

        outs: flat tensors for the outputs with target "out". They may hold a part of the tensor, from element `start`
        on, or the given rows alone (int64).
        """
        group = self._group.get(name)
        if group is None:
            return
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():
                self.run(name, outs, start, rows)
            return
        if rows is not None:
            self._run_rows(group, name, outs[0], rows)
            return
        base = self._base[name]
        count = outs[0].numel() if outs else base.numel()
        step = self._kernels.piece(self._is_buffered(group.program, name), base.device)
        for first in range(start, start + count, step):
            part = slice(first, min(first + step, start + count))
            own = outs if part.stop - part.start == count else [x[first - start : part.stop - start] for x in outs]
            s, k, numbers = group.row(name, first)
            tensors = self._inputs(group.program, name, part, own)
            self._kernels.run(group.program.text, group.dtype, tensors, s, k, numbers)

    def run_all(self, names: Sequence[str], outs: Mapping[str, Tensor] | None = None) -> None:
        """Evaluate on whole tensors. outs: by name, for a single output with target "out".

        Small tensors with the same numbers are concatenated and evaluated in one call, for many calls would cost more
        than their arithmetic; not so of kernels from C++, whose calls are cheap.
        """
        bunches: dict[tuple[object, ...], list[str]] = {}
        for name in names:
            group = self._group.get(name)
            if group is None:
                continue
            alone = self._kernels.from_source(group.program.text, self._base[name].device)
            if alone or self._is_buffered(group.program, name) or self._base[name].numel() > SMALL:
                bunches[(name,)] = [name]
            else:
                bunches.setdefault((id(group), *group.numbers(name)), []).append(name)
        for members in bunches.values():
            if len(members) == 1:
                self.run(members[0], [outs[members[0]].view(-1)] if outs else ())
            for first in range(0, len(members) if len(members) > 1 else 0, BUNCH):
                self._run_bunch(members[first : first + BUNCH], outs)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _run_bunch(self, names: Sequence[str], outs: Mapping[str, Tensor] | None) -> None:
        """Evaluate on small tensors of one group with the same numbers, as on one tensor."""
        group = self._group[names[0]]
        program = group.program
        where: list[list[Tensor]] = []
        for what, which in program.reads:
            source = outs if what == "out" else self._base if what == "theta" else self._fields[which]
            assert source is not None
            where.append([source[name].view(-1) for name in names])
        joined = [torch.cat(parts) for parts in where]
        counts = [x.numel() for x in where[0]]
        places, keys = group.spread(names, counts)
        numbers = group.numbers(names[0])
        s: Sequence[Any] = numbers
        if joined[0].device.type != "cpu":
            s = torch.tensor(numbers, dtype=torch.float64, device=joined[0].device).unbind()
        self._kernels.plain(program.text, group.dtype)(*joined, s, keys, places)
        for (what, which), whole, parts in zip(program.reads, joined, where, strict=True):
            if f"{what} {which}".rstrip() in program.targets:
                torch._foreach_copy_(parts, list(torch.split(whole, counts)))

    def _inputs(self, program: Program, name: str, part: slice, outs: Sequence[Tensor]) -> list[Tensor]:
        tensors = []
        for what, which in program.reads:
            if what == "theta":
                tensors.append(_part(self._base[name], part))
            elif what == "field":
                stored = self._fields[which][name]
                packed = bits.is_packed(stored)
                tensors.append(self._unpacked(which, name, part) if packed else _part(stored, part))
            elif what == "out":
                tensors.append(outs[int(which)])
            elif what == "sum":
                tensors.append(self._sum(program.sums[int(which)], name, part))
            else:
                tensors.append(self._product(program, int(which), name, part))
        return tensors

    def _is_buffered(self, program: Program, name: str) -> bool:
        """Whether an input of a tensor is computed into a buffer before the program runs."""
        fields = (self._fields[which][name] for what, which in program.reads if what == "field")
        return program.buffered or any(bits.is_packed(x) for x in fields)

    def _unpacked(self, path: str, name: str, part: slice) -> Tensor:
        """A part of a one-bit field as numbers. The part starts at a whole byte, as every chunk does."""
        p, first = self._base[name], part.start // 8
        own = self._fields[path][name][first : bits.packed_size(part.stop)]
        like = p.new_empty(0, dtype=compute_dtype(p.dtype))
        out = self._kernels.buffer(f"bits {path}", 8 * own.numel(), like)
        bits.unpack(own, out)
        return out[: part.stop - part.start]

    def _run_rows(self, group: _Group, name: str, out: Tensor, rows: Tensor) -> None:
        """Evaluate on some rows of a matrix, with the noise that these elements have in the whole tensor."""
        program, base = group.program, self._base[name]
        width = base.shape[1]
        index = (rows[:, None] * width + torch.arange(width, device=rows.device)).view(-1)
        gathered = []
        for what, which in program.reads:
            if what == "out":
                gathered.append(out)
            elif what == "outer":
                pair = self._outer(program, int(which), name)
                assert pair is not None
                gathered.append(self._product_of(program, int(which), pair[0][rows], pair[1], name))
            else:
                whole = base if what == "theta" else self._fields[which][name]
                packed = bits.is_packed(whole)
                values = bits.pick(whole, index, group.dtype) if packed else whole.index_select(0, rows).view(-1)
                gathered.append(values)
        self._kernels.run(program.text, group.dtype, gathered, *group.row(name, 0), index)

    def rowwise(self, name: str) -> bool:
        """Whether `run(rows=...)` is possible: every input has the tensor's rows, and the tensor is one noise block."""
        program, base = self._group[name].program, self._base[name]
        pairs = [self._outer(program, j, name) for j in range(len(program.outers))]
        rows = all(pair is not None and len(pair[0]) == len(base) for pair in pairs)
        return rows and not program.sums and base.numel() <= noise.BLOCK

    def _sum(self, x: WeightedSum, name: str, part: slice) -> Tensor:
        """A weighted sum on a part of a tensor."""
        p = self._base[name]
        dtype = compute_dtype(p.dtype)
        out = torch.zeros(part.stop - part.start, dtype=dtype, device=p.device)
        place = part.start % noise.BLOCK
        for kind, terms in sum_batches([z.kind for _, z in x.terms]):
            scalars: list[float] = []
            halves: list[int] = []
            for j in terms:
                c, z = x.terms[j]
                scalars += sum_scalars(c, kind, x.power, dtype)
                halves += noise.block_key(self._key(name, z), part.start)
            padding = 2 * BATCH - len(scalars)
            scalars += [0.0] * padding
            halves += [0] * padding
            s = torch.tensor(scalars, dtype=torch.float64, device=p.device)
            k = torch.tensor(padded_keys(halves, place), dtype=torch.int32, device=p.device)
            numbers = Numbers(scalars, halves, place)
            self._kernels.run(sum_text(kind, x.power), dtype, [out], s, k, numbers)
        return out

    def _lacks(self, program: Program, j: int, name: str) -> bool:
        """Whether a tensor has no factors for a product."""
        x = program.outers[j]
        return name not in x.directions.shapes if isinstance(x, DirectionSum) else self._outer(program, j, name) is None

    def _outer(self, program: Program, j: int, name: str) -> tuple[Tensor, Tensor] | None:
        """The two factors of a product: (rows, terms) and (columns, terms), or None where the tensor has none."""
        x = program.outers[j]
        if isinstance(x, DirectionSum):
            return self._weighted(x, j, name) if name in x.directions.shapes else None
        if (j, name) not in self._factors:
            self._factors[j, name] = self._factor_pair(x, name)
        return self._factors[j, name]

    def _factor_pair(self, x: Outer, name: str) -> tuple[Tensor, Tensor] | None:
        p = self._base[name]
        key = lambda z: self._key(name, z)  # noqa: E731
        left = factor_value(x.left, name, key, p.device)
        right = factor_value(x.right, name, key, p.device)
        if left is None or right is None:
            return None
        if left.shape[1] != right.shape[1] or left.shape[0] * right.shape[0] != p.numel():
            raise RecipeError(
                f"outer: factors {tuple(left.shape)} and {tuple(right.shape)} do not give {tuple(p.shape)} ({name})"
            )
        return left, right

    def _weighted(self, x: DirectionSum, j: int, name: str) -> tuple[Tensor, Tensor]:
        """The factors of a weighted sum of directions, the left ones times their weights: float64, of which the last
        tensor's are kept."""
        if self._latest is None or self._latest[0] != (j, name):
            p = self._base[name]
            used = [k for k, w in enumerate(x.weights) if w] or [0]
            left, right = member_factors(x.directions, name, self._key, p.device)
            exact = compute_dtype(p.dtype) == torch.float32
            weights = whole_weights(x.weights)[0] if exact else [w * noise.NORMAL_SCALE**2 for w in x.weights]
            c = torch.tensor([weights[k] for k in used], dtype=torch.float64, device=p.device)
            pair = ((left[used].double() * c[:, None]).T, right[used].double().T)
            if left.shape[1] * right.shape[1] != p.numel():
                raise RecipeError(f"directions of {x.directions.shapes[name]} make no {tuple(p.shape)} ({name})")
            self._latest = ((j, name), pair)
        return self._latest[1]

    def _product(self, program: Program, j: int, name: str, part: slice) -> Tensor:
        x = program.outers[j]
        if isinstance(x, DirectionSum) and (kernels := self._member_kernels(x, name)):
            return self._compiled_sum(x, j, name, part, kernels)
        pair = self._outer(program, j, name)
        assert pair is not None
        left, right = pair
        width = right.shape[0]
        first, last = part.start // width, -(-part.stop // width)
        product = self._product_of(program, j, left[first:last], right, name)
        return product[part.start - first * width :][: part.stop - part.start]

    def _member_kernels(self, x: DirectionSum, name: str) -> MemberKernels | None:
        """The kernels for a sum of directions; None where torch computes it, with the same bits."""
        p = self._base[name]
        exact = compute_dtype(p.dtype) == torch.float32 and x.directions.count <= EXACT_TERMS
        return self._kernels.members() if exact and p.device.type == "cpu" else None

    def _compiled_sum(self, x: DirectionSum, j: int, name: str, part: slice, kernels: MemberKernels) -> Tensor:
        """A weighted sum of directions on a part of a tensor, flat."""
        whole, unit = whole_weights(x.weights)
        if self._integers is None or self._integers[0] != (j, name):
            pair = member_factors(x.directions, name, self._key, self._base[name].device, kernels)
            self._integers = ((j, name), pair)
        left, right = self._integers[1]
        width = right.shape[1]
        first, last = part.start // width, -(-part.stop // width)
        flat = self._kernels.buffer(f"outer {j}", (last - first) * width, torch.empty(0))
        weights = torch.tensor(whole, dtype=torch.float64)
        kernels.product(flat.view(-1, width), left, right, weights, unit, first)
        return flat[part.start - first * width :][: part.stop - part.start]

    def _product_of(self, program: Program, j: int, left: Tensor, right: Tensor, name: str) -> Tensor:
        """left · rightᵀ in the dtype of the tensor's arithmetic, flat."""
        x = program.outers[j]
        if isinstance(x, DirectionSum) and compute_dtype(self._base[name].dtype) == torch.float32:
            return exact_product(left, right, whole_weights(x.weights)[1]).float().view(-1)
        return self._multiplied(left, right, name, f"outer {j}")

    def _multiplied(self, left: Tensor, right: Tensor, name: str, place: str) -> Tensor:
        """left · rightᵀ for a tensor, flat, in the buffer `place`, which the next product of that place overwrites.

        Columns are summed in order, for a matrix product rounds differently from machine to machine; as many rows at a
        time as the cache holds.
        """
        dtype, buffer = compute_dtype(self._base[name].dtype), self._kernels.buffer
        rows, columns = left.T.to(dtype).contiguous(), right.T.to(dtype).contiguous()
        height, width = len(left), len(right)
        flat = buffer(place, height * width, columns)
        out = flat.view(height, width)
        if self._kernels.products(out, rows, columns):
            return flat
        most = max(IN_CACHE // width, 1) if left.device.type == "cpu" else height
        term = buffer("term", min(most, height) * width, columns).view(-1, width)
        for start in range(0, height, most):
            part, some = out[start : start + most], rows[:, start : start + most, None]
            torch.mul(some[0], columns[0], out=part)
            for u, v in zip(some[1:], columns[1:], strict=True):
                part += torch.mul(u, v, out=term[: len(part)])
        return flat


def _part(x: Tensor, part: slice) -> Tensor:
    flat = x.view(-1)
    return flat if part.stop - part.start == flat.numel() else flat[part]


class Keys:
    """Tables of the noise keys of many tensors. The last few are kept, for the points and the write of a step share
    them."""

    KEPT = 4

    def __init__(self, key: Key) -> None:
        self.key = key
        self._tables: dict[tuple[object, ...], _Table] = {}

    def table(self, names: tuple[str, ...], streams: Sequence[Noise], device: torch.device) -> _Table:
        """The keys of these streams for each tensor: 64-bit, as 32-bit halves for the first noise block, and as rows on
        the device for kernels."""
        which = (
            names,
            device,
            *(self.key(names[0], z) for z in streams),
        )  # keys of one tensor identify streams
        if which not in self._tables:
            keys = [[self.key(name, z) for z in streams] for name in names]
            halves = [[h for k in row for h in noise.block_key(k, 0)] for row in keys]
            rows = torch.tensor([padded_keys(row, 0) for row in halves], dtype=torch.int32).to(device).unbind(0)
            while len(self._tables) >= self.KEPT:
                del self._tables[next(iter(self._tables))]
            self._tables[which] = (keys, halves, rows)
        return self._tables[which]


_Table = tuple[list[list[int]], list[list[int]], tuple[Tensor, ...]]


class _Group:
    """A program and the tensors that it runs on, with tables of their numbers and keys."""

    def __init__(
        self, program: Program, names: Sequence[str], device: torch.device, dtype: torch.dtype, keys: Keys
    ) -> None:
        self.program, self.dtype = program, dtype
        self._rows = {name: i for i, name in enumerate(names)}
        shared = all(isinstance(x, Constant) for x, _ in program.scalars)
        rows = [self._numbers(name) for name in (names[:1] if shared else names)]
        self._scalars = rows * len(names) if shared else rows
        self._keys, self._halves, self._k = keys.table(tuple(names), program.streams, device)
        table = torch.tensor([padded_scalars(row) for row in rows], dtype=torch.float64).to(device).unbind(0)
        self._s = table * len(names) if shared else table

    def _numbers(self, name: str) -> list[float]:
        return [
            noise.coefficient(scalar_at(x, name), kind, self.dtype) if kind else scalar_at(x, name)
            for x, kind in self.program.scalars
        ]

    def numbers(self, name: str) -> list[float]:
        """The numbers of one tensor, on the host."""
        return self._scalars[self._rows[name]]

    def spread(self, names: Sequence[str], counts: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """For concatenated tensors of these lengths: each element's index in its own tensor, and its keys."""
        k = torch.stack([self._k[self._rows[name]] for name in names])
        each = torch.tensor(counts, device=k.device)
        starts = torch.cumsum(each, 0) - each
        which = torch.repeat_interleave(torch.arange(len(names), device=k.device), each)
        places = torch.arange(sum(counts), dtype=torch.int32, device=k.device) - starts.to(torch.int32)[which]
        return places, list(k.T[: 2 * len(self.program.streams), which].unbind(0))

    def row(self, name: str, start: int) -> tuple[Tensor, Tensor, Numbers]:
        """The numbers s and keys k of one tensor, on the device and on the host, for elements from `start` on."""
        i = self._rows[name]
        if start == 0:
            return self._s[i], self._k[i], Numbers(self._scalars[i], self._halves[i], 0)
        halves = [h for key in self._keys[i] for h in noise.block_key(key, start)]
        place = start % noise.BLOCK
        k = torch.tensor(padded_keys(halves, place), dtype=torch.int32, device=self._k[i].device)
        return self._s[i], k, Numbers(self._scalars[i], halves, place)


__all__ = ["Evaluation", "Key", "Keys", "compute_dtype"]
