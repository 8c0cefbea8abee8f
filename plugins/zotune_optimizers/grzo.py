"""GRZO: Tan et al. 2026, "GRZO: Group-Relative Zeroth-Order Optimization for Large Language Model Fine-Tuning",
arXiv:2606.02857.

    U ~ N(0, I);  for each of the batch's rows ξ_i:  signs r_i, s_i at random
    matrices:  z_i = U ∘ (r_i s_iᵀ);   others:  z_i ∈ {−1, 1}ᵈ at random
    δ_i = L(θ + σ z_i; ξ_i) − L(θ − σ z_i; ξ_i)
    a_i = δ_i / (std δ + ε)
    θ ← θ − η / 2σB Σ_i a_i z_i

Forwards a step: 2b single rows, b the batch. Extra memory: none; signs are there while a pass is under way: b/m + b/n
of a matrix of m × n.

Differs from the paper: it perturbs every row within one pass of the whole batch, by signs on the inputs and outputs of
each layer, and so makes two passes of b rows. Here each row is a pass of its own under weights of its own: the same δ_i
for any model and any objective, but every forward of one row counts as one, 2b where the paper counts 2. Embeddings are
matrices like all others; the authors' code gives signs to the tokens of a row. Differences that are all the same move
nothing, and a batch of one row is refused: there is no std. Signs are those of a sum of bytes, + where it is zero. A
tensor of more than two axes is a matrix of its first axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import pstdev
from typing import Any, ClassVar, Literal

from zotune.core.recipe import each, outer, weighted_sum, where
from zotune_optimizers.parts import decay, matrix, positive, require


@dataclass(frozen=True)
class GRZO:
    lr: float = 1e-7  # η: learning rate
    eps: float = 1e-3  # σ: perturbation scale
    floor: float = 1e-8  # ε: added to std δ
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of η over the budget

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("grzo", lr=self.lr, eps=self.eps, floor=self.floor)

    def cost(self, theta: Any, at: Any) -> int:
        return 2 * len(at.sample(0).rows)

    def init(self, theta: Any, oracle: Any, at: Any) -> None:
        rows = len(at.sample(0).rows)
        require(rows > 1, f"grzo: a batch must have at least 2 rows, got {rows}", "--batch-size 16")

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> tuple[Any, None]:
        rows, U, matrices = at.sample(0).each, at.normal(), theta.per(lambda t: matrix(t) is not None)
        r = [self.factor(at, 0, i) for i in range(len(rows))]
        s = [self.factor(at, 1, i) for i in range(len(rows))]
        delta = []
        for i, row in enumerate(rows):
            z = where(matrices, U * outer(each(signs, r[i]), each(signs, s[i])), at.rademacher(i))
            up, down = oracle(theta + self.eps * z, theta - self.eps * z, batch=row)
            delta.append(up - down)
        spread = pstdev(delta)
        if spread == 0:
            return theta, None
        scale = self.lr * decay(self.schedule, at.progress) / (2 * self.eps * len(rows))
        c = [scale * d / (spread + self.floor) for d in delta]
        told = U * outer(each(partial(joined, c), *r), each(partial(joined, [1.0] * len(c)), *s))
        rest = weighted_sum([(a, at.rademacher(i)) for i, a in enumerate(c)])
        return theta - where(matrices, told, rest), None

    def factor(self, at: Any, side: int, i: int) -> Any:
        """Row i's noise along one side of each matrix: one column."""
        return at.factor(lambda t: (x[side], 1) if (x := matrix(t)) else None, 2 * i + side)


def signs(x: Any) -> Any:
    return (x >= 0).double() * 2 - 1


def joined(c: list[float], *columns: Any) -> Any:
    """The signs of all rows side by side, each times its number."""
    import torch

    return torch.cat([a * signs(x) for a, x in zip(c, columns, strict=True)], 1)
