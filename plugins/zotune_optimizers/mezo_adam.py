"""MeZO-momentum and MeZO-Adam: Malladi et al. 2023, arXiv:2305.17333, Appendix B.2.

    ĝ = (1/n) Σ_j g_j z_j, the n-SPSA estimate of Definition 1
    m ← β₁ m + (1 − β₁) ĝ;   θ ← θ − η m                                             MeZO-momentum
    v ← β₂ v + (1 − β₂) ĝ²;  θ ← θ − η m̂ / (√v̂ + σ),  m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ)   MeZO-Adam

With `moments=recomputed` no field is kept: m = Σ (1 − β₁) β₁ᵏ g z over the last K steps, drawn again from their seeds
and scalars, and v likewise from their squares.

Forwards a step: 2n. Extra memory: stored, one field (momentum) or two (Adam); recomputed, none, and K more draws of the
noise a step.

Differs from the paper: nothing while at most K steps are made; later `recomputed` forgets what is older than K steps
(the paper keeps all), with the weights of what is left divided by their sum, 1 − βᴷ. MeZO-momentum's m is the moving
average that the paper speaks of, not corrected for its start; the classical m ← β₁ m + ĝ is the same with η times
1 − β₁. λ as in mezo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zotune.core.recipe import sqrt, weighted_sum
from zotune_optimizers.parts import ZERO, at_least, check_decay, decay, positive, require, share, shrunk, slope


@dataclass(frozen=True)
class MeZOMomentum:
    lr: float = 1e-6  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale
    n: int = 1  # n: directions a step
    beta1: float = 0.9  # β₁: memory of the momentum
    moments: Literal["stored", "recomputed"] = "stored"  # a field, or the last K seeds and scalars
    window: int = 32  # K: steps that are recomputed
    weight_decay: float = 0.0  # λ: decoupled, none on biases and norm layers
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of η over the budget

    name: ClassVar[str] = "mezo-momentum"
    kept: ClassVar[int] = 1
    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive(self.name, lr=self.lr, eps=self.eps)
        at_least(1, self.name, n=self.n, window=self.window)
        share(self.name, beta1=self.beta1)
        check_decay(self.name, self.weight_decay, self.lr)
        said = f"{self.name}: moments=recomputed takes n = 1, got {self.n}"
        require(self.moments == "stored" or self.n == 1, said, "moments=stored takes any n")

    @property
    def forwards(self) -> int:
        return 2 * self.n

    @property
    def fields(self) -> int:
        return self.kept if self.moments == "stored" else 0

    def init(self, theta: Any) -> Any:
        return {"t": 0, "m": ZERO} if self.moments == "stored" else {"t": 0, "past": []}

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> tuple[Any, Any]:
        lr, t = self.lr * decay(self.schedule, at.progress), state["t"] + 1
        pairs = [(slope(oracle, theta, z, self.eps) / self.n, z) for z in map(at.normal, range(self.n))]
        if self.moments == "stored":
            direction, kept = self.advance(weighted_sum(pairs), state, t)
        else:
            past = [*state["past"], pairs[0]][-self.window :]  # oldest first
            direction, kept = self.recompute(past, min(t, self.window)), {"past": past}
        return shrunk(theta, lr * self.weight_decay) - lr * direction, {"t": t, **kept}

    def advance(self, estimate: Any, state: Any, t: int) -> tuple[Any, dict[str, Any]]:
        m = self.beta1 * state["m"] + (1 - self.beta1) * estimate
        return m, {"m": m}

    def recompute(self, past: Any, t: int) -> Any:
        return self.average(self.beta1, past, 1)

    @staticmethod
    def average(beta: float, past: Any, power: int) -> Any:
        """Σ (1 − β) βᵏ (g z)^power, k steps back."""
        pairs = reversed(list(past))
        return weighted_sum([((1 - beta) * beta**k * g**power, z) for k, (g, z) in enumerate(pairs)], power=power)


@dataclass(frozen=True)
class MeZOAdam(MeZOMomentum):
    beta2: float = 0.999  # β₂: memory of the squares
    sigma: float = 1e-8  # σ: added to √v̂

    name: ClassVar[str] = "mezo-adam"
    kept: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self.name, beta2=self.beta2)
        positive(self.name, sigma=self.sigma)

    def init(self, theta: Any) -> Any:
        return super().init(theta) | ({"v": ZERO} if self.moments == "stored" else {})

    def advance(self, estimate: Any, state: Any, t: int) -> tuple[Any, dict[str, Any]]:
        m = self.beta1 * state["m"] + (1 - self.beta1) * estimate
        v = self.beta2 * state["v"] + (1 - self.beta2) * estimate**2
        return self.adapted(m, v, t), {"m": m, "v": v}

    def recompute(self, past: Any, t: int) -> Any:
        return self.adapted(self.average(self.beta1, past, 1), self.average(self.beta2, past, 2), t)

    def adapted(self, m: Any, v: Any, t: int) -> Any:
        return m / (1 - self.beta1**t) / (sqrt(v / (1 - self.beta2**t)) + self.sigma)
