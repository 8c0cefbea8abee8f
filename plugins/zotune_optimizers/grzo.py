"""GRZO: Tan et al. 2026, "GRZO: Group-Relative Zeroth-Order Optimization for Large Language Model Fine-Tuning",
arXiv:2606.02857.

    U ~ N(0, I);  for each row ξ_i of the batch of B rows:  random signs r_i (rows of a matrix), s_i (columns)
    matrices:       z_i = U ∘ (r_i s_iᵀ)
    other tensors:  z_i ∈ {−1, 1}ᵈ uniformly
    δ_i ← L(θ + σ z_i; ξ_i) − L(θ − σ z_i; ξ_i)
    a_i ← δ_i / (std δ + ε)
    θ ← θ − η / 2σB Σ_i a_i z_i

    population=true: z_i = u_i v_iᵀ on each matrix

Evaluations a step: 2B of single rows; with population=true 2. Extra memory: no field; while a pass is under way, signs
of B/m + B/n of the size of a matrix of m × n.

Differs from the paper: the paper perturbs every row within one forward pass of the whole batch, by signs on the inputs
and outputs of each layer, and so makes two passes of B rows. Here each row is evaluated by itself under weights of its
own: the same δ_i for any model and objective, but 2B evaluations where the paper counts 2. With population=true all
rows share a pass, as in the paper, with directions of rank 1 (EGGROLL, arXiv:2511.16652) in place of signs on one
matrix; tensors that are no matrices stay, and z_i does not involve U. Embeddings are treated as
matrices; the authors' code gives signs to the tokens of a row. If all δ_i are equal, the weights stay; a batch of one
row is refused because it has no std. Signs are those of a sum of bytes, + where it is 0. The first axis of a tensor
with more than two axes counts rows, all others columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from statistics import pstdev
from typing import TYPE_CHECKING, ClassVar

from zotune import direction_sum, each, outer, weighted_sum, where
from zotune.types import At, Batch, Factor, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.matrices import is_matrix, matrix_shape
from zotune_optimizers.option_checks import positive, require
from zotune_optimizers.row_populations import differences

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GRZO:
    lr: float = 1e-7  # η: learning rate
    eps: float = 1e-3  # σ: perturbation scale
    floor: float = 1e-8  # ε: added to std δ
    schedule: Schedule = "constant"  # of η over the budget
    population: bool = False  # directions of rank 1, evaluated in passes that the rows share

    needs: ClassVar[str] = "comparisons"
    unrecorded: ClassVar[Mapping[str, object]] = {"population": False}

    def __post_init__(self) -> None:
        positive("grzo", lr=self.lr, eps=self.eps, floor=self.floor)

    @property
    def populations(self) -> bool:
        return self.population

    def cost(self, theta: Theta, at: At) -> int:
        rows = at.sample(0).rows
        return at.cost(Batch((*rows, *rows))) if self.population else 2 * len(rows)

    def init(self, theta: Theta, oracle: Oracle, at: At) -> None:
        rows = len(at.sample(0).rows)
        require(rows > 1, f"grzo: a batch must have at least 2 rows, got {rows}", "--batch-size 16")

    def step(self, theta: Theta, oracle: Oracle, state: None, at: At) -> tuple[Recipe, None]:
        if self.population:
            return self._row_wise(theta, oracle, at), None
        rows, U, matrices = at.sample(0).each, at.normal(), theta.per(is_matrix)
        r = [self.noise(at, 0, i) for i in range(len(rows))]
        s = [self.noise(at, 1, i) for i in range(len(rows))]
        delta = []
        for i, row in enumerate(rows):
            z = where(matrices, U * outer(each(signs, r[i]), each(signs, s[i])), at.rademacher(i))
            up, down = oracle(theta + self.eps * z, theta - self.eps * z, batch=row)
            delta.append(up - down)
        spread = pstdev(delta)
        if spread == 0:
            return theta, None
        scale = self.lr * at.schedule(self.schedule) / (2 * self.eps * len(rows))
        c = [scale * d / (spread + self.floor) for d in delta]  # η a_i / 2σB
        update = U * outer(each(partial(side_by_side, c), *r), each(partial(side_by_side, [1.0] * len(c)), *s))
        other_update = weighted_sum([(a, at.rademacher(i)) for i, a in enumerate(c)])
        return theta - where(matrices, update, other_update), None

    def _row_wise(self, theta: Theta, oracle: Oracle, at: At) -> Recipe:
        batch = at.sample(0)
        directions = at.directions(len(batch.rows))
        D = differences(*oracle.population(directions, theta.per(lambda t: self.eps), each=1, batch=batch))
        valid = [d for d in D if d is not None]
        spread = pstdev(valid)
        if spread == 0:
            return theta
        scale = self.lr * at.schedule(self.schedule) / (2 * self.eps * len(valid) * (spread + self.floor))
        return theta - direction_sum(directions, [scale * (d or 0.0) for d in D])

    def noise(self, at: At, axis: int, i: int) -> Factor:
        """Noise of row i of the batch along one axis of each matrix, as a factor of one column."""
        return at.factor(lambda t: (shape[axis], 1) if (shape := matrix_shape(t)) else None, 2 * i + axis)


def signs(x: Tensor) -> Tensor:
    """−1 or 1 for each element of a torch tensor, in float64."""
    return (x >= 0).double() * 2 - 1


def side_by_side(c: list[float], *columns: Tensor) -> Tensor:
    """The signs of B columns (m, 1), each times its coefficient, as one matrix (m, B)."""
    import torch

    return torch.cat([a * signs(x) for a, x in zip(c, columns, strict=True)], 1)
