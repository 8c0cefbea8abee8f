"""The loop. Knows no algorithm, no metric and no model family.

Step by step it asks the optimizer for the next weights, journals what the optimizer learned, and lets the space write.
The same code replays a journal: an oracle whose tape is recorded gives the old numbers without a forward pass.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zotune import state as states
from zotune.checkpoint import Store
from zotune.errors import ObjectiveError, ObjectiveFailures, Stopped, UsageError
from zotune.journal import Journal, Tape
from zotune.oracle import At, Batches, Oracle
from zotune.space import Space
from zotune.types import Optimizer

SPENT = "score calls"
"""Why a run ends whose budget of scores is used up."""
PLANNED = 10_000
"""Steps whose costs are added up to say how many a budget pays for; later ones are taken to cost as much on average."""


@dataclass(frozen=True)
class Budget:
    """When a run ends: whichever comes first. evals counts evaluations of one batch at one point."""

    steps: int | None = None
    evals: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.evals is None and self.seconds is None:
            raise UsageError("a run needs a budget", hint="--max-steps, --max-evals or --max-time")
        for name, value in asdict(self).items():
            if value is not None and value <= 0:
                raise UsageError(f"the budget in {name} must be positive, got {value}")


def cost_of(optimizer: Optimizer, space: Space, batches: Batches, step: int, progress: float) -> int:
    """Evaluations that a step makes, as the optimizer declares; 1 where it does not say."""
    if hasattr(optimizer, "cost"):
        return int(optimizer.cost(space.theta, At(space, batches, Tape(), step, None, progress)))
    declared = getattr(optimizer, "forwards", None)
    return declared if isinstance(declared, int) else 1


def planned(budget: Budget, cost: Callable[[int, float], int]) -> tuple[int | None, int | None]:
    """Steps and evaluations that a budget pays for, as far as its time alone does not decide.

    cost: of a step, at a share of the budget.
    """
    step = used = 0
    while step < PLANNED:
        shares = [x / limit for x, limit in ((step, budget.steps), (used, budget.evals)) if limit is not None]
        if not shares:
            return None, None
        if max(shares) >= 1:
            return step, used
        used += max(cost(step, max(shares)), 1)
        step += 1
    ends = [budget.steps or math.inf, step * budget.evals / used if budget.evals else math.inf]
    steps = math.ceil(min(ends))
    return steps, math.ceil(used * steps / step)


@dataclass
class Progress:
    """Counters of a run; all of them follow from the journal."""

    step: int = 0
    evaluations: int = 0
    dropped: int = 0
    compared: int = 0
    flat: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_step: int = 0
    stale: int = 0

    @property
    def zero_share(self) -> float:
        """Share of steps whose points all had exactly the same value: steps without signal."""
        return self.flat / self.compared if self.compared else 0.0


@dataclass(frozen=True)
class Outcome:
    """How the loop ended: "done", "patience", "score calls" (their budget is spent) or "interrupted"."""

    reason: str
    progress: Progress


Emit = Callable[[str, Mapping[str, Any]], None]


class Engine:
    """Everything a run needs, joined.

    assess: scores the present weights on held-out rows and returns JSON values, of which "loss" (smaller is better)
    selects the
    best; None: no held-out rows, the last weights are the best. emit: told about every step and assessment. stop:
    asked after each step. spent: asked before each step, with the evaluations that it makes, whether the budget of
    score calls no longer pays for it. An objective that waits for an answer may raise Stopped instead: the step did not
    happen.
    """

    def __init__(
        self,
        space: Space,
        optimizer: Optimizer,
        oracle: Oracle,
        batches: Batches,
        budget: Budget,
        journal: Journal,
        store: Store,
        *,
        assess: Callable[[], Mapping[str, Any]] | None = None,
        eval_steps: int = 100,
        save_steps: int | None = None,
        max_failures: int = 10,
        patience: int | None = None,
        emit: Emit = lambda kind, event: None,
        stop: Callable[[], bool] = lambda: False,
        spent: Callable[[int], bool] = lambda evaluations: False,
    ) -> None:
        self.space, self.optimizer, self.oracle, self.batches = space, optimizer, oracle, batches
        self.budget, self.journal, self.store = budget, journal, store
        self.assess, self.eval_steps = assess, max(eval_steps, 1)
        self.save_steps = save_steps or self.eval_steps
        self.max_failures, self.patience, self.emit, self.stop = max_failures, patience, emit, stop
        self.spent = spent
        self.progress = Progress()
        self.state: Any = None
        self._planned: tuple[Budget, int | None] | None = None
        self._started = False
        self._saved = -1
        self._failures = 0
        self._clock = time.monotonic()

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run, or go on, to the end of the budget. Raises ObjectiveFailures past `max_failures` dropped steps."""
        p = self.progress
        self._clock = time.monotonic() - p.seconds
        if not self._started:
            try:
                self._init()
                self._assess()
            except Stopped:
                return Outcome("interrupted", p)
        while not (reason := self._finished()):
            try:
                self._step()
            except ObjectiveFailures:
                self._save()  # the last good weights, so that the run can go on when the scorer is back
                raise
            except Stopped:
                self._save()
                return Outcome("interrupted", p)
            if p.step % self.eval_steps == 0:
                self._assess()
            if p.step % self.save_steps == 0 and not self.journal.replaying:
                self._save()
            if not self.journal.replaying and self.stop():
                self._save()
                return Outcome("interrupted", p)
        if p.step % self.eval_steps:
            self._assess()
        if not self.journal.take("end"):
            self._save()
            self.journal.append({"kind": "end", "step": p.step, "reason": reason, "weights": self.space.digest()})
        return Outcome(reason, p)

    def replay(self, step: int) -> None:
        """Go forward to `step` by the journal alone. Raises UsageError where it does not reach that far."""
        if not self._started:
            self._init()
            self._assess()
        while self.progress.step < step:
            if not self.journal.replaying:
                raise UsageError(f"the journal ends at step {self.progress.step}, step {step} was asked for")
            self._step()
            if self.progress.step % self.eval_steps == 0 and self.journal.replaying:
                self._assess()

    def _finished(self) -> str:
        p, b = self.progress, self.budget
        if self.patience is not None and p.stale >= self.patience:
            return "patience"
        if self.journal.replaying:
            line = self.journal.lines[self.journal.cursor]
            if line["kind"] == "end" and line["reason"] == SPENT:  # what was spent then is not known now
                return SPENT
        elif self.spent(self._cost(p.step, self._used())):
            return SPENT
        over = (
            (b.steps is not None and p.step >= b.steps)
            or (b.evals is not None and p.evaluations + self._cost(p.step, self._used()) > b.evals)
            or (b.seconds is not None and p.seconds >= b.seconds)
        )
        return "done" if over else ""

    def _cost(self, step: int, progress: float) -> int:
        return cost_of(self.optimizer, self.space, self.batches, step, progress)

    def _total(self) -> int | None:
        if self._planned is None or self._planned[0] != self.budget:  # a second fit goes on with a larger one
            self._planned = self.budget, planned(self.budget, self._cost)[0]
        return self._planned[1]

    def _used(self) -> float:
        p, b = self.progress, self.budget
        shares = [
            used / limit
            for used, limit in ((p.step, b.steps), (p.evaluations, b.evals), (p.seconds, b.seconds))
            if limit is not None
        ]
        return min(max(shares), 1.0)

    # -- one event -----------------------------------------------------------------------------------------------------

    def _begin(self, tape: Tape, t: int) -> At:
        self.oracle.begin(tape, t)
        return At(self.space, self.batches, tape, t, self._total(), self._used())

    def _init(self) -> None:
        line = self.journal.take("init")
        tape = Tape(line["tape"] if line else None)
        at = self._begin(tape, -1)
        init: Any = self.optimizer.init
        try:
            many = len(inspect.signature(init).parameters) >= 3
            state = init(self.space.theta, self.oracle, at) if many else init(self.space.theta)
        except ObjectiveError as error:
            raise ObjectiveFailures(f"the objective failed before the first step: {error}") from error
        self.progress.evaluations = self.oracle.evaluations
        if not line:
            self.journal.append({"kind": "init", "tape": tape.entries})
        self.state = self.space.assign(self.space.theta, state)
        self._started = True
        describe = getattr(self.optimizer, "describe", None)
        self.emit("init", {"lines": describe(self.state) if describe else []})

    def _step(self) -> None:
        p, journal = self.progress, self.journal
        line = journal.take("step")
        tape = Tape(line["tape"] if line else None)
        at = self._begin(tape, p.step)
        failed = ""
        if line and "dropped" in line:
            failed = line["dropped"]
        else:
            try:
                theta, state = self.optimizer.step(self.space.theta, self.oracle, self.state, at)
            except ObjectiveError as error:
                failed = str(error)
        p.seconds = line.get("seconds", p.seconds) if line else time.monotonic() - self._clock
        if line:
            self.oracle.evaluations = line["evals"]
        else:
            line = {"kind": "step", "step": p.step, "evals": self.oracle.evaluations, "tape": tape.entries}
            if failed:
                line["dropped"] = failed
            if self.budget.seconds is not None:
                line["seconds"] = round(p.seconds, 3)
                p.seconds = line["seconds"]
            journal.append(line)
        if not failed:
            self.state = self.space.assign(theta, state)
        p.step += 1
        p.evaluations = self.oracle.evaluations
        self._account(line, failed)

    def _account(self, line: Mapping[str, Any], failed: str) -> None:
        p = self.progress
        metrics: dict[str, Any] = {"step": p.step, "evaluations": p.evaluations}
        if failed:
            p.dropped += 1
            metrics["dropped"] = failed
        else:
            asked = [values for kind, values in line["tape"] if kind == "values"]
            compared = [values for values in asked if len(values) > 1]
            ranked = [places for kind, places in line["tape"] if kind == "ranks"]
            if compared or ranked:
                spread = max((max(v) - min(v) for v in compared), default=0.0)
                p.compared += 1
                p.flat += spread == 0.0 and all(len({*places} - {None}) < 2 for places in ranked)
                metrics |= {"difference": spread} if compared else {}
                metrics["zero_share"] = round(p.zero_share, 4)
            if asked and asked[0]:
                metrics["loss"] = math.fsum(asked[0]) / len(asked[0])
        self.emit("step", metrics)
        self._failures += bool(failed) and not self.journal.replaying
        if failed and self._failures > self.max_failures:
            raise ObjectiveFailures(
                f"{self._failures} steps failed, more than --max-failures {self.max_failures}; the last: {failed}",
                hint="weights are as of the last good step",
            )

    def _assess(self) -> None:
        p = self.progress
        if self.assess is None:
            p.best_step = p.step
            return
        line = self.journal.take("eval")
        if line is None:
            try:
                found = dict(self.assess())
            except ObjectiveError as error:
                if p.step == 0:
                    raise ObjectiveFailures(f"the objective failed on the held-out rows: {error}") from error
                found = {"failed": str(error)}
            line = {"kind": "eval", "step": p.step, **found}
            self.journal.append(line)
        loss = line.get("loss", math.inf)
        if p.step == 0 or loss < p.best_loss:
            p.best_loss, p.best_step, p.stale = loss, p.step, 0
        else:
            p.stale += 1
        if p.best_step == p.step:  # also in a replay: the checkpoint of the best may have been lost
            self._save()
        self.emit("eval", {**line, "best": p.best_step == p.step})

    # -- keeping -------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self._saved == self.progress.step:
            return
        self._saved = self.progress.step
        self.journal.sync()
        meta = {
            "step": self.progress.step,
            "lines": self.journal.cursor,
            "progress": asdict(self.progress),
            "state": states.encode(self.state),
            "weights": self.space.digest(),
        }
        self.store.save(self.space, self.progress.step, meta, keep=self.progress.best_step)

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Take over counters and state of a checkpoint whose weights the space holds already; the journal's cursor goes
        to the line that follows it."""
        self.progress = Progress(**meta["progress"])
        self.state = states.decode(meta["state"], type(self.optimizer).__module__)
        self.oracle.evaluations = self.progress.evaluations
        self.journal.cursor = meta["lines"]
        self._saved = self.progress.step
        self._clock = time.monotonic() - self.progress.seconds
        self._started = True


__all__ = ["Budget", "Emit", "Engine", "Outcome", "Progress"]
