"""Fit and evaluate: joins model, data, task, objective and optimizer, and keeps the run folder.

Nothing is loaded before everything that can be checked without a model has been checked.
"""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from zotune import config, declarations, files, lock, plugins, seeds
from zotune.config import RunConfig
from zotune.core.recipe import Noise
from zotune.distributed import Processes
from zotune.errors import ObjectiveError, ObjectiveFailures, OptionError, RunFolderError, Stopped
from zotune.events import Emit, Evaluated, Event, Examples, Finished, Note, Phase, StepDone, ignore
from zotune.humans.store import FILE_NAME as RATINGS_FILE
from zotune.runs import export, model_card, replay
from zotune.runs.heldout import Difference, Scored, linear_probe
from zotune.runs.plan import embedded_data, plan
from zotune.runs.provenance import environment
from zotune.runs.provenance import header as made_with
from zotune.runs.replay import JOURNAL
from zotune.runs.session import Scoring, Session
from zotune.scoring.objective_spec import ObjectiveSpec, spec_name
from zotune.search import checkpoint
from zotune.search.engine import Engine, Outcome, Progress, best_weights
from zotune.search.journal import Journal, has_header
from zotune.types import Optimizer, Score
from zotune.yaml_file import as_yaml

METRICS, COMPLETIONS = "metrics.jsonl", "completions.jsonl"
SHARED = {"points": "points of a step", "batch": "rows of a batch"}
UNBEGUN = {lock.LOCK, ".config.yaml.tmp"}
"""What a folder may hold of a run that was killed before anything could go on."""


@dataclass(frozen=True)
class Result:
    """What a run came to.

    kept: "tuned" or "start"; before, after: the objective on the judging rows at the start and with what is kept;
    tuned: with the best tuned weights; difference: paired, tuned minus start; probe: a linear probe's score on the same
    rows, or None; best_share: of the way from the start to the weights of best_step; forwards: evaluations of one batch
    at one point; zero_share: steps without signal; files: a hash of each file of the model in the run folder, none
    where only the journal is kept.
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
    best_share: float
    seconds: float
    scoring: Scoring
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def after(self) -> Scored:
        return self.tuned if self.kept == "tuned" else self.before

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Result:
        """A result from what `json` gives."""
        own: dict[str, Any] = {k: v for k, v in found.items() if k != "after"}
        for name in ("before", "tuned", "probe"):
            own[name] = own[name] and Scored(**{**own[name], "parts": tuple(map(tuple, own[name]["parts"]))})
        own |= {"difference": Difference(**own["difference"]), "scoring": Scoring(**own["scoring"])}
        return cls(**{**own, "folder": own["folder"] and Path(own["folder"])})

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
    objective: ObjectiveSpec | None = None,
    optimizer: str | Optimizer | None = None,
    emit: Emit = ignore,
    stop: Callable[[], bool] = lambda: False,
    resume: str | None = None,
    force: bool = False,
    **options: Any,
) -> Result:
    """Tune a model's weights for an objective, with forward passes only.

    options are the fields of `zotune.config.RunConfig`: model, dataset, template, labels, max_evals, seed, …; or pass
    a ready `cfg`. objective (one, or several to be summed) and optimizer may be names or objects. resume: "last" or a
    checkpoint folder; force: also where the run was made with other versions, data or scoring, which the journal then
    records. Raises UsageError before training, ObjectiveFailures where the objective fails too often; the run folder
    holds the kept weights under their Hugging Face names.
    """
    if cfg is None:
        names = {"objective": objective, "optimizer": optimizer}
        if isinstance(objective, Sequence) and not isinstance(objective, str):
            names["objective"] = tuple(spec_name(x) for x in objective)
        said = {k: v for k, v in names.items() if isinstance(v, str | tuple)}
        cfg = config.resolve({**options, **said}, None)
    elif options:
        raise OptionError("fit takes a cfg or options, not both")
    started = time.monotonic()
    them = Processes.join()
    if them.rank:
        emit = ignore  # process 0 alone reports
    folder = Path(them.first(lambda: str(_folder(cfg, resume))))
    made = them.own(lambda: plan(cfg, objective, optimizer))
    for note in [*made.notes, made.splits.summary]:
        emit(Note(note))
    try:
        with contextlib.ExitStack() as held:
            if resume:
                them.first(lambda: held.enter_context(lock.held(folder)))
            return _fit(them.own(lambda: Session(made, emit, them)), folder, resume, force, stop, started)
    finally:
        made.objective.close()
        gc.collect()  # model and session refer to each other; the next run in this process needs their memory


def _folder(cfg: RunConfig, resume: str | None) -> Path:
    """The folder of the run. Raises RunFolderError where there is none to go on with, or one that would be lost."""
    folder = run_folder(cfg)
    if resume and resume != "last":
        folder = Path(resume).resolve().parent
    if resume and not any((folder / name).is_file() for name in (JOURNAL, "config.yaml")):
        raise RunFolderError(f"{folder} holds no run to resume")
    if not resume and folder.exists() and (not folder.is_dir() or {p.name for p in folder.iterdir()} - UNBEGUN):
        raise RunFolderError(
            f"{folder} exists already", hint="zotune resume goes on with it, --run-name starts another"
        )
    return folder


def _fit(
    session: Session, folder: Path, resume: str | None, force: bool, stop: Callable[[], bool], started: float
) -> Result:
    """`fit` with everything loaded."""
    them, emit = session.processes, session.emit
    if them.size > 1:
        emit(Note(f"{them.size} processes, each with some of the {SHARED[them.split]}"))
    emit(Phase("scoring the start"))
    header = json.loads(json.dumps(made_with(session)))
    try:
        before = session.judge.measure()
    except ObjectiveError as error:
        raise ObjectiveFailures(f"the objective failed on the held-out rows: {error}") from error
    session.select.remember()
    with contextlib.ExitStack() as open_files:

        def take() -> None:
            with files.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            open_files.enter_context(lock.held(folder))

        if not resume:
            them.first(take)
        journal = _journal(session, folder, bool(resume), header, force)
        open_files.callback(journal.close)
        if resume:
            session.goes_on(journal)
        try:
            return _tuned(session, journal, folder, resume, before, stop, started)
        except BaseException:  # Ctrl-C too: a folder without a step is no run
            answered = (folder / RATINGS_FILE).exists()  # a person's answers are not thrown away
            tuned = any(line["kind"] == "step" for line in journal.lines)
            if not resume and not answered and not tuned and not them.rank:
                journal.close()
                shutil.rmtree(folder, ignore_errors=True)  # nothing was tuned: leave nothing behind
            raise


def _tuned(
    session: Session,
    journal: Journal,
    folder: Path,
    resume: str | None,
    before: tuple[Mapping[str, Any], Score],
    stop: Callable[[], bool],
    started: float,
) -> Result:
    """`_fit` with the journal open and the folder locked."""
    made, cfg, emit, them = session.plan, session.plan.config, session.emit, session.processes
    store = (checkpoint.OtherStore if them.rank else checkpoint.FolderStore)(
        folder,
        0 if cfg.journal_only else cfg.save_total_limit,
        session.base,
        lambda step: replay.rebuilt(session.load(), made.optimizer, journal, step),
    )
    engine = session.engine(journal, store, lambda: them.any(stop()))
    if resume:
        _restore(engine, folder, resume, journal, session)
    session.prepare_probing()
    if not them.rank:
        session.bind(folder, stop)
        engine.emit = _Metrics(session, folder, journal, engine.progress)
    sent, first = them.sent - session.sent, engine.progress.step
    emit(session.started(folder, before[1]))
    outcome = engine.run()
    if them.size > 1 and (steps := engine.progress.step - first):
        each = (them.sent - session.sent - sent) / steps
        emit(Note(f"{each:.0f} bytes a step went to the other processes, whatever the size of the model"))

    def conclude() -> dict[str, Any]:
        result = _conclude(session, engine, outcome, store, before, folder, time.monotonic() - started)
        found = result.json()
        emit(Finished(str(folder), result.reason, result.kept))
        plugins.default().notify("on_run_end", lambda text: emit(Note(text)), summary=found)
        return found

    return Result.of(them.first(conclude))


def _restore(engine: Engine, folder: Path, resume: str, journal: Journal, session: Session) -> None:
    """Go to the checkpoint that was named, or to the newest that can be used; where there is none, to the start."""
    them, path = session.processes, resume
    loaded: list[dict[str, Any]] = []

    def tell(text: str) -> None:
        session.emit(Note(text))

    def newest() -> str:
        found = checkpoint.newest(folder, engine.space, journal, tell)
        loaded.extend([found[1]] if found else [])
        return str(found[0]) if found else ""

    if resume == "last":
        path = them.first(newest)
    if path:
        engine.restore(loaded[0] if loaded else checkpoint.read(Path(path), engine.space, journal))
    tell(f"resumed from {path or 'the start'}, {len(journal.lines) - journal.cursor} journal lines to replay")


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
    seed = seeds.derive(cfg.seed, "bootstrap")
    reason, after = outcome.reason, before
    try:
        if reason != "interrupted":
            session.emit(Phase("judging the best weights"))
            session.space.load(best_weights(store, p))
            after = session.judge.measure()
    except Stopped:
        reason = "interrupted"
    except ObjectiveError as error:
        raise ObjectiveFailures(
            f"the objective failed on the judging rows: {error}", hint=f"zotune resume {folder} judges again"
        ) from error
    difference = session.judge.difference(before, after, seed)
    gain = difference.value if session.plan.objective.direction == "maximize" else -difference.value
    needed = cfg.guard * (difference.error or 0.0)
    kept = "tuned" if gain > 0 and gain >= needed and session.kept_within() else "start"
    start = session.judge.scored(*before, seed)
    probe, model_files = None, {}
    if reason != "interrupted":
        if kept == "start" and p.best_step != 0:
            session.space.load(store.weights(0))
        step, share = (p.best_step, p.best_share) if kept == "tuned" else (0, 1.0)
        _record(engine.journal, {"kind": "kept", "step": step, "share": share, "weights": session.space.digest()})
        model_files = {} if cfg.journal_only else export.place(session.loaded, folder)
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
        best_share=p.best_share,
        seconds=seconds,
        scoring=session.scoring(seconds),
        files=model_files,
    )
    if reason != "interrupted":
        files.write(folder / "README.md", model_card.model_card(session.plan, result))
        files.write(folder / replay.RESULT, json.dumps(result.json(), indent=1))
    return result


def _record(journal: Journal, line: Mapping[str, Any]) -> None:
    """A last line, unless it stands there already."""
    if journal.lines[-1] != line:
        journal.append(line)
    journal.sync()


class _Metrics:
    """metrics.jsonl beside the journal, and completions.jsonl, some of what each evaluation generated. On resume the
    rows are those up to where the run goes on, so that its file is that of an uninterrupted one. Passes events on."""

    def __init__(self, session: Session, folder: Path, journal: Journal, progress: Progress) -> None:
        self._session, self._emit, self._progress = session, session.emit, progress
        self._path, self._texts, self._started = folder / METRICS, folder / COMPLETIONS, time.monotonic()
        steps = {line["step"] + 1 for line in journal.lines[: journal.cursor] if line["kind"] == "step"}
        evals = {line["step"] for line in journal.lines[: journal.cursor] if line["kind"] == "eval"}
        _keep(self._path, lambda row: row.get("step") in (evals if "score" in row or "failed" in row else steps))
        if self._texts.exists():
            known = {line["step"] for line in journal.lines if line["kind"] == "eval"}
            _keep(self._texts, lambda row: row.get("step") in known)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            metrics = event.metrics()
            row = {k: v for k, v in metrics.items() if k not in ("evaluations", "zero_share")}
            shown = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
            _append(self._path, [shown])  # the journal has every digit
            note = lambda text: self._emit(Note(text))  # noqa: E731
            plugins.default().notify("on_step_end", note, step=event.step, metrics=metrics)
            share = self._session.scoring(time.monotonic() - self._started).share
            event = replace(event, scoring_share=share)
        if isinstance(event, Evaluated):
            _append(self._texts, [{"step": event.step, **row} for row in self._session.said()])
            _append(self._path, [self._row(event)])
        self._emit(event)
        if isinstance(event, Evaluated) and (examples := self._session.examples()):
            self._emit(Examples(event.step, examples))

    def _row(self, event: Evaluated) -> dict[str, Any]:
        """A line of metrics.jsonl."""
        found: dict[str, Any] = {"step": event.step}
        found |= {} if event.score is None else {"score": event.score}
        found |= {"parts": dict(event.parts)} if event.parts else {}
        found |= {} if event.kl is None else {"drift": event.kl}
        found |= {"ruined": event.diverged} if event.diverged else {}
        found |= {"failed": event.failed} if event.failed else {}
        p = self._progress
        return {**found, "evaluations": p.evaluations, "zero_share": round(p.zero_share, 4)}


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a file of JSON lines, in one write. Raises ZotuneError where the disk is full."""
    if rows:
        files.append(path, "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))


def _keep(path: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Leave only the wanted lines of a file of JSON lines, or make it."""
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(text)
        except ValueError:
            continue
        if isinstance(row, dict) and wanted(row):
            kept.append(text)
    files.write(path, "".join(t + "\n" for t in kept))


def _probe(session: Session) -> Scored | None:
    """The linear probe beside an embedding model's result, from the untuned weights."""
    if session.plan.head != "embedding" or not session.judge.resamples():
        return None
    space = session.space
    kept = space.snapshot()
    space.load(session.base())
    try:
        return linear_probe(session.judge, session.train, seeds.derive(session.plan.config.seed, "bootstrap"))
    finally:
        space.load(kept)


def _journal(session: Session, folder: Path, resume: bool, header: dict[str, Any], force: bool) -> Journal:
    """The run's journal: a new one beside the run's records, or that of a run that goes on. A run that was killed
    before its journal began starts anew. Process 0 writes it, the others have its lines."""
    path, cfg, them = folder / JOURNAL, session.plan.config, session.processes
    opened: list[Journal] = []

    def lines() -> list[Any]:
        if resume and has_header(path):
            opened.append(_reopen(path, header, cfg, force, session.emit))
        else:
            if resume:
                path.unlink(missing_ok=True)
            files.write(folder / "config.yaml", as_yaml(asdict(cfg)))
            files.write(folder / "env.json", json.dumps(environment(), indent=1))
            opened.append(Journal.create(path, header))
        return [list(opened[0].lines), opened[0].cursor]

    found = them.first(lines)
    journal = opened[0] if opened else Journal.of(*found)
    journal.share = them.line
    return journal


FIXED = frozenset(
    [
        *("base_weights", "tensors", "dtype", "seed", "noise", "drift"),
        *("optimizer", "optimizer_options", "rows", "batch_size", "eval_steps"),
    ]
)
"""What recorded lines cannot be replayed without: no `force` helps."""


def _reopen(path: Path, header: dict[str, Any], cfg: RunConfig, force: bool, emit: Emit) -> Journal:
    """The journal of a run that goes on, with lines for what is no longer as it was. Raises RunFolderError where that
    is not allowed."""
    journal = Journal.open(path)
    try:
        was = dict(journal.header)
        for line in journal.lines:
            if line["kind"] == "override":
                was |= {key: now for key, (_, now) in line["changed"].items()}
            if line["kind"] == "budget":
                was["budget"] = {key: line[key] for key in header["budget"]}
        own = {"budget"} | ({"eval_steps"} if cfg.eval_steps is None else set())  # the run's own are kept
        changed = {key: [was.get(key), now] for key, now in header.items() if key not in own and was.get(key) != now}
        for key, (then, now) in changed.items():
            if not force or key in FIXED:
                hint = "" if key in FIXED else "--force goes on, and the journal says so"
                raise RunFolderError(f"{path.parent} was made with another {_named(key, then, now)}", hint=hint)
        if changed:
            journal.add({"kind": "override", "changed": changed})
            emit(Note(f"goes on with another {'; '.join(_named(k, *v) for k, v in changed.items())}"))
        if was["budget"] != header["budget"]:
            journal.add({"kind": "budget", **header["budget"]})
    except BaseException:  # Ctrl-C too: nobody else closes it
        journal.close()
        raise
    return journal


def _named(key: str, then: Any, now: Any) -> str:
    """What differs, in a few words."""
    if isinstance(then, dict) and isinstance(now, dict):
        one = next(k for k in {**then, **now} if then.get(k) != now.get(k))
        key, then, now = f"{one} ({key.replace('_', ' ')})", then.get(one), now.get(one)
    return f"{key.replace('_', ' ')}: {then!r:.60} in the run, {now!r:.60} now"


def estimate(cfg: RunConfig, emit: Emit) -> dict[str, Any]:
    """`--dry-run`: resolve, load, time one batch, and say what the run would take. Writes nothing."""
    made = plan(cfg)
    for note in [*made.notes, made.splits.summary]:
        emit(Note(note))
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
            "probing": round(session.space.perturb_bytes / 2**20, 1),
            "fields": round(tuned * declarations.optimizer_info(made.optimizer).fields / 2**20, 1),
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
