"""Fit and evaluate: joins model, data, task, objective and optimizer, and keeps the run folder.

Nothing is loaded before everything that can be checked without a model has been checked.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zotune import checkpoint, config, host, keys, models, ratings, report
from zotune.config import RunConfig
from zotune.engine import Emit, Engine, Outcome
from zotune.errors import ObjectiveError, ObjectiveFailures, OptionError, RunFolderError, Stopped
from zotune.journal import Journal
from zotune.judging import Difference, Scored, linear_probe
from zotune.objectives import Goal
from zotune.plan import Plan, embedded_data, plan
from zotune.recipe import Noise
from zotune.session import Scoring, Session, environment
from zotune.types import Optimizer, Score

METRICS, COMPLETIONS = "metrics.jsonl", "completions.jsonl"


@dataclass(frozen=True)
class Result:
    """What a run came to.

    kept: "tuned" or "start"; before, after: the objective on the judging rows at the start and with what is kept;
    tuned: with the best tuned weights; difference: paired, tuned minus start; probe: a linear probe's score on the same
    rows, or None; forwards: evaluations of one batch at one point; zero_share: steps without signal.
    """

    folder: Path | None
    reason: str
    kept: str
    before: Scored
    tuned: Scored
    difference: Difference
    probe: Scored | None
    steps: int
    forwards: int
    dropped: int
    zero_share: float
    best_step: int
    seconds: float
    scoring: Scoring

    @property
    def after(self) -> Scored:
        return self.tuned if self.kept == "tuned" else self.before

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder) if self.folder else None, "after": asdict(self.after)}


def run_folder(cfg: RunConfig) -> Path:
    """Where the run goes: `--output-dir`, `--output-dir/--run-name`, or `runs/<objective>-<first free number>`."""
    if cfg.run_name:
        if "/" in cfg.run_name or cfg.run_name in (".", ".."):
            raise OptionError(f"--run-name {cfg.run_name!r} must be a plain name")
        return Path(cfg.output_dir or "runs") / cfg.run_name
    if cfg.output_dir:
        return Path(cfg.output_dir)
    first = cfg.objective if isinstance(cfg.objective, str) else cfg.objective[0]
    stem = "".join(c if c.isalnum() else "-" for c in first.rpartition(":")[2]).strip("-")[:40].strip("-") or "run"
    number = 1
    while (Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return Path("runs") / f"{stem}-{number}"


def fit(
    cfg: RunConfig | None = None,
    *,
    objective: Goal | None = None,
    optimizer: str | Optimizer | None = None,
    emit: Emit = lambda kind, event: None,
    stop: Callable[[], bool] = lambda: False,
    resume: str | None = None,
    **options: Any,
) -> Result:
    """Tune a model's weights for an objective, with forward passes only.

    options are the fields of `zotune.config.RunConfig`: model, dataset, template, labels, max_evals, seed, …; or pass
    a ready `cfg`. objective (one, or several to be summed) and optimizer may be names or objects. resume: "last" or a
    checkpoint folder. Raises UsageError before training, ObjectiveFailures where the objective fails too often; the run
    folder holds the kept weights under their Hugging Face names.
    """
    if cfg is None:
        names = {"objective": objective, "optimizer": optimizer}
        if isinstance(objective, Sequence) and not isinstance(objective, str):
            names["objective"] = tuple(
                x if isinstance(x, str) else getattr(x, "__name__", "objective") for x in objective
            )
        said = {k: v for k, v in names.items() if isinstance(v, str | tuple)}
        cfg = config.resolve({**options, **said}, None)
    elif options:
        raise OptionError("fit takes a cfg or options, not both")
    folder = run_folder(cfg)
    if resume and resume != "last":
        folder = Path(resume).resolve().parent
    if resume and not (folder / "journal.jsonl").is_file():
        raise RunFolderError(f"{folder} holds no run to resume")
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(
            f"{folder} exists already", hint="--resume-from-checkpoint last goes on with it, --run-name starts another"
        )
    started = time.monotonic()
    made = plan(cfg, objective, optimizer)
    for note in [*made.notes, made.splits.note]:
        emit("note", {"text": note})
    session = Session(made, emit)
    try:
        return _fit(session, folder, resume, emit, stop, started)
    finally:
        made.objective.close()


def _fit(
    session: Session, folder: Path, resume: str | None, emit: Emit, stop: Callable[[], bool], started: float
) -> Result:
    """`fit` with everything loaded."""
    made, cfg = session.plan, session.plan.config
    emit("phase", {"text": "scoring the start"})
    header = json.loads(json.dumps(session.header()))
    try:
        before = session.judge.measure()
    except ObjectiveError as error:
        raise ObjectiveFailures(f"the objective failed on the held-out rows: {error}") from error
    session.select.remember()
    store = checkpoint.FolderStore(folder, cfg.save_total_limit, session.base)
    if resume:
        journal = _reopen(folder, header)
        session.goes_on(journal)
        engine = session.engine(journal, store, stop)
        steps = checkpoint.checkpoints(folder)
        chosen = Path(resume) if resume != "last" else (folder / f"checkpoint-{steps[-1]}" if steps else None)
        if chosen is not None:
            engine.restore(checkpoint.read(chosen, session.space))
            emit(
                "note",
                {"text": f"resumed from {chosen}, {len(journal.lines) - journal.cursor} journal lines to replay"},
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        _write_records(folder, cfg, made)
        journal = Journal.create(folder / "journal.jsonl", header)
        engine = session.engine(journal, store, stop)
    session.prepare_probing()
    session.bind(folder, stop)
    metrics = _Metrics(folder, emit, journal, session.said)
    engine.emit = metrics
    emit("start", session.start_event(folder, before[1]))
    try:
        outcome = engine.run()
        result = _conclude(session, engine, outcome, store, before, folder, time.monotonic() - started)
    except BaseException:
        answered = (folder / ratings.FILE).exists()  # a person's answers are not thrown away
        if not resume and not answered and not any(line["kind"] == "step" for line in journal.lines):
            journal.close()
            shutil.rmtree(folder, ignore_errors=True)  # nothing was tuned: leave nothing behind
        raise
    finally:
        journal.close()
    emit("result", result.json())
    host.default().notify("on_run_end", lambda text: emit("note", {"text": text}), summary=result.json())
    return result


def _conclude(
    session: Session,
    engine: Engine,
    outcome: Outcome,
    store: checkpoint.Store,
    before: tuple[Mapping[str, Any], Score],
    folder: Path,
    seconds: float,
) -> Result:
    """Judge the best weights once on rows that chose nothing: they are kept where they win by `--guard` paired standard
    errors, 2 by default, and lie within `--max-kl`; else the start is."""
    cfg, p = session.plan.config, outcome.progress
    seed = keys.derive(cfg.seed, "bootstrap")
    reason, after = outcome.reason, before
    try:
        if reason != "interrupted":
            session.emit("phase", {"text": "judging the best weights"})
            session.space.load(store.weights(p.best_step))
            after = session.judge.measure()
    except Stopped:
        reason = "interrupted"
    except ObjectiveError as error:
        raise ObjectiveFailures(
            f"the objective failed on the judging rows: {error}", hint="--resume-from-checkpoint last judges again"
        ) from error
    difference = session.judge.difference(before, after, seed)
    gain = difference.value if session.plan.objective.direction == "maximize" else -difference.value
    needed = cfg.guard * (difference.error or 0.0)
    kept = "tuned" if gain > 0 and gain >= needed and session.kept_within() else "start"
    start = session.judge.scored(*before, seed)
    probe = None
    if reason != "interrupted":
        if kept == "start" and p.best_step != 0:
            session.space.load(store.weights(0))
        models.save(session.loaded, folder)
        probe = _probe(session)
    result = Result(
        folder=folder,
        reason=reason,
        kept=kept,
        before=start,
        tuned=session.judge.scored(*after, seed) if kept == "tuned" or p.best_step else start,
        difference=difference,
        probe=probe,
        steps=p.step,
        forwards=p.evaluations,
        dropped=p.dropped,
        zero_share=p.zero_share,
        best_step=p.best_step,
        seconds=seconds,
        scoring=session.scoring(seconds),
    )
    if reason != "interrupted":
        (folder / "result.json").write_text(json.dumps(result.json(), indent=1))
        (folder / "README.md").write_text(report.model_card(session.plan, result), encoding="utf-8")
    return result


class _Metrics:
    """metrics.jsonl beside the journal: written anew from the journal on resume, so that a resumed run's file is
    that of an uninterrupted one; and completions.jsonl, some of what each evaluation generated. Passes events on."""

    def __init__(
        self, folder: Path, emit: Emit, journal: Journal, said: Callable[[], Sequence[Mapping[str, Any]]]
    ) -> None:
        self._emit, self._path, self._texts, self._said = emit, folder / METRICS, folder / COMPLETIONS, said
        steps = {line["step"] + 1 for line in journal.lines[: journal.cursor] if line["kind"] == "step"}
        evals = {line["step"] for line in journal.lines[: journal.cursor] if line["kind"] == "eval"}
        _keep(self._path, lambda row: row.get("step") in (evals if "score" in row or "failed" in row else steps))
        if self._texts.exists():
            known = {line["step"] for line in journal.lines if line["kind"] == "eval"}
            _keep(self._texts, lambda row: row.get("step") in known)

    def __call__(self, kind: str, event: Mapping[str, Any]) -> None:
        if kind == "eval" and (said := self._said()):
            with self._texts.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"step": event["step"], **row}) + "\n" for row in said)
        if kind in ("step", "eval"):
            row = {k: v for k, v in event.items() if k not in ("kind", "best", "loss" if kind == "eval" else "")}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if kind == "step":
            note = lambda text: self._emit("note", {"text": text})  # noqa: E731
            host.default().notify("on_step_end", note, step=event["step"], metrics=event)
        self._emit(kind, event)


def _keep(path: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Leave only the wanted lines of a file of JSON lines, or make it."""
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(text)
        except ValueError:
            continue
        if wanted(row):
            kept.append(text)
    path.write_text("".join(t + "\n" for t in kept), encoding="utf-8")


def _probe(session: Session) -> Scored | None:
    """The linear probe beside an embedding model's result, from the untuned weights."""
    if session.plan.head != "embedding" or not session.judge.resamples():
        return None
    space = session.space
    kept = space.snapshot()
    space.load(session.base())
    try:
        return linear_probe(session.judge, session.train, keys.derive(session.plan.config.seed, "bootstrap"))
    finally:
        space.load(kept)


def _write_records(folder: Path, cfg: RunConfig, made: Plan) -> None:
    config.write_yaml(folder / "config.yaml", asdict(cfg))
    (folder / "env.json").write_text(json.dumps(environment(), indent=1))


def _reopen(folder: Path, header: Mapping[str, Any]) -> Journal:
    journal = Journal.open(folder / "journal.jsonl")
    for key, value in header.items():
        if journal.header.get(key) != value:
            journal.close()
            shown = f": {journal.header.get(key)!r:.60} in the run, {value!r:.60} now" if key != "tensors" else ""
            raise RunFolderError(f"{folder} was made with another {key.replace('_', ' ')}{shown}")
    return journal


def estimate(cfg: RunConfig, emit: Emit) -> dict[str, Any]:
    """`--dry-run`: resolve, load, time one batch, and say what the run would take. Writes nothing."""
    made = plan(cfg)
    for note in [*made.notes, made.splits.note]:
        emit("note", {"text": note})
    session = Session(made, emit)
    session.prepare_probing()
    rows = session.batches.at(0).rows
    point = session.space.theta + 1e-3 * Noise("normal", 0, 0)
    passes = session.task.passes(len(rows))

    def clean() -> None:
        session.task.outputs(session.train, rows, made.objective.wants)

    def probed() -> None:
        with session.space.at(point, passes):
            clean()

    forward = _timed(clean)
    probe = max(_timed(probed) - forward, 0.0)
    budget = session.budget()
    steps, evals = session.planned()
    if steps is None or evals is None:  # time alone limits the run
        each = session.cost()
        steps = max(int((budget.seconds or 0.0) / (each * (forward + probe) + probe)), 1)
        evals = steps * each
    held = (len(session.select.rows) / len(rows)) * forward * (steps // session.eval_steps() + 2)
    weights = sum(p.numel() * p.element_size() for p in session.loaded.model.parameters())
    tuned = sum(p.numel() * p.element_size() for p in session.space.params.values())
    seconds = evals * (forward + probe) + steps * probe + held
    return {
        "config": asdict(cfg),
        "model": made.model_name,
        "head": made.head,
        "classes": list(made.spec.classes.words) if made.spec.classes else [],
        "task": made.spec.kind,
        "rows": [len(session.train), len(session.select.rows), len(session.judge.rows)],
        "tuned_weights": session.space.numel,
        "steps": steps,
        "evaluations": evals,
        "seconds": round(seconds if budget.seconds is None else min(seconds, budget.seconds), 1),
        "memory_mb": {
            "model": round(weights / 2**20, 1),
            "probing": round(session.space.probe_bytes / 2**20, 1),
            "fields": round(tuned * getattr(made.optimizer, "fields", 0) / 2**20, 1),
        },
    }


def _timed(fn: Callable[[], None]) -> float:
    """Seconds of the faster of two calls after a first, which may compile."""
    fn()
    found = []
    for _ in range(2):
        begun = time.perf_counter()
        fn()
        found.append(time.perf_counter() - begun)
    return min(found)


__all__ = ["Difference", "Result", "Scored", "embedded_data", "estimate", "fit", "plan"]
