"""Two-point descent that needs no tuning: SPSA (Spall 1992) in units of what the model tolerates.

    groups: tensors by band of layers, kind and role (weight, bias)                                      once
    δ_g ← the largest power of two that costs at most τ of |L(θ₀)|, averaged over ±δ_g RMS(θ₀) z          once
    D ← δ_g RMS(θ₀) of each tensor;  ε ← the largest of 2, 1, ½ … that costs at most 5 τ in all groups    once
    z ~ Rademacher;  g = (L(θ + ε D z; B) − L(θ − ε D z; B)) / 2ε
    v ← β v + (1 − β) g²;  d = clip(g / √v̂, ±c)
    θ ← θ − ρ (1 − t/T) d D z,   ρ = κ √(3/T), at most ε

A normalised walk of step ρ that decays linearly ends ρ √(T/3) = κ away from where it began. That distance, not the
learning rate, predicts when tuning ruins a model; in units of D it costs about κ² τ of the objective a group, so κ
means the same for every model and every subset of its weights.

Forwards a step: 2; once: one clean, two a try. Extra memory: none.

Differs from the paper: SPSA gives the two-point estimate alone. One running mean of g² in place of Adam's is MEAZO's
idea; the units, the cap and the calibration are ours (docs/log.md says what they were measured on).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from zotune_optimizers.parts import at_least, positive, share


class State(NamedTuple):
    D: Any  # size of a perturbation of each tensor
    eps: float
    rho: float  # ρ: step size at t = 0
    v: float  # running mean of g²
    weight: float  # of v: 1 − βᵗ
    moved: float  # Σ (step)²: squared displacement in units of D
    found: str  # what the calibration saw, for the user


@dataclass(frozen=True)
class Auto:
    cap: float = 3.0  # κ: displacement at the end of the budget, in units of what the model tolerates
    tolerance: float = 0.05  # τ: share of |L(θ₀)| that one group's perturbation may cost on average
    eps: float = 2.0  # ε: first joint perturbation tried, in the same units
    beta: float = 0.95  # β: memory of g²
    clip: float = 3.0  # c: largest normalised step
    bands: int = 3  # bands of layers that are calibrated apart
    rows: int = 64  # rows of the calibration's batch
    share: float = 0.25  # of the budget that the calibration may cost

    def __post_init__(self) -> None:
        positive("auto", cap=self.cap, tolerance=self.tolerance, eps=self.eps, clip=self.clip, share=self.share)
        share("auto", beta=self.beta)
        at_least(1, "auto", bands=self.bands, rows=self.rows)

    @property
    def forwards(self) -> int:
        return 2

    def init(self, theta: Any, oracle: Any, at: Any) -> State:
        rms, groups, batch = at.rms(theta).values, self.groups(theta), at.large(self.rows)
        limit = math.inf if at.total is None else self.share * self.forwards * at.total
        if limit < 20 * (len(groups) + 1):  # a short run calibrates on the step's own batch
            batch = at.sample(0)
        before = oracle.evaluations
        (clean,) = oracle(theta, batch=batch)
        each = 2 * (oracle.evaluations - before)

        def costs(D: Any, z: Any, share: float) -> bool:
            """Whether ±D z cost more than this share on average: curvature, for the slope cancels."""
            up, down = oracle(theta + D * z, theta - D * z, batch=batch)
            return bool((up + down) / 2 - clean > share * abs(clean))

        def affordable() -> bool:
            return bool(oracle.evaluations + each <= limit)

        delta: dict[str, float] = {}
        reaches = []
        for k, names in enumerate(groups.values()):
            typical = math.sqrt(sum(rms[n] ** 2 for n in names) / len(names)) or 1.0
            size = {n: max(rms[n], 0.1 * typical) for n in names}  # LoRA's B and fresh biases start at 0
            unit, z, reach = theta.per(lambda t, s=size: s.get(t.name, 0.0)), at.rademacher(k), 0.25
            if affordable() and costs(unit, z, self.tolerance):
                reach = 0.5
                while reach > 2**-7 and affordable() and costs(reach * unit, z, self.tolerance):
                    reach /= 2
            elif affordable():
                reach = 1.0
                while reach < 2**4 and affordable() and not costs(2 * reach * unit, z, self.tolerance):
                    reach *= 2
            delta |= {n: reach * s for n, s in size.items()}
            reaches.append(reach)
        D, eps = theta.per(lambda t: delta[t.name]), self.eps
        while eps > 2**-6 and affordable() and costs(eps * D, at.rademacher(len(groups)), 5 * self.tolerance):
            eps /= 2
        rho = min(eps, self.cap * math.sqrt(3 / max(at.total or 300, 1)))
        found = f"{clean:.4f} at the start; {len(groups)} groups tolerate {min(reaches):g} to {max(reaches):g} RMS"
        return State(D, eps, rho, 0.0, 0.0, 0.0, found)

    def groups(self, theta: Any) -> dict[tuple[int, str, str], list[str]]:
        """Tensor names by band of layers (0: outside all layers), kind, and role (weight, bias)."""
        blocks = sorted({t.block for t in theta.tensors if t.block is not None})
        band = {b: 1 + i * min(self.bands, len(blocks)) // len(blocks) for i, b in enumerate(blocks)}
        out: dict[tuple[int, str, str], list[str]] = {}
        for t in theta.tensors:
            out.setdefault((band.get(t.block, 0), t.kind, t.name.rpartition(".")[2]), []).append(t.name)
        return out

    def describe(self, s: State) -> list[str]:
        return [
            f"calibration (smaller is better): {s.found}",
            f"chosen: ε = {s.eps:g}, first step ρ = {s.rho:.4g}, in units of what each group tolerates",
            f"displacement is capped at {self.cap:g} of these units",
        ]

    def step(self, theta: Any, oracle: Any, s: State, at: Any) -> tuple[Any, State]:
        z = at.rademacher()
        up, down = oracle(theta + s.eps * s.D * z, theta - s.eps * s.D * z)
        g = (up - down) / (2 * s.eps)
        v, weight = self.beta * s.v + (1 - self.beta) * g * g, self.beta * s.weight + (1 - self.beta)
        if v == 0:
            return theta, s
        d = max(-self.clip, min(self.clip, g / math.sqrt(v / weight)))
        room = max(0.0, 1 - s.moved / (2 * self.cap) ** 2)
        step = s.rho * (1 - at.progress) * d * min(1.0, 2 * math.sqrt(room))
        return theta - step * s.D * z, s._replace(v=v, weight=weight, moved=s.moved + step * step)
