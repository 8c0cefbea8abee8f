"""Calibration: `--learning-rate auto` and `--eps auto`, for any optimizer, from some fifty evaluations.

    s   = RMS of all tuned weights
    U   = spread (standard deviation) of one row's value at θ (zotune/scales.py)
    C(e) = mean of L(θ ± e z) − L(θ), or the mean KL divergence at θ ± e z where that is measured
    ε  ← the largest of … s/64, s/32, s/16 … s with C(ε) at most 0.1 U (of the KL divergence: 0.05 nats a token)
    η  ← such that a random walk of all steps ends as far from the base model as ε z reaches: ‖θ_T − θ₀‖ = ε √d

The distance of a step is found in two parts: one step with η = 1, then up to ten steps, which are undone, with an η
that should move the weights half as far as ε z. Several steps let momentum and moments take effect. The distance from
the base model predicts when tuning destroys a model, the learning rate does not (docs/log.md).

Evaluations count in the run's budget. Memory: no copy of the weights.

Knows oracles, spaces and optimizers; knows no model and no file.
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
from zotune.events import Calibrated
from zotune.scales import largest_tolerated, level
from zotune.search.batches import Batches
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.search.optimizer_call import checked_step, initial_state
from zotune.search.oracle import Oracle

TOLERANCE, KL_TOLERANCE = 0.1, 0.05
"""What a perturbation may cost on average: as a share of the spread of a row, and in nats a token."""
ROWS = 64
"""Rows of the batch on which it is measured."""
LARGE_BUDGET = 8
"""A budget of so many evaluations a row affords that batch; a smaller one uses the batch size of the run."""
FIRST_SCALE, SMALLEST_SCALE, FALLBACK_RMS = 1 / 32, 1 / 1024, 1e-2
"""The first and the smallest ε that are tried, in units of the weights' RMS; the RMS where all weights are 0."""
STEPS = 10
"""Steps that are taken to measure a distance, at most; four at most are tried to find one that moves the weights."""
FIRST_STEPS = 4
REACH = 0.5
"""The distance that these steps should go, as a share of ε √d."""
SHARE, SHARE_OF_EPS = 0.05, 0.1
"""Share of the budget for these steps, and for the search for ε."""
UNLIMITED_STEPS = 300
"""Steps that are assumed for a run that only time limits."""


@dataclass
class Calibration:
    """Chooses the learning rate and the perturbation scale of an optimizer.

    lr, eps: names of the options to choose, None for one that is given; steps: planned steps, None where only time
    limits the run; evals: the run's budget of evaluations, infinite where it has none; base: returns the base weights.
    """

    optimizer: Any
    lr: str | None
    eps: str | None
    space: Space
    oracle: Oracle
    batches: Batches
    steps: int | None
    evals: float
    base: Callable[[], Mapping[str, Tensor]]

    def run(self) -> Calibrated:
        """Calibrate at the present weights, which are unchanged afterwards.

        Raises UsageError where no step moves the weights, and ObjectiveError.
        """
        eps, cost, base_loss = self._choose_eps()
        options = {self.eps: eps} if self.eps else {}
        if self.lr:
            options[self.lr] = self._choose_lr(options, eps * math.sqrt(self.space.numel))
        return Calibrated(
            options=tuple(options.items()),
            perturbation=eps,
            kl=cost if base_loss is None else None,
            loss_increase=None if base_loss is None else cost / (abs(base_loss) or 1.0),
            steps=self._total if self.lr else None,
        )

    @property
    def _total(self) -> int:
        return self.steps or UNLIMITED_STEPS

    def _begin(self, t: int) -> At:
        """Begin a step whose values are not recorded."""
        tape = Tape()
        self.oracle.begin(tape, t)
        return At(self.space, self.batches, tape, t, self.steps, 0.0)

    def _choose_eps(self) -> tuple[float, float, float | None]:
        """The largest tolerated scale, what it costs, and the loss that this cost is compared with, if any."""
        at, theta, uses_kl = self._begin(-2), self.space.theta, self.oracle.measures_kl
        rms, sizes = at.rms(theta).values, {t.name: t.numel for t in theta.tensors}
        scale = math.sqrt(sum(rms[n] ** 2 * k for n, k in sizes.items()) / self.space.numel) or FALLBACK_RMS
        batch = at.large(ROWS if self.evals >= LARGE_BUDGET * ROWS else self.batches.size)
        value, limit, z = 0.0, KL_TOLERANCE, at.normal()
        most = self.oracle.evaluations + SHARE_OF_EPS * self.evals
        if not uses_kl:
            value, spread = level(theta, self.oracle, at, batch, FIRST_SCALE * scale)
            limit = TOLERANCE * spread

        def cost(eps: float) -> float:
            points = theta + eps * z, theta - eps * z
            up, down = self.oracle.kl(*points) if uses_kl else self.oracle(*points, batch=batch)
            return ((up - value) + (down - value)) / 2

        once = 2 if uses_kl else 2 * at.cost(batch)
        chosen = largest_tolerated(
            cost,
            limit,
            FIRST_SCALE * scale,
            SMALLEST_SCALE * scale,
            scale,
            lambda: self.oracle.evaluations + once <= most,
        )
        return chosen.scale, chosen.cost, None if uses_kl else value

    def _choose_lr(self, options: Mapping[str, float], distance: float) -> float:
        """The learning rate at which all steps move the weights by `distance`."""
        assert self.lr is not None
        optimizer = dataclasses.replace(self.optimizer, **options, **{self.lr: 1.0})
        before = self.oracle.evaluations
        length = next((x for x in self._first_lengths(optimizer) if x > 0), 0.0)
        cost = max(self.oracle.evaluations - before, 1)
        if not math.isfinite(length) or length == 0.0:
            raise UsageError(
                "no learning rate can be chosen: the steps that were tried do not move the weights",
                hint="'zotune check' shows at which --eps and --batch-size the objective changes",
            )
        count = int(min(max(SHARE * self.evals / cost, 2), STEPS, self._total))
        lr = REACH * distance / (length * math.sqrt(count))
        walked = self._walked(dataclasses.replace(optimizer, **{self.lr: lr}), count)
        return lr * distance / (walked * math.sqrt(self._total / count))

    def _first_lengths(self, optimizer: Any) -> Iterator[float]:
        """How far each of the first steps would move the base weights; some steps see no difference and do not."""
        for t in range(FIRST_STEPS):
            state = self._initial_state(optimizer)
            at = self._begin(t)
            after, _ = checked_step(optimizer, self.space.theta, self.oracle, state, at)
            yield math.sqrt(math.fsum(x * x for x in at.norm(after - self.space.theta).values.values()))

    def _initial_state(self, optimizer: Any) -> Any:
        return initial_state(optimizer, self.space, self.oracle, self._begin(-1))

    def _walked(self, optimizer: Any, count: int) -> float:
        """The distance from the base weights after `count` steps, which are then undone."""
        base = self.base()
        try:
            state = self._initial_state(optimizer)
            for t in range(count):
                after, state = checked_step(optimizer, self.space.theta, self.oracle, state, self._begin(t))
                state = self.space.assign(after, state)
            square = math.fsum(
                float((p.data.double() - base[n].to(p.device).double()).square().sum())
                for n, p in self.space.params.items()
            )
        finally:
            self.space.load(base)
            self.space.fields = {}
        if square == 0.0:
            raise ObjectiveError("the steps that were tried for a learning rate saw no difference")
        return math.sqrt(square)


def to_line(result: Calibrated) -> dict[str, Any]:
    """The result as a journal line holds it. `options` is what a replay reads."""
    line: dict[str, Any] = {"options": dict(result.options)}
    for name in ("perturbation", "kl", "loss_increase", "steps"):
        line |= {name: value} if (value := dataclasses.asdict(result)[name]) is not None else {}
    return line


def from_line(line: Mapping[str, Any]) -> Calibrated:
    """The result that a journal line holds; only `options` is sure to be there."""
    return Calibrated(
        options=tuple(line["options"].items()),
        perturbation=line.get("perturbation"),
        kl=line.get("kl"),
        loss_increase=line.get("loss_increase"),
        steps=line.get("steps"),
    )


__all__ = ["Calibration", "from_line", "to_line"]
