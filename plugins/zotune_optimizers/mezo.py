"""MeZO: Malladi et al. 2023, "Fine-Tuning Language Models with Just Forward Passes", arXiv:2305.17333.

    for j = 1 … n:                                          Algorithm 1 (n = 1), Algorithm 2 (n > 1)
        z_j ~ N(0, I)
        g_j ← (L(θ + ε z_j; B) − L(θ − ε z_j; B)) / 2ε      (1), the projected gradient
    θ ← θ − η/n Σ_j g_j z_j − η λ θ                         Definition 2

Evaluations a step: 2n; with `growth=linear` n grows from 1 over the budget. Extra memory: none; each z_j is regenerated
from its seed where it is used.

Differs from the paper: weight decay λ is decoupled from g and skips biases and norm layers, which are recognised by the
module's type (Algorithm 1 has no λ; the authors' code goes by parameter names). Noise is a sum of four uniform bytes
with mean 0, variance 1 and kurtosis 2.7; SPSA needs only E[zzᵀ] = I. Points are evaluated on copies of the weights, so
θ does not drift.

The options `modified`, `norms`, `refresh` and `samples` belong to `mezo-modified` (mezo_modified.py). Runs and
configuration files that name them with `mezo` mean that optimizer; `mezo` hands over to it and adds nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from zotune import weighted_sum
from zotune.types import At, Oracle, Recipe, Schedule, Theta
from zotune_optimizers.mezo_modified import MeZOModified, State
from zotune_optimizers.option_checks import at_least, decay_rate, positive
from zotune_optimizers.spsa import decayed, directions, projected_gradient


@dataclass(frozen=True)
class MeZO:
    lr: float = 1e-6  # η: learning rate; the paper's grid for full tuning is 1e-7 … 1e-5
    eps: float = 1e-3  # ε: perturbation scale
    n: int = 1  # n: directions a step
    growth: Literal["constant", "linear"] = "constant"  # n from the start, or growing from 1 to n (Table 6)
    scale_lr: bool = False  # η times the number of directions, as in Table 6
    weight_decay: float = 0.0  # λ: decoupled weight decay, none on biases and norm layers
    schedule: Schedule = "constant"  # of η over the budget
    batches: Literal["shared", "fresh"] = "shared"  # one batch for all directions (Def. 1) or one each (Alg. 2)
    modified: Literal["no", "variance", "expectation"] = "no"  # alias: other than no is optimizer mezo-modified
    norms: Literal["parameter", "gradient"] = "parameter"  # alias of this option of mezo-modified
    refresh: Literal["once", "epoch"] = "once"  # alias of this option of mezo-modified
    samples: int = 1  # alias of this option of mezo-modified

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("mezo", lr=self.lr, eps=self.eps)
        at_least(1, "mezo", n=self.n, samples=self.samples)
        decay_rate("mezo", self.weight_decay, self.lr)

    @property
    def mezo_modified(self) -> MeZOModified | None:
        """The optimizer that the alias `modified` stands for; None for MeZO itself."""
        return None if self.modified == "no" else MeZOModified(**asdict(self))

    @property
    def forwards(self) -> int | None:
        if (other := self.mezo_modified) is not None:
            return other.forwards
        return None if self.growth == "linear" else 2 * self.n

    def cost(self, theta: Theta, at: At) -> int:
        if (other := self.mezo_modified) is not None:
            return other.cost(theta, at)
        return 2 * directions(self.n, self.growth, at.progress)

    def init(self, theta: Theta, oracle: Oracle, at: At) -> State | None:
        other = self.mezo_modified
        return None if other is None else other.init(theta, oracle, at)

    def step(self, theta: Theta, oracle: Oracle, state: State | None, at: At) -> tuple[Recipe, State | None]:
        if (other := self.mezo_modified) is not None and state is not None:
            return other.step(theta, oracle, state, at)
        n = directions(self.n, self.growth, at.progress)
        lr = self.lr * at.schedule(self.schedule) * (n if self.scale_lr else 1)
        pairs = []
        for j in range(n):
            z = at.normal(j)  # ~ N(0, I)
            batch = at.sample(j if self.batches == "fresh" else 0)
            g = projected_gradient(oracle, theta, z, self.eps, batch)  # (1)
            pairs.append((-lr * g / n, z))
        return decayed(theta, lr * self.weight_decay) + weighted_sum(pairs), None  # Definition 2
