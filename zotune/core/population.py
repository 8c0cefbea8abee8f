"""Populations: members of θ plus low-rank noise, evaluated row by row in one forward pass without writing a weight.

A population has P pairs of members, θ ± S ∘ u_p v_pᵀ, where u_p and v_p belong to each tensor (`recipe.Directions`) and
S is one size a tensor. In a forward pass of 2 P k rows each member has k rows of its own, ordered by sign, pair and
place: rows 0 … P k − 1 belong to the members with +, the others to those with −, and partners stand at the same place
of both halves. The product with the base weights is shared by all rows; what is added to a row is

    Linear      y + ± s (x · v_p) u_p        Conv1D, whose weight is transposed, y + ± s (x · u_p) v_p
    Embedding   e[i] + ± s u_p[i] v_p        a tied matrix uses the same factors in both places

In half precision the sizes are shared between u and v, so that neither x · v nor the factors leave the range of
float16, and sums are float32 before they are rounded. `member` is the same point as written weights, which is what a
population means; `RowWise.agrees` compares the two on a model before rows are used. On a CPU a kernel from C++ may add
what a member changes, in one pass over inputs and outputs; its last bits differ from those of torch's operations, so a
run keeps to one of both.

Source: EGGROLL (arXiv:2511.16652), taken to few rows a member. Knows modules and recipes; knows no task, no text and
no optimizer.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zotune.core import noise
from zotune.core.in_forward import owners
from zotune.core.member_kernels import MemberKernels, member_kernels
from zotune.core.members import member_factors
from zotune.core.recipe import Directions, PerTensor, Recipe, TensorInfo, Theta, direction_sum
from zotune.core.space import Space

FEW_TOKENS = 8
"""Tokens of a row up to which x · v is a product and a sum: cheaper than matrices of one column."""
WIDE = 64 << 20
"""Bytes of factors up to which they are kept in float32; above, in float16, which holds them exactly too."""
AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}
"""Root mean square of the difference of row-wise outputs from those under written weights, at most, in units of the
outputs' standard deviation. Below float32 written weights are rounded, rows are not."""
VISIBLE = {torch.bfloat16: 0.4}
"""The same difference at most, as a share of what the members change: one tensor that is read in another way shows. 0.2
for other types. The rounding of SmolLM2's written weights alone is 0.21 of a change in one of four rows."""


@dataclass(frozen=True)
class Population:
    """directions: of every pair; sizes: S, the factor of u_p v_pᵀ by tensor; scales: a further factor of each pair,
    1 by default. 2 × directions.count members."""

    directions: Directions
    sizes: Mapping[str, float]
    scales: tuple[float, ...] = ()

    @property
    def pairs(self) -> int:
        return self.directions.count

    def member(self, theta: Theta, pair: int, sign: int) -> Recipe:
        """The weights of one member, as a recipe. sign: 1 or -1."""
        weights = [0.0] * self.pairs
        weights[pair] = sign * self.scales[pair] if self.scales else float(sign)
        return theta + self.size(theta) * direction_sum(self.directions, weights)

    def size(self, theta: Theta) -> PerTensor:
        """S as one number for every tuned tensor: 0 for those that have no directions."""
        return theta.per(lambda t: self.sizes.get(t.name, 0.0))


def matrix_shape(tensor: TensorInfo) -> tuple[int, int] | None:
    """(rows, columns) of a tensor that takes low-rank noise: two axes of at least 2, and neither a norm nor a bias."""
    if tensor.kind in ("norm", "bias") or len(tensor.shape) != 2 or min(tensor.shape) < 2:
        return None
    return tensor.shape[0], tensor.shape[1]


def arithmetic(module: nn.Module) -> set[torch.dtype]:
    """The floating-point types of a module's parameters: an adapter may be float32 on weights in bfloat16."""
    return {p.dtype for p in module.parameters() if p.is_floating_point()}


class RowWise:
    """Evaluates the members of a population in one forward pass, each on rows of its own.

    forward: one pass over `rows` rows, to see which modules are called and with what. compiled: whether kernels from
    C++ are used where they can be; afterwards, whether they are. unsupported: names of tuned tensors that cannot be
    perturbed row by row: no matrix, read by another module than Linear, Conv1D and Embedding, or read for all rows at
    once, as position tables are.
    """

    def __init__(self, space: Space, forward: Callable[[], Any], rows: int, compiled: bool = False) -> None:
        self.space = space
        on_cpu = all(p.device.type == "cpu" for p in space.params.values())
        self._kernels = member_kernels() if compiled and on_cpu else None
        self.compiled = self._kernels is not None
        leading: dict[nn.Module, set[int]] = {}
        handles = [m.register_forward_pre_hook(functools.partial(_record, leading)) for m in space.module.modules()]
        try:
            forward()
        finally:
            for handle in handles:
                handle.remove()
        self._owners = owners(space.module, space.params, list(leading))
        by_row = {m for m, counts in leading.items() if all(n and n % rows == 0 for n in counts)}
        wrong = {n for m, names in self._owners.items() for n in names if m not in by_row or not _reads(m, n, space)}
        matrices = {t.name for t in space.theta.tensors if matrix_shape(t)}
        self.unsupported = frozenset(space.params) - matrices | wrong
        # Logits may be float32 where the arithmetic of the model is not.
        dtypes = arithmetic(space.module)
        self._tolerance = max(AGREEMENT.get(d, 0.0) for d in dtypes)
        self._visible = max(VISIBLE.get(d, 0.2) for d in dtypes)
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        self._of: Population | None = None

    @contextlib.contextmanager
    def at(self, population: Population, first: int = 0, last: int | None = None) -> Iterator[None]:
        """Forward passes inside see the members of pairs first … last − 1, each on its share of the rows.

        The number of rows of every input must be a multiple of twice the number of pairs. Weights are not written, and
        modules are as they were afterwards, whatever happens.
        """
        last = population.pairs if last is None else last
        self._prepare(population)
        patched: list[tuple[nn.Module, Any]] = []
        try:
            for module, names in self._owners.items():
                wanted = [n for n in names if n in population.sizes]
                if wanted:
                    patched.append((module, module.__dict__.get("forward")))
                    module.__dict__["forward"] = self._around(module, wanted[0], slice(first, last))
            yield
        finally:
            for module, before in patched:
                if before is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = before

    def release(self) -> None:
        """Let go of the factors."""
        self._factors, self._of = {}, None

    def _prepare(self, population: Population) -> None:
        """Factors of every tensor in units of noise.NORMAL_SCALE: (pairs, rows) and (pairs, columns)."""
        if self._of is population:
            return
        d = population.directions
        elements = d.count * sum(a + b for n, (a, b) in d.shapes.items() if n in population.sizes)
        self._factors, kept = {}, torch.float32 if 4 * elements <= WIDE else torch.float16
        for name in population.sizes:
            left, right = member_factors(d, name, self.space.key, self.space.params[name].device, self._kernels)
            self._factors[name] = (left, right) if self._kernels else (left.to(kept), right.to(kept))
        self._of = population

    def _around(self, module: nn.Module, name: str, pairs: slice) -> Callable[..., Any]:
        """The module's forward, plus what each row's member adds."""
        assert self._of is not None
        size = self._of.sizes[name] * noise.NORMAL_SCALE**2
        left, right = (x[pairs] for x in self._factors[name])
        factors = [size * x for x in self._of.scales[pairs]] or [size] * len(left)
        signed = torch.tensor([*factors, *(-x for x in factors)], device=left.device)
        if isinstance(module, nn.Embedding):
            return _embedding(module.forward, left, right, signed.view(2, -1, 1, 1))
        inputs, outputs = (left, right) if type(module).__name__ == "Conv1D" else (right, left)
        dtype = self.space.params[name].dtype
        if self._kernels and self._kernels.adds(dtype):
            return _compiled_linear(module.forward, inputs, outputs, signed, self._kernels)
        return _linear(module.forward, inputs, outputs, signed, math.sqrt(abs(self._of.sizes[name])) or 1.0, dtype)

    def agrees(self, population: Population, forward: Callable[[], Tensor]) -> bool:
        """Whether rows of members give what the members give under written weights, to rounding, and no row of one
        member depends on another's weights.

        forward: one pass over 2 P k rows, the same content for partners; returns (2 P k, …), what is scored.
        """
        space, pairs = self.space, population.pairs
        if self.unsupported & population.sizes.keys():
            return False
        try:
            with self.at(population):
                together = forward().detach().clone()
            plain = forward().detach()
            rows = len(together) // (2 * pairs)
            for pair in (0, pairs - 1):
                for half, sign in enumerate((1, -1)):
                    with space.at(population.member(space.theta, pair, sign)):
                        alone = forward().detach()
                    part = slice(half * pairs * rows + pair * rows, half * pairs * rows + (pair + 1) * rows)
                    if not _close(together[part], alone[part], plain[part], self._tolerance, self._visible):
                        return False
            return self._isolated(population, forward, together, rows)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False  # a module is called with inputs whose rows are not the batch's

    def _isolated(self, population: Population, forward: Callable[[], Tensor], expected: Tensor, rows: int) -> bool:
        """Whether NaN as one pair's scale makes exactly that pair's rows NaN and changes no other bit."""
        pair, pairs = population.pairs - 1, population.pairs
        with self.at(replace(population, scales=(*[1.0] * pair, math.nan))):
            poisoned = forward().detach()
        own = torch.zeros(len(poisoned), dtype=torch.bool, device=poisoned.device)
        for half in (0, 1):
            own[half * pairs * rows + pair * rows :][:rows] = True
        same = torch.equal(poisoned[~own], expected[~own])
        return same and bool(poisoned[own].isnan().flatten(1).any(1).all())


Forward = Callable[..., Tensor]


def _embedding(forward: Forward, left: Tensor, right: Tensor, signs: Tensor) -> Forward:
    """A look-up of rows. left: (pairs, rows); right: (pairs, columns); signs: (2, pairs, 1, 1)."""

    @functools.wraps(forward)
    def embedding(ids: Tensor) -> Tensor:
        out = forward(ids)
        halves = ids.reshape(2, len(left), -1)
        along = torch.stack([torch.gather(left, 1, half) for half in halves]).float()[..., None]
        return _plus(out, along.mul_(signs), right)

    return embedding


def _linear(
    forward: Forward, inputs: Tensor, outputs: Tensor, signed: Tensor, root: float, dtype: torch.dtype
) -> Forward:
    """A product. inputs, outputs: (pairs, width) and (pairs, length); signed: of each member; root: of the size; dtype:
    of the weights."""
    # In half precision the noise loses bits beyond those of the outputs, which are rounded anyway.
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    one = (inputs.to(wide) * (noise.NORMAL_SCALE * root)).to(dtype)
    v = torch.cat([one, one])[:, None]
    u = (outputs.to(wide) * (signed / (noise.NORMAL_SCALE * root)).view(2, -1, 1)).to(dtype).view(len(v), 1, -1)
    columns, members, single = v.transpose(1, 2), len(v), dtype in (torch.float32, torch.float64)

    @functools.wraps(forward)
    def linear(x: Tensor) -> Tensor:
        out = forward(x)  # fresh, so that the noise may be added in place
        rows, total = x, out
        if len(x) != members or x.dim() != 3:
            rows, total = x.reshape(members, -1, x.shape[-1]), out.view(members, -1, out.shape[-1])
        if rows.shape[1] > FEW_TOKENS:
            along = torch.matmul(rows, columns)
        elif single:
            along = (rows * v).sum(-1, keepdim=True)
        else:
            along = torch.sum(rows * v, -1, keepdim=True, dtype=torch.float32).to(dtype)
        total.addcmul_(along, u)
        return out

    return linear


def _compiled_linear(forward: Forward, v: Tensor, u: Tensor, signed: Tensor, kernels: MemberKernels) -> Forward:
    """The same by a kernel. v, u: (pairs, width) and (pairs, length) in units of noise.NORMAL_SCALE."""

    @functools.wraps(forward)
    def linear(x: Tensor) -> Tensor:
        out = forward(x).contiguous()  # fresh, so that the noise may be added in place
        kernels.add(out, x.to(out.dtype).contiguous(), u, v, signed)
        return out

    return linear


def _plus(out: Tensor, along: Tensor, vectors: Tensor) -> Tensor:
    """out + along · vectors, in float32 at least; in place where `out` is float32. out: (rows, …, n); along: (2, pairs,
    …, 1); vectors: (pairs, n)."""
    total = out.view(*along.shape[:-1], out.shape[-1])
    if total.dtype == torch.float32:  # the module has just made it
        return total.addcmul_(along, vectors[:, None].float()).view(out.shape)
    wide = total if total.dtype == torch.float64 else total.float()
    return torch.addcmul(wide, along, vectors[:, None].float()).to(out.dtype).view(out.shape)


def _record(leading: dict[nn.Module, set[int]], module: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Note the length of a module's first input; 0 where that is no tensor."""
    first = arguments[0] if arguments else None
    leading.setdefault(module, set()).add(len(first) if isinstance(first, Tensor) and first.dim() else 0)


def _reads(module: nn.Module, name: str, space: Space) -> bool:
    """Whether a module reads this tensor, and no other, by a product or a look-up."""
    plain = type(module).forward in (nn.Linear.forward, nn.Embedding.forward) or type(module).__name__ == "Conv1D"
    return plain and module._parameters.get("weight") is space.params[name]


def _close(together: Tensor, alone: Tensor, plain: Tensor, tolerance: float, visible: float) -> bool:
    """Whether the root mean square of the difference is rounding: against the outputs' spread, and against what the
    member's weights change of those of the base weights (`plain`)."""
    difference, change = _rms(together, alone), _rms(alone, plain)
    return difference <= tolerance * (float(alone.double().std()) or 1.0) and difference <= visible * change


def _rms(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).square().mean().sqrt())


__all__ = ["Population", "RowWise", "arithmetic", "matrix_shape"]
