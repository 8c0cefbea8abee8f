"""The engine: the loop of a run. Knows no algorithm, no metric and no model family.

In each step the engine asks the optimizer for the next weights, journals the values that the optimizer received, and
lets the space write. The same code replays a journal: with a recorded tape the oracle returns the old values, without a
forward pass.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from zotune import declarations
from zotune.core import state_codec
from zotune.core.space import Space
from zotune.errors import ObjectiveError, ObjectiveFailures, Stopped, UsageError
from zotune.events import Initialized, Note, Phase, PreflightDone, StepDone
from zotune.search import calibration, preflight
from zotune.search.batches import Batches
from zotune.search.checkpoint import Store
from zotune.search.context import At
from zotune.search.hooks import Hooks, Settings
from zotune.search.journal import Journal, Tape
from zotune.search.limits import Budget, cost_of, planned
from zotune.search.optimizer_call import check_weights, checked_step, initial_state
from zotune.search.oracle import Oracle, partners
from zotune.search.progress import Outcome, Progress, ValidationResult
from zotune.search.rollback import roll_back
from zotune.search.selection import Selection
from zotune.search.time_left import LoopWork
from zotune.types import Optimizer

SATISFIED = "good enough"
"""The reason of a run that a person ends: the model is good enough."""
SCORES_SPENT = "score calls"
"""The reason of a run that ends because its budget of scores is spent."""
ASKED = "tracker"
"""The reason of a run that ends because a tracker asked for it."""


class Engine:
    """Runs an optimizer over a space until its budget ends, or replays its journal.

    progress: the counters of the run; state: the optimizer's. Both are replaced by `restore`.
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
        settings: Settings | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.space, self.optimizer, self.oracle, self.batches = space, optimizer, oracle, batches
        self.budget, self.journal, self.store = budget, journal, store
        self.settings, self.hooks = settings or Settings(), hooks or Hooks()
        self.progress = Progress()
        self.state: Any = None
        self._planned: tuple[Budget, tuple[int | None, int | None]] | None = None
        self._initialized = False
        self._saved = self._validated = -1
        self._failures = 0
        self._clock = time.monotonic()

    def run(self) -> Outcome:
        """Run, or continue, to the end of the budget. Raises ObjectiveFailures past `max_failures` dropped steps."""
        outcome = self._run()
        while outcome.reason != "interrupted" and self._extend_budget():
            outcome = self._run()
        return outcome

    def _run(self) -> Outcome:
        p, settings = self.progress, self.settings
        self._clock = time.monotonic() - p.seconds
        if not self._initialized:
            if self.journal.replaying:
                self.hooks.emit(Phase("replaying the recorded steps", brief=True))
            try:
                self._extend_budget()
                self.initialize()
                self._validate()
                self._preflight()
            except Stopped:
                return Outcome("interrupted", p)
        if p.diverged:  # the checkpoint that was restored was written just before a rollback
            self._extend_budget()
            self._roll_back()
        self._phase(f"computing step {p.step + 1}")
        while not (reason := self._end_reason()):
            try:
                self.step()
            except ObjectiveFailures:
                self._save()  # the weights of the last good step, to resume from when the objective works again
                raise
            except Stopped:
                self._save()
                return Outcome("interrupted", p)
            if p.step % max(settings.eval_steps, 1) == 0:
                self._validate()
                self._phase(f"computing step {p.step + 1}")
            if p.step % (settings.save_steps or max(settings.eval_steps, 1)) == 0 and not self.journal.replaying:
                self._save()
                self._phase(f"computing step {p.step + 1}")
            if not self.journal.replaying and self.hooks.stop():
                self._save()
                return Outcome("interrupted", p)
        ended = self.budget
        if p.step % max(settings.eval_steps, 1):
            self._validate()
        if settings.interpolate and p.step and self.hooks.validate is not None:
            selection = self._selection(self.hooks.validate)
            if not selection.is_interpolated:
                self._interpolate(selection)
        if self._extend_budget() or self.budget != ended:  # the run was killed here, and resumed with a larger budget
            return self._run()

        def end() -> Mapping[str, Any]:
            self._save()
            return {"step": p.step, "reason": reason, "weights": self.space.digest()}

        self.journal.take_or_append("end", end)
        return Outcome(reason, p)

    def replay(self, step: int) -> None:
        """Replay the journal up to the weights after `step` steps. Raises UsageError where the journal ends before."""
        while not self._initialized or self.progress.step < step:
            match self.journal.next:
                case "":
                    raise UsageError(f"the journal ends at step {self.progress.step}, step {step} was asked for")
                case "calibration":
                    self._set_options(self.journal.take("calibration") or {})
                case "init":
                    self.initialize()
                case "step":
                    self.step()
                case "eval" if self._validated != self.progress.step:
                    self._validate()
                case "budget":
                    self._extend_budget()
                case other:  # lines that change no weights, among them those of later versions
                    self.journal.take(other)

    def initialize(self) -> None:
        """Calibrate where asked to, and compute the optimizer's first state."""
        self._calibrate()
        self._extend_budget()
        self._phase("computing the optimizer's first state")
        tape = self.journal.next_tape("init")
        try:
            self.state = self._initial_state(tape)
        except ObjectiveError as error:
            raise ObjectiveFailures(f"the objective failed before the first step: {error}") from error
        self.progress.evaluations = self.oracle.evaluations
        self.journal.take_or_append("init", lambda: {"tape": tape.entries})
        self._initialized = True
        self.hooks.emit(Initialized(tuple(declarations.description(self.optimizer, self.state).items())))
        if text := declarations.warning(self.optimizer, self.state):
            self.hooks.emit(Note(text))

    def step(self) -> None:
        """Take one step, or drop it where the objective fails. Raises ObjectiveFailures where too many failed."""
        p, journal = self.progress, self.journal
        started, before = self.hooks.clock.clock(), self.oracle.evaluations
        recorded, tape = journal.peek("step"), journal.next_tape("step")
        self.oracle.begin(tape, p.step)
        at = At(self.space, self.batches, tape, p.step, self._planned_steps(), self._used(), damping=p.damping)
        at.interpolated = self._is_interpolated()
        dropped = ""
        if recorded and "dropped" in recorded:
            dropped = recorded["dropped"]
        else:
            if not recorded:
                self.hooks.step_begins(journal.checksum(len(journal.lines)))
            try:
                theta, state = checked_step(self.optimizer, self.space.theta, self.oracle, self.state, at)
            except ObjectiveError as error:
                check_weights(self.optimizer, self.space, p.step)
                dropped = str(error)
        if recorded:
            self.oracle.resume(recorded["evals"])
        else:
            p.seconds = time.monotonic() - self._clock

        def compute() -> Mapping[str, Any]:
            line: dict[str, Any] = {"step": p.step, "evals": self.oracle.evaluations, "tape": tape.entries}
            if dropped:
                line["dropped"] = dropped
            in_pass = self.oracle.rows_in_pass
            if in_pass and in_pass() != self.batches.population.in_pass:  # memory was short
                line["in_pass"] = in_pass()
            if self.budget.seconds is not None:
                line["seconds"] = round(p.seconds, 3)
            return line

        line = journal.take_or_append("step", compute)
        if not recorded:
            self.hooks.step_recorded()
        p.seconds = line.get("seconds", p.seconds)
        if not dropped:
            if p.damping != 1.0:
                theta = self.space.theta + p.damping * (theta - self.space.theta)
            self.state = self.space.assign(theta, state)
        p.step += 1
        p.evaluations, p.queries = self.oracle.evaluations, self.oracle.queries
        if not recorded:
            clock = self.hooks.clock
            clock.record("evaluation", clock.clock() - started, max(p.evaluations - before, 1))
        self._count(line, dropped)

    def _is_interpolated(self) -> bool:
        """Whether a rollback has loaded interpolated weights since the last step that was taken."""
        for place in range(self.journal.cursor - 1, 0, -1):
            line = self.journal.lines[place]
            if line["kind"] == "rollback":
                return bool(line.get("share", 1.0) != 1.0)
            if line["kind"] == "step" and "dropped" not in line:
                break
        return False

    def _count(self, line: Mapping[str, Any], dropped: str) -> None:
        """Update the counters by the line of a step, and emit its event."""
        p = self.progress
        loss = difference = zero_share = None
        if dropped:
            p.dropped += 1
        else:
            calls = [values for kind, values in line["tape"] if kind == "values"]
            comparisons = [values for values in calls if len(values) > 1]
            rankings = [ranks for kind, ranks in line["tape"] if kind == "ranks"]
            populations = [values for kind, values in line["tape"] if kind == "members"]
            calls = calls or [[v for v in values if v is not None] for values in populations]
            comparisons += [pair for values in populations for pair in partners(values)]
            saturated = p.note_members([v for values in populations for v in values if v is not None])
            if (comparisons or rankings) and not saturated:
                spread = max((max(v) - min(v) for v in comparisons), default=0.0)
                p.compared += 1
                p.flat += spread == 0.0 and all(len({*ranks} - {None}) < 2 for ranks in rankings)
                difference = spread if comparisons else None
                zero_share = round(p.zero_share, 4)
            if calls and calls[0]:
                loss = math.fsum(calls[0]) / len(calls[0])
        left = None if self.journal.replaying else self.seconds_left()
        self.hooks.emit(StepDone(p.step, p.evaluations, loss, difference, zero_share, dropped, seconds_left=left))
        self._failures += bool(dropped) and not self.journal.replaying
        if dropped and self._failures > self.settings.max_failures:
            raise ObjectiveFailures(
                f"{self._failures} steps failed, more than --max-failures {self.settings.max_failures}; "
                f"the last: {dropped}",
                hint="the weights are those of the last good step",
            )

    def _calibrate(self) -> None:
        """Give the optimizer the options that a calibration chooses, or chose."""
        calibrate = self.hooks.calibrate
        if calibrate is None:
            return

        self._phase("calibrating the learning rate and the perturbation scale")

        def compute() -> Mapping[str, Any]:
            try:
                result = calibrate()
            except ObjectiveError as error:
                raise ObjectiveFailures(f"the objective failed during the calibration: {error}") from error
            return {"evals": self.oracle.evaluations, **calibration.to_line(result)}

        line = self.journal.take_or_append("calibration", compute)
        self.oracle.resume(line["evals"])
        self._set_options(line)
        self.hooks.emit(calibration.from_line(line))

    def _set_options(self, line: Mapping[str, Any]) -> None:
        """Give the optimizer the options that a line of a calibration holds."""
        optimizer: Any = self.optimizer
        self.optimizer = replace(optimizer, **line["options"])
        if (eps := declarations.eps(self.optimizer)) is not None:
            self.oracle.unit = 2 * eps

    def _preflight(self) -> None:
        """Evaluate some steps that are not taken. No weight and no later number depends on them."""
        run = self.hooks.preflight
        self._extend_budget()
        if run is None or (self.journal.replaying and self.journal.next != "preflight"):
            return  # a recorded run without a line had nothing to report
        before = self.oracle.evaluations
        self._phase("preflight: evaluating steps that are not taken")
        try:
            result = None if self.journal.replaying else run(self.optimizer, self.state, self._planned_steps())
        except ObjectiveError as error:
            result = PreflightDone(failed=str(error))
        if not self.journal.replaying and result is None and self.oracle.evaluations == before:
            return
        line = self.journal.take_or_append(
            "preflight",
            lambda: {"evals": self.oracle.evaluations, **preflight.to_line(result or PreflightDone())},
        )
        self.oracle.resume(line["evals"])
        self.progress.evaluations = line["evals"]
        self.hooks.emit(preflight.from_line(line))

    def _initial_state(self, tape: Tape) -> Any:
        """The optimizer's state before the first step, for the present weights."""
        self.oracle.begin(tape, -1)
        at = At(self.space, self.batches, tape, -1, self._planned_steps(), 0.0)
        return initial_state(self.optimizer, self.space, self.oracle, at)

    def _selection(self, validate: Callable[[], ValidationResult]) -> Selection:
        return Selection(
            self.space, self.journal, self.store, self.progress, validate, self.hooks.emit, self._extend_budget
        )

    def _validate(self) -> None:
        """Evaluate the validation set, unless that is done for this step; roll back where the weights diverged."""
        p = self.progress
        if self.hooks.validate is None:
            p.best_step = p.step
            return
        self._extend_budget()
        if self._validated == p.step or self.journal.next not in ("eval", ""):
            return  # done before the restored checkpoint, or left out by a process that stopped here
        selection = self._selection(self.hooks.validate)
        self._phase("scoring the validation set")
        with contextlib.nullcontext() if self.journal.replaying else self.hooks.clock.measure("validation"):
            diverged = selection.evaluate().diverged
        self._validated = p.step
        if p.best_step == p.step:  # in a replay too: the best checkpoint may be lost
            self._save()
        if p.step and diverged and self._used() < 1.0:
            p.diverged = diverged
            self._extend_budget()
            if self.journal.next == "between" or (self.settings.interpolate and not self.journal.replaying):
                self._interpolate(selection)
            self._roll_back()

    def _interpolate(self, selection: Selection) -> None:
        """Evaluate interpolated weights; where they are the best, the checkpoint of this step records that."""
        p = self.progress
        self._phase("scoring weights between the base model and the last step")
        selection.interpolate()
        if p.best_step == p.step and p.best_share != 1.0:
            self._saved = -1
            self._save()

    def _roll_back(self) -> None:
        """Continue from the best weights and the optimizer's state there, with smaller steps."""
        self._extend_budget()
        evaluations, queries = self.oracle.evaluations, self.oracle.queries  # init, where it runs again, is not counted
        self.state, event = roll_back(
            self.space, self.optimizer, self.journal, self.store, self.progress, self._initial_state
        )
        self.oracle.evaluations, self.oracle.queries = evaluations, queries
        self.hooks.emit(event)

    def _extend_budget(self) -> bool:
        """Take over a budget that the journal records here; whether there is one."""
        if self.journal.next != "budget":
            return False
        line = self.journal.take("budget") or {}
        self.budget = Budget(line["steps"], line["evals"], line["seconds"])
        return True

    def _end_reason(self) -> str:
        """Why the run ends before the next step; "" where it does not."""
        self._extend_budget()
        p = self.progress
        if self.journal.next in ("step", "end"):  # the journal records what was decided here
            return str(self.journal.lines[self.journal.cursor].get("reason", ""))

        def cost() -> int:
            return self._cost(p.step, self._used())

        if not self.journal.replaying and self.hooks.satisfied():
            return SATISFIED
        if not self.journal.replaying and self.hooks.scores_spent(cost()):
            return SCORES_SPENT
        if not self.journal.replaying and self.hooks.asked_to_end():
            return ASKED
        if self.settings.patience is not None and p.stale >= self.settings.patience:
            return "patience"
        return "done" if self.budget.exhausted(p.step, p.evaluations, p.seconds, cost) else ""

    def _cost(self, step: int, progress: float) -> int:
        return cost_of(self.optimizer, self.space, self.batches, step, progress)

    def _planned_steps(self) -> int | None:
        return self._plan()[0]

    def _plan(self) -> tuple[int | None, int | None]:
        """Steps and evaluations that the budget pays for, None where time alone limits them."""
        if self._planned is None or self._planned[0] != self.budget:  # a second fit extends the budget
            self._planned = self.budget, planned(self.budget, self._cost)
        return self._planned[1]

    def _used(self) -> float:
        """The share of the budget that is used, in [0, 1]."""
        p = self.progress
        return self.budget.used(p.step, p.evaluations, p.seconds)

    def _save(self) -> None:
        """Write a checkpoint of the present step, unless it is written."""
        p = self.progress
        if self._saved == p.step:
            return
        self._saved = p.step
        self._phase("writing a checkpoint")
        started = self.hooks.clock.clock()
        self.journal.sync()
        meta = {
            "step": p.step,
            "lines": self.journal.cursor,
            "mark": self.journal.checksum(self.journal.cursor),
            "progress": p.to_json(),
            "state": state_codec.encode(self.state),
            "weights": self.space.digest(),
        }
        self.store.save(self.space, p.step, meta, keep=p.best_step)
        self.hooks.clock.record("checkpoint", self.hooks.clock.clock() - started)

    def seconds_left(self) -> float:
        """Predicted seconds until the run has ended, from what its work has taken so far."""
        work = LoopWork.of(self.progress, self.budget, self._plan(), self.settings, self.hooks.validate is not None)
        return work.seconds_left(self.hooks.clock) + self.hooks.seconds_after()

    def _phase(self, text: str) -> None:
        """Tell the user what begins, unless it is only read from the journal."""
        if not self.journal.replaying:
            self.hooks.emit(Phase(text, brief=True))

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Take over the counters and the state of a checkpoint whose weights are loaded, and move the journal's cursor
        to the line after it."""
        self.progress = Progress.from_json(meta["progress"])
        for line in self.journal.lines:
            if line["kind"] == "calibration":
                self._set_options(line)
        self.state = state_codec.decode(meta["state"], type(self.optimizer).__module__)
        before = self.journal.lines[: meta["lines"]]
        self.oracle.evaluations = self.progress.evaluations
        self.oracle.queries = self.progress.queries or self.progress.evaluations * self.batches.size
        for line in before:
            if line["kind"] == "budget":
                self.budget = Budget(line["steps"], line["evals"], line["seconds"])
        self.journal.seek(meta["lines"])
        self._validated = max((line["step"] for line in before if line["kind"] == "eval"), default=-1)
        self._saved = self.progress.step
        self._clock = time.monotonic() - self.progress.seconds
        self._initialized = True


__all__ = ["Engine"]
