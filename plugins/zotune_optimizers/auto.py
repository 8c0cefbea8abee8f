"""Two-point descent that needs no tuning: SPSA (Spall 1992) with scale-free, normalised steps.

    D ← RMS(θ₀) of each tensor; biases and norm gains stay as they are where there are matrices         once
    ε ← the largest of ½, ¼, … of the given one that does not ruin the objective                         once
    z ~ Rademacher;  g = (L(θ + ε D z; B) − L(θ − ε D z; B)) / 2ε
    v ← β v + (1 − β) g²;  d = clip(g / √v̂, ±c)
    θ ← θ − ρ (1 − t/T) d D z,   ρ ≤ κ √(3/T)

A normalised walk of step ρ that decays linearly ends ρ √(T/3) away from where it began, in units of the weights'
RMS. That distance, not the learning rate, predicts when tuning ruins a model; κ caps it.

Forwards a step: 2; once, for ε: a clean pair and two a try. Extra memory: none.

Differs from the paper: SPSA gives the two-point estimate alone. One running mean of g² in place of Adam's is
MEAZO's; units of
RMS, the cap and the calibration are ours. Norm gains are left out because their curvature, measured on the embedded
encoder, is ten times that of all matrices together (docs/log.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from zotune.errors import OptionError


class State(NamedTuple):
    D: Any  # size of a perturbation of each tensor: its RMS at the start
    eps: float
    rho: float  # ρ: step size at t = 0
    v: float  # running mean of g²
    weight: float  # of v: 1 − βᵗ
    moved: float  # Σ (step)²: squared displacement in units of RMS
    found: str  # what the calibration saw, for the user


@dataclass(frozen=True)
class Auto:
    rho: float = 0.03  # ρ: first step, in units of each tensor's RMS
    eps: float = 0.2  # ε: first perturbation tried, in units of each tensor's RMS
    cap: float = 0.3  # κ: displacement at most, in units of RMS
    beta: float = 0.95  # β: memory of g²
    clip: float = 3.0  # c: largest normalised step
    tries: int = 6  # halvings of ε at most
    tolerance: float = 0.1  # share of |L(θ₀)| that a perturbation may cost on average

    def __post_init__(self) -> None:
        for name in ("rho", "eps", "cap", "clip", "tolerance"):
            if not getattr(self, name) > 0:
                raise OptionError(f"auto: {name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.beta < 1:
            raise OptionError(f"auto: beta must be in [0, 1), got {self.beta}")
        if self.tries < 0:
            raise OptionError(f"auto: tries must be 0 or more, got {self.tries}")

    @property
    def forwards(self) -> int:
        return 2

    def init(self, theta: Any, oracle: Any, at: Any) -> State:
        rms = at.rms(theta)
        matrices = any(len(t.shape) > 1 for t in theta.tensors)
        tuned = [t for t in theta.tensors if len(t.shape) > 1 or not matrices]
        typical = math.sqrt(sum(rms.values[t.name] ** 2 * t.numel for t in tuned) / sum(t.numel for t in tuned)) or 1.0
        names = {t.name for t in tuned}
        D = theta.per(lambda t: (rms.values[t.name] or typical) if t.name in names else 0.0)  # LoRA's B starts at 0

        (clean,) = oracle(theta)
        eps, z = self.eps, at.rademacher()
        for _ in range(self.tries + 1):
            up, down = oracle(theta + eps * D * z, theta - eps * D * z)
            cost = (up + down) / 2 - clean
            if cost <= self.tolerance * abs(clean):
                break
            eps /= 2
        rho = self.rho if at.total is None else min(self.rho, self.cap * math.sqrt(3 / max(at.total, 1)))
        rho = min(rho, eps)
        saw = f"{clean:.4f} at the start, {cost:+.4f} on average at ±ε, |difference| {abs(up - down):.4f}"
        return State(D, eps, rho, 0.0, 0.0, 0.0, saw)

    def describe(self, s: State) -> list[str]:
        sizes = [d for d in s.D.values.values() if d]
        return [
            f"calibration (smaller is better): {s.found}",
            f"chosen: ε = {s.eps:g}, first step ρ = {s.rho:.4g} in units of the RMS, {min(sizes):.3g} …
            {max(sizes):.3g}",
            f"displacement is capped at {self.cap:g}; {len(sizes)} of {len(s.D.values)} tensors move",
        ]

    def step(self, theta: Any, oracle: Any, s: State, at: Any) -> tuple[Any, State]:
        z = at.rademacher()
        up, down = oracle(theta + s.eps * s.D * z, theta - s.eps * s.D * z)
        g = (up - down) / (2 * s.eps)
        v, weight = self.beta * s.v + (1 - self.beta) * g * g, self.beta * s.weight + (1 - self.beta)
        if v == 0:
            return theta, s
        d = max(-self.clip, min(self.clip, g / math.sqrt(v / weight)))
        room = max(0.0, 1 - s.moved / self.cap**2)
        step = s.rho * (1 - at.progress) * d * min(1.0, 2 * math.sqrt(room))
        return theta - step * s.D * z, s._replace(v=v, weight=weight, moved=s.moved + step * step)
