"""Sparse-MeZO: Liu et al. 2024, "Sparse MeZO: Less Parameters for Better Performance in Zeroth-Order LLM Fine-Tuning",
arXiv:2402.15751, Algorithms 1 to 3.

    before the first step: h ← the (1 − r) quantile of |θ₀|, one for each tensor
    m ← |θ| ≤ h, at the unperturbed θ                                  Algorithm 3 (GetMask)
    z ~ N(0, I);  ẑ ← m ⊙ z                                            (1)
    g ← (L(θ + ε ẑ; B) − L(θ − ε ẑ; B)) / 2ε                           (2)
    θ ← θ − η g ẑ                                                      Algorithm 1
    mask=constant: the mask of θ₀ throughout
    mask=random:   as many weights, chosen at random once: R-MeZO, the paper's baseline
    tuned=largest: h ← the r quantile, m ← |θ| ≥ h: the weights that Figure 2c compares with
    diagnose=k:    every k-th step, is L(θ'; B) > L(θ; B) for the step's batch, and for another one?     Figures 2b, 5

Evaluations a step: 2; with diagnose 4 more every k-th step. Extra memory: none, because masks are computed where they
are used; mask=constant one bit a weight.

Differs from the paper: each tensor, not each layer, has a threshold. r is the share that is *frozen* (Figure 4; the
sentence about the 80th percentile says the reverse). Algorithm 3 prints θ ≤ h without the absolute value. Biases and
norm layers stay dense, of which the paper says nothing (option `dense`). R-MeZO's mask comes from noise of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict

from zotune import bits, only, where
from zotune.types import At, Noise, Oracle, PerTensor, Recipe, Schedule, Theta
from zotune_optimizers.option_checks import at_least, positive, require
from zotune_optimizers.sparsity import Sparsity, check_kinds
from zotune_optimizers.spsa import projected_gradient
from zotune_optimizers.step_effect import Effect, effect_cost, effect_numbers, no_effect, observed

NO_THRESHOLD = 3e38
"""Above every finite float32: a tensor with this threshold is tuned whole."""


class State(TypedDict, total=False):
    h: PerTensor  # h: thresholds, where mask is dynamic or random
    noise: Noise  # what the mask is made from, where mask=random
    mask: Recipe  # m on masked tensors, where mask=constant
    dense: Recipe  # 1 on tensors that are tuned whole, where mask=constant
    effect: Effect  # steps that raised the loss, with diagnose


@dataclass(frozen=True)
class SparseMeZO:
    lr: float = 1e-6  # η: learning rate [Table 6]
    eps: float = 1e-3  # ε: perturbation scale [Table 6]
    sparsity: float = 0.75  # r: share of a tensor's weights that is frozen; gains were seen from 0.5 to 0.8 [Figure 4]
    mask: Literal["dynamic", "constant", "random"] = "dynamic"  # by |θ|, |θ₀| or at random (R-MeZO) [Alg. 3, Table 1]
    dense: str = "bias,norm"  # kinds of tensors that are tuned whole (bias, norm, embedding, linear, other) [ours]
    schedule: Schedule = "constant"  # of η over the budget [ours]
    tuned: Literal["smallest", "largest"] = "smallest"  # the weights that are tuned, by size [Figure 2c]
    patterns: str = ""  # sparsity by name: REGEX=SHARE,REGEX=SHARE, the first match decides [Appendix C.2]
    diagnose: int = 0  # observe every so many steps whether they raise the loss; 0: none [Figures 2b, 5]

    needs: ClassVar[str] = "comparisons"
    unrecorded: ClassVar[Mapping[str, object]] = {"tuned": "smallest", "patterns": "", "diagnose": 0}

    def __post_init__(self) -> None:
        positive("sparse-mezo", lr=self.lr, eps=self.eps)
        at_least(0, "sparse-mezo", diagnose=self.diagnose)
        check_kinds(self.dense)
        Sparsity(self.sparsity, self.patterns)

    @property
    def fields(self) -> float:
        return 1 / 32 if self.mask == "constant" else 0

    def cost(self, theta: Theta, at: At) -> int:
        return 2 + effect_cost(self.diagnose, at)

    def init(self, theta: Theta, oracle: Oracle, at: At) -> State:
        kinds = check_kinds(self.dense)
        masked = theta.per(lambda t: t.kind not in kinds)
        message = f"sparse-mezo: nothing is masked, all tuned tensors are of kind {' or '.join(kinds)}"
        require(any(masked.values.values()), message, "tune matrices too, or shorten dense")
        size = abs(at.normal()) if self.mask == "random" else abs(theta)
        threshold = self.thresholds(theta, size, masked, at)
        if self.mask == "constant":
            state: State = {"mask": only(masked, bits(self.is_tuned(size, threshold))), "dense": 1 - masked}
        else:
            state = {"h": threshold, "noise": at.normal()} if self.mask == "random" else {"h": threshold}
        return {**state, "effect": no_effect()} if self.diagnose else state

    def thresholds(self, theta: Theta, size: Recipe, masked: PerTensor, at: At) -> PerTensor:
        """h of each tensor; tensors that are not masked have one that keeps all weights."""
        sparsity = Sparsity(self.sparsity, self.patterns)
        sparsity.check(theta)
        of = {t.name: sparsity.of(t.name) for t in theta.tensors if masked.values[t.name]}
        shares = dict.fromkeys(of.values())  # each once, in order
        smallest = self.tuned == "smallest"
        h = {r: at.quantile(size, 1 - r if smallest else r).values for r in shares}
        whole = NO_THRESHOLD if smallest else 0.0
        return theta.per(lambda t: h[of[t.name]][t.name] if t.name in of else whole)

    def is_tuned(self, size: Recipe, h: PerTensor) -> Recipe:
        return size <= h if self.tuned == "smallest" else size >= h  # Algorithm 3; Figure 2c

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        z = at.normal()  # ~ N(0, I)
        if self.mask == "constant":
            z_hat = (state["mask"] + state["dense"]) * z  # (1)
        else:
            size = abs(state["noise"] if self.mask == "random" else theta)
            z_hat = where(self.is_tuned(size, state["h"]), z, 0.0)  # Algorithm 3, (1)
        g = projected_gradient(oracle, theta, z_hat, self.eps)  # (2)
        new = theta - self.lr * at.schedule(self.schedule) * g * z_hat
        if self.diagnose:
            state = {**state, "effect": observed(state["effect"], self.diagnose, oracle, theta, new, at)}
        return new, state

    def summarize(self, state: State) -> dict[str, float]:
        return effect_numbers(state["effect"]) if self.diagnose else {}
