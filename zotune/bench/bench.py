"""What a tuning step costs beside the forward passes that it cannot do without, measured here and now (`zotune bench`).

In every round, in turn: plain passes `model(**inputs)` without a hook, then a step of each kind that the optimizer has,
through its engine, journal and all. In the rounds of one optimizer also a step of a textbook MeZO loop, the pass that
writes weights, and a copy of as many bytes. Figures are medians over the rounds, ratios are of what was measured in the
same ones. All that a round does to the weights is taken back.

    forwards = plain passes of as many rows, and as many of them, as the step makes
    step = forwards + probe + update + objective + norms + rest

probe: passes under probed weights, beyond the plain ones; update: `Space.assign`; objective: choosing rows and reading
a number off the output; norms: reductions that the optimizer asks for; rest: engine, journal, the optimizer itself.

Steps that differ in the evaluations that they make are kinds: each is measured in every round, and a mean over the
period after which they repeat, kinds weighted by their share of it, is what is said of a step.

What it measures with is in `instruments`. Knows models, spaces and the engine; no data and no metric.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zotune import plugins
from zotune.bench import textbook
from zotune.bench.instruments import SET, Clock, Options, Subject, Watched, Write, bytes_of, peak
from zotune.bench.shapes import SHAPES
from zotune.core.space import Space, named_tensors
from zotune.errors import OptionError, PluginError, ZotuneError
from zotune.events import Emit, Phase, ignore
from zotune.models import adapters, loading
from zotune.models.adapters import AdapterConfig
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.models.trainable import trainable_names
from zotune.runs.plan import EMBEDDED
from zotune.search import checkpoint, optimizer_spec
from zotune.search.batches import Batches
from zotune.search.engine import Engine, Settings
from zotune.search.journal import Journal
from zotune.search.limits import Budget, cost_of
from zotune.search.oracle import Oracle
from zotune.search.perturb_mode import IN_FORWARD_WEIGHTS
from zotune.types import Optimizer

ALL = "all"
BEGUN = 16
"""Steps of the budget under which an optimizer begins: a calibration takes a share of it, and is not measured."""
HORIZON = 512
"""Steps whose declared costs are looked at for kinds of steps and their period."""
KINDS = 4
"""Kinds of steps that are measured, at most; the most frequent."""
LR, EPS = 1e-6, 1e-3
"""Of the textbook loop."""
PARTS = ("probe", "update", "objective", "norms", "rest")
"""What a step takes beyond its forwards, in the order shown."""


# -- one optimizer -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """One step: its seconds, those by name, the evaluations and the passes (by rows) that it made."""

    seconds: float
    parts: Mapping[str, float]
    evaluations: int
    passes: Mapping[int, int]


class Case:
    """An optimizer in its engine, on the subject. Raises what the optimizer raises when it begins."""

    def __init__(
        self, optimizer: Optimizer, subject: Subject, tuned: frozenset[str], o: Options, journal: Journal
    ) -> None:
        self.subject, self.optimizer, self.clock = subject, optimizer, subject.clock
        self.space = Watched(subject.loaded.model, o.seed, lambda t: t.name in tuned, compile=o.compile)
        self.space.clock = self.clock
        self.copied = list(self.space.params)
        if o.perturb == "forward" or (o.perturb == "auto" and self.space.numel >= IN_FORWARD_WEIGHTS):
            self.space.max_in_forward = math.inf if o.perturb == "forward" else 2
            self.copied = self.space.perturb_in_forward(subject.plain(o.rows))
        self.batches = Batches(SET * o.rows, o.rows, o.seed)
        oracle = Oracle(self.space, subject.score, self.batches, "minimize", passes=lambda n: -(-n // o.rows))
        store, budget = checkpoint.MemoryStore(), Budget(steps=BEGUN)
        self.engine = Engine(
            self.space, optimizer, oracle, self.batches, budget, journal, store, Settings(10**9, max_failures=0)
        )
        self.engine.initialize()
        self.engine.budget = Budget(steps=10**6)
        self.costs = [self._cost(t) for t in range(HORIZON)]
        self.period = _period(self.costs)
        seen = Counter(self.costs[: self.period])
        self.shares = {evaluations: n / self.period for evaluations, n in seen.most_common(KINDS)}
        self.left_out = len(seen) - len(self.shares)

    def _cost(self, step: int) -> int:
        return cost_of(self.optimizer, self.space, self.batches, step, 0.0)

    def step(self, kind: int) -> Taken:
        """The next step that declares so many evaluations. Raises ObjectiveFailures where it cannot be made."""
        engine, clock, passes = self.engine, self.clock, self.subject.passes
        begin = engine.progress.step
        steps = itertools.count(begin)
        engine.progress.step = next(t for t in steps if self.costs[t % self.period] == kind)
        before = engine.oracle.evaluations
        passes.clear()
        clock.seconds.clear()
        seconds = clock.of(engine.step)
        return Taken(seconds, dict(clock.seconds), engine.oracle.evaluations - before, Counter(passes))

    @property
    def field_bytes(self) -> int:
        return sum(x.numel() * x.element_size() for f in self.space.fields.values() for x in f.values())


def _period(costs: Sequence[int]) -> int:
    """After how many steps their costs repeat; all of them where they do not."""
    half = len(costs) // 2
    return next((p for p in range(1, half + 1) if costs[p:] == costs[:-p]), len(costs))


# -- rounds ------------------------------------------------------------------------------------------------------------


@dataclass
class Rounds:
    """Seconds of each round. plain: by rows of a pass; steps: by kind; beside: by name."""

    plain: dict[int, list[float]]
    steps: dict[int, list[Taken]]
    parts: dict[int, list[dict[str, float]]]
    beside: dict[str, list[float]]

    def median(self, rows: int) -> float:
        return statistics.median(self.plain[rows])


def run(
    case: Case, o: Options, beside: Mapping[str, Callable[[], Any]], first: Sequence[Taken], undo: Callable[[], None]
) -> Rounds:
    """The rounds of one optimizer. first: a step of each kind, made before; undo: called after each round."""
    clock, kinds = case.clock, list(case.shares)
    sizes = sorted({case.subject.rows, *(rows for taken in first for rows in taken.passes)})
    plain = {rows: case.subject.plain(rows) for rows in sizes}
    found = Rounds({n: [] for n in sizes}, {k: [] for k in kinds}, {k: [] for k in kinds}, {n: [] for n in beside})
    for k in range(-o.warmup, o.rounds):
        plain[case.subject.rows]()  # what `undo` has put out of the cache is back before anything is timed
        seconds = {rows: [clock.of(call), clock.of(call)] for rows, call in plain.items()}
        taken = {kind: case.step(kind) for kind in kinds}
        others = {}
        for name, call in beside.items():
            others[name] = clock.of(call)
            undo()
        undo()
        if k < 0:
            continue
        for rows, pair in seconds.items():
            found.plain[rows] += pair
        for name, x in others.items():
            found.beside[name].append(x)
        for kind, t in taken.items():
            forwards = sum(n * statistics.fmean(seconds[rows]) for rows, n in t.passes.items())
            found.steps[kind].append(t)
            found.parts[kind].append(_parts(t, forwards))
    return found


def _parts(t: Taken, forwards: float) -> dict[str, float]:
    """Seconds of a step beyond its forwards, by what they were for. They add up."""
    objective, update = t.parts.get("objective", 0.0), t.parts.get("update", 0.0)
    norms, passes = t.parts.get("norms", 0.0), t.parts.get("probed", 0.0) - objective
    rest = t.seconds - passes - objective - update - norms
    return {"probe": passes - forwards, "update": update, "objective": objective, "norms": norms, "rest": rest}


def summary(name: str, case: Case, rounds: Rounds) -> dict[str, Any]:
    """What the rounds say of an optimizer, as JSON."""
    kinds: list[dict[str, Any]] = []
    two = 2 * rounds.median(case.subject.rows)
    total = math.fsum(case.shares.values())
    for kind, share in case.shares.items():
        taken = rounds.steps[kind]
        forwards = math.fsum(n * rounds.median(rows) for rows, n in taken[-1].passes.items())
        step = statistics.median(t.seconds for t in taken)
        parts = {p: statistics.median(x[p] for x in rounds.parts[kind]) for p in PARTS}
        kinds.append(
            {
                "declared": kind,
                "evaluations": taken[-1].evaluations,
                "share": share / total,
                "passes": [[rows, n] for rows, n in sorted(taken[-1].passes.items())],
                "step_ms": 1e3 * step,
                "slowest_ms": 1e3 * max(t.seconds for t in taken),
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
    if case.left_out:
        notes.append(f"{case.left_out} rarer kinds of steps were not measured")
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
        "said_of": "the median step" if len(kinds) == 1 else f"the mean over {case.period} steps",
        "kinds": kinds,
        "copied": len(case.copied),
        "notes": notes,
    }


# -- all of it ---------------------------------------------------------------------------------------------------------


def load(
    model: str | None = None,
    shape: str | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    peft: str = "none",
    head: str = "auto",
    seed: int = 0,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """A model as fit loads it, or one of random weights and a known shape, with a fresh adapter where one is asked for.

    Raises ModelError, OptionError.
    """
    adapter = AdapterConfig(peft)
    adapter.check()
    if shape is not None:
        if model is not None:
            raise OptionError("--model and --config exclude each other")
        if shape not in SHAPES:
            raise OptionError(f"--config {shape!r} is no known shape", hint=f"known: {', '.join(SHAPES)}")
        if peft == "prefix":
            raise OptionError("--peft prefix starts from real tokens, and --config has no tokenizer")
        family, sizes = SHAPES[shape]
        loaded = loading.random_model(family, sizes, device=device, dtype=dtype, seed=seed, name=shape)
    else:
        found = find_model(model, head)
        loaded = loading.load(
            found.source,
            found.folder,
            found.head,
            device=device,
            dtype=dtype,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
        loaded.source = model or EMBEDDED
        if found.adapter:
            adapters.load(loaded, found.adapter)
    adapters.attach(loaded, adapter, seed)
    return loaded


def resolve(
    names: Sequence[str], options: Mapping[str, Any] | None = None
) -> tuple[dict[str, Optimizer], dict[str, str]]:
    """Optimizers by name, and why those are missing that cannot be built; "all": every installed one, with its default
    options. options: of a single optimizer. Raises PluginError and OptionError for one that was named."""
    made: dict[str, Optimizer] = {}
    failed: dict[str, str] = {}
    if options and (len(names) != 1 or ALL in names):
        raise OptionError("--optimizer-arg needs one --optimizer that it belongs to")
    for name in names:
        if name != ALL:
            made[name] = optimizer_spec.resolve(name, options or {})
            continue
        known = plugins.default()
        for p in (p for p in known.plugins if p.kind == "optimizer"):
            short = p.name if known.find("optimizer", p.name) is p else p.qualified
            try:
                made.setdefault(short, optimizer_spec.resolve(short, {}))
            except (PluginError, OptionError) as error:
                failed[short] = str(error)
    return made, failed


def measure(
    loaded: LoadedModel,
    rules: Mapping[str, Optimizer],
    o: Options | None = None,
    *,
    strict: bool = True,
    failed: Mapping[str, str] | None = None,
    emit: Emit = ignore,
) -> dict[str, Any]:
    """The costs of these optimizers' steps on a model, as JSON (see the keys). The weights are left as they were.

    strict: an optimizer that cannot begin or step raises; else it is listed under `skipped`, with those of `failed`.
    Raises OptionError, ModelError, OutOfMemory and whatever a step raises.
    """
    o = o or Options()
    clock = Clock(loaded.device)
    subject = Subject(loaded, o, clock)
    names = frozenset(trainable_names(loaded, o.tune))
    plain = subject.plain(o.rows)
    held = bytes_of(loaded.model)
    idle = peak(loaded.device, plain, held)
    base = Space(loaded.model, o.seed, lambda t: t.name in names, compile=o.compile)
    start, memory = base.snapshot(), {name: p.data for name, p in base.params.items()}

    def undo() -> None:
        for name, p in base.params.items():  # the textbook loop leaves its weights elsewhere in memory
            p.data = memory[name]
        base.load(start)

    largest = max(base.theta.tensors, key=lambda t: t.numel)
    found: list[dict[str, Any]] = []
    skipped = dict(failed or {})
    passes: list[float] = []
    extra: dict[str, Any] = {}
    partner = "mezo" if "mezo" in rules else next(iter(rules), "")
    try:
        for name, rule in rules.items():
            emit(Phase(f"measuring {name} ({len(found) + len(skipped) + 1} of {len(rules)})"))
            try:
                with tempfile.TemporaryDirectory() as folder:
                    journal = Journal.create(Path(folder) / "journal.jsonl", {})
                    with contextlib.closing(journal):
                        case = Case(rule, subject, names, o, journal)
                        entry, rounds = _measure(name, case, o, base if name == partner else None, undo, idle, held)
            except ZotuneError as error:
                if strict:
                    raise
                skipped[name] = str(error)
                continue
            finally:
                undo()
                case = None  # type: ignore[assignment]
                if (
                    base.numel >= IN_FORWARD_WEIGHTS
                ):  # a space and its tables refer to each other: its copies wait for it
                    gc.collect()
            found.append(entry)
            passes += rounds.plain[o.rows]
            if rounds.beside:
                extra = _beside(name, entry, rounds, base)
    finally:
        undo()
    forward = statistics.median(passes) if passes else math.nan
    return {
        "model": loaded.source,
        "head": loaded.head,
        "device": str(loaded.device),
        "dtype": str(next(iter(base.params.values())).dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": o.rows,
        "tokens": o.tokens,
        "rounds": o.rounds,
        "tune": o.tune,
        "compiled": o.compile,
        "seed": o.seed,
        "weights": sum(p.numel() for p in named_tensors(loaded.model).values()),
        "weights_bytes": held,
        "tuned": base.numel,
        "tensors": len(base.params),
        "largest": {"name": largest.name, "weights": largest.numel},
        "forward": {"ms": 1e3 * forward, "tokens_per_s": o.rows * o.tokens / forward},
        "optimizers": found,
        "textbook": extra.get("textbook"),
        "write": extra.get("write"),
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped.items()],
    }


def _measure(
    name: str, case: Case, o: Options, base: Space | None, undo: Callable[[], None], idle: int, held: int
) -> tuple[dict[str, Any], Rounds]:
    """One optimizer: its first steps, its rounds, its memory. base: where the textbook loop, the write and a copy are
    measured beside it."""
    began = time.perf_counter()
    first = [case.step(kind) for kind in case.shares]
    seconds = time.perf_counter() - began
    costly, space, fields = max(case.shares), case.space, case.field_bytes
    used = peak(case.subject.loaded.device, lambda: case.step(costly), held + fields + space.perturb_bytes)
    undo()
    beside: dict[str, Callable[[], Any]] = {}
    if base is not None:
        write, seeds = Write(base), itertools.count()
        params = list(base.params.values())
        loss = case.subject.loss
        beside = {
            "textbook": lambda: textbook.step(params, loss, next(seeds), LR, EPS),
            "write": write.write,
            "copy": write.copy,
        }
        write.write()  # compiled before anything is timed
        undo()
    rounds = run(case, o, beside, first, undo)
    entry = summary(name, case, rounds)
    entry["first_step_s"] = seconds / len(first)
    entry["compile"] = {
        "seconds": space.kernels.seconds,
        "compilations": space.kernels.compilations,
        "recompilations": space.kernels.recompilations,
    }
    entry["memory"] = {
        "inference_bytes": idle,
        "step_bytes": used,
        "ratio": used / idle,
        "probe_bytes": space.perturb_bytes,
        "field_bytes": fields,
    }
    return entry, rounds


def _beside(name: str, entry: Mapping[str, Any], rounds: Rounds, base: Space) -> dict[str, Any]:
    """What was measured in the same rounds as one optimizer."""
    median = {what: statistics.median(x) for what, x in rounds.beside.items()}
    size = sum(p.numel() * p.element_size() for p in base.params.values())
    moved = 2 * size / 1e9
    step = 1e3 * median["textbook"]
    return {
        "textbook": {
            "beside": name,
            "step_ms": step,
            "two_forwards_ms": entry["two_forwards_ms"],
            "ratio": step / entry["two_forwards_ms"],
            "over_step": step / entry["step_ms"],
        },
        "write": {
            "bytes": size,
            "write_ms": 1e3 * median["write"],
            "copy_ms": 1e3 * median["copy"],
            "write_gb_s": moved / median["write"],
            "copy_gb_s": moved / median["copy"],
            "of_copy": median["copy"] / median["write"],
        },
    }


__all__ = ["Case", "Options", "load", "measure", "resolve"]
