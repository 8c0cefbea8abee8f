"""Sparse-MeZO: Liu et al. 2024, "Sparse MeZO: Less Parameters for Better Performance in Zeroth-Order LLM Fine-Tuning",
arXiv:2402.15751, Algorithms 1 to 3.

    h ← the (1 − r) quantile of |θ₀|, one a tensor                                                       once
    mask = |θ| ≤ h, at the unperturbed θ;  z ~ N(0, I);  ẑ = mask ⊙ z
    g = (L(θ + ε ẑ; B) − L(θ − ε ẑ; B)) / 2ε;  θ ← θ − η g ẑ

The smallest weights move, the others stay. mask=constant keeps the first mask; mask=random is R-MeZO, the paper's
baseline: as many weights, chosen by chance once.

Forwards a step: 2. Extra memory: none, since masks are made where they are used; constant: one field.

Differs from the paper: thresholds belong to tensors, not to layers. r is the share that is *frozen* (Figure 4; the
sentence about the 80th percentile says the reverse). Algorithm 3 prints θ ≤ h without the absolute value. Biases and
norm layers stay dense, on which the paper is silent (`dense`). R-MeZO's mask comes from noise of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zotune.core.recipe import only, where
from zotune_optimizers.parts import decay, positive, require, share, slope

EVERY = 3e38
"""A threshold that no weight exceeds."""


@dataclass(frozen=True)
class SparseMeZO:
    lr: float = 1e-6  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale
    sparsity: float = 0.75  # r: share of a tensor's weights that is frozen; gains were seen from 0.5 to 0.8
    mask: Literal["dynamic", "constant", "random"] = "dynamic"  # by |θ| at each step, by |θ₀|, or by chance (R-MeZO)
    dense: str = "bias,norm"  # kinds of tensors that are tuned whole (bias, norm, embedding, linear, other)
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of η over the budget

    forwards = 2

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("sparse-mezo", lr=self.lr, eps=self.eps)
        share("sparse-mezo", sparsity=self.sparsity)
        unknown = set(self.kinds) - {"bias", "norm", "embedding", "linear", "other"}
        kinds = "bias, norm, embedding, linear and other"
        require(not unknown, f"sparse-mezo: dense takes {kinds}, got {self.dense!r}")

    @property
    def kinds(self) -> list[str]:
        return [k.strip() for k in self.dense.split(",") if k.strip()]

    @property
    def fields(self) -> int:
        return 1 if self.mask == "constant" else 0

    def init(self, theta: Any, oracle: Any, at: Any) -> Any:
        masked = theta.per(lambda t: t.kind not in self.kinds)
        said = f"sparse-mezo: nothing is masked, all tuned tensors are of kind {' or '.join(self.kinds)}"
        require(any(masked.values.values()), said, "tune matrices too, or shorten dense")
        size = abs(at.normal()) if self.mask == "random" else abs(theta)
        h = at.quantile(size, 1 - self.sparsity).values
        threshold = theta.per(lambda t: h[t.name] if masked.values[t.name] else EVERY)
        if self.mask == "constant":
            return {"mask": only(masked, where(size <= threshold, 1.0, 0.0)), "dense": 1 - masked}
        return {"h": threshold} | ({"noise": at.normal()} if self.mask == "random" else {})

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> tuple[Any, Any]:
        z = at.normal()
        if self.mask == "constant":
            sparse = (state["mask"] + state["dense"]) * z
        else:
            sparse = where(abs(state["noise"] if self.mask == "random" else theta) <= state["h"], z, 0.0)
        g = slope(oracle, theta, sparse, self.eps)
        return theta - self.lr * decay(self.schedule, at.progress) * g * sparse, state
