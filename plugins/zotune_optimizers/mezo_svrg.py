"""MeZO-SVRG: Gautam et al. 2024, "Variance-reduced Zeroth-Order Methods for Fine-Tuning Language Models",
arXiv:2404.08080, Algorithms 1 and 4.

    t mod q = 0:  z_f ~ N(0, I);  g_f ← (f(θ + μ z_f) − f(θ − μ z_f)) / 2μ on all rows                   line 1, (6)
                  θ̄ ← θ;  θ ← θ − η₁ g_f z_f                                                             lines 2, 3
    else:         z ~ N(0, I);  g, ḡ ← the same on one minibatch, at θ and at θ̄                          line 4, (5)
                  θ ← θ − η₂ ((g − ḡ) z + g_f z_f)                                                       lines 5 to 7
    each epoch:   η₁, η₂ ← η₁/α, η₂/α  where mean(losses) / mean(losses of the epoch before) > κ         Algorithm 4

Evaluations a step: 4; every q-th step 2 × rows / batch size. Extra memory: one field, θ̄; with anchor=recomputed none.

Differs from the paper: the full gradient is one scalar and one seed, where the paper stores a tensor, so memory is 2×
and not 3×. θ and θ̄ share z (the paper is silent, the authors' code draws twice): sharing cancels the variance, and
`z=independent` shows what it is worth. With anchor=recomputed θ̄ is θ minus the updates made since, equal to the stored
one up to rounding; it needs float32 or float64 weights. The loss of a step is the mean of its two values at θ. `full` =
512 or 1,024 is the large batch of Remark 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

from zotune import weighted_sum
from zotune.types import At, Batch, Noise, Oracle, Recipe, Theta
from zotune_optimizers.option_checks import at_least, positive, require


class State(TypedDict, total=False):
    scale: float  # factor of both learning rates
    before: float | None  # mean loss of the epoch before
    losses: list[float]  # of this epoch
    full: tuple[float, Noise] | None  # g_f and z_f
    anchor: Recipe | list[tuple[float, Noise]]  # θ̄, or the updates (coefficient, z) since θ̄


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

    def cost(self, theta: Theta, at: At) -> int:
        return int(4 if at.t % self.q else 2 * at.cost(self.full_batch(at)))

    def full_batch(self, at: At) -> Batch:
        return at.large(self.full) if self.full else at.full

    def init(self, theta: Theta) -> State:
        half = [t.name for t in theta.tensors if t.dtype in ("float16", "bfloat16")]
        message = f"mezo-svrg: anchor=recomputed needs float32 weights, but {len(half)} tensors are narrower"
        require(self.anchor == "stored" or not half, message, "anchor=stored")
        return {"scale": 1.0, "before": None, "losses": [], "full": None}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        scale, before, losses = self.annealed(state, at)  # Algorithm 4
        # Weights that a rollback interpolated are no sum of updates since θ̄: a full step takes a new one.
        lost = at.interpolated and self.anchor == "recomputed"
        if at.t % self.q == 0 or state["full"] is None or lost:  # None: the full step was dropped
            z = at.normal()
            up, down = oracle(theta + self.eps * z, theta - self.eps * z, batch=self.full_batch(at))
            g = (up - down) / (2 * self.eps)  # (6)
            anchor: Recipe | list[tuple[float, Noise]] = theta if self.anchor == "stored" else []
            full, pairs = (g, z), [(-self.lr1 * scale * g, z)]  # line 3
        else:
            full, anchor = state["full"], state["anchor"]
            base = theta - weighted_sum(anchor) if isinstance(anchor, list) else anchor  # θ̄
            z, z_base = at.normal(), at.normal(0 if self.z == "shared" else 1)
            up, down, up_base, down_base = oracle(
                theta + self.eps * z, theta - self.eps * z, base + self.eps * z_base, base - self.eps * z_base
            )
            g, g_base = (up - down) / (2 * self.eps), (up_base - down_base) / (2 * self.eps)  # (5)
            lr = self.lr2 * scale
            if self.z == "shared":
                pairs = [(-lr * (g - g_base), z)]  # lines 5, 6
            else:
                pairs = [(-lr * g, z), (lr * g_base, z_base)]
            pairs.append((-lr * full[0], full[1]))  # line 7
        if isinstance(anchor, list):
            anchor = [*anchor, *((at.damping * c, z) for c, z in pairs)]  # the updates since θ̄, as the run applies them
        losses = [*losses, (up + down) / 2]
        new_state: State = {"scale": scale, "before": before, "losses": losses, "full": full, "anchor": anchor}
        return theta + weighted_sum(pairs), new_state

    def annealed(self, state: State, at: At) -> tuple[float, float | None, list[float]]:
        """The factor of both learning rates, the mean loss of the epoch before, and the losses of this epoch."""
        scale, before, losses = state["scale"], state["before"], state["losses"]
        if not (at.t > 0 and at.t % at.per_epoch == 0 and losses):
            return scale, before, losses
        mean = math.fsum(losses) / len(losses)
        if before is not None and before != 0 and mean / before > self.kappa:
            scale /= self.anneal
        return scale, mean, []
