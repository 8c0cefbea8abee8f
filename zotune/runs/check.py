"""`zotune check`: an objective tried on a few rows before any tuning.

Does it run, on what, how fast, does it say the same twice, do its scores differ between rows, and do they change at all
when the weights change a little: the share of steps that would see no difference, and from which ε and batch size on
they would.

Wires plan, session and objective together; writes no weight that stays.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zotune.config import RunConfig
from zotune.core.recipe import Noise
from zotune.errors import ObjectiveError, ObjectiveFailures, OptionError
from zotune.events import Emit, ignore
from zotune.runs.plan import plan
from zotune.runs.session import Session
from zotune.scoring.objective import Objective
from zotune.scoring.objective_spec import ObjectiveSpec
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.search.optimizer_call import checked_step, initial_state
from zotune.types import Score

STEPS = 6
"""Steps that the optimizer is asked for; none is taken."""
DIRECTIONS = 3
GRID = (1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0)
"""ε in units of the tuned weights' root mean square."""
ENOUGH = 0.25
"""Share of zero differences that is few enough."""


@dataclass(frozen=True)
class Moved:
    """What ±ε z does at some batch size. eps: as `--eps` of optimizers with one ε for all weights; relative: in units
    of the tuned weights' root mean square; zero: share of batches on which both sides score exactly the same; change:
    mean of both sides against the weights as they are, in the objective's own direction."""

    eps: float
    relative: float
    batch: int
    zero: float
    change: float


def check(
    cfg: RunConfig, *, objective: ObjectiveSpec | None = None, rows: int = 16, emit: Emit = ignore
) -> dict[str, Any]:
    """Try the objective on `rows` training rows, and the optimizer's differences on as many as four batches hold.

    Returns what was found, as JSON: see the keys. Raises UsageError, and ObjectiveFailures where the objective fails.
    """
    made = plan(cfg, objective)
    goal = made.objective
    if not goal.info.validates:
        raise OptionError(f"objective {goal.name!r} asks a person; there is nothing to try beforehand")
    session = Session(made, emit)
    try:
        return {**_declared(session), **(_compared(session, rows) if goal.ordered else _scored(session, rows))}
    except ObjectiveError as error:
        raise ObjectiveFailures(str(error)) from error
    finally:
        goal.close()


def _declared(session: Session) -> dict[str, Any]:
    goal = session.plan.objective
    return {
        "objective": goal.name,
        "direction": "order" if goal.ordered else goal.direction,
        "asks_for": sorted(goal.wants) + (["everything else at hand"] if goal.open else []),
        "optimizer": session.plan.optimizer_name,
        "batch_size": session.batches.size,
    }


def _scored(session: Session, rows: int) -> dict[str, Any]:
    goal, task = session.plan.objective, session.task
    indices = range(min(rows, len(session.train)))
    outputs = task.outputs(session.train, indices, goal.wants)
    first, seconds = _timed(goal, len(indices), outputs)
    second, _ = _timed(goal, len(indices), outputs)
    samples = first.samples
    known = [s for s in samples or () if s is not None]
    return {
        "level": "sample" if samples is not None else "set",
        "rows": len(indices),
        "value": first.value,
        "parts": dict(first.parts),
        "lowest": min(known) if known else None,
        "highest": max(known) if known else None,
        "spread": statistics.pstdev(known) if known else None,
        "not_applicable": len(samples) - len(known) if samples is not None else 0,
        "seconds": round(seconds, 4),
        "deterministic": first == second,
        **_steps(session),
        "moved": [vars(m) for m in _grid(session)],
    }


def _timed(goal: Objective, rows: int, outputs: Mapping[str, Any]) -> tuple[Score, float]:
    """A score that no cache knows, and its seconds."""
    for one in goal.each:
        one.cache.clear()
    began = time.perf_counter()
    return goal.score(rows, outputs), time.perf_counter() - began


def _steps(session: Session) -> dict[str, Any]:
    """The optimizer as it is configured, on the weights as they are: how many of its steps would see no difference."""
    space, rule, flat, asked = session.space, session.plan.optimizer, 0, 0
    state = initial_state(rule, space, session.oracle, _at(session, -1, Tape()))
    for t in range(STEPS):
        tape = Tape()
        checked_step(rule, space.theta, session.oracle, state, _at(session, t, tape))
        seen = [[v for v in values if v is not None] for kind, values in tape.entries if kind in ("values", "ranks")]
        seen = [values for values in seen if len(values) > 1]
        asked += bool(seen)
        flat += bool(seen) and all(max(v) == min(v) for v in seen)
    return {"steps": asked, "zero_steps": flat, "smooth": session.signal.smooth}


def _at(session: Session, t: int, tape: Tape) -> At:
    session.oracle.begin(tape, t)
    return At(session.space, session.batches, tape, t, session.budget.planned()[0], 0.0)


def _grid(session: Session) -> Iterator[Moved]:
    """±ε z along a few directions: on batches of the run's size, and of up to four times as many rows."""
    space, size = session.space, session.batches.size
    most = min(4 * size, len(session.train))
    rms = _rms(session)
    sizes = sorted({size, min(2 * size, most), most})
    parts = {n: [list(range(i, i + n)) for i in range(0, most - n + 1, n)] for n in sizes}

    def scores() -> dict[int, list[float]]:
        return {n: [session.signal.evaluate(part).value for part in parts[n]] for n in sizes}

    clean = scores()
    for relative in GRID:
        zero: dict[int, list[bool]] = {n: [] for n in sizes}
        change: dict[int, list[float]] = {n: [] for n in sizes}
        for k in range(DIRECTIONS):
            sides = []
            for sign in (1.0, -1.0):
                with space.at(space.theta + sign * relative * rms * Noise("normal", 0, k), None):
                    sides.append(scores())
            for n in sizes:
                up, down = (side[n] for side in sides)
                zero[n] += [a == b for a, b in zip(up, down, strict=True)]
                change[n] += [(a + b) / 2 - c for a, b, c in zip(up, down, clean[n], strict=True)]
        for n in sizes:
            share, mean = sum(zero[n]) / len(zero[n]), math.fsum(change[n]) / len(change[n])
            yield Moved(relative * rms, relative, n, share, mean)


def _rms(session: Session) -> float:
    """Root mean square of all tuned weights."""
    found = _at(session, 0, Tape()).rms(session.space.theta).values
    tensors = session.space.theta.tensors
    return math.sqrt(math.fsum(found[t.name] ** 2 * t.numel for t in tensors) / session.space.numel) or 1.0


def _compared(session: Session, rows: int) -> dict[str, Any]:
    """An order: what it says of completions before and after a perturbation, and again with both exchanged."""
    goal, size = session.plan.objective, min(rows, len(session.train))
    indices = list(range(size))
    before = session.signal.outputs(indices)
    with session.space.at(session.space.theta + 0.1 * _rms(session) * Noise("normal", 0, 0), None):
        after = session.signal.outputs(indices)
    pairs = list(zip(before["completions"], after["completions"], strict=True))
    began = time.perf_counter()
    first = goal.compare(before, pairs)
    seconds = time.perf_counter() - began
    goal.cache.clear()
    second = goal.compare(before, pairs)
    exchanged = goal.compare(before, pairs, turned=True)
    known = [x for x in first if x is not None]
    decided = [(x, y) for x, y in zip(first, exchanged, strict=True) if x is not None and y is not None]
    return {
        "level": "order",
        "rows": size,
        "different": sum(str(a) != str(b) for a, b in pairs),
        "undecided": sum(x[0] == x[1] for x in known),
        "not_applicable": size - len(known),
        "seconds": round(seconds, 4),
        "deterministic": first == second,
        "swayed": sum(x != y for x, y in decided),
        **_steps(session),
    }


def recommended(found: Mapping[str, Any]) -> Moved | None:
    """The fewest rows a batch, and the smallest ε there, at which most steps would see a difference, and which does the
    objective little harm where that can be had. None where nothing that was tried moves it."""
    moved = [Moved(**m) for m in found["moved"]]
    scale = max(abs(found["value"]), found["spread"] or 0.0)
    seen = [m for m in moved if m.zero <= ENOUGH]
    gentle = [m for m in seen if abs(m.change) <= 0.2 * scale]
    return min(gentle or seen, key=lambda m: (m.batch, m.eps), default=None)


def advice(found: Mapping[str, Any]) -> list[str]:
    """What to do about what was found, one sentence each."""
    out = []
    if not found["deterministic"]:
        out.append("It does not say the same twice: more rows a batch (--batch-size) average that out.")
    elif found.get("swayed"):
        out.append(
            f"It says otherwise of {found['swayed']} of {found['different']} pairs when they are shown the other way "
            "round: it looks at the place. Places are drawn by a hash, so that this costs signal and favours neither."
        )
    if found.get("spread") == 0 and found["rows"] > 1:
        out.append("All rows have the same score: there is nothing to tell good from bad on these rows.")
    if found["level"] == "order":
        if found["different"] and found["undecided"] == found["rows"] - found["not_applicable"]:
            out.append("It prefers no completion to another; the optimizer would learn nothing.")
    elif found["steps"] and found["zero_steps"] <= ENOUGH * found["steps"]:
        out.append("Differences are seen at the optimizer's own ε and batch size: nothing to change.")
    elif best := recommended(found):
        out.append(
            f"Differences are seen from ε = {best.eps:.2g} on at {best.batch} rows a batch: "
            f"--eps {best.eps:.2g} --batch-size {best.batch} for optimizers with one ε for all weights, such as mezo."
        )
    else:
        out.append("No ε that was tried moves it: use a finer objective, or add a smooth one (-o …, --weight).")
    return out


__all__ = ["Moved", "advice", "check", "recommended"]
