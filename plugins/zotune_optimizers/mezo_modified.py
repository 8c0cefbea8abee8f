"""Variance- and expectation-modified SPSA: Malladi et al. 2023, arXiv:2305.17333, Appendices B.3 and B.4.

    d: one number a group of tensors (each block, the embeddings, the head)
        norms=parameter:  d_l = ‖θ_l‖
        norms=gradient:   d_l = √mean_s ((L(θ + ε z_s; B) − L(θ − ε z_s; B)) / 2ε)²,          Proposition 1
                          z_s ~ N(0, I) in group l, 0 elsewhere
    for j = 1 … n:  z_j ~ N(0, I);  g_j ← (L(θ + ε z_j/d; B) − L(θ − ε z_j/d; B)) / 2ε
    modified=variance:     θ ← θ − η/n Σ_j g_j d z_j − η λ θ                                  Definition 6
    modified=expectation:  θ ← θ − η/n Σ_j g_j z_j − η λ θ                                    Definition 7

Evaluations a step: 2n; with norms=gradient 2 × groups × samples more whenever d is computed, once before the first step
or at the start of each epoch. Extra memory: none; each z is regenerated from its seed where it is used.

Differs from the paper: Proposition 1 averages |·| over the samples, which estimates √(2/π) ‖∇‖; the root of the mean
square is used instead. d is not normalised. Weight decay, noise and evaluation are those of mezo.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, TypedDict

from zotune import weighted_sum
from zotune.types import At, Oracle, PerTensor, Recipe, Schedule, TensorInfo, Theta
from zotune_optimizers.option_checks import at_least, decay_rate, positive
from zotune_optimizers.spsa import decayed, directions, projected_gradient


class State(TypedDict):
    d: PerTensor  # d: one number a tensor


@dataclass(frozen=True)
class MeZOModified:
    lr: float = 1e-6  # η: learning rate [Alg. 1]
    eps: float = 1e-3  # ε: perturbation scale [Definitions 6, 7]
    n: int = 1  # n: directions a step [Alg. 2]
    growth: Literal["constant", "linear"] = "constant"  # n from the start, or growing from 1 to n [Table 6]
    scale_lr: bool = False  # η times the number of directions [Table 6]
    weight_decay: float = 0.0  # λ: decoupled weight decay, none on biases and norm layers [Table 13]
    schedule: Schedule = "constant"  # of η over the budget [Appendix A]
    batches: Literal["shared", "fresh"] = "shared"  # one batch for all directions or one each [Alg. 2]
    modified: Literal["variance", "expectation"] = "variance"  # the estimator [Definitions 6, 7]
    norms: Literal["parameter", "gradient"] = "parameter"  # d: norms of weights or gradients [Tables 8, 9]
    refresh: Literal["once", "epoch"] = "once"  # when d is computed [Tables 8, 9]
    samples: int = 1  # directions for each gradient norm [Proposition 1]

    needs: ClassVar[str] = "comparisons"

    def __post_init__(self) -> None:
        positive("mezo-modified", lr=self.lr, eps=self.eps)
        at_least(1, "mezo-modified", n=self.n, samples=self.samples)
        decay_rate("mezo-modified", self.weight_decay, self.lr)

    @property
    def forwards(self) -> int | None:
        return None if self.growth == "linear" or self.refresh == "epoch" else 2 * self.n

    def cost(self, theta: Theta, at: At) -> int:
        norms = 2 * len(layer_groups(theta)) * self.samples if self.norms == "gradient" else 0
        return 2 * directions(self.n, self.growth, at.progress) + (norms if self.is_due(at) else 0)

    def is_due(self, at: At) -> bool:
        """Whether d is computed again before this step."""
        return bool(self.refresh == "epoch" and at.t > 0 and at.t % at.per_epoch == 0)

    def init(self, theta: Theta, oracle: Oracle, at: At) -> State:
        return {"d": self.group_norms(theta, oracle, at)}

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        n = directions(self.n, self.growth, at.progress)
        lr = self.lr * at.schedule(self.schedule) * (n if self.scale_lr else 1)
        d = self.group_norms(theta, oracle, at) if self.is_due(at) else state["d"]
        pairs = []
        for j in range(n):
            z = at.normal(j)  # ~ N(0, I)
            batch = at.sample(j if self.batches == "fresh" else 0)
            g = projected_gradient(oracle, theta, z / d, self.eps, batch)  # Definitions 6 and 7
            pairs.append((-lr * g / n, z))
        update: Recipe = weighted_sum(pairs)  # Definition 7
        if self.modified == "variance":
            update = d * update  # Definition 6
        return decayed(theta, lr * self.weight_decay) + update, {"d": d}

    def group_norms(self, theta: Theta, oracle: Oracle, at: At) -> PerTensor:
        """d, one number a tensor. A group with a norm of 0 gets the smallest d of the others, or 1 if all are 0."""
        groups, d = layer_groups(theta), {}
        if self.norms == "parameter":
            norm = at.norm(theta).values
            d = {group: math.sqrt(math.fsum(norm[n] ** 2 for n in names)) for group, names in groups.items()}
        else:
            for k, (group, names) in enumerate(groups.items()):
                inside = theta.per(partial(is_inside, names))
                draws = range(self.n + k * self.samples, self.n + (k + 1) * self.samples)  # not those of the step
                slopes = [projected_gradient(oracle, theta, inside * at.normal(s), self.eps) for s in draws]
                d[group] = math.sqrt(math.fsum(g**2 for g in slopes) / self.samples)  # Proposition 1
        least = min((x for x in d.values() if x > 0), default=1.0)
        return theta.per(lambda t: next(d[group] or least for group, names in groups.items() if t.name in names))


def is_inside(names: list[str], t: TensorInfo) -> bool:
    return t.name in names


def layer_groups(theta: Theta) -> dict[str, list[str]]:
    """Tensor names by group: each block, the embeddings outside of blocks, and the head, which is all the rest."""
    groups: dict[str, list[str]] = {}
    for t in theta.tensors:
        outside = "embeddings" if t.kind == "embedding" else "head"
        groups.setdefault(f"block {t.block}" if t.block is not None else outside, []).append(t.name)
    return groups
