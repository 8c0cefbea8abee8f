"""DiZO: Tan et al. 2025, "Harmony in Divergence: Towards Fast, Accurate, and Memory-efficient Zeroth-order LLM
Fine-tuning", arXiv:2502.03304, Algorithm 1 and Appendix F.

    θ ← θ − η g z, a MeZO step; and every `interval` steps, on the same minibatch, for the L projected tensors:
    Δ = θ − θ₀;  d_l = ‖Δ_l‖₂;  r_l = γ_l / d_l ← 1                                     re-initialisation
    `iters` times:  u ~ N(0, I_L);  G = (L(θ₀ + (r + ε'u) ⊙ Δ) − L(θ₀ + (r − ε'u) ⊙ Δ)) / 2ε'
                    r ← clip(r − (η'/L) G u, 1 − τ, 1 + τ)                               clipping
    θ ← θ₀ + r ⊙ Δ

perturb=absolute is Appendix F: γ ± ε'u and steps of η'/L on γ itself. mode=adam learns γ with Adam, as the paper's
first-order variant does.

Forwards a step: 2; in a round 2 × iters more, with mode=adam 2 × L × iters. Extra memory: θ₀ of the projected tensors.

Differs from the paper: the relative form is the default; it is free of scale. Algorithm 1 prints q/2ε for q directions,
1/(2qε) is right (q = 1 here). iters and η' are the authors' code's, η' divided by L. mode=adam takes the slope along
each γ_l by a difference of two forwards, not by back-propagation. The authors' gate projects nothing on full Llama;
here a pattern without a match is an error.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zotune.core.recipe import only
from zotune_optimizers.parts import at_least, decay, positive, require, slope

QUERY_VALUE = r"q_proj|v_proj|query|value|c_attn|qkv|Wqkv|\.[qv]\."


@dataclass(frozen=True)
class DiZO:
    lr: float = 1e-6  # η: learning rate of the MeZO steps
    eps: float = 1e-3  # ε: perturbation scale of the MeZO steps
    interval: int = 50  # steps from one round of projection to the next; the paper's are 50 to 400
    iters: int = 10  # directions (mode=zo) or Adam steps (mode=adam) a round
    gamma_lr: float = 1.0  # η': step on r (or γ), divided by L where mode=zo
    gamma_eps: float = 0.1  # ε': perturbation of r (or γ); the paper's are 0.1 and 0.05
    tau: float = 0.2  # τ: r stays within 1 ± τ
    pattern: str = QUERY_VALUE  # names of the projected tensors, a regular expression
    mode: Literal["zo", "adam"] = "zo"  # how γ is learned
    perturb: Literal["relative", "absolute"] = "relative"  # r ± ε'u, or γ ± ε'u
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of η over the budget; linear for OPT and Llama

    fields = 1

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("dizo", lr=self.lr, eps=self.eps, gamma_lr=self.gamma_lr, gamma_eps=self.gamma_eps)
        at_least(1, "dizo", interval=self.interval, iters=self.iters)
        require(0 < self.tau < 0.5, f"dizo: tau must be in (0, 0.5), got {self.tau}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            require(False, f"dizo: pattern {self.pattern!r} is no regular expression: {error}")

    def projected(self, theta: Any) -> list[str]:
        return [t.name for t in theta.tensors if re.search(self.pattern, t.name)]

    def due(self, at: Any) -> bool:
        return bool((at.t + 1) % self.interval == 0)

    def cost(self, theta: Any, at: Any) -> int:
        each = 2 * (len(self.projected(theta)) if self.mode == "adam" else 1)
        return 2 + (each * self.iters if self.due(at) else 0)

    def init(self, theta: Any) -> Any:
        names = set(self.projected(theta))
        some = ", ".join(t.name for t in theta.tensors[:3])
        require(bool(names), f"dizo: pattern {self.pattern!r} matches none of the tuned tensors, such as {some}")
        return {"anchor": only(theta.per(lambda t: t.name in names), theta)}

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> tuple[Any, Any]:
        z = at.normal()
        g = slope(oracle, theta, z, self.eps)
        new = theta - self.lr * decay(self.schedule, at.progress) * g * z
        return (self.project(new, theta, oracle, state["anchor"], at) if self.due(at) else new), state

    def project(self, new: Any, theta: Any, oracle: Any, anchor: Any, at: Any) -> Any:
        projected, delta = set(self.projected(theta)), new - anchor
        d = {n: x for n, x in at.norm(delta).values.items() if n in projected and x > 0}  # nothing moved: nothing to do
        unit = {n: 1.0 if self.perturb == "relative" else 1 / x for n, x in d.items()}  # of r, a step of u
        r = dict.fromkeys(d, 1.0)

        def at_ratio(r: Any) -> Any:  # the anchor is 0 where nothing is projected, and r is 1 there
            return anchor + theta.per(lambda t: r.get(t.name, 1.0)) * delta

        def slope_along(u: Any) -> float:
            along = theta.per(lambda t: u.get(t.name, 0.0) * unit.get(t.name, 0.0)) * delta
            return slope(oracle, at_ratio(r), along, self.gamma_eps)

        m, v = dict.fromkeys(d, 0.0), dict.fromkeys(d, 0.0)
        for k in range(self.iters if d else 0):
            if self.mode == "zo":
                u = dict(zip(d, at.vector(len(d), k), strict=True))
                G = slope_along(u)
                down = {n: G * u[n] / len(d) for n in d}
            else:
                G_each = {n: slope_along({n: 1.0}) for n in d}
                m = {n: 0.9 * m[n] + 0.1 * G_each[n] for n in d}
                v = {n: 0.999 * v[n] + 0.001 * G_each[n] ** 2 for n in d}
                down = {n: m[n] / (1 - 0.9 ** (k + 1)) / (math.sqrt(v[n] / (1 - 0.999 ** (k + 1))) + 1e-8) for n in d}
            r = {n: min(max(x - self.gamma_lr * down[n] * unit[n], 1 - self.tau), 1 + self.tau) for n, x in r.items()}
        return at_ratio(r)
