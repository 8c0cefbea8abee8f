"""MeZO-Adam: Malladi et al. 2023, "Fine-Tuning Language Models with Just Forward Passes", arXiv:2305.17333,
Appendix B.2; Adam: Kingma and Ba 2015, arXiv:1412.6980.

    ĝ ← 1/n Σ_j g_j z_j, the n-SPSA estimate                 (1), Definition 1
    m ← β₁ m + (1 − β₁) ĝ;    m̂ = m / (1 − β₁ᵗ)
    v ← β₂ v + (1 − β₂) ĝ²;   v̂ = v / (1 − β₂ᵗ)
    θ ← θ − η m̂ / (√v̂ + σ) − η λ θ

moments=recomputed stores no field: m = Σ_k (1 − β₁) β₁ᵏ g z and v = Σ_k (1 − β₂) β₂ᵏ (g z)² over the last K steps, k
steps back, where each z is regenerated from its seed and each g is a number in the state.

Evaluations a step: 2n. Extra memory: stored, two fields; recomputed, none, but 2K times as much noise is generated a
step.

Differs from the paper: `recomputed` forgets estimates that are older than K steps and divides the weights of the rest
by their sum, 1 − βᴷ; the paper keeps all. Up to step K nothing differs. Weight decay, noise and evaluation are those of
mezo.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict

from zotune import constant, sqrt, weighted_sum
from zotune.types import At, Noise, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import at_least, decay_rate, fraction, positive, require
from zotune_optimizers.spsa import decayed, moving_average, projected_gradient


class State(TypedDict, total=False):
    t: int
    m: Recipe  # m and v, where moments=stored
    v: Recipe
    past: list[tuple[float, Noise]]  # estimates (g, z) of the last K steps, oldest first


@dataclass(frozen=True)
class MeZOAdam:
    lr: float = 1e-6  # η: learning rate [Table 7]
    eps: float = 1e-3  # ε: perturbation scale [Definition 1]
    n: int = 1  # n: directions a step [Alg. 2]
    beta1: float = 0.9  # β₁: memory of the momentum [Appendix B.2]
    moments: Literal["stored", "recomputed"] = "stored"  # fields, or from the last K seeds and scalars [Appendix B.2]
    window: int = 32  # K: steps that are recomputed [ours]
    weight_decay: float = 0.0  # λ: decoupled weight decay, none on biases and norm layers [Table 7]
    schedule: Schedule = "constant"  # of η over the budget [Appendix A]
    beta2: float = 0.999  # β₂: memory of the squares [Appendix B.2]
    sigma: float = 1e-8  # σ: added to √v̂ [Appendix B.2]

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("mezo-adam", lr=self.lr, eps=self.eps, sigma=self.sigma)
        at_least(1, "mezo-adam", n=self.n, window=self.window)
        fraction("mezo-adam", beta1=self.beta1, beta2=self.beta2)
        decay_rate("mezo-adam", self.weight_decay, self.lr)
        message = f"mezo-adam: moments=recomputed takes n = 1, got {self.n}"
        require(self.moments == "stored" or self.n == 1, message, "moments=stored takes any n")

    @property
    def forwards(self) -> int:
        return 2 * self.n

    @property
    def fields(self) -> int:
        return 2 if self.moments == "stored" else 0

    def init(self, theta: Theta) -> State:
        if self.moments == "recomputed":
            return {"t": 0, "past": []}
        return {"t": 0, "m": constant(0.0), "v": constant(0.0)}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        lr, t = self.lr * at.schedule(self.schedule), state["t"] + 1
        new_state: State
        pairs = [(projected_gradient(oracle, theta, z, self.eps) / self.n, z) for z in map(at.normal, range(self.n))]
        if self.moments == "stored":
            estimate = weighted_sum(pairs)
            m = self.beta1 * state["m"] + (1 - self.beta1) * estimate
            v = self.beta2 * state["v"] + (1 - self.beta2) * estimate**2
            steps, new_state = t, {"t": t, "m": m, "v": v}
        else:
            past = [*state["past"], pairs[0]][-self.window :]  # oldest first
            m, v = moving_average(self.beta1, past, 1), moving_average(self.beta2, past, 2)
            steps, new_state = min(t, self.window), {"t": t, "past": past}
        direction = m / (1 - self.beta1**steps) / (sqrt(v / (1 - self.beta2**steps)) + self.sigma)
        return decayed(theta, lr * self.weight_decay) - lr * direction, new_state
