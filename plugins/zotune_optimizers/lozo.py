"""LOZO and LOZO-M: Chen et al. 2024, "Enhancing Zeroth-order Fine-tuning for Language Models with Low-rank Structures",
arXiv:2410.07698.

    matrices (m × n):  U ~ N(0, 1) of m × r;  V ~ N(0, 1) of n × r, redrawn every ν steps;  Z = U Vᵀ
    other tensors:     Z ~ N(0, I)
    g ← (L(θ + ε Z; B) − L(θ − ε Z; B)) / 2ε
    LOZO:    matrices  θ ← θ − η g U Vᵀ / r;      others  θ ← θ − η g Z
    LOZO-M:  matrices  N ← β N + (1 − β) g U;     θ ← θ − η N Vᵀ / r
                       where V changes, first N ← N Vᵀ_old V / n
             others    M ← β M + (1 − β) g Z;     θ ← θ − η M

Evaluations a step: 2. Extra memory: LOZO none; LOZO-M one field M of the other tensors (biases and norms).

Differs from the paper: N is not stored but recomputed from the last K seeds and scalars, m × r each. Older steps have a
total weight of βᴷ, 3 % with K = 32 and β = 0.9, and are forgotten. N and M start at 0; the authors' code starts them at
the first estimate, and has the factor 1/r in η. There is no weight decay λ. The first axis of a tensor with more than
two axes counts rows, all others columns. Vᵀ_old V is a matrix product of torch, so LOZO-M replays bit for bit on the
same kind of machine; LOZO replays on all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from zotune import constant, each, only, outer, where
from zotune.types import At, Factor, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.matrices import is_matrix, matrix_shape, scaled
from zotune_optimizers.option_checks import at_least, fraction, positive
from zotune_optimizers.spsa import projected_gradient

if TYPE_CHECKING:
    from torch import Tensor


class State(TypedDict):
    past: list[list[float]]  # (step, g) of the last K steps, oldest first
    M: Recipe  # M: momentum of tensors that are no matrices


@dataclass(frozen=True)
class LOZO:
    lr: float = 1e-6  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale
    rank: int = 4  # r: columns of U and V
    interval: int = 100  # ν: steps that V is kept
    beta: float = 0.0  # β: memory of the momentum; 0: LOZO, 0.9: LOZO-M
    window: int = 32  # K: steps that the momentum of matrices is recomputed from
    schedule: Schedule = "constant"  # of η over the budget

    forwards: ClassVar[int] = 2
    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("lozo", lr=self.lr, eps=self.eps)
        at_least(1, "lozo", rank=self.rank, interval=self.interval, window=self.window)
        fraction("lozo", beta=self.beta)

    @property
    def fields(self) -> int:
        return 1 if self.beta else 0

    def init(self, theta: Theta) -> State | None:
        others = theta.per(lambda t: not is_matrix(t))
        return {"past": [], "M": only(others, constant(0.0))} if self.beta else None

    def step(self, theta: Theta, oracle: Oracle, state: State | None, at: At) -> tuple[Recipe, State | None]:
        matrices, z = theta.per(is_matrix), at.normal()
        U, V = self.factors(at, at.t)
        g = projected_gradient(oracle, theta, where(matrices, outer(U, V), z), self.eps)
        lr = self.lr * at.schedule(self.schedule)
        if state is None:
            return theta - lr * g * where(matrices, 1 / self.rank * outer(U, V), z), None
        past = [*state["past"], [at.t, g]][-self.window :]  # oldest first
        M = self.beta * state["M"] + (1 - self.beta) * g * z
        N = self.momentum(at, past)
        step = where(matrices, 1 / self.rank * outer(N, V), M)
        return theta - lr * step, {"past": past, "M": only(theta.per(lambda t: not is_matrix(t)), M)}

    def factors(self, at: At, t: int) -> tuple[Factor, Factor]:
        """U and V of step t."""
        U = at.factor(lambda x: (shape[0], self.rank) if (shape := matrix_shape(x)) else None, 0, t)
        first = t - t % self.interval  # the step that drew V
        V = at.factor(lambda x: (shape[1], self.rank) if (shape := matrix_shape(x)) else None, 1, first)
        return U, V

    def momentum(self, at: At, past: list[list[float]]) -> Any:
        """N, from (step, g) of the last steps, oldest first."""
        U, V_old = self.factors(at, int(past[0][0]))
        N = each(partial(scaled, (1 - self.beta) * past[0][1]), U)
        for t, g in past[1:]:
            U, V = self.factors(at, int(t))
            N = N if V.step == V_old.step else each(carried_over, N, V_old, V)
            N = each(partial(averaged, self.beta, (1 - self.beta) * g), N, U)
            V_old = V
        return N


def averaged(beta: float, c: float, N: Tensor, U: Tensor) -> Tensor:
    """β N + c U in float64."""
    return beta * N + c * U.double()


def carried_over(N: Tensor, V_old: Tensor, V: Tensor) -> Tensor:
    """N Vᵀ_old V / n: the momentum of one subspace in the next. Shapes: (m, r), (n, r), (n, r)."""
    return N @ (V_old.double().T @ V.double() / len(V_old))
