"""DiZO: Tan et al. 2025, "Harmony in Divergence: Towards Fast, Accurate, and Memory-efficient Zeroth-order LLM
Fine-tuning", arXiv:2502.03304, Algorithm 1 and Appendix F.

    θ ← θ − η g z, a MeZO step                                                               (1), (2)
    every `interval` steps, on the same minibatch, for the L projected tensors:
        Δ ← θ − θ₀;  d_l ← ‖Δ_l‖₂;  r_l = γ_l / d_l ← 1                                      (3), re-initialisation
        `iters` times:
            u ~ N(0, I_L);  G ← (L(θ₀ + (r + ε'u) ⊙ Δ) − L(θ₀ + (r − ε'u) ⊙ Δ)) / 2ε'        (6)
            r ← clip(r − (η'/L) G u, 1 − τ, 1 + τ)                                           (7), clipping
        θ ← θ₀ + r ⊙ Δ                                                                       (5)
    perturb=absolute: γ ± ε'u, and steps of η'/L on γ itself                                 Appendix F
    mode=adam: γ learned with Adam (Kingma and Ba 2015), as in the paper's first-order variant

Evaluations a step: 2; in a projection round 2 × iters more, with mode=adam 2 × L × iters more. Extra memory: θ₀ of the
projected tensors.

Differs from the paper: the relative form (r instead of γ) is the default because it has no scale. Algorithm 1 prints
q/2ε for q directions where 1/(2qε) is right; q = 1 here. iters and η' are those of the authors' code, with η' divided
by L. mode=adam takes the slope along each γ_l by two evaluations, not by back-propagation. A pattern without a match is
an error; the authors' code then projects nothing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict

from zotune import only
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import at_least, positive, require
from zotune_optimizers.spsa import projected_gradient

QUERY_VALUE = r"^(?!.*(bias$|norm|value_head|v_head)).*(q_proj|v_proj|query|value|c_attn|qkv|Wqkv|\.[qv]\.)"
"""Weights of query and value projections: no biases, no norms, and no head that predicts the value of a state."""
BETA1, BETA2, SIGMA = 0.9, 0.999, 1e-8
"""Adam's defaults, for mode=adam (Kingma and Ba 2015)."""
NEW1, NEW2 = 0.1, 0.001
"""1 − β₁ and 1 − β₂ as decimals; in floating point 1 − 0.9 is not 0.1."""


class State(TypedDict):
    anchor: Recipe  # θ₀ on the projected tensors, 0 elsewhere


@dataclass(frozen=True)
class DiZO:
    lr: float = 1e-6  # η: learning rate of the MeZO steps
    eps: float = 1e-3  # ε: perturbation scale of the MeZO steps
    interval: int = 50  # steps from one projection round to the next; the paper's are 50 to 400
    iters: int = 10  # directions (mode=zo) or Adam steps (mode=adam) a round
    gamma_lr: float = 1.0  # η': step size of r (or γ), divided by L where mode=zo
    gamma_eps: float = 0.1  # ε': perturbation scale of r (or γ); the paper's are 0.1 and 0.05
    tau: float = 0.2  # τ: r stays within 1 ± τ
    pattern: str = QUERY_VALUE  # names of the projected tensors, a regular expression
    mode: Literal["zo", "adam"] = "zo"  # how γ is learned
    perturb: Literal["relative", "absolute"] = "relative"  # r ± ε'u, or γ ± ε'u
    schedule: Schedule = "constant"  # of η over the budget; linear for OPT and Llama

    fields: ClassVar[int] = 1
    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("dizo", lr=self.lr, eps=self.eps, gamma_lr=self.gamma_lr, gamma_eps=self.gamma_eps)
        at_least(1, "dizo", interval=self.interval, iters=self.iters)
        require(0 < self.tau < 0.5, f"dizo: tau must be in (0, 0.5), got {self.tau}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            require(False, f"dizo: pattern {self.pattern!r} is no regular expression: {error}")

    def cost(self, theta: Theta, at: At) -> int:
        slope = 2 * (len(self.projected(theta)) if self.mode == "adam" else 1)
        return 2 + (slope * self.iters if self.is_due(at) else 0)

    def is_due(self, at: At) -> bool:
        """Whether this step ends with a projection round."""
        return bool((at.t + 1) % self.interval == 0)

    def projected(self, theta: Theta) -> list[str]:
        """Names of the projected tensors."""
        return [t.name for t in theta.tensors if re.search(self.pattern, t.name)]

    def init(self, theta: Theta) -> State:
        names = set(self.projected(theta))
        some = ", ".join(t.name for t in theta.tensors[:3])
        require(bool(names), f"dizo: pattern {self.pattern!r} matches none of the tuned tensors, such as {some}")
        return {"anchor": only(theta.per(lambda t: t.name in names), theta)}  # θ₀

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        z = at.normal()  # ~ N(0, I)
        g = projected_gradient(oracle, theta, z, self.eps)  # (1)
        new = theta - self.lr * at.schedule(self.schedule) * g * z  # (2)
        return (self.project(new, theta, oracle, state["anchor"], at) if self.is_due(at) else new), state

    def project(self, new: Recipe, theta: Theta, oracle: Oracle, anchor: Recipe, at: At) -> Recipe:
        """θ₀ + r ⊙ Δ with learned ratios r. A tensor that has not moved from θ₀ keeps r = 1."""
        names, delta = set(self.projected(theta)), new - anchor
        d = {n: x for n, x in at.norm(delta).values.items() if n in names and x > 0}  # (3)
        unit = {n: 1.0 if self.perturb == "relative" else 1 / x for n, x in d.items()}  # of r, for a unit of u
        r = dict.fromkeys(d, 1.0)

        def at_ratio(
            r: dict[str, float],
        ) -> Recipe:  # (5); the anchor is 0 where nothing is projected, and r is 1 there
            return anchor + theta.per(lambda t: r.get(t.name, 1.0)) * delta

        def slope(u: dict[str, float]) -> float:  # (6)
            along = theta.per(lambda t: u.get(t.name, 0.0) * unit.get(t.name, 0.0)) * delta
            return projected_gradient(oracle, at_ratio(r), along, self.gamma_eps)

        m, v = dict.fromkeys(d, 0.0), dict.fromkeys(d, 0.0)
        for k in range(self.iters if d else 0):
            if self.mode == "zo":
                u = dict(zip(d, at.vector(len(d), k), strict=True))  # ~ N(0, I_L)
                G = slope(u)
                down = {n: G * u[n] / len(d) for n in d}
            else:
                G_each = {n: slope({n: 1.0}) for n in d}
                m = {n: BETA1 * m[n] + NEW1 * G_each[n] for n in d}
                v = {n: BETA2 * v[n] + NEW2 * G_each[n] ** 2 for n in d}
                v_hat = {n: v[n] / (1 - BETA2 ** (k + 1)) for n in d}
                down = {n: m[n] / (1 - BETA1 ** (k + 1)) / (math.sqrt(v_hat[n]) + SIGMA) for n in d}
            r = {n: min(max(x - self.gamma_lr * down[n] * unit[n], 1 - self.tau), 1 + self.tau) for n, x in r.items()}
        return at_ratio(r)  # (5)
