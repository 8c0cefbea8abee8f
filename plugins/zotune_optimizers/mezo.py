"""MeZO: Malladi et al. 2023, "Fine-Tuning Language Models with Just Forward Passes", arXiv:2305.17333.

    for j = 1 … n:  z_j ~ N(0, I);  g_j = (L(θ + ε z_j; B) − L(θ − ε z_j; B)) / 2ε        Definition 1
    θ ← θ − η/n Σ_j g_j z_j − η λ θ                                                        Algorithms 1 and 2

    variance-modified: probe with z/d, step with d z                                       Definition 6
    expectation-modified: probe with z/d, step with z                                      Definition 7
    d, one number a layer group (each block, embeddings, head): ‖θ_l‖, or √mean |L(θ + ε z_l) − L(θ − ε z_l)|²/2ε
    with z_l zero outside of the group                                                     Proposition 1

Forwards a step: 2n; n grows from 1 with `growth=linear`; gradient norms cost 2 × groups × samples whenever d is made.
Extra memory: none; each z_j is drawn again where it is used.

Differs from the paper: λ is decoupled from g and spares biases and norm layers, decided by module type (Algorithm 1 has
no λ; the authors' code decides by name). Proposition 1 averages |·|, which estimates √(2/π) ‖∇‖; the root of the mean
square is used. Noise is a sum of four uniform bytes, of mean 0, variance 1 and kurtosis 2.7; SPSA needs E[zzᵀ] = I
alone. ±ε are probed on copies, so the weights never drift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zotune.core.recipe import weighted_sum
from zotune_optimizers.parts import at_least, check_decay, decay, layer_groups, positive, shrunk, slope


@dataclass(frozen=True)
class MeZO:
    lr: float = 1e-6  # η: learning rate; the paper's grid for full tuning is 1e-7 … 1e-5
    eps: float = 1e-3  # ε: perturbation scale
    n: int = 1  # n: directions a step
    growth: Literal["constant", "linear"] = "constant"  # n from the start, or growing from 1 to n (Table 6)
    scale_lr: bool = False  # η times the number of directions, as in Table 6
    weight_decay: float = 0.0  # λ: decoupled, none on biases and norm layers
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of η over the budget
    batches: Literal["shared", "fresh"] = "shared"  # one batch for all directions (Def. 1) or one each (Alg. 2)
    modified: Literal["no", "variance", "expectation"] = "no"  # Def. 6 or Def. 7; d is not normalised
    norms: Literal["parameter", "gradient"] = "parameter"  # d: norms of weights, or estimated norms of gradients
    refresh: Literal["once", "epoch"] = "once"  # when d is made
    samples: int = 1  # directions for each gradient norm

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("mezo", lr=self.lr, eps=self.eps)
        at_least(1, "mezo", n=self.n, samples=self.samples)
        check_decay("mezo", self.weight_decay, self.lr)

    @property
    def forwards(self) -> int | None:
        varies = self.growth == "linear" or (self.modified != "no" and self.refresh == "epoch")
        return None if varies else 2 * self.n

    def cost(self, theta: Any, at: Any) -> int:
        norms = 2 * len(layer_groups(theta)) * self.samples if self.norms == "gradient" else 0
        return 2 * self.directions(at) + (norms if self.stale(at) else 0)

    def directions(self, at: Any) -> int:
        return 1 + int(self.n * at.progress) if self.growth == "linear" else self.n

    def stale(self, at: Any) -> bool:
        """Whether d is made anew before this step."""
        return self.modified != "no" and self.refresh == "epoch" and at.t > 0 and at.t % at.per_epoch == 0

    def init(self, theta: Any, oracle: Any, at: Any) -> Any:
        return None if self.modified == "no" else {"d": self.sizes(theta, oracle, at)}

    def sizes(self, theta: Any, oracle: Any, at: Any) -> Any:
        """d; a group without any slope takes the smallest d of the others, 1 where all are flat."""
        groups, d = layer_groups(theta), {}
        if self.norms == "parameter":
            norm = at.norm(theta).values
            d = {g: math.sqrt(math.fsum(norm[n] ** 2 for n in names)) for g, names in groups.items()}
        else:
            for k, (group, names) in enumerate(groups.items()):
                inside = theta.per(lambda t, names=names: t.name in names)
                draws = range(self.n + k * self.samples, self.n + (k + 1) * self.samples)
                squares = [slope(oracle, theta, inside * at.normal(j), self.eps) ** 2 for j in draws]
                d[group] = math.sqrt(math.fsum(squares) / self.samples)
        least = min((x for x in d.values() if x > 0), default=1.0)
        return theta.per(lambda t: next(d[g] or least for g, names in groups.items() if t.name in names))

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> tuple[Any, Any]:
        n = self.directions(at)
        lr = self.lr * decay(self.schedule, at.progress) * (n if self.scale_lr else 1)
        if self.stale(at):
            state = {"d": self.sizes(theta, oracle, at)}
        pairs = []
        for j in range(n):
            z = at.normal(j)  # ~ N(0, I)
            probe = z if state is None else z / state["d"]
            g = slope(oracle, theta, probe, self.eps, at.sample(j if self.batches == "fresh" else 0))
            pairs.append((-lr * g / n, z))
        update = weighted_sum(pairs) if self.modified != "variance" else state["d"] * weighted_sum(pairs)
        return shrunk(theta, lr * self.weight_decay) + update, state
