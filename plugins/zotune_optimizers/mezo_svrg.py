"""MeZO-SVRG: Gautam et al. 2024, "Variance-reduced Zeroth-Order Methods for Fine-Tuning Language Models",
arXiv:2404.08080, Algorithms 1 and 4.

    t mod q = 0:  z_f ~ N(0, I);  g_f = (L(θ + μ z_f) − L(θ − μ z_f)) / 2μ on all rows;  θ̄ ← θ;  θ ← θ − η₁ g_f z_f
    else:         z ~ N(0, I);  g, ḡ on one minibatch at θ and at θ̄;  θ ← θ − η₂ ((g − ḡ) z + g_f z_f)
    each epoch:   η₁, η₂ ← η₁/α, η₂/α  where mean(losses) / mean(losses of the epoch before) > κ           Algorithm 4

Forwards a step: 4; every q-th step 2 × rows / batch. Extra memory: one field, θ̄; with `anchor=recomputed` none.

Differs from the paper: it stores the full gradient, which here is one scalar and one seed, so memory is 2× and not 3×.
θ and θ̄ share z (the paper is silent, the authors' code draws anew): that is what cancels the variance. With
`anchor=recomputed` θ̄ is θ minus the updates made since, equal to the stored one up to rounding, for float32 and
float64 weights alone. An epoch's losses are the means of its steps' two values at θ. `full` = 512 or 1,024 is Remark
3.3's large batch. `z=independent` is there to show what sharing is worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from zotune.core.recipe import weighted_sum
from zotune_optimizers.parts import at_least, positive, require


@dataclass(frozen=True)
class MeZOSVRG:
    lr1: float = 1e-4  # η₁: learning rate of steps on all rows
    lr2: float = 1e-6  # η₂: learning rate of minibatch steps
    eps: float = 1e-3  # μ: perturbation scale
    q: int = 2  # q: steps from one full estimate to the next
    full: int = 0  # rows of the full estimate; 0: all
    anchor: Literal["stored", "recomputed"] = "stored"  # θ̄ as a field, or from the updates made since
    z: Literal["shared", "independent"] = "shared"  # one direction at θ and θ̄, or one each
    anneal: float = 5.0  # α: divides both learning rates; 1 switches annealing off
    kappa: float = 1.05  # κ: ratio of losses above which they are divided

    def __post_init__(self) -> None:
        positive("mezo-svrg", lr1=self.lr1, lr2=self.lr2, eps=self.eps, kappa=self.kappa)
        at_least(1, "mezo-svrg", q=self.q)
        at_least(0, "mezo-svrg", full=self.full)
        require(self.anneal >= 1, f"mezo-svrg: anneal must be at least 1, got {self.anneal}")

    @property
    def fields(self) -> int:
        return 1 if self.anchor == "stored" else 0

    def cost(self, theta: Any, at: Any) -> int:
        return int(4 if at.t % self.q else 2 * at.cost(self.rows(at)))

    def rows(self, at: Any) -> Any:
        return at.large(self.full) if self.full else at.full

    def init(self, theta: Any) -> Any:
        half = [t.name for t in theta.tensors if t.dtype in ("float16", "bfloat16")]
        said = f"mezo-svrg: anchor=recomputed needs float32 weights, but {len(half)} tensors are narrower"
        require(self.anchor == "stored" or not half, said, "anchor=stored")
        return {"scale": 1.0, "before": None, "losses": [], "full": None}

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> tuple[Any, Any]:
        losses, before, scale = state["losses"], state["before"], state["scale"]
        if at.t > 0 and at.t % at.per_epoch == 0 and losses:  # Algorithm 4
            mean = math.fsum(losses) / len(losses)
            if before is not None and before != 0 and mean / before > self.kappa:
                scale /= self.anneal
            losses, before = [], mean
        if at.t % self.q == 0 or state["full"] is None:  # after a dropped full step too
            z = at.normal()
            up, down = oracle(theta + self.eps * z, theta - self.eps * z, batch=self.rows(at))
            g = (up - down) / (2 * self.eps)
            anchor = theta if self.anchor == "stored" else []
            full, pairs = (g, z), [(-self.lr1 * scale * g, z)]
        else:
            full, anchor = state["full"], state["anchor"]
            base = anchor if self.anchor == "stored" else theta - weighted_sum(anchor)
            z, other = at.normal(), at.normal(0 if self.z == "shared" else 1)
            up, down, high, low = oracle(
                theta + self.eps * z, theta - self.eps * z, base + self.eps * other, base - self.eps * other
            )
            g, fixed = (up - down) / (2 * self.eps), (high - low) / (2 * self.eps)
            lr = self.lr2 * scale
            pairs = [(-lr * g, z), (lr * fixed, other)] if self.z != "shared" else [(-lr * (g - fixed), z)]
            pairs.append((-lr * full[0], full[1]))
        if self.anchor == "recomputed":  # the updates since θ̄
            anchor = [*anchor, *pairs]
        losses = [*losses, (up + down) / 2]
        kept = {"scale": scale, "before": before, "losses": losses, "full": full, "anchor": anchor}
        return theta + weighted_sum(pairs), kept
