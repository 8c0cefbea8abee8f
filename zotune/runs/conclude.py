"""The end of a run: the test set decides whether the tuned weights are kept, and the run directory gets the model.

Knows the test set, the store of weights and the run directory; takes no step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zotune import declarations, files, seeds
from zotune.errors import ObjectiveError, ObjectiveFailures, Stopped
from zotune.events import Note, Phase
from zotune.runs import export
from zotune.runs.completions_log import CompletionsLog
from zotune.runs.frozen_weights import check_frozen
from zotune.runs.heldout import Outputs
from zotune.runs.history import samples
from zotune.runs.model_card import model_card
from zotune.runs.predictions import write_predictions
from zotune.runs.result import Difference, Result, ScoreEstimate
from zotune.runs.run_directory import MODEL_CARD, RESULT
from zotune.runs.scoring_cost import scoring_cost
from zotune.runs.session import Session
from zotune.search import checkpoint
from zotune.search.engine import Engine
from zotune.search.journal import Journal
from zotune.search.progress import Outcome
from zotune.search.selection import best_weights
from zotune.types import Score


def conclude(
    session: Session,
    engine: Engine,
    outcome: Outcome,
    store: checkpoint.Store,
    base: tuple[Outputs, Score],
    folder: Path,
    seconds: Callable[[], float],
) -> Result:
    """Score the best weights on the test set, keep them or the base model, and write model, result and model card.

    base: outputs and score of the base model on the test set; seconds: of this process so far. The best weights are
    those that the validation set selected. They are kept where they beat the base model on the test set by `--guard`
    paired standard errors, 2 by default, and lie within `--max-kl`. Where the validation set selected the base model,
    nothing was tuned, and it is not scored again. Raises ObjectiveFailures, and SideEffectError where frozen weights
    have changed.
    """
    config, progress = session.plan.config, outcome.progress
    seed = seeds.derive(config.seed, "bootstrap")
    reason, best = outcome.reason, base
    try:
        if reason != "interrupted":
            check_frozen(session.space, engine.journal.header)
        if reason != "interrupted" and progress.best_step == 0:
            session.space.load(store.weights(0))
        elif reason != "interrupted":
            session.emit(Phase("scoring the best weights on the test set"))
            session.space.load(best_weights(store, progress))
            with session.clock.measure("test"):
                best = session.test.score()
            CompletionsLog(folder).add(progress.best_step, "test", "after", *best)
    except Stopped:
        reason = "interrupted"
    except ObjectiveError as error:
        raise ObjectiveFailures(
            f"the objective failed on the test set: {error}", hint=f"zotune resume {folder} scores it again"
        ) from error
    session.emit(Phase("computing standard errors", brief=True))
    tuned = best is not base
    difference = session.test.difference(base, best, seed) if tuned else Difference(0.0, None, None, None)
    kept = "tuned" if _wins(session, difference) and session.validation.within_max_kl() else "start"
    start_score = session.test.estimate(*base, seed)
    probe, model_files = None, {}
    if reason != "interrupted":
        if kept == "start" and tuned:
            session.space.load(store.weights(0))
        step, share = (progress.best_step, progress.best_share) if kept == "tuned" else (0, 1.0)
        _record(engine.journal, {"kind": "kept", "step": step, "share": share, "weights": session.space.digest()})
        session.emit(Phase("writing the model", brief=True))
        model_files = {} if config.journal_only else export.place(session.loaded, folder)
        model_files.pop(MODEL_CARD, None)  # peft writes one too; the run's own replaces it
        probe = start_score if session.base is not None else _linear_probe(session, seed)
    taken = seconds()
    result = Result(
        folder=folder,
        reason=reason,
        kept=kept,
        before=start_score,
        tuned=session.test.estimate(*best, seed) if tuned else start_score,
        difference=difference,
        probe=probe,
        steps=progress.step,
        forwards=progress.evaluations,
        dropped=progress.dropped,
        zero_share=progress.zero_share,
        best_step=progress.best_step,
        best_share=progress.best_share,
        seconds=taken,
        scoring=scoring_cost(session.plan.objective, taken),
        files=model_files,
        optimizer=declarations.findings(engine.optimizer, engine.state),
        base=None if session.base is None else session.test.estimate(*session.base, seed),
        queries=engine.oracle.queries,
    )
    if reason != "interrupted":
        write_predictions(folder, base, best)
        header, kl = engine.journal.header, _kl_of(engine.journal, result)
        files.write(folder / MODEL_CARD, model_card(session.plan, result, header, kl, samples(folder)))
        files.write(folder / RESULT, json.dumps(result.json(), indent=1))
    return result


def _wins(session: Session, difference: Difference) -> bool:
    """Whether a difference on the test set is a gain of at least `--guard` standard errors."""
    gain = difference.value if session.plan.objective.direction == "maximize" else -difference.value
    return gain > 0 and gain >= session.plan.config.guard * (difference.error or 0.0)


def _kl_of(journal: Journal, result: Result) -> float | None:
    """The KL divergence of the kept weights from the base model, where a validation has measured it."""
    if result.kept == "start" or result.best_share != 1.0:
        return None
    lines = [line for line in journal.lines if line["kind"] == "eval" and line["step"] == result.best_step]
    return lines[-1].get("drift") if lines else None


def _record(journal: Journal, line: Mapping[str, Any]) -> None:
    """Append a last line, unless an earlier process has done so."""
    if journal.lines[-1] != line:
        journal.append(line)
    journal.sync()


def _linear_probe(session: Session, seed: int) -> ScoreEstimate | None:
    """The test score of a linear probe on the base model's embeddings; None for other heads."""
    if session.plan.head != "embedding" or not session.test.resamples:
        return None
    space, train = session.space, session.probe_rows()
    if len(train) < len(session.train):
        session.emit(Note(f"the linear probe is fitted on {len(train):,} of {len(session.train):,} training rows"))
    session.emit(Phase("fitting a linear probe", brief=True))
    present = space.snapshot()
    space.load(session.initial_weights())
    try:
        return session.test.linear_probe(train, seed)
    finally:
        space.load(present)


__all__ = ["conclude"]
