"""MeZO-momentum: Malladi et al. 2023, "Fine-Tuning Language Models with Just Forward Passes", arXiv:2305.17333,
Appendix B.2.

    ĝ ← 1/n Σ_j g_j z_j, the n-SPSA estimate                 (1), Definition 1
    m ← β₁ m + (1 − β₁) ĝ
    θ ← θ − η m − η λ θ

moments=recomputed stores no field: m = Σ_k (1 − β₁) β₁ᵏ g z over the last K steps, k steps back, where each z is
regenerated from its seed and each g is a number in the state.

Evaluations a step: 2n. Extra memory: stored, one field; recomputed, none, but K times as much noise is generated a
step.

Differs from the paper: m is the moving average that the paper describes, without a correction for its start at 0; the
classical m ← β₁ m + ĝ is the same with η times 1 − β₁. `recomputed` forgets estimates that are older than K steps; the
paper keeps all. Weight decay, noise and evaluation are those of mezo.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict

from zotune import constant, weighted_sum
from zotune.types import At, Noise, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import at_least, decay_rate, fraction, positive, require
from zotune_optimizers.spsa import decayed, moving_average, projected_gradient


class State(TypedDict, total=False):
    t: int
    m: Recipe  # m, where moments=stored
    past: list[tuple[float, Noise]]  # estimates (g, z) of the last K steps, oldest first


@dataclass(frozen=True)
class MeZOMomentum:
    lr: float = 1e-6  # η: learning rate [Alg. 1]
    eps: float = 1e-3  # ε: perturbation scale [Definition 1]
    n: int = 1  # n: directions a step [Alg. 2]
    beta1: float = 0.9  # β₁: memory of the momentum [Appendix B.2]
    moments: Literal["stored", "recomputed"] = "stored"  # a field, or from the last K seeds and scalars [Appendix B.2]
    window: int = 32  # K: steps that are recomputed [ours]
    weight_decay: float = 0.0  # λ: decoupled weight decay, none on biases and norm layers [Table 13]
    schedule: Schedule = "constant"  # of η over the budget [Appendix A]

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("mezo-momentum", lr=self.lr, eps=self.eps)
        at_least(1, "mezo-momentum", n=self.n, window=self.window)
        fraction("mezo-momentum", beta1=self.beta1)
        decay_rate("mezo-momentum", self.weight_decay, self.lr)
        message = f"mezo-momentum: moments=recomputed takes n = 1, got {self.n}"
        require(self.moments == "stored" or self.n == 1, message, "moments=stored takes any n")

    @property
    def forwards(self) -> int:
        return 2 * self.n

    @property
    def fields(self) -> int:
        return 1 if self.moments == "stored" else 0

    def init(self, theta: Theta) -> State:
        return {"t": 0, "m": constant(0.0)} if self.moments == "stored" else {"t": 0, "past": []}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        lr, t = self.lr * at.schedule(self.schedule), state["t"] + 1
        new_state: State
        pairs = [(projected_gradient(oracle, theta, z, self.eps) / self.n, z) for z in map(at.normal, range(self.n))]
        if self.moments == "stored":
            m = self.beta1 * state["m"] + (1 - self.beta1) * weighted_sum(pairs)
            new_state = {"t": t, "m": m}
        else:
            past = [*state["past"], pairs[0]][-self.window :]  # oldest first
            m = moving_average(self.beta1, past, 1)
            new_state = {"t": t, "past": past}
        return decayed(theta, lr * self.weight_decay) - lr * m, new_state
