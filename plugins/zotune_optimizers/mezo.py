"""MeZO: Malladi et al. 2023, "Fine-Tuning Language Models with Just Forward Passes", arXiv:2305.17333.

    for j = 1 … n:                                          Algorithm 1 (n = 1), Algorithm 2 (n > 1)
        z_j ~ N(0, I)
        g_j ← (L(θ + ε z_j; B) − L(θ − ε z_j; B)) / 2ε      (1), the projected gradient
    θ ← θ − η/n Σ_j g_j z_j − η λ θ                         Definition 2
    estimate=one-point: g_j ← (L(θ_t + ε z_j,t; B_t) − L(θ_{t−1} + ε z_j,t−1; B_{t−1})) / ε, 0 in the first step

Evaluations a step: 2n; one-point n; with diagnose 4 more every k-th step (step_effect.py); with `growth=linear` n grows
from 1 over the budget. Extra memory: none; each z_j is regenerated from its seed where it is used.

Differs from the paper: weight decay λ is decoupled from g and skips biases and norm layers, which are recognised by the
module's type (Algorithm 1 has no λ; the authors' code goes by parameter names). Noise is a sum of four uniform bytes
with mean 0, variance 1 and kurtosis 2.7; SPSA needs only E[zzᵀ] = I. Points are evaluated on copies of the weights, so
θ does not drift.

One point a step is residual feedback: Zhang, Zhou, Ji and Zavlanos 2020, "A New One-Point Residual-Feedback Oracle for
Black-Box Learning and Control", arXiv:2006.10820. `warmup` is transformers' linear warm-up, with the share of the
budget in place of steps; the schedule's factor multiplies it.

The options `modified`, `norms`, `refresh` and `samples` belong to `mezo-modified` (mezo_modified.py). Runs and
configuration files that name them with `mezo` mean that optimizer; `mezo` hands over to it and adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypedDict

from zotune import weighted_sum
from zotune.types import At, Noise, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.mezo_modified import MeZOModified
from zotune_optimizers.mezo_modified import State as ModifiedState
from zotune_optimizers.option_checks import at_least, decay_rate, fraction, positive, require
from zotune_optimizers.spsa import decayed, directions, projected_gradient
from zotune_optimizers.step_effect import Effect, effect_cost, effect_numbers, no_effect, observed


class State(TypedDict, total=False):
    values: list[float]  # L of the last step's points, where estimate=one-point
    effect: Effect  # steps that raised the loss, with diagnose


@dataclass(frozen=True)
class MeZO:
    lr: float = 1e-6  # η: learning rate; the paper's grid for full tuning is 1e-7 … 1e-5 [Alg. 1; Tables 13, 14]
    eps: float = 1e-3  # ε: perturbation scale [Definition 1; Tables 13, 14]
    n: int = 1  # n: directions a step [Definition 1, Alg. 2]
    growth: Literal["constant", "linear"] = "constant"  # n from the start, or growing from 1 to n [Table 6]
    scale_lr: bool = False  # η times the number of directions [Table 6]
    weight_decay: float = 0.0  # λ: decoupled weight decay, none on biases and norm layers [Table 13]
    schedule: Schedule = "constant"  # of η over the budget [Appendix A]
    batches: Literal["shared", "fresh"] = "shared"  # one batch for all directions or one each [Definition 1; Alg. 2]
    modified: Literal["no", "variance", "expectation"] = "no"  # alias: optimizer mezo-modified [Definitions 6, 7]
    norms: Literal["parameter", "gradient"] = "parameter"  # alias of this option of mezo-modified [Appendix B.3]
    refresh: Literal["once", "epoch"] = "once"  # alias of this option of mezo-modified [Table 8]
    samples: int = 1  # alias of this option of mezo-modified [Proposition 1]
    warmup: float = 0.0  # share of the budget over which η grows linearly from 0 [Appendix A]
    estimate: Literal["two-point", "one-point"] = "two-point"  # of the slope [Zhang et al. 2020]
    diagnose: int = 0  # observe every so many steps whether they raise the loss; 0: none [Sparse-MeZO, Figure 2b]

    unrecorded: ClassVar[Mapping[str, object]] = {"warmup": 0.0, "estimate": "two-point", "diagnose": 0}

    def __post_init__(self) -> None:
        positive("mezo", lr=self.lr, eps=self.eps)
        at_least(1, "mezo", n=self.n, samples=self.samples)
        at_least(0, "mezo", diagnose=self.diagnose)
        fraction("mezo", warmup=self.warmup)
        decay_rate("mezo", self.weight_decay, self.lr)
        own = self.warmup or self.diagnose or self.estimate != "two-point"
        message = "mezo: warmup, estimate and diagnose are no options of mezo-modified"
        require(self.modified == "no" or not own, message, "modified=no")

    @property
    def needs(self) -> str:
        return "comparisons" if self.estimate == "two-point" else "values"

    @property
    def mezo_modified(self) -> MeZOModified | None:
        """The optimizer that the alias `modified` stands for; None for MeZO itself."""
        if self.modified == "no":
            return None
        return MeZOModified(**{name: value for name, value in asdict(self).items() if name not in self.unrecorded})

    def cost(self, theta: Theta, at: At) -> int:
        if (other := self.mezo_modified) is not None:
            return other.cost(theta, at)
        points = 2 if self.estimate == "two-point" else 1
        return points * directions(self.n, self.growth, at.progress) + effect_cost(self.diagnose, at)

    def init(self, theta: Theta, oracle: Oracle, at: At) -> ModifiedState | State | None:
        if (other := self.mezo_modified) is not None:
            return other.init(theta, oracle, at)
        state: State = {"values": []} if self.estimate == "one-point" else {}
        return ({**state, "effect": no_effect()} if self.diagnose else state) or None

    def step(self, theta: Theta, oracle: Oracle, state: Any, at: At) -> tuple[Recipe, ModifiedState | State | None]:
        if (other := self.mezo_modified) is not None:
            return other.step(theta, oracle, state, at)
        n = directions(self.n, self.growth, at.progress)
        warm = min(at.progress / self.warmup, 1.0) if self.warmup else 1.0
        lr = self.lr * at.schedule(self.schedule) * warm * (n if self.scale_lr else 1)
        pairs: list[tuple[float, Noise]] = []
        values: list[float] = []
        for j in range(n):
            z = at.normal(j)  # ~ N(0, I)
            batch = at.sample(j if self.batches == "fresh" else 0)
            if self.estimate == "two-point":
                g = projected_gradient(oracle, theta, z, self.eps, batch)  # (1)
            else:
                values += oracle(theta + self.eps * z, batch=batch)
                g = (values[j] - state["values"][j]) / self.eps if j < len(state["values"]) else 0.0  # residual
            pairs.append((-lr * g / n, z))
        new = decayed(theta, lr * self.weight_decay) + weighted_sum(pairs)  # Definition 2
        if self.estimate == "one-point":
            state = {**state, "values": values}
        if self.diagnose:
            state = {**state, "effect": observed(state["effect"], self.diagnose, oracle, theta, new, at)}
        return new, state

    def summarize(self, state: Any) -> dict[str, float]:
        return effect_numbers(state["effect"]) if self.diagnose else {}
