"""The cost of one optimizer's steps: the optimizer in its engine, rounds of measurement, and their summary.

Steps of an optimizer may differ in their number of evaluations. Each such *kind* of step is measured in every round;
the cost of a step is the mean over the kinds, weighted by their share of the period after which kinds repeat.

Knows spaces and the engine; loads no model and prints nothing.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zotune.bench.instruments import TRAINING_BATCHES, ModelOnRandomTokens, Options, TimedSpace
from zotune.search import checkpoint
from zotune.search.batches import Batches
from zotune.search.engine import Engine
from zotune.search.hooks import Settings
from zotune.search.journal import Journal
from zotune.search.limits import Budget, cost_of
from zotune.search.oracle import Oracle
from zotune.search.perturb_mode import IN_FORWARD_WEIGHTS
from zotune.types import Optimizer

PLANNED_STEPS = 16
"""Budget under which an optimizer initializes. A calibration takes a share of the budget and is not measured."""
HORIZON = 512
"""Steps whose declared evaluations are searched for kinds and their period."""
MAX_KINDS = 4
"""Kinds of steps that are measured at most: the most frequent ones."""
PARTS = ("perturb", "update", "objective", "norms", "rest")
"""What a step takes beyond its forward passes, in the order shown."""


@dataclass(frozen=True)
class StepTiming:
    """One measured step.

    seconds: of the whole step; parts: seconds by name, as the clock measured them; evaluations: that it made; passes:
    forward passes by their number of rows.
    """

    seconds: float
    parts: Mapping[str, float]
    evaluations: int
    passes: Mapping[int, int]


class OptimizerCase:
    """An optimizer in its engine, on a model with random tokens. Raises what the optimizer raises in `init`.

    shares: evaluations of each measured kind of step to its share of all steps; unmeasured_kinds: how many rarer kinds
    there are; copied: tensors that are perturbed by copy.
    """

    def __init__(
        self, optimizer: Optimizer, subject: ModelOnRandomTokens, tuned: frozenset[str], o: Options, journal: Journal
    ) -> None:
        self.subject, self.optimizer, self.clock = subject, optimizer, subject.clock
        self.space = TimedSpace(subject.loaded.model, o.seed, lambda t: t.name in tuned, compile=o.compile)
        self.space.clock = self.clock
        self.copied = list(self.space.params)
        if o.perturb == "forward" or (o.perturb == "auto" and self.space.numel >= IN_FORWARD_WEIGHTS):
            self.space.max_in_forward = math.inf if o.perturb == "forward" else 2
            self.copied = self.space.perturb_in_forward(subject.plain_pass(o.rows))
        self.batches = Batches(TRAINING_BATCHES * o.rows, o.rows, o.seed)
        oracle = Oracle(self.space, subject.score, self.batches, "minimize", passes=lambda n: -(-n // o.rows))
        store, budget = checkpoint.MemoryStore(), Budget(steps=PLANNED_STEPS)
        self.engine = Engine(
            self.space, optimizer, oracle, self.batches, budget, journal, store, Settings(10**9, max_failures=0)
        )
        self.engine.initialize()
        self.engine.budget = Budget(steps=10**6)
        self.costs = [cost_of(optimizer, self.space, self.batches, t, 0.0) for t in range(HORIZON)]
        self.period = _period(self.costs)
        kinds = Counter(self.costs[: self.period])
        self.shares = {evaluations: n / self.period for evaluations, n in kinds.most_common(MAX_KINDS)}
        self.unmeasured_kinds = len(kinds) - len(self.shares)

    def step(self, kind: int) -> StepTiming:
        """Take and time the next step that declares `kind` evaluations. Raises ObjectiveFailures where it fails."""
        engine, clock, passes = self.engine, self.clock, self.subject.passes
        following = itertools.count(engine.progress.step)
        engine.progress.step = next(t for t in following if self.costs[t % self.period] == kind)
        before = engine.oracle.evaluations
        passes.clear()
        clock.seconds.clear()
        seconds = clock.time(engine.step)
        return StepTiming(seconds, dict(clock.seconds), engine.oracle.evaluations - before, Counter(passes))

    @property
    def field_bytes(self) -> int:
        return sum(x.numel() * x.element_size() for f in self.space.fields.values() for x in f.values())


def _period(costs: Sequence[int]) -> int:
    """The number of steps after which their costs repeat; all of them where they do not."""
    half = len(costs) // 2
    return next((p for p in range(1, half + 1) if costs[p:] == costs[:-p]), len(costs))


@dataclass
class Rounds:
    """Measurements of all rounds.

    plain: seconds of plain passes, by their rows; steps: timings by kind; parts: seconds of each step beyond its
    forward passes, by kind; comparisons: seconds of what was measured in the same rounds, by name.
    """

    plain: dict[int, list[float]]
    steps: dict[int, list[StepTiming]]
    parts: dict[int, list[dict[str, float]]]
    comparisons: dict[str, list[float]]

    def median(self, rows: int) -> float:
        """Seconds of a plain pass of so many rows."""
        return statistics.median(self.plain[rows])


def run_rounds(
    case: OptimizerCase,
    o: Options,
    comparisons: Mapping[str, Callable[[], Any]],
    first_steps: Sequence[StepTiming],
    undo: Callable[[], None],
) -> Rounds:
    """Measure an optimizer in `o.rounds` rounds, after `o.warmup` rounds that do not count.

    comparisons: calls that are timed in the same rounds; first_steps: a step of each kind, made before, which shows
    what passes there are; undo: restores the weights after each round.
    """
    clock, kinds = case.clock, list(case.shares)
    sizes = sorted({case.subject.rows, *(rows for timing in first_steps for rows in timing.passes)})
    plain = {rows: case.subject.plain_pass(rows) for rows in sizes}
    rounds = Rounds(
        {n: [] for n in sizes}, {k: [] for k in kinds}, {k: [] for k in kinds}, {n: [] for n in comparisons}
    )
    for k in range(-o.warmup, o.rounds):
        plain[case.subject.rows]()  # brings back into the cache what `undo` has displaced
        seconds = {rows: [clock.time(call), clock.time(call)] for rows, call in plain.items()}
        timings = {kind: case.step(kind) for kind in kinds}
        others = {}
        for name, call in comparisons.items():
            others[name] = clock.time(call)
            undo()
        undo()
        if k < 0:
            continue
        for rows, pair in seconds.items():
            rounds.plain[rows] += pair
        for name, x in others.items():
            rounds.comparisons[name].append(x)
        for kind, timing in timings.items():
            forwards = sum(n * statistics.fmean(seconds[rows]) for rows, n in timing.passes.items())
            rounds.steps[kind].append(timing)
            rounds.parts[kind].append(_parts(timing, forwards))
    return rounds


def _parts(timing: StepTiming, forwards: float) -> dict[str, float]:
    """Seconds of a step beyond its forward passes, by purpose; with the forward passes they add up to the step."""
    objective, update = timing.parts.get("objective", 0.0), timing.parts.get("update", 0.0)
    norms, passes = timing.parts.get("norms", 0.0), timing.parts.get("perturbed", 0.0) - objective
    rest = timing.seconds - passes - objective - update - norms
    return {"perturb": passes - forwards, "update": update, "objective": objective, "norms": norms, "rest": rest}


def summarize(name: str, case: OptimizerCase, rounds: Rounds) -> dict[str, Any]:
    """The cost of an optimizer's steps, as JSON."""
    kinds: list[dict[str, Any]] = []
    two = 2 * rounds.median(case.subject.rows)
    total = math.fsum(case.shares.values())
    for kind, share in case.shares.items():
        timings = rounds.steps[kind]
        forwards = math.fsum(n * rounds.median(rows) for rows, n in timings[-1].passes.items())
        step = statistics.median(t.seconds for t in timings)
        parts = {p: statistics.median(x[p] for x in rounds.parts[kind]) for p in PARTS}
        kinds.append(
            {
                "declared": kind,
                "evaluations": timings[-1].evaluations,
                "share": share / total,
                "passes": [[rows, n] for rows, n in sorted(timings[-1].passes.items())],
                "step_ms": 1e3 * step,
                "slowest_ms": 1e3 * max(t.seconds for t in timings),
                "forwards_ms": 1e3 * forwards,
                "ratio": step / forwards,
                "parts_ms": {p: 1e3 * x for p, x in parts.items()},
            }
        )

    def mean(value: Callable[[dict[str, Any]], float]) -> float:
        return math.fsum(float(k["share"]) * value(k) for k in kinds)

    step, forwards = mean(lambda k: k["step_ms"]), mean(lambda k: k["forwards_ms"])
    split = {p: math.fsum(k["share"] * k["parts_ms"][p] for k in kinds) for p in PARTS}
    notes = list(case.space.kernels.notes)
    if case.unmeasured_kinds:
        notes.append(f"{case.unmeasured_kinds} rarer kinds of steps were not measured")
    return {
        "name": name,
        "evaluations": mean(lambda k: k["evaluations"]),
        "declared": mean(lambda k: k["declared"]),
        "as_declared": all(k["evaluations"] == k["declared"] for k in kinds),
        "step_ms": step,
        "forwards_ms": forwards,
        "ratio": step / forwards,
        "two_forwards_ms": 1e3 * two,
        "parts": {p: {"ms": x, "of_two_forwards": x / (1e3 * two)} for p, x in split.items()},
        "statistic": "the median step" if len(kinds) == 1 else f"the mean over {case.period} steps",
        "kinds": kinds,
        "copied": len(case.copied),
        "notes": notes,
    }


__all__ = ["OptimizerCase", "StepTiming", "run_rounds", "summarize"]
