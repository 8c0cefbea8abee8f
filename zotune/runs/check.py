"""`zotune check`: an objective tried on a few rows before any tuning.

It answers: does the objective run, on which inputs, how fast; is it deterministic; do its scores differ between rows;
and do they change when the weights change a little, from which ε and batch size on? Joins plan, session and objective;
leaves the weights as they were.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from zotune.config import RunConfig
from zotune.core.recipe import Noise
from zotune.errors import ObjectiveError, ObjectiveFailures, OptionError
from zotune.events import Emit, Note, Phase, ignore
from zotune.models.configuration import config_value
from zotune.runs.influence import check_influence
from zotune.runs.plan import plan as make_plan
from zotune.runs.session import Session
from zotune.scoring.objective import Objective
from zotune.scoring.objective_spec import ObjectiveSpec
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.search.optimizer_call import checked_step, initial_state
from zotune.search.oracle import partners
from zotune.tasks.completion_notes import completion_notes
from zotune.types import Score

STEPS: Final = 6
"""Steps that the optimizer computes; none is taken."""
DIRECTIONS: Final = 3
SCALES: Final = (1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0)
"""ε in units of the tuned weights' root mean square (RMS)."""
FEW_ZEROS: Final = 0.25
"""A share of zero differences that lets a run learn."""
SMALL_CHANGE: Final = 0.2
"""A change of the objective, as a share of its value or spread, that a perturbation may cause."""


@dataclass(frozen=True)
class PerturbationEffect:
    """The effect of ±ε z at one batch size.

    eps: the value of `--eps` for optimizers with one ε for all weights; relative: ε in units of the RMS; batch: rows;
    zero: share of batches on which both sides have exactly the same score; change: mean of both sides minus the score
    without perturbation, in the objective's own direction.
    """

    eps: float
    relative: float
    batch: int
    zero: float
    change: float


def check(
    cfg: RunConfig, *, objective: ObjectiveSpec | None = None, rows: int = 16, emit: Emit = ignore
) -> dict[str, Any]:
    """Try the objective on `rows` training rows, and perturbations on up to four batches.

    Returns JSON:
        level: "sample", "set" or "order"; asks_for: inputs; seconds: for `rows` rows; deterministic;
        chat_template: whether plain prompts get it, and its hash;
        value, parts, lowest, highest, spread (standard deviation of rows), not_applicable (rows scored None);
        steps, zero_steps: computed steps, and those without any difference; smooth: predictions sampled for a row;
        moved: the fields of a PerturbationEffect each;
        for an order: different (pairs with different completions), undecided, swayed (verdicts that change when the two
        completions are swapped).

    Raises UsageError, and ObjectiveFailures where the objective fails.
    """
    emit(Phase("reading the data", brief=True))
    plan = make_plan(replace(cfg, init="none") if cfg.init == "auto" else cfg, objective)
    resolved = plan.objective
    if not resolved.info.validates:
        raise OptionError(f"objective {resolved.name!r} asks a person; there is nothing to check before a run")
    for note in plan.notes:
        emit(Note(note))
    session = Session(plan, emit, scores_base=False)
    try:
        check_influence(session)
        outcome = _check_order(session, rows) if resolved.ordered else _check_values(session, rows)
        return {**_declaration(session), **outcome}
    except ObjectiveError as error:
        raise ObjectiveFailures(str(error)) from error
    finally:
        resolved.close()


def recommended(outcome: Mapping[str, Any]) -> PerturbationEffect | None:
    """The smallest batch, and the smallest ε for it, at which most differences are not zero; one with a small change of
    the objective where there is one. None where no tried ε changes the objective."""
    effects = [PerturbationEffect(**m) for m in outcome["moved"]]
    scale = max(abs(outcome["value"]), outcome["spread"] or 0.0)
    visible = [m for m in effects if m.zero <= FEW_ZEROS]
    gentle = [m for m in visible if abs(m.change) <= SMALL_CHANGE * scale]
    return min(gentle or visible, key=lambda m: (m.batch, m.eps), default=None)


def advice(outcome: Mapping[str, Any]) -> list[str]:
    """Sentences for the user: what to change before a run."""
    out = []
    if not outcome["deterministic"]:
        out.append("The objective is not deterministic: a larger --batch-size averages its noise.")
    elif outcome.get("swayed"):
        out.append(
            f"Position bias: the judge reverses {outcome['swayed']} of {outcome['different']} verdicts when the order "
            "is swapped. A hash draws the order of each pair, so the bias costs signal and favours neither side."
        )
    if outcome.get("spread") == 0 and outcome["rows"] > 1:
        out.append("All rows have the same score: these rows give no signal.")
    if outcome["level"] == "order":
        if outcome["different"] and outcome["undecided"] == outcome["rows"] - outcome["not_applicable"]:
            out.append("The judge prefers no completion to another: the optimizer would learn nothing.")
    elif outcome["steps"] and outcome["zero_steps"] <= FEW_ZEROS * outcome["steps"]:
        out.append("The optimizer's own ε and batch size give signal: nothing to change.")
    elif best := recommended(outcome):
        out.append(
            f"Signal starts at ε = {best.eps:.2g} with batch size {best.batch}: "
            f"--eps {best.eps:.2g} --batch-size {best.batch} for optimizers with one ε for all weights, such as mezo."
        )
    else:
        out.append("No tried ε changes the objective: use a finer one, or add a smooth one (-o …, --weight).")
    return out


def _declaration(session: Session) -> dict[str, Any]:
    objective = session.plan.objective
    return {
        "objective": objective.name,
        "direction": "order" if objective.ordered else objective.direction,
        "asks_for": sorted(objective.inputs) + (["every other input"] if objective.takes_all else []),
        "optimizer": session.plan.optimizer_name,
        "chat_template": _chat(session),
        "batch_size": session.batches.size,
    }


def _chat(session: Session) -> dict[str, str] | None:
    """Whether plain prompts get the chat template, and its hash; None for a tokenizer without one."""
    template = config_value(session.loaded.tokenizer, "chat_template")
    if not template:
        return None
    digest = hashlib.blake2b(str(template).encode("utf-8", "replace"), digest_size=8).hexdigest()
    return {"plain_prompts": session.plan.spec.chat_template, "hash": digest}


def _check_values(session: Session, rows: int) -> dict[str, Any]:
    objective, task = session.plan.objective, session.task
    indices = range(min(rows, len(session.train)))
    session.emit(Phase(f"scoring {len(indices)} rows, twice"))
    outputs = task.outputs(session.train, indices, objective.inputs)
    for text in completion_notes(session.plan.spec, outputs):
        session.emit(Note(text))
    first, seconds = _uncached_score(objective, len(indices), outputs)
    second, _ = _uncached_score(objective, len(indices), outputs)
    samples = first.samples
    valid = [s for s in samples or () if s is not None]
    return {
        "level": "sample" if samples is not None else "set",
        "rows": len(indices),
        "value": first.value,
        "parts": dict(first.parts),
        "lowest": min(valid) if valid else None,
        "highest": max(valid) if valid else None,
        "spread": statistics.pstdev(valid) if valid else None,
        "not_applicable": len(samples) - len(valid) if samples is not None else 0,
        "seconds": round(seconds, 4),
        "deterministic": first == second,
        **_check_steps(session),
        "moved": [vars(effect) for effect in _effects(session)],
    }


def _check_order(session: Session, rows: int) -> dict[str, Any]:
    """Compare completions before and after a perturbation, twice, and once more with the two swapped."""
    objective, size = session.plan.objective, min(rows, len(session.train))
    indices = list(range(size))
    session.emit(Phase(f"comparing completions of {size} rows, three times"))
    before = session.signal.outputs(indices)
    with session.space.at(session.space.theta + 0.1 * _rms(session) * Noise("normal", 0, 0), None):
        after = session.signal.outputs(indices)
    pairs = list(zip(before["completions"], after["completions"], strict=True))
    started = time.perf_counter()
    first = objective.compare(before, pairs)
    seconds = time.perf_counter() - started
    objective.cache.clear()
    second = objective.compare(before, pairs)
    swapped = objective.compare(before, pairs, reverse=True)
    valid = [x for x in first if x is not None]
    both = [(x, y) for x, y in zip(first, swapped, strict=True) if x is not None and y is not None]
    return {
        "level": "order",
        "rows": size,
        "different": sum(str(a) != str(b) for a, b in pairs),
        "undecided": sum(x[0] == x[1] for x in valid),
        "not_applicable": size - len(valid),
        "seconds": round(seconds, 4),
        "deterministic": first == second,
        "swayed": sum(x != y for x, y in both),
        **_check_steps(session),
    }


def _uncached_score(objective: Objective, rows: int, outputs: Mapping[str, Any]) -> tuple[Score, float]:
    """A score that no cache holds, and its seconds."""
    for part in objective.each:
        part.cache.clear()
    started = time.perf_counter()
    return objective.score(rows, outputs), time.perf_counter() - started


def _check_steps(session: Session) -> dict[str, Any]:
    """Compute steps of the configured optimizer at the present weights, and count those without any difference."""
    space, optimizer, zero, compared = session.space, session.plan.optimizer, 0, 0
    session.emit(Phase(f"computing {STEPS} steps of {session.plan.optimizer_name}, none of which is taken"))
    state = initial_state(optimizer, space, session.oracle, _at(session, -1, Tape()))
    for t in range(STEPS):
        tape = Tape()
        checked_step(optimizer, space.theta, session.oracle, state, _at(session, t, tape))
        calls = [[v for v in values if v is not None] for kind, values in tape.entries if kind in ("values", "ranks")]
        calls = [values for values in calls if len(values) > 1]
        calls += [[*pair] for kind, values in tape.entries if kind == "members" for pair in partners(values)]
        compared += bool(calls)
        zero += bool(calls) and all(max(values) == min(values) for values in calls)
    return {"steps": compared, "zero_steps": zero, "smooth": session.signal.smooth}


def _at(session: Session, t: int, tape: Tape) -> At:
    session.oracle.begin(tape, t)
    return At(session.space, session.batches, tape, t, session.budget.planned()[0], 0.0)


def _effects(session: Session) -> Iterator[PerturbationEffect]:
    """±ε z along a few directions, on batches of the run's size, of twice and of four times as many rows."""
    space, size = session.space, session.batches.size
    most = min(4 * size, len(session.train))
    rms = _rms(session)
    sizes = sorted({size, min(2 * size, most), most})
    batches = {n: [list(range(i, i + n)) for i in range(0, most - n + 1, n)] for n in sizes}

    def scores() -> dict[int, list[float]]:
        return {n: [session.signal.evaluate(batch).value for batch in batches[n]] for n in sizes}

    session.emit(Phase(f"perturbing the weights at {len(SCALES)} scales"))
    unperturbed = scores()
    for place, relative in enumerate(SCALES, 1):
        session.emit(Phase(f"scale {place} of {len(SCALES)}: {relative:g} times the weights' RMS", brief=True))
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
                change[n] += [(a + b) / 2 - c for a, b, c in zip(up, down, unperturbed[n], strict=True)]
        for n in sizes:
            share, mean = sum(zero[n]) / len(zero[n]), math.fsum(change[n]) / len(change[n])
            yield PerturbationEffect(relative * rms, relative, n, share, mean)


def _rms(session: Session) -> float:
    """The root mean square of all tuned weights; 1 where they are zero."""
    by_tensor = _at(session, 0, Tape()).rms(session.space.theta).values
    tensors = session.space.theta.tensors
    return math.sqrt(math.fsum(by_tensor[t.name] ** 2 * t.numel for t in tensors) / session.space.numel) or 1.0


__all__ = ["PerturbationEffect", "advice", "check", "recommended"]
