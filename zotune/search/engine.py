"""The loop. Knows no algorithm, no metric and no model family.

Step by step it asks the optimizer for the next weights, journals what the optimizer learned, and lets the space write.
The same code replays a journal: an oracle whose tape is recorded gives the old numbers without a forward pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from zotune import declarations
from zotune.core import state_codec as states
from zotune.core.space import Space
from zotune.errors import ObjectiveError, ObjectiveFailures, Stopped, UsageError
from zotune.events import (
    Calibrated,
    Emit,
    Evaluated,
    Initialized,
    Interpolated,
    PreflightDone,
    RolledBack,
    StepDone,
    ignore,
)
from zotune.search.batches import Batches
from zotune.search.calibration import Found
from zotune.search.checkpoint import Store, between
from zotune.search.context import At
from zotune.search.journal import Journal, Tape
from zotune.search.optimizer_call import check_weights, checked_step, initial_state
from zotune.search.oracle import Oracle
from zotune.types import Optimizer

SPENT = "score calls"
"""Why a run ends whose budget of scores is used up."""
DAMPING = 0.25
"""What is left of a step's size after each rollback."""
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
    cost = declarations.step_cost(optimizer, space.theta, lambda: At(space, batches, Tape(), step, None, progress))
    return 1 if cost is None else cost


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
    """Counters of a run; all of them follow from the journal. ruined: why the weights as they are will be left."""

    step: int = 0
    evaluations: int = 0
    dropped: int = 0
    compared: int = 0
    flat: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_step: int = 0
    best_share: float = 1.0
    stale: int = 0
    damping: float = 1.0
    ruined: str = ""

    @property
    def zero_share(self) -> float:
        """Share of steps whose points all had exactly the same value: steps without signal."""
        return self.flat / self.compared if self.compared else 0.0


@dataclass(frozen=True)
class Outcome:
    """How the loop ended: "done", "patience", "score calls" (their budget is spent) or "interrupted"."""

    reason: str
    progress: Progress


def best_weights(store: Store, p: Progress) -> Mapping[str, Any]:
    """The best weights known, as the selection rows see it: of a step, or between it and the start."""
    found = store.weights(p.best_step)
    return found if p.best_share == 1.0 else between(store.weights(0), found, p.best_share)


class Engine:
    """Everything a run needs, joined.

    assess: scores the present weights on held-out rows and returns JSON values, of which "loss" (smaller is better)
    selects the best, and "ruined", where it is there, says why the run goes back to the best weights known, with
    smaller steps from then on; None: no held-out rows, the last weights are the best. emit: told about every step and
    assessment. calibrate: finds options of the optimizer before it begins. preflight: looks at what to expect, before
    the first step. interpolate: at the end, weights between the start and the last are assessed too. stop: asked after
    each step. spent: asked before each step, with the evaluations that it makes, whether the budget of score calls no
    longer pays for it. An objective that waits for an answer may raise Stopped instead: the step did not happen.
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
        emit: Emit = ignore,
        calibrate: Callable[[], Found] | None = None,
        preflight: Callable[[Optimizer, Any, int | None], Mapping[str, Any]] | None = None,
        interpolate: bool = False,
        stop: Callable[[], bool] = lambda: False,
        spent: Callable[[int], bool] = lambda evaluations: False,
    ) -> None:
        self.space, self.optimizer, self.oracle, self.batches = space, optimizer, oracle, batches
        self.budget, self.journal, self.store = budget, journal, store
        self.assess, self.eval_steps = assess, max(eval_steps, 1)
        self.save_steps = save_steps or self.eval_steps
        self.max_failures, self.patience, self.emit, self.stop = max_failures, patience, emit, stop
        self.calibrate, self.preflight = calibrate, preflight
        self.interpolate, self.spent = interpolate, spent
        self.progress = Progress()
        self.state: Any = None
        self._planned: tuple[Budget, int | None] | None = None
        self._started = False
        self._saved = self._assessed = -1
        self._failures = 0
        self._clock = time.monotonic()

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run, or go on, to the end of the budget. Raises ObjectiveFailures past `max_failures` dropped steps."""
        outcome = self._run()
        while outcome.reason != "interrupted" and self._extended():
            outcome = self._run()
        return outcome

    def _run(self) -> Outcome:
        p = self.progress
        self._clock = time.monotonic() - p.seconds
        if not self._started:
            try:
                self._extended()
                self._init()
                self._assess()
                if self.preflight is not None:
                    self._look_ahead(self.preflight)
            except Stopped:
                return Outcome("interrupted", p)
        if p.ruined:  # a checkpoint was written on the way back
            self._roll_back()
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
        if self.interpolate and p.step and self.assess is not None and not self._looked():
            self._look_back()
        if not self.journal.take("end"):
            self._save()
            self.journal.append({"kind": "end", "step": p.step, "reason": reason, "weights": self.space.digest()})
        return Outcome(reason, p)

    def replay(self, step: int) -> None:
        """Go forward by the journal alone to what step number `step` left. Raises UsageError where it does not reach
        that far."""
        while not self._started or self.progress.step < step:
            match self.journal.next:
                case "":
                    raise UsageError(f"the journal ends at step {self.progress.step}, step {step} was asked for")
                case "calibration":
                    self._use(self.journal.take("calibration") or {})
                case "init":
                    self._init()
                case "step":
                    self._step()
                case "eval" if self._assessed != self.progress.step:
                    self._assess()
                case "budget":
                    self._extended()
                case other:  # what follows from the lines above, and what a later version may add
                    self.journal.take(other)

    def _extended(self) -> bool:
        """Whether the journal says that the run was given another budget here."""
        if self.journal.next != "budget":
            return False
        line = self.journal.take("budget") or {}
        self.budget = Budget(line["steps"], line["evals"], line["seconds"])
        return True

    def _finished(self) -> str:
        self._extended()
        p, b = self.progress, self.budget
        if self.journal.next in ("step", "end"):  # what was spent then is not known now
            return str(self.journal.lines[self.journal.cursor].get("reason", ""))
        if not self.journal.replaying and self.spent(self._cost(p.step, self._used())):
            return SPENT
        if self.patience is not None and p.stale >= self.patience:
            return "patience"
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

    def _calibrate(self, calibrate: Callable[[], Found]) -> None:
        """Give the optimizer the options that a calibration finds, or has found."""
        line = self.journal.take("calibration")
        if line is None:
            try:
                found = calibrate()
            except ObjectiveError as error:
                raise ObjectiveFailures(f"the objective failed while it was calibrated for: {error}") from error
            line = {"kind": "calibration", "evals": self.oracle.evaluations, **asdict(found)}
            line = self.journal.append(line)
        self.oracle.evaluations = line["evals"]
        self._use(line)
        self.emit(Calibrated(tuple(line["options"].items()), tuple(line["lines"])))

    def _use(self, line: Mapping[str, Any]) -> None:
        """Options that a calibration found."""
        rule: Any = self.optimizer
        self.optimizer = replace(rule, **line["options"])
        if (eps := declarations.eps(self.optimizer)) is not None:
            self.oracle.unit = 2 * eps

    def _init(self) -> None:
        if self.calibrate is not None:
            self._calibrate(self.calibrate)
        line = self.journal.take("init")
        tape = self.journal.tape(line["tape"] if line else None)
        try:
            self._initial(tape)
        except ObjectiveError as error:
            raise ObjectiveFailures(f"the objective failed before the first step: {error}") from error
        self.progress.evaluations = self.oracle.evaluations
        if not line:
            self.journal.append({"kind": "init", "tape": tape.entries})
        self._started = True
        self.emit(Initialized(tuple(declarations.description(self.optimizer, self.state).items())))

    def _look_ahead(self, preflight: Callable[[Optimizer, Any, int | None], Mapping[str, Any]]) -> None:
        """Say what to expect, before anything is spent on it; of no effect on the weights."""
        if self.journal.replaying and self.journal.next != "preflight":
            return  # it had nothing to say
        line, before = self.journal.take("preflight"), self.oracle.evaluations
        if line is None:
            try:
                found = dict(preflight(self.optimizer, self.state, self._total()))
            except ObjectiveError as error:
                found = {"failed": str(error), "lines": [f"preflight: the objective failed: {error}"]}
            if not found and self.oracle.evaluations == before:
                return
            line = {"kind": "preflight", "evals": self.oracle.evaluations, "lines": [], **found}
            line = self.journal.append(line)
        self.oracle.evaluations = self.progress.evaluations = line["evals"]
        self.emit(
            PreflightDone(
                line.get("directions"),
                line.get("zero"),
                line.get("r"),
                line.get("signal"),
                line.get("failed", ""),
                tuple(line["lines"]),
            )
        )

    def _initial(self, tape: Tape) -> None:
        """The optimizer's state before the first step, of the weights as they are."""
        self.oracle.begin(tape, -1)
        at = At(self.space, self.batches, tape, -1, self._total(), 0.0)
        self.state = initial_state(self.optimizer, self.space, self.oracle, at)

    def _step(self) -> None:
        p, journal = self.progress, self.journal
        line = journal.take("step")
        tape = self.journal.tape(line["tape"] if line else None)
        at = self._begin(tape, p.step)
        failed = ""
        if line and "dropped" in line:
            failed = line["dropped"]
        else:
            try:
                theta, state = checked_step(self.optimizer, self.space.theta, self.oracle, self.state, at)
            except ObjectiveError as error:
                check_weights(self.optimizer, self.space, p.step)
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
            line = journal.append(line)
            p.seconds = line.get("seconds", p.seconds)
        if not failed:
            if p.damping != 1.0:
                theta = self.space.theta + p.damping * (theta - self.space.theta)
            self.state = self.space.assign(theta, state)
        p.step += 1
        p.evaluations = self.oracle.evaluations
        self._account(line, failed)

    def _account(self, line: Mapping[str, Any], failed: str) -> None:
        p = self.progress
        loss = difference = zero_share = None
        if failed:
            p.dropped += 1
        else:
            asked = [values for kind, values in line["tape"] if kind == "values"]
            compared = [values for values in asked if len(values) > 1]
            ranked = [places for kind, places in line["tape"] if kind == "ranks"]
            if compared or ranked:
                spread = max((max(v) - min(v) for v in compared), default=0.0)
                p.compared += 1
                p.flat += spread == 0.0 and all(len({*places} - {None}) < 2 for places in ranked)
                difference = spread if compared else None
                zero_share = round(p.zero_share, 4)
            if asked and asked[0]:
                loss = math.fsum(asked[0]) / len(asked[0])
        self.emit(StepDone(p.step, p.evaluations, loss, difference, zero_share, failed))
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
        if self._assessed == p.step or self.journal.next not in ("eval", ""):
            return  # done before the checkpoint that the run goes on from; or left out by the process that stopped here
        line = self.journal.take("eval")
        if line is None:
            try:
                found = dict(self.assess())
            except ObjectiveError as error:
                if p.step == 0:
                    raise ObjectiveFailures(f"the objective failed on the held-out rows: {error}") from error
                found = {"failed": str(error)}
            line = {"kind": "eval", "step": p.step, **found}
            line = self.journal.append(line)
        self._assessed = p.step
        loss = line.get("loss", math.inf)
        if p.step == 0 or loss < p.best_loss:
            p.best_loss, p.best_step, p.best_share, p.stale = loss, p.step, 1.0, 0
        else:
            p.stale += 1
        self.emit(  # before the checkpoint: a kill between loses nothing
            Evaluated(
                line["step"],
                line.get("score"),
                tuple(line.get("parts", {}).items()),
                line.get("drift"),
                p.best_step == p.step,
                line.get("ruined", ""),
                line.get("failed", ""),
            )
        )
        if p.best_step == p.step:  # also in a replay: the checkpoint of the best may have been lost
            self._save()
        if p.step and "ruined" in line and self._used() < 1.0:
            p.ruined = line["ruined"]
            if self.journal.next == "between" or (self.interpolate and not self.journal.replaying):
                self._look_back()
            self._roll_back()

    def _roll_back(self) -> None:
        """Go on from the best weights known, and the optimizer's state there, with smaller steps."""
        p, line = self.progress, self.journal.take("rollback")
        if line is None:
            to = {"to": p.best_step, "share": p.best_share}
            line = {"kind": "rollback", "step": p.step, **to, "damping": p.damping * DAMPING, "why": p.ruined}
            line = self.journal.append(line)
        spent, tape = self.oracle.evaluations, self.journal.first("init")["tape"]
        meta = self.store.restore(p.best_step, self.space)
        if p.best_share != 1.0:
            self.space.load(best_weights(self.store, p))
        if meta is not None:
            self.state = states.decode(meta["state"], type(self.optimizer).__module__)
        else:
            self._initial(Tape(tape))
        self.oracle.evaluations, p.damping, p.ruined = spent, line["damping"], ""
        self.emit(RolledBack(line["step"], line["to"], line["share"], line["damping"], line["why"]))

    def _look_back(self) -> None:
        """Assess weights between those of the start and the last ones: half of the way, and where the parabola through
        the losses of start, half and end is lowest (or at a quarter, where the end has no loss). What was learned grows
        with the way, what random steps cost with its square (docs/log.md); as Wortsman et al. (2022) interpolate."""
        p = self.progress
        evals = [x for x in self.journal.lines[: self.journal.cursor] if x["kind"] == "eval"]
        start, end = evals[0].get("loss"), evals[-1].get("loss")
        last: dict[str, Any] = {}
        try:
            half, share = self._between(0.5, last), 0.25
            if start is not None and half is not None and end is not None:
                slope, bend = 4 * half - 3 * start - end, 2 * (start - 2 * half + end)
                share = -slope / (2 * bend) if bend > 0 else 0.25 if half < end else 0.75
            if 0.05 < share < 0.95:
                self._between(round(share, 2), last)
        finally:
            if last:
                self.space.load(last)
        if p.best_step == p.step and p.best_share != 1.0:  # with what is known now, and kept
            self._saved = -1
            self._save()

    def _looked(self) -> bool:
        """Whether that is done: before the checkpoint that the run goes on from, or left out where it ended."""
        before = self.journal.lines[: self.journal.cursor]
        there = any(x["kind"] == "between" and x["step"] == self.progress.step for x in before)
        return there or self.journal.next == "end"

    def _between(self, share: float, last: dict[str, Any]) -> float | None:
        """The loss at a share of the way from the start to the last weights, which `last` keeps."""
        p, line = self.progress, self.journal.take("between")
        if line is None:
            last.update({} if last else {n: x.cpu() for n, x in self.space.snapshot().items()})
            self.space.load(between(self.store.weights(0), last, share))
            try:
                found = dict(self.assess()) if self.assess else {}
            except ObjectiveError as error:
                found = {"failed": str(error)}
            line = {"kind": "between", "step": p.step, "share": share, **found}
            line = self.journal.append(line)
        loss: float | None = line.get("loss")
        better = loss is not None and loss < p.best_loss
        if loss is not None and better:
            p.best_loss, p.best_step, p.best_share = loss, p.step, line["share"]
        self.emit(Interpolated(line["step"], line["share"], line.get("score"), better, line.get("failed", "")))
        return loss

    # -- keeping -------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self._saved == self.progress.step:
            return
        self._saved = self.progress.step
        self.journal.sync()
        meta = {
            "step": self.progress.step,
            "lines": self.journal.cursor,
            "mark": self.journal.mark(self.journal.cursor),
            "progress": asdict(self.progress),
            "state": states.encode(self.state),
            "weights": self.space.digest(),
        }
        self.store.save(self.space, self.progress.step, meta, keep=self.progress.best_step)

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Take over counters and state of a checkpoint whose weights the space holds already; the journal's cursor goes
        to the line that follows it."""
        self.progress = Progress(**meta["progress"])
        for line in self.journal.lines:
            if line["kind"] == "calibration":
                self._use(line)
        self.state = states.decode(meta["state"], type(self.optimizer).__module__)
        self.oracle.evaluations = self.progress.evaluations
        before = self.journal.lines[: meta["lines"]]
        for line in before:
            if line["kind"] == "budget":
                self.budget = Budget(line["steps"], line["evals"], line["seconds"])
        self.journal.seek(meta["lines"])
        self._assessed = max((line["step"] for line in before if line["kind"] == "eval"), default=-1)
        self._saved = self.progress.step
        self._clock = time.monotonic() - self.progress.seconds
        self._started = True


__all__ = ["Budget", "Engine", "Outcome", "Progress", "best_weights"]
