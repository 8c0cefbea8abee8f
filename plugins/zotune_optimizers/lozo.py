"""LOZO and LOZO-M: Chen et al. 2024, "Enhancing Zeroth-order Fine-tuning for Language Models with Low-rank Structures",
arXiv:2410.07698.

    matrices (m × n):  U ~ N(0, 1) of m × r;  V ~ N(0, 1) of n × r, drawn again every ν steps;  Z = U Vᵀ
    others:            Z ~ N(0, I)
    g = (L(θ + ε Z; B) − L(θ − ε Z; B)) / 2ε
    LOZO      θ ← θ − η g U Vᵀ / r;    others  θ ← θ − η g Z
    LOZO-M    N ← β N + (1 − β) g U;   θ ← θ − η N Vᵀ / r;  where V is new, N ← N Vᵀ_old V / n before
              others  M ← β M + (1 − β) g Z;   θ ← θ − η M

Forwards a step: 2. Extra memory: LOZO none; LOZO-M the field M of what is no matrix (biases and norms).

Differs from the paper: N is not stored but made again from the last K seeds and scalars, m × r each; what is older has
the weight βᴷ, 3 % with K = 32 and β = 0.9, and is forgotten. N and M start at 0; the authors' code starts with the
first estimate, and has no 1/r, which is then part of η. λ is left out. A tensor of more than two axes is a matrix of
its first axis. Vᵀ_old V is a product as the machine makes it: LOZO-M replays bit for bit on the same kind of machine
alone, LOZO on all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from zotune.core.recipe import each, only, outer, where
from zotune_optimizers.parts import ZERO, at_least, decay, matrix, positive, share, slope


@dataclass(frozen=True)
class LOZO:
    lr: float = 1e-6  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale
    rank: int = 4  # r: columns of U and V
    interval: int = 100  # ν: steps that V is kept
    beta: float = 0.0  # β: memory of the momentum; 0: LOZO, 0.9: LOZO-M
    window: int = 32  # K: steps that the momentum of matrices is made of
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of η over the budget

    forwards = 2

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("lozo", lr=self.lr, eps=self.eps)
        at_least(1, "lozo", rank=self.rank, interval=self.interval, window=self.window)
        share("lozo", beta=self.beta)

    @property
    def fields(self) -> int:
        return 1 if self.beta else 0

    def init(self, theta: Any) -> Any:
        return {"past": [], "M": only(theta.per(lambda t: not matrix(t)), ZERO)} if self.beta else None

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> tuple[Any, Any]:
        matrices, z = theta.per(matrix_or_not), at.normal()
        U, V = self.factors(at, at.t)
        g = slope(oracle, theta, where(matrices, outer(U, V), z), self.eps)
        lr = self.lr * decay(self.schedule, at.progress)
        if not self.beta:
            return theta - lr * g * where(matrices, 1 / self.rank * outer(U, V), z), None
        past = [*state["past"], [at.t, g]][-self.window :]  # oldest first
        M = self.beta * state["M"] + (1 - self.beta) * g * z
        step = where(matrices, 1 / self.rank * outer(self.momentum(at, past), V), M)
        return theta - lr * step, {"past": past, "M": only(theta.per(lambda t: not matrix(t)), M)}

    def factors(self, at: Any, t: int) -> tuple[Any, Any]:
        """U and V of step t."""
        U = at.factor(lambda x: (s[0], self.rank) if (s := matrix(x)) else None, 0, t)
        V = at.factor(lambda x: (s[1], self.rank) if (s := matrix(x)) else None, 1, t - t % self.interval)
        return U, V

    def momentum(self, at: Any, past: Any) -> Any:
        """N, from [step, g] of the last steps."""
        U, before = self.factors(at, past[0][0])
        N = each(partial(scaled, (1 - self.beta) * past[0][1]), U)
        for t, g in past[1:]:
            U, V = self.factors(at, t)
            N = N if V.step == before.step else each(moved, N, before, V)
            N = each(partial(added, self.beta, (1 - self.beta) * g), N, U)
            before = V
        return N


def matrix_or_not(t: Any) -> bool:
    return matrix(t) is not None


def scaled(c: float, U: Any) -> Any:
    return c * U.double()


def added(beta: float, c: float, N: Any, U: Any) -> Any:
    return beta * N + c * U.double()


def moved(N: Any, old: Any, new: Any) -> Any:
    """The momentum of one subspace in the next."""
    return N @ (old.double().T @ new.double() / len(old))
