"""Sparse-MeZO: Liu et al. 2024, "Sparse MeZO: Less Parameters for Better Performance in Zeroth-Order LLM Fine-Tuning",
arXiv:2402.15751, Algorithms 1 to 3.

    before the first step: h ← the (1 − r) quantile of |θ₀|, one for each tensor
    m ← |θ| ≤ h, at the unperturbed θ                                  Algorithm 3 (GetMask)
    z ~ N(0, I);  ẑ ← m ⊙ z                                            (1)
    g ← (L(θ + ε ẑ; B) − L(θ − ε ẑ; B)) / 2ε                           (2)
    θ ← θ − η g ẑ                                                      Algorithm 1
    mask=constant: the mask of θ₀ throughout
    mask=random:   as many weights, chosen at random once: R-MeZO, the paper's baseline

Evaluations a step: 2. Extra memory: none, because masks are computed where they are used; mask=constant one field.

Differs from the paper: each tensor, not each layer, has a threshold. r is the share that is *frozen* (Figure 4; the
sentence about the 80th percentile says the reverse). Algorithm 3 prints θ ≤ h without the absolute value. Biases and
norm layers stay dense, of which the paper says nothing (option `dense`). R-MeZO's mask comes from noise of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict

from zotune import only, where
from zotune.types import At, Noise, Oracle, PerTensor, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import fraction, positive, require
from zotune_optimizers.spsa import projected_gradient

NO_THRESHOLD = 3e38
"""Above every finite float32: a tensor with this threshold is tuned whole."""
KINDS = ("bias", "norm", "embedding", "linear", "other")


class State(TypedDict, total=False):
    h: PerTensor  # h: thresholds, where mask is dynamic or random
    noise: Noise  # what the mask is made from, where mask=random
    mask: Recipe  # m on masked tensors, where mask=constant
    dense: Recipe  # 1 on tensors that are tuned whole, where mask=constant


@dataclass(frozen=True)
class SparseMeZO:
    lr: float = 1e-6  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale
    sparsity: float = 0.75  # r: share of a tensor's weights that is frozen; gains were seen from 0.5 to 0.8
    mask: Literal["dynamic", "constant", "random"] = "dynamic"  # by |θ| at each step, by |θ₀|, or at random (R-MeZO)
    dense: str = "bias,norm"  # kinds of tensors that are tuned whole (bias, norm, embedding, linear, other)
    schedule: Schedule = "constant"  # of η over the budget

    forwards: ClassVar[int] = 2
    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("sparse-mezo", lr=self.lr, eps=self.eps)
        fraction("sparse-mezo", sparsity=self.sparsity)
        unknown = set(self.dense_kinds) - set(KINDS)
        known = f"{', '.join(KINDS[:-1])} and {KINDS[-1]}"
        require(not unknown, f"sparse-mezo: dense takes {known}, got {self.dense!r}")

    @property
    def dense_kinds(self) -> list[str]:
        return [kind.strip() for kind in self.dense.split(",") if kind.strip()]

    @property
    def fields(self) -> int:
        return 1 if self.mask == "constant" else 0

    def init(self, theta: Theta, oracle: Oracle, at: At) -> State:
        masked = theta.per(lambda t: t.kind not in self.dense_kinds)
        message = f"sparse-mezo: nothing is masked, all tuned tensors are of kind {' or '.join(self.dense_kinds)}"
        require(any(masked.values.values()), message, "tune matrices too, or shorten dense")
        size = abs(at.normal()) if self.mask == "random" else abs(theta)
        h = at.quantile(size, 1 - self.sparsity).values
        threshold = theta.per(lambda t: h[t.name] if masked.values[t.name] else NO_THRESHOLD)
        if self.mask == "constant":
            return {"mask": only(masked, where(size <= threshold, 1.0, 0.0)), "dense": 1 - masked}
        return {"h": threshold, "noise": at.normal()} if self.mask == "random" else {"h": threshold}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        z = at.normal()  # ~ N(0, I)
        if self.mask == "constant":
            z_hat = (state["mask"] + state["dense"]) * z  # (1)
        else:
            size = abs(state["noise"] if self.mask == "random" else theta)
            z_hat = where(size <= state["h"], z, 0.0)  # Algorithm 3, (1)
        g = projected_gradient(oracle, theta, z_hat, self.eps)  # (2)
        return theta - self.lr * at.schedule(self.schedule) * g * z_hat, state
