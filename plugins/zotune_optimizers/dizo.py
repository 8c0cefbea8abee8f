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
    reinit=false:  γ_l begins at the γ_l of the round before, r_l = γ_l / d_l                             Figure 5
    clip=false:    r stays as (7) leaves it                                                              Figure 5
    base=previous: Δ is the last step alone, with θ_{t−1} in place of θ₀                                 Table 9
    base=lr:       the same Δ; until the next round each tensor's steps are r_l η g z                    Table 9

Evaluations a step: 2; in a projection round 2 × iters more, with mode=adam 2 × L × iters more. Extra memory: θ₀ of the
projected tensors; with another base none.

Differs from the paper: the relative form (r instead of γ) is the default because it has no scale. Algorithm 1 prints
q/2ε for q directions where 1/(2qε) is right; q = 1 here. iters and η' are those of the authors' code, with η' divided
by L. mode=adam takes the slope along each γ_l by two evaluations, not by back-propagation. A pattern without a match is
an error; the authors' code then projects nothing. Table 9 has no formulas: learning rates are searched on the step that
they scale first, and begin a round at 1 (reinit=false: at those of the round before).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict

from zotune import only
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.layer_ratios import adam_descended, descended
from zotune_optimizers.option_checks import at_least, positive, require
from zotune_optimizers.spsa import projected_gradient

QUERY_VALUE = r"^(?!.*(bias$|norm|value_head|v_head)).*(q_proj|v_proj|query|value|c_attn|qkv|Wqkv|\.[qv]\.)"
"""Weights of query and value projections: no biases, no norms, and no head that predicts the value of a state."""


class State(TypedDict, total=False):
    anchor: Recipe  # θ₀ on the projected tensors, 0 elsewhere, where base=pretrained
    gamma: dict[str, float]  # γ of the last round, where reinit=false; r, where base=lr


@dataclass(frozen=True)
class DiZO:
    lr: float = 1e-6  # η: learning rate of the MeZO steps [(2)]
    eps: float = 1e-3  # ε: perturbation scale of the MeZO steps [(1)]
    interval: int = 50  # steps from one projection round to the next; the paper's are 50 to 400 [Alg. 1]
    iters: int = 10  # directions (mode=zo) or Adam steps (mode=adam) a round [Alg. 1]
    gamma_lr: float = 1.0  # η': step size of r (or γ), divided by L where mode=zo [(7)]
    gamma_eps: float = 0.1  # ε': perturbation scale of r (or γ); the paper's are 0.1 and 0.05 [(6)]
    tau: float = 0.2  # τ: r stays within 1 ± τ [Section 3.3]
    pattern: str = QUERY_VALUE  # names of the projected tensors, a regular expression [Table 8]
    mode: Literal["zo", "adam"] = "zo"  # how γ is learned [Section 3.3; Table 6]
    perturb: Literal["relative", "absolute"] = "relative"  # r ± ε'u, or γ ± ε'u [Appendix F]
    schedule: Schedule = "constant"  # of η over the budget; linear for OPT and Llama [Appendix B.2]
    reinit: bool = True  # γ begins a round at d; no: at the γ of the round before [Figure 5]
    clip: bool = True  # r is clipped to 1 ± τ [Figure 5]
    base: Literal["pretrained", "previous", "lr"] = "pretrained"  # of Δ: θ₀, θ_{t−1}, or learning rates [Table 9]

    needs: ClassVar[str] = "comparisons"
    unrecorded: ClassVar[Mapping[str, object]] = {"reinit": True, "clip": True, "base": "pretrained"}

    @property
    def fields(self) -> int:
        return 1 if self.base == "pretrained" else 0

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
        if self.base != "pretrained":
            return {"gamma": {}}
        anchor: State = {"anchor": only(theta.per(lambda t: t.name in names), theta)}  # θ₀
        return anchor if self.reinit else {**anchor, "gamma": {}}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        z = at.normal()  # ~ N(0, I)
        g = projected_gradient(oracle, theta, z, self.eps)  # (1)
        lr = self.lr * at.schedule(self.schedule)
        new = theta - lr * g * z  # (2)
        if self.is_due(at):
            anchor = state["anchor"] if self.base == "pretrained" else theta
            delta = new - anchor if self.base == "pretrained" else -lr * g * z
            return self.project(anchor, delta, theta, oracle, state, at)
        if self.base == "lr":
            new = theta - theta.per(lambda t: state["gamma"].get(t.name, 1.0)) * (lr * g * z)  # Table 9
        return new, state

    def project(
        self, anchor: Recipe, delta: Recipe, theta: Theta, oracle: Oracle, state: State, at: At
    ) -> tuple[Recipe, State]:
        """Anchor + r ⊙ Δ with learned ratios r. A tensor that has not moved from its anchor keeps r = 1."""
        names, gamma = set(self.projected(theta)), state.get("gamma", {})
        d = {n: x for n, x in at.norm(delta).values.items() if n in names and x > 0}  # (3)
        unit = {n: 1.0 if self.perturb == "relative" else 1 / x for n, x in d.items()}  # of r, for a unit of u
        start = dict.fromkeys(d, 1.0)
        if not self.reinit:
            start = {n: gamma.get(n, 1.0) if self.base == "lr" else gamma.get(n, x) / x for n, x in d.items()}

        def at_ratio(r: dict[str, float]) -> Recipe:
            """(5), where what is not projected has r = 1 and, with base=pretrained, an anchor of 0."""
            return anchor + theta.per(lambda t: r.get(t.name, 1.0)) * delta

        def slope(r: dict[str, float], u: dict[str, float]) -> float:  # (6)
            along = theta.per(lambda t: u.get(t.name, 0.0) * unit.get(t.name, 0.0)) * delta
            return projected_gradient(oracle, at_ratio(r), along, self.gamma_eps)

        bound = self.tau if self.clip else math.inf
        if self.mode == "zo":
            r = descended(start, unit, slope, self.iters, self.gamma_lr, bound, at)
        else:
            r = adam_descended(start, unit, slope, self.iters, self.gamma_lr, bound)
        if "gamma" in state:
            state = {**state, "gamma": r if self.base == "lr" else {n: x * d[n] for n, x in r.items()}}
        return at_ratio(r), state  # (5)
