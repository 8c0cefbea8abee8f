"""Two-point descent that needs no tuning: SPSA (Spall 1992) in units of what the model tolerates.

    groups: tensors by band of layers, kind and role (weight, bias)                                      once
    δ_g ← the largest power of two that costs at most τ of |L(θ₀)|, averaged over ±δ_g RMS(θ₀) z          once
    D ← δ_g RMS(θ₀) of each tensor;  ε ← the largest of 2, 1, ½ … that costs at most 5 τ in all groups    once
    z ~ Rademacher;  g = (L(θ + ε D z; B) − L(θ − ε D z; B)) / 2ε
    v ← β v + (1 − β) g²;  d = clip(g / √v̂, ±c)
    θ ← θ − ρ s(t) d D z,   ρ = κ / √(Σ s²), at most ε;   s = 1, and from 70 % of the run on falling to 0 on a line

Where the oracle can measure how far a model moves (K, in nats a token of what it said at the start), units come from
that and not from the objective, which may be 0 everywhere, or a person:
    δ_g ← the largest power of two with K(±δ_g RMS(θ₀) z) ≤ k/10;  ε likewise for all groups with K ≤ 2k/5
    κ ← min(κ, √(k ε²/K(±ε D z))): a random walk to the end of the budget moves the model by about k
Else κ ← κ √(T / 600) for runs of fewer steps T.

A normalised random walk of such steps ends κ away from where it began. That distance, not the learning rate, predicts
when tuning ruins a model; in units of D it costs about κ² τ of the objective a group, so κ means the same for every
model and subset of its weights. What slopes add grows with κ √T, what chance adds with κ²: so the best κ grows with √T,
and at the end weights nearer to the start are looked at too. Batches hold classes in proportion.

Forwards a step: 2; once: one clean, two a try. Extra memory: none.
Differs from the paper: SPSA is the estimate alone; one running mean of g² is MEAZO's idea; the rest is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from zotune_optimizers.parts import at_least, positive, share

HOLD, LONG = 0.7, 600
"""Share of the budget after which steps shrink; steps from which on the displacement is the whole of κ."""


class State(NamedTuple):
    D: Any  # size of a perturbation of each tensor
    eps: float
    rho: float  # ρ: step size at t = 0
    cap: float  # κ
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
    drift: float = 0.5  # k: nats a token by which the model may move, where that can be measured
    share: float = 0.25  # of the budget that the calibration may cost

    needs: ClassVar[str] = "comparisons"
    interpolates: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True
    stratifies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("auto", cap=self.cap, drift=self.drift, tolerance=self.tolerance, eps=self.eps, clip=self.clip)
        positive("auto", share=self.share)
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
        before, drifts = oracle.evaluations, oracle.measures_kl
        (clean,) = (0.0,) if drifts else oracle(theta, batch=batch)
        each = 2 * (oracle.evaluations - before) or 2
        tolerated = (self.drift / 10, 0.4 * self.drift)
        a_group, all_groups = tolerated if drifts else (self.tolerance * abs(clean), 5 * self.tolerance * abs(clean))

        def cost(D: Any, z: Any) -> float:
            """What ±D z costs on average: curvature, for the slope cancels."""
            points = theta + D * z, theta - D * z
            up, down = oracle.kl(*points) if drifts else oracle(*points, batch=batch)
            return float((up + down) / 2 - clean)

        def affordable() -> bool:
            return bool(oracle.evaluations + each <= limit)

        delta: dict[str, float] = {}
        reaches = []
        for k, names in enumerate(groups.values()):
            typical = math.sqrt(sum(rms[n] ** 2 for n in names) / len(names)) or 1.0
            size = {n: max(rms[n], 0.1 * typical) for n in names}  # LoRA's B and fresh biases start at 0
            unit, z, reach = theta.per(lambda t, s=size: s.get(t.name, 0.0)), at.rademacher(k), 0.25
            if affordable() and cost(unit, z) > a_group:
                reach = 0.5
                while reach > 2**-7 and affordable() and cost(reach * unit, z) > a_group:
                    reach /= 2
            elif affordable():
                reach = 1.0
                while reach < 2**4 and affordable() and not cost(2 * reach * unit, z) > a_group:
                    reach *= 2
            delta |= {n: reach * s for n, s in size.items()}
            reaches.append(reach)
        D, eps, paid = theta.per(lambda t: delta[t.name]), self.eps, 0.0
        cap = self.cap if drifts else self.cap * math.sqrt(min((at.total or LONG) / LONG, 1.0))
        while eps > 2**-6 and affordable() and (paid := cost(eps * D, at.rademacher(len(groups)))) > all_groups:
            eps /= 2
        if drifts and paid > 0:
            cap = min(cap, eps * math.sqrt(self.drift / paid))
        rho = min(eps, cap / math.sqrt((HOLD + (1 - HOLD) / 3) * max(at.total or 300, 1)))
        moved = f"{paid:.3f} nats a token at ε" if paid else "short of budget"
        found = moved if drifts else f"{clean:.4f} at the start"
        found += f"; {len(groups)} groups tolerate {min(reaches):g} to {max(reaches):g} RMS"
        return State(D, eps, rho, cap, 0.0, 0.0, 0.0, found)

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
            f"displacement is capped at {s.cap:.3g} of these units",
        ]

    def step(self, theta: Any, oracle: Any, s: State, at: Any) -> tuple[Any, State]:
        z = at.rademacher()
        up, down = oracle(theta + s.eps * s.D * z, theta - s.eps * s.D * z)
        g = (up - down) / (2 * s.eps)
        v, weight = self.beta * s.v + (1 - self.beta) * g * g, self.beta * s.weight + (1 - self.beta)
        if v == 0:
            return theta, s
        d = max(-self.clip, min(self.clip, g / math.sqrt(v / weight)))
        room = max(0.0, 1 - s.moved / (2 * s.cap) ** 2)
        step = s.rho * min(1.0, (1 - at.progress) / (1 - HOLD)) * d * min(1.0, 2 * math.sqrt(room))
        return theta - step * s.D * z, s._replace(v=v, weight=weight, moved=s.moved + step * step)
