"""`zotune.fit`: a run from its configuration to its result.

Joins plan, session, journal, engine and run directory. Everything that can be checked without a model is checked before
one is loaded.
"""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zotune import files, lock, plugins
from zotune.config import RunConfig
from zotune.distributed import Processes
from zotune.errors import ModelError, ObjectiveError, ObjectiveFailures, OptionError
from zotune.events import Emit, Finished, Note, Phase, ignore
from zotune.humans.store import FILE_NAME as RATINGS
from zotune.models.quantization import BITSANDBYTES
from zotune.runs import initial_head, run_directory, run_engine
from zotune.runs.completions_log import CompletionsLog
from zotune.runs.conclude import conclude
from zotune.runs.end_time import EndTime
from zotune.runs.heldout import Outputs
from zotune.runs.hub_upload import push_or_note
from zotune.runs.influence import check_influence
from zotune.runs.metrics_log import MetricsLog
from zotune.runs.plan import plan as make_plan
from zotune.runs.process_split import generated_population, shared_work
from zotune.runs.progress_log import ProgressLog
from zotune.runs.prompt_settings import with_recorded_length, with_recorded_prompts, with_recorded_rows
from zotune.runs.provenance import header_of
from zotune.runs.recorded import (
    fixed_classes,
    read_header,
    recorded_defaults,
    recorded_dtype,
    recorded_init,
    recorded_kl_estimate,
    recorded_rounding,
)
from zotune.runs.reopen import open_journal, restore
from zotune.runs.replay import rebuild
from zotune.runs.result import Result
from zotune.runs.run_engine import RunEngine
from zotune.runs.run_report import write_report
from zotune.runs.session import Session
from zotune.runs.task_defaults import resolve_config
from zotune.runs.timed_budget import with_recorded_evals
from zotune.runs.tracked import past, recorded, tracked_run
from zotune.runs.working_directory import working_directory
from zotune.scoring.objective_spec import ObjectiveSpec, spec_name
from zotune.search import checkpoint, tracker_spec
from zotune.search.journal import Journal
from zotune.search.tracking import Tracking
from zotune.tasks.completion_notes import completion_notes, reason_for_silence
from zotune.types import Optimizer, Score, Tracker


def fit(
    cfg: RunConfig | None = None,
    *,
    objective: ObjectiveSpec | None = None,
    optimizer: str | Optimizer | None = None,
    emit: Emit = ignore,
    stop: Callable[[], bool] | str | Sequence[str] = lambda: False,
    resume: str | None = None,
    force: bool = False,
    callbacks: Sequence[Tracker] = (),
    records: Path | None = None,
    **options: Any,
) -> Result:
    """Tune a model's weights for an objective, with forward passes only.

    cfg, options: a complete configuration, or the fields of `zotune.config.RunConfig`: model, dataset, template,
        labels, max_evals, seed, ….
    objective, optimizer: a name or an object; several objectives are summed.
    emit: receives the events of the run (`zotune.events`).
    stop: asked after each step; once it is true the run writes a checkpoint and ends. A text or several are the option
        `stop`: texts that end a completion.
    resume: "last", or the path of a checkpoint.
    callbacks: objects that receive steps and evaluations (`zotune.types.Tracker`), and may end the run.
    records: the folder of `dataset`, where the run directory is to hold it.
    force: resume also where versions, data or scoring have changed; the journal records the change.

    The run directory holds the kept weights under their Hugging Face names. Raises UsageError before the first step,
    and ObjectiveFailures where the objective fails too often.
    """
    if not callable(stop):
        options["stop"] = stop
    asked = stop if callable(stop) else lambda: False
    if cfg is None:
        names = {"objective": objective, "optimizer": optimizer}
        if isinstance(objective, Sequence) and not isinstance(objective, str):
            names["objective"] = tuple(spec_name(x) for x in objective)
        by_name = {k: v for k, v in names.items() if isinstance(v, str | tuple)}
        given = by_name if objective is None else {**by_name, "objective": by_name.get("objective", "cross-entropy")}
        cfg = resolve_config({**options, **given}, None)
    elif options:
        raise OptionError("fit takes a cfg or options, not both")
    started, trackers = time.monotonic(), tuple(tracker_spec.check_callbacks(callbacks))
    processes = Processes.join(cfg.process_timeout)
    if processes.rank:
        emit = ignore  # process 0 reports
    folder = Path(processes.on_first(lambda: str(run_directory.find_directory(cfg, resume))))
    directory = working_directory(folder) if resume else Path.cwd()
    run = _Run(folder, resume, force, asked, started, trackers, records)
    if directory == Path.cwd():
        return _run(cfg, objective, optimizer, run, processes, emit)
    checkpoint_path = resume if resume in (None, "last") else str(Path(str(resume)).resolve())
    run = replace(run, folder=folder.resolve(), resume=checkpoint_path)
    with contextlib.chdir(directory):  # relative paths lead where they led in the run
        return _run(cfg, objective, optimizer, run, processes, emit)


@dataclass(frozen=True)
class _Run:
    """The arguments of `fit` that the parts of a run share. started: by the monotonic clock; trackers: callbacks;
    records: a folder of data that the run directory gets."""

    folder: Path
    resume: str | None
    force: bool
    stop: Callable[[], bool]
    started: float
    trackers: tuple[tuple[str, Tracker], ...] = ()
    records: Path | None = None


def _run(
    cfg: RunConfig,
    objective: ObjectiveSpec | None,
    optimizer: str | Optimizer | None,
    run: _Run,
    processes: Processes,
    emit: Emit,
) -> Result:
    """Plan a run, load its model and tune it."""
    folder, resume = run.folder, run.resume
    config = (
        with_recorded_rows(with_recorded_length(with_recorded_prompts(cfg, folder), folder), folder) if resume else cfg
    )
    header = read_header(folder) if resume else None
    if header and config.dtype == "auto" and config.quantize not in BITSANDBYTES:
        config = replace(config, dtype=recorded_dtype(header))
    classes = fixed_classes(header) if header else None
    if header:
        config = replace(
            config,
            rounding=recorded_rounding(header),
            kl_estimate=recorded_kl_estimate(header),
            init=recorded_init(header, config.init),
        )
    config = with_recorded_evals(config, header)
    defaults = recorded_defaults(folder, header, optimizer or config.optimizer) if header else {}
    emit(Phase("reading the data", brief=True))
    plan = processes.on_each(
        lambda: make_plan(config, objective, optimizer, classes=classes, reduces=not resume, recorded=defaults)
    )
    engine = run_engine.resolve(config.engine, config.engine_args)
    if engine is not None:
        plan = replace(plan, engine=RunEngine(config.engine, engine, config.trust_remote_code))
    for note in [*plan.notes, plan.splits.summary]:
        emit(Note(note))
    try:
        with contextlib.ExitStack() as locks:
            if resume:
                processes.on_first(lambda: locks.enter_context(lock.held(folder)))
            head = initial_head.decode(header) if header else None
            return _fit(processes.on_each(lambda: Session(plan, emit, processes, header, head=head)), run)
    finally:
        plan.objective.close()
        if plan.engine is not None:
            plan.engine.close()
        gc.collect()  # model and session refer to each other, and the next run in this process needs their memory


CHECK = "zotune check tries an objective on a few rows"


def _fit(session: Session, run: _Run) -> Result:
    """Score the base model, open the run directory, and tune."""
    processes, emit, folder = session.processes, session.emit, run.folder
    if processes.size > 1:
        generated = generated_population(session.plan, session.task, session.batches.population)
        emit(Note(shared_work(processes, generated)))
    emit(Phase("hashing the weights", brief=True))
    with session.clock.measure("weights"):
        header = json.loads(json.dumps(header_of(session)))
    processes.check_equal("the base weights", f"{header['base_weights']} {header['frozen_weights']}")
    processes.check_equal("the versions of packages", json.dumps(header["versions"]))
    if not run.resume:
        check_influence(session)
    start = "base model" if session.base is None else "linear probe"
    emit(Phase(f"scoring the {start} on the test set"))
    try:
        with session.clock.measure("test"):
            base = session.test.score()
    except ObjectiveError as error:
        raise ObjectiveFailures(f"the objective failed on the test set: {error}", hint=CHECK) from error
    silence = reason_for_silence(session.plan.spec, base[0])
    if silence and session.plan.config.preflight and not run.resume:
        raise ModelError(silence[0], hint=f"{silence[1]}; --no-preflight tunes it as it is")
    for text in completion_notes(session.plan.spec, base[0]):
        emit(Note(f"base model: {text}"))
    session.validation.held_out.set_baseline()
    with contextlib.ExitStack() as opened:

        def create() -> str:
            with files.writing(run.folder):
                created = run_directory.create(run.folder, session.plan.config)
            opened.enter_context(lock.held(created))
            if run.records is not None:
                with files.writing(created):
                    shutil.copytree(run.records, created / run_directory.DATA)
                config = replace(session.plan.config, dataset=str(created / run_directory.DATA))
                session.plan = replace(session.plan, config=config)
            return str(created)

        if not run.resume:
            folder = Path(processes.on_first(create))
            run = replace(run, folder=folder)
        journal = open_journal(session, folder, bool(run.resume), header, run.force)
        opened.callback(journal.close)
        if run.resume:
            session.resume(journal)
        try:
            return _tune(session, journal, run, base)
        except BaseException:  # Ctrl-C too: a directory without a step is removed
            rated = (folder / RATINGS).exists()  # a person's answers are never removed
            tuned = any(line["kind"] == "step" for line in journal.lines)
            if not run.resume and not rated and not tuned and not processes.rank:
                journal.close()
                shutil.rmtree(folder, ignore_errors=True)
            elif not processes.rank:
                write_report(folder)
            raise


def _tune(session: Session, journal: Journal, run: _Run, base: tuple[Outputs, Score]) -> Result:
    """Run the engine to the end of the budget, and conclude. The journal is open and the directory locked."""
    plan, emit, processes, folder = session.plan, session.emit, session.processes, run.folder
    store = (checkpoint.OtherStore if processes.rank else checkpoint.FolderStore)(
        folder,
        0 if plan.config.journal_only else plan.config.save_total_limit,
        session.initial_weights,
        lambda step: rebuild(session.source.load(), plan.optimizer, journal, step),
    )
    engine = session.engine(journal, store, lambda: processes.any(run.stop()))
    if run.resume:
        restore(engine, folder, run.resume, journal, session)
    session.choose_perturbation()
    engine.hooks.seconds_after = EndTime(session, session.clock, engine.progress, base[1])
    trackers = (*plan.trackers, *run.trackers)
    tracking = Tracking(() if processes.rank else trackers, lambda text: emit(Note(text)))
    if trackers:
        engine.hooks.asked_to_end = lambda: processes.any(bool(tracking.reason))
    if not processes.rank:
        session.start_objective(folder, run.stop)
        progress = ProgressLog(folder, session, engine, run.started, emit)
        engine.hooks.emit = MetricsLog(
            folder, journal, engine.progress, session.validation, plan.objective, progress, tracking
        )
        CompletionsLog(folder).add(0, "test", "before", *base)
    sent, first = processes.sent - session.validation.bytes_sent, engine.progress.step
    emit(started := session.started(folder, base[1]))
    with contextlib.ExitStack() as at_end:
        at_end.callback(tracking.end)  # after an error too
        if tracking:
            tracking.start(tracked_run(plan, started, first, emit), lambda: past(folder), recorded(journal))
        outcome = engine.run()
        if processes.size > 1 and (steps := engine.progress.step - first):
            each = (processes.sent - session.validation.bytes_sent - sent) / steps
            emit(Note(f"each step sent {each:.0f} bytes to the other processes, whatever the size of the model"))

        def end() -> dict[str, Any]:
            result = conclude(session, engine, outcome, store, base, folder, lambda: time.monotonic() - run.started)
            progress.finish(engine.progress.step)
            write_report(folder, emit)
            emit(Finished(str(folder), result.reason, result.kept))
            if (hub_id := plan.config.push_to_hub) and result.reason != "interrupted":
                push_or_note(folder, hub_id, plan.config.hub_private, emit)
            plugins.default().notify("on_run_end", lambda text: emit(Note(text)), summary=(summary := result.json()))
            tracking.end(summary)
            return summary

        return Result.from_json(processes.on_first(end))


__all__ = ["fit"]
