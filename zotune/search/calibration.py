"""`--learning-rate auto` and `--eps auto`: a step and a perturbation scale for any optimizer, from some forwards.

    s   = RMS of all tuned weights;  C(e) = mean of L(θ ± e z) − L(θ), or, where it is measured, the drift at θ ± e z
    ε  ← the largest of … s/16, s/8, s/4 … s at which C costs at most 5 % of |L(θ)| (drift: 0.05 nats a token)
    one step with lr = 1 says how far a step moves; K steps, taken back, with an lr that moves them half as far as ε z
    lr ← such that a random walk of all steps ends as far from the start as ε z lies: ‖θ_T − θ₀‖ = ε √d

Displacement predicts when tuning ruins a model, the learning rate does not (docs/log.md); K steps instead of one let
momentum and moments count. Forwards: some fifty, of the run's budget; a copy of no weights.

Knows oracles, spaces and optimizers; no models and no files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zotune.core.space import Space
from zotune.errors import ObjectiveError, UsageError
from zotune.search.batches import Batches
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.search.optimizer_call import checked_step, initial_state
from zotune.search.oracle import Oracle

TOLERANCE = 0.05
"""Share of the objective, or nats a token, that a perturbation may cost on average."""
DIRECTIONS = 2
ROWS = 64
STEPS = 10
SHARE = 0.05
"""Of the budget, for the steps that are tried; the search for ε may cost as much again."""
UNLIMITED = 300
"""Steps that a run limited by time alone is taken to have."""


@dataclass(frozen=True)
class Found:
    """Options of the optimizer, by name, and what a person is told."""

    options: dict[str, float]
    lines: list[str]


@dataclass
class Calibration:
    """What is to be found. lr, eps: names of the optimizer's options, or None; evals: the run's budget of evaluations,
    where it has one; start: the starting weights again."""

    optimizer: Any
    lr: str | None
    eps: str | None
    space: Space
    oracle: Oracle
    batches: Batches
    steps: int | None
    evals: float
    start: Callable[[], Mapping[str, Tensor]]

    def find(self) -> Found:
        """Calibrate at the weights as they are, which they are afterwards too. Raises UsageError where no step moves
        them, and ObjectiveError."""
        eps, cost, clean = self._eps()
        options = {self.eps: eps} if self.eps else {}
        price = (
            f"{cost:.3g} nats a token" if clean is None else f"{100 * cost / (abs(clean) or 1):.2g} % of the objective"
        )
        lines = [f"calibration: a perturbation of {eps:.3g} in all weights costs {price}"]
        if self.eps:
            lines.append(f"chosen: {self.eps} = {eps:.3g}")
        if self.lr:
            rate, walk = self._rate(options, eps * math.sqrt(self.space.numel))
            options[self.lr] = rate
            lines.append(f"chosen: {self.lr} = {rate:.3g}, with which {walk} steps move them as far as that")
        return Found(options, lines)

    def _at(self, t: int) -> At:
        tape = Tape()
        self.oracle.begin(tape, t)
        return At(self.space, self.batches, tape, t, self.steps, 0.0)

    # -- ε -------------------------------------------------------------------------------------------------------------

    def _eps(self) -> tuple[float, float, float | None]:
        """The largest scale that is tolerated, what it costs, and the value that this is a share of, if any."""
        at, theta, drifts = self._at(-2), self.space.theta, self.oracle.measures_kl
        rms, sizes = at.rms(theta).values, {t.name: t.numel for t in theta.tensors}
        typical = math.sqrt(sum(rms[n] ** 2 * k for n, k in sizes.items()) / self.space.numel) or 1e-2
        batch = at.large(ROWS if self.evals >= 40 * ROWS else self.batches.size)
        clean = None if drifts else self.oracle(theta, batch=batch)[0]
        limit = TOLERANCE * (1.0 if clean is None else abs(clean))
        most = self.oracle.evaluations + SHARE * self.evals

        def cost(eps: float) -> float:
            found: list[float] = []
            for k in range(DIRECTIONS):
                points = theta + eps * at.normal(k), theta - eps * at.normal(k)
                found += self.oracle.kl(*points) if drifts else self.oracle(*points, batch=batch)
            return math.fsum(found) / len(found) - (clean or 0.0)

        eps = typical / 8
        paid = cost(eps)
        while paid > limit and eps > typical / 1024 and self.oracle.evaluations < most:
            eps /= 2
            paid = cost(eps)
        while paid <= limit and typical / 8 <= eps < typical and self.oracle.evaluations < most:
            if (further := cost(2 * eps)) > limit:
                break
            eps, paid = 2 * eps, further
        return eps, paid, clean

    # -- learning rate -------------------------------------------------------------------------------------------------

    def _rate(self, options: Mapping[str, float], reach: float) -> tuple[float, int]:
        """The learning rate at which all steps together move the weights by `reach`, and their number."""
        assert self.lr is not None
        total, rule = self.steps or UNLIMITED, dataclasses.replace(self.optimizer, **options, **{self.lr: 1.0})
        before = self.oracle.evaluations
        length = next((x for x in self._lengths(rule) if x > 0), 0.0)
        each = max(self.oracle.evaluations - before, 1)
        if not math.isfinite(length) or length == 0.0:
            raise UsageError(
                "no learning rate can be found: steps tried do not move the weights",
                hint="'zotune check' says at which --eps and --batch-size the objective moves",
            )
        count = int(min(max(SHARE * self.evals / each, 2), STEPS, total))
        rate = 0.5 * reach / (length * math.sqrt(count))
        moved = self._walk(dataclasses.replace(rule, **{self.lr: rate}), count)
        return rate * reach / (moved * math.sqrt(total / count)), total

    def _lengths(self, rule: Any) -> Iterator[float]:
        """How far a step from the start would move the weights; a few are tried, for some see no difference."""
        for t in range(4):
            state = self._begun(rule)
            at = self._at(t)
            after, _ = checked_step(rule, self.space.theta, self.oracle, state, at)
            yield math.sqrt(math.fsum(x * x for x in at.norm(after - self.space.theta).values.values()))

    def _begun(self, rule: Any) -> Any:
        return initial_state(rule, self.space, self.oracle, self._at(-1))

    def _walk(self, rule: Any, count: int) -> float:
        """The distance that some steps go; they are taken back."""
        start = self.start()
        try:
            state = self._begun(rule)
            for t in range(count):
                after, state = checked_step(rule, self.space.theta, self.oracle, state, self._at(t))
                state = self.space.assign(after, state)
            gone = math.fsum(
                float((p.data.double() - start[n].to(p.device).double()).square().sum())
                for n, p in self.space.params.items()
            )
        finally:
            self.space.load(start)
            self.space.fields = {}
        if gone == 0.0:
            raise ObjectiveError("no difference was seen in the steps that were tried for a learning rate")
        return math.sqrt(gone)


__all__ = ["Calibration", "Found"]
