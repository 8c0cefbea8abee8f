"""A plan with its model loaded: the parts that fitting, resuming, checking and estimating share.

Joins model, task, objective, space and budget; runs no step by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from zotune import declarations
from zotune.core.kernels import worth_compiling
from zotune.distributed import ALONE, Processes
from zotune.errors import OptionError
from zotune.events import Calibrated, Emit, Note, Phase, RunStarted
from zotune.models.configuration import config_value
from zotune.models.loaded_model import LoadedModel, base_dtype
from zotune.models.quantization import BITSANDBYTES
from zotune.models.trainable import names_in_words
from zotune.runs.budget import RunBudget
from zotune.runs.heldout import HeldOutSet
from zotune.runs.model_source import InitialWeights, ModelSource
from zotune.runs.observation import Observation, satisfied
from zotune.runs.plan import Plan
from zotune.runs.populations import RunPopulations
from zotune.runs.probe_comparison import ProbeComparison
from zotune.runs.probe_start import start_from_probe
from zotune.runs.process_split import generated_population, split_of
from zotune.runs.prompt_settings import better_of_both, cheap, note_on_new_tokens
from zotune.runs.run_directory import ANSWERS, PENDING_SCORES, QUESTIONS
from zotune.runs.run_engine import RunEngine
from zotune.runs.set_sizes import DEFAULT_BATCH_SIZE, drawn_places
from zotune.runs.timed_budget import batch_seconds, timed_seconds, with_evals
from zotune.runs.training_signal import TrainingSignal
from zotune.runs.validation import Validation
from zotune.scoring.pending_scores import PendingScores
from zotune.search import checkpoint, optimizer_spec
from zotune.search.batches import Batches
from zotune.search.calibration import Calibration
from zotune.search.engine import Engine
from zotune.search.hooks import Hooks, Settings
from zotune.search.journal import Journal
from zotune.search.limits import Budget
from zotune.search.oracle import Oracle
from zotune.search.perturb_mode import PerturbMode
from zotune.search.preflight import Preflight
from zotune.search.progress import ValidationResult
from zotune.search.work_clock import WorkClock
from zotune.tasks import build, resolve_task
from zotune.tasks.chat import settle_chat
from zotune.tasks.frozen_prefix import MAX_BYTES
from zotune.tasks.kl import KLDivergence
from zotune.tasks.row_length import encode_sets
from zotune.types import RunContext, Score

DEFAULT_MAX_KL: Final = 0.3
"""Nats a token that the kept weights may diverge from the base model on generated text."""
CACHED_ROWS: Final = 1000
CACHED_SHARE: Final = 1 / 4
"""The blocks before the tuned ones are computed for so many training rows, and for more where these are at most this
share of the rows that all steps evaluate."""
PROBE_ROWS: Final = 1000
PROBE_SHARE: Final = 0.1
"""A linear probe reads so many training rows, or this share of the rows that all steps evaluate."""
CPU_ROWS: Final = 16
"""Rows of a forward pass on the CPU at most: rows are sorted by length, so small groups compute less padding."""


class Session:
    """A plan with its model loaded.

    source: loads the model again. train: the training rows; validation, test: the held-out sets; signal: the objective
    on training rows; budget: what the limits pay for; clock: the seconds that its work takes. caches_training_rows:
    whether the blocks before the tuned ones are computed once for each training row. cached_rows, cached_bytes: rows
    for which they are computed once, and bytes that these take in a run beyond a dry run's. recorded: the header of the
    run that is resumed; head: the linear probe that it started from. quick: a dry run, which caches few rows, fits no
    probe, measures no KL divergence and tries no prompts without the chat template. batch_seconds: of an evaluation of
    the first batch, where it was timed. base: outputs and score of the base model on the test set where tuning starts
    from a linear probe; scores_base: whether it may be scored for that. inference: the engine that generates in place
    of the loaded model, or None; records_engine: whether the journal's header names it. Raises ModelError, OptionError
    and EngineError.
    """

    def __init__(
        self,
        plan: Plan,
        emit: Emit,
        processes: Processes = ALONE,
        recorded: Mapping[str, Any] | None = None,
        quick: bool = False,
        head: Mapping[str, torch.Tensor] | None = None,
        scores_base: bool = True,
    ) -> None:
        config, objective = plan.config, plan.objective
        self.plan, self.emit, self.processes = plan, emit, processes
        self._memory_short, self._fitting, self.clock = False, config.eval_batch_size, WorkClock()
        self.caches_training_rows, self.cached_rows, self.cached_bytes = False, 0, 0
        self.pending: PendingScores | None = None
        self.batch_seconds: float | None = None
        if config.threads:
            torch.set_num_threads(config.threads)
        emit(Phase(f"loading {plan.model_name}"))
        self.source = ModelSource(plan, self._task, emit, head)
        with self.clock.measure("loading"):
            self.loaded = self.source.load()
        for note in self.loaded.notes:
            emit(Note(note))
        emit(Phase("reading the prompts", brief=True))
        if plan.config.dtype == "auto" and plan.config.quantize not in BITSANDBYTES:  # not measured again on resume
            plan = self.plan = replace(plan, config=replace(plan.config, dtype=base_dtype(self.loaded)))
        self.plan = plan = _with_max_kl(self._with_chat_settled(plan, quick), new=recorded is None)
        config, counted = plan.config, plan.config.max_score_calls is not None
        sets = [plan.splits.train, plan.splits.validation, plan.splits.test]
        emit(Phase("tokenising the rows", brief=True))
        self.task, (self.train, *others), notes = encode_sets(
            lambda length: self._task(self.loaded, length),
            self._length(),
            config.max_length is not None,
            sets,
            (0,),
            self._note,
        )
        for text in [*notes, *note_on_new_tokens(config, self.task, self.train, objective)]:
            emit(Note(text))
        held_out = [HeldOutSet(self.task, rows, objective, counted, processes) for rows in others]
        self.test = held_out[1]
        test = self.test if scores_base and not quick else None
        config, self.base = start_from_probe(plan, self.source, held_out[0], test, emit)
        self.plan = plan = replace(plan, config=config)
        self.inference, self.records_engine = plan.engine, plan.engine is not None or "engine" in (recorded or {})
        if self.inference is not None:
            self._check_engine(self.inference)
        populations = RunPopulations(plan, self.loaded, self.task, self.train, recorded, self._note, self.inference)
        self.space = populations.space
        self.initial_weights = InitialWeights(self.source, config, self.space)
        size = config.batch_size or objective.info.batch_size or DEFAULT_BATCH_SIZE
        self.batches = Batches(len(self.train), size, config.seed, self._strata())
        if recorded is None and scores_base and timed_seconds(plan):  # a resumed run has what was measured once
            emit(Phase("timing a batch", brief=True))
            self.batch_seconds = batch_seconds(plan, self.task, self.train, self.batches, processes)
            assert self.batch_seconds is not None
            self.plan = plan = with_evals(plan, self.batch_seconds, self.batches, len(others[0]), self._note)
            config = plan.config
        self.signal = TrainingSignal(
            objective,
            self.task,
            self.train,
            self.space,
            processes,
            smooth=config.smooth,
            samples=config.samples_per_prompt,
        )
        self.budget = RunBudget(
            plan, self.space, self.batches, self.signal, len(held_out[0].rows), len(self.test.rows), processes
        )
        self._cache_prefix(held_out[0].rows, quick)
        emit(Phase("sampling texts that measure the KL divergence", brief=True))
        kl = None if quick else KLDivergence.for_task(self.task, self.train, processes, config.kl_estimate)
        self.validation = Validation(held_out[0], config, self.space, kl, processes)
        eps = declarations.eps(plan.optimizer)
        self.oracle = Oracle(
            self.space,
            self.signal.evaluate,
            self.batches,
            objective.direction,
            passes=self._passes,
            collect=self.signal.outputs if objective.ordered else None,
            compare=self.signal.compare if objective.ordered else None,
            unit=2 * eps if isinstance(eps, float) else 1.0,
            kl=kl,
            distribute=processes.map_points,
        )
        self.members = populations.members(self.batches, self.budget, self.signal, processes)
        if self.members is not None:
            self.validation.prefers_later = True
            self.oracle.score_members, self.oracle.rows_in_pass = self.members, lambda: self.members.rows
            self.oracle.score_preferences = self.members.reused
        by_copy = replace(config, perturb="copy")  # an engine gets the weights of a point as a whole
        self.perturb_mode = PerturbMode(
            by_copy if self.inference else config,
            self.task,
            self.train,
            objective.inputs,
            self.space,
            self.batches,
            self.oracle,
            processes,
        )
        if processes.size > 1:
            generated = generated_population(plan, self.task, self.batches.population)
            processes.split = split_of(plan, self.budget, processes, generated, (recorded or {}).get("parallel"))
        kernels = self.space.kernels
        kernels.on_note = self._note
        long = self.batches.population.compiled or worth_compiling(self.space.numel, self.budget.planned()[1])
        kernels.compile = config.compile == "on" or (config.compile == "auto" and long)

    def choose_perturbation(self) -> None:
        """Find the cheapest exact way to evaluate points, and report the tensors that have to be copied."""
        self.emit(Phase("checking how the weights can be perturbed", brief=True))
        if copied := self.perturb_mode.prepare():
            names = ", ".join(copied[:3]) + (" …" if len(copied) > 3 else "")
            text = f"{len(copied)} of {len(self.space.params)} tensors are perturbed by copy: read outside their module"
            self._note(f"{text} ({names})")

    @property
    def probe_count(self) -> int:
        """How many training rows a linear probe is fitted on: as many as a tenth of the budget reads."""
        share = int(PROBE_SHARE * self.budget.expected_evals() * self.batches.size)
        return min(max(PROBE_ROWS, share), len(self.train))

    def probe_rows(self) -> build.EncodedRows:
        """The training rows that a linear probe is fitted on, drawn by seed."""
        if self.probe_count == len(self.train):
            return self.train
        places = drawn_places(len(self.train), self.probe_count, self.plan.config.seed, "probe")
        return self.train.subset(places)

    def start_objective(self, folder: Path, stop: Callable[[], bool]) -> None:
        """Tell the objective its run directory, when to stop waiting, and how many rows it is going to score."""
        planned = self.budget.planned_scores()
        self.pending = PendingScores(folder / PENDING_SCORES)
        if self.members is not None and self.members.ahead is not None:
            self.members.ahead.open(folder / QUESTIONS, Observation(self.validation.held_out, self.processes))
            if self.members.reused is not None:
                self.members.reused.answers.open(folder / ANSWERS)
        for part in self.plan.objective.each:
            part.pending.scores = None if part.info.fast else self.pending
            part.start(RunContext(folder, self._note, stop, self.plan.config.seed, planned))

    def resume(self, journal: Journal) -> None:
        """Take over what earlier processes have recorded. The present weights must be the initial ones."""
        self.validation.resume(journal)
        self.budget.resume(journal)
        if self.members is not None:
            steps = [line for line in journal.lines if line["kind"] == "step"]
            self.members.rows = steps[-1].get("in_pass", self.members.rows) if steps else self.members.rows

    def engine(self, journal: Journal, store: checkpoint.Store, stop: Callable[[], bool]) -> Engine:
        """The search of this session. stop: asked after each step."""
        config = self.plan.config
        return Engine(
            self.space,
            self.plan.optimizer,
            self.oracle,
            self.batches,
            Budget(**journal.header["budget"]),
            journal,
            store,
            Settings(
                eval_steps=self.budget.eval_steps(),
                save_steps=config.save_steps,
                max_failures=config.max_failures,
                patience=config.patience,
                interpolate=self.interpolates,
            ),
            Hooks(
                validate=self._validate if self.plan.objective.info.validates else None,
                calibrate=self._calibration(),
                preflight=self._preflight(),
                emit=self.emit,
                stop=stop,
                scores_spent=self.budget.scores_spent,
                satisfied=lambda: satisfied(self.plan.objective, self.processes),
                clock=self.clock,
                step_begins=lambda after: self.pending.begin(after) if self.pending else None,
                step_recorded=lambda: self.pending.end() if self.pending else None,
            ),
        )

    def started(self, folder: Path, score: Score) -> RunStarted:
        """The event that opens a run. score: of the initial weights on the test set."""
        plan, limits, objective = self.plan, self.budget.limits(), self.plan.objective
        return RunStarted(
            folder=str(folder),
            model=plan.model_name,
            head=plan.head,
            device=str(self.loaded.device),
            objective=objective.name,
            better=objective.better,
            direction="order" if objective.ordered else objective.direction,
            optimizer=plan.optimizer_name,
            tuned_weights=self.space.numel,
            tensors=len(self.space.params),
            tensor_names=names_in_words(list(self.space.params)),
            training_rows=len(self.train),
            validation_rows=len(self.validation.held_out.rows),
            test_rows=len(self.test.rows),
            batch_size=self.batches.size,
            test_score=score.value if self.base is None else self.base[1].value,
            probe_score=None if self.base is None else score.value,
            max_steps=limits.steps,
            max_evals=limits.evals,
            max_time=limits.seconds,
        )

    def _with_chat_settled(self, plan: Plan, quick: bool) -> Plan:
        """The plan with the chat template of plain prompts chosen, and the choice recorded in its configuration. quick:
        whether the choice is left open where a run would score rows with and without it."""
        config, splits, objective = plan.config, plan.splits, plan.objective
        spec, notes = settle_chat(self.loaded, plan.spec, [*splits.train, *splits.validation, *splits.test])
        chosen = plan.spec.chat_template == "auto" and spec.chat_template == "on" and not spec.system
        tried = chosen and config.preflight and config.max_score_calls is None and cheap(objective)
        if tried and quick:
            notes[0] = "chat template: on, unless a few rows score better without it (--chat-template)"
        elif tried:
            spec, text = better_of_both(self.loaded, spec, config, objective, splits.validation, self._length())
            if text:
                notes[0] = f"chat template: {spec.chat_template}, {text} (--chat-template)"
        for text in notes:
            self._note(text)
        if config_value(self.loaded.tokenizer, "chat_template") and not (tried and quick):
            config = replace(config, chat_template=spec.chat_template)
        return replace(plan, spec=spec, config=config)

    def _validate(self) -> ValidationResult:
        """Score the validation set, after comparing the engine's weights with the run's."""
        if self.inference is not None:
            self.inference.check()
        return self.validation.evaluate()

    def _check_engine(self, engine: RunEngine) -> None:
        """Raise OptionError for a run that an engine cannot generate for."""
        if not isinstance(self.task, build.GenerationTask):
            raise OptionError(
                f"--engine {engine.name} generates text, and this task ({self.plan.spec.kind}) generates none",
                hint="--engine transformers",
            )
        if self.processes.size > 1:
            raise OptionError(f"--engine {engine.name} runs in a single process", hint="start it without torchrun")
        if self.plan.config.perturb not in ("auto", "population", "copy"):
            raise OptionError(f"--engine {engine.name}: --perturb {self.plan.config.perturb} needs the loaded model")
        self.emit(Phase(f"starting {engine.name}"))

    def _length(self) -> int:
        return resolve_task.max_length(self.plan.config, self.plan.spec)

    def _task(self, loaded: LoadedModel, length: int | None = None) -> build.Task:
        config, spec = self.plan.config, self.plan.spec
        rows = self._fitting if loaded.device.type != "cpu" else min(self._fitting, CPU_ROWS)
        task = build.build(loaded, spec, length or self._length(), rows, config.seed)

        def on_short_memory(text: str) -> None:
            self._memory_short, self._fitting = True, min(self._fitting, task.forward.micro_batch)
            self._note(text)

        task.forward.report, task.forward.processes = on_short_memory, self.processes
        return task

    def _strata(self) -> Sequence[Hashable] | None:
        """The class of each training row, where batches hold classes in proportion."""
        wanted = self.plan.config.stratify
        if wanted is None:
            wanted = declarations.optimizer_info(self.plan.optimizer).stratifies
        if not wanted or self.plan.spec.kind != "classification" or not isinstance(self.task, build.OptionTask):
            return None
        return self.task.strata(self.train.records)

    def _cache_prefix(self, validation: build.EncodedRows, quick: bool) -> None:
        """Compute the blocks before the tuned ones once for each row: of the training set where the steps evaluate
        several times as many rows. quick: for a few rows, with a forecast for the others."""
        emit, evaluated, rows = self.emit, self.budget.expected_evals() * self.batches.size, len(self.train)
        whole = rows <= max(CACHED_ROWS, CACHED_SHARE * evaluated)
        parts = [*([self.train] if whole else []), validation]
        some = [self.train.subset(self.batches.at(0).rows), validation.subset(range(min(len(validation), CPU_ROWS)))]
        emit(Phase("computing the blocks before the tuned ones, once for each row", brief=True))
        cached = self.task.cache_prefix(self.space.params, some[-len(parts) :] if quick else parts)
        self.caches_training_rows = cached and whole
        if not cached:
            return
        kind = "row" if whole else "validation row"
        emit(Note(f"only the last blocks are tuned: the blocks before them are computed once for each {kind}"))
        self.cached_rows = sum(map(len, parts))
        if quick and (prefix := self.task.forward.frozen_prefix) is not None:
            share = self.cached_rows / max(sum(map(len, some[-len(parts) :])), 1)
            self.cached_bytes = int(prefix.bytes * (share - 1))
            self.caches_training_rows &= prefix.bytes * share <= MAX_BYTES

    def uncached_seconds(self, rows: Sequence[int]) -> float | None:
        """Seconds of a batch where nothing is cached; None where nothing is anyway."""
        forward = self.task.forward
        prefix, forward.frozen_prefix = forward.frozen_prefix, None
        try:
            if prefix is None:
                return None
            self.task.outputs(self.train, rows, self.plan.objective.inputs)
            started = self.clock.clock()
            self.task.outputs(self.train, rows, self.plan.objective.inputs)
            return self.clock.clock() - started
        finally:
            forward.frozen_prefix = prefix

    def _note(self, text: str) -> None:
        self.emit(Note(text))

    def _passes(self, rows: int) -> int | None:
        """Forward passes for so many rows, as the choice of a copy sees them: one where memory is short, for a copy of
        the weights would not fit."""
        return 1 if self._memory_short else self.task.forward_passes(rows)

    def _calibration(self) -> Callable[[], Calibrated] | None:
        """What chooses the options that the user set to `auto`, if any."""
        config, optimizer = self.plan.config, self.plan.optimizer
        wanted = optimizer_spec.calibrated(optimizer, config.learning_rate, config.eps)
        if not wanted:
            return None
        limits, (steps, evals) = self.budget.limits(), self.budget.planned()
        return Calibration(
            optimizer,
            wanted.get("lr"),
            wanted.get("eps"),
            self.space,
            self.oracle,
            self.batches,
            steps,
            limits.evals or evals or math.inf,
            self.initial_weights,
        ).run

    def _preflight(self) -> Preflight | None:
        """None where scores are counted, or a person or a judge compares."""
        config = self.plan.config
        if not config.preflight or self.test.scores_counted or self.plan.objective.ordered:
            return None
        probe = ProbeComparison(
            self.validation, self.train, self.batches.size, self.oracle, self.budget, config, self.clock
        )
        return Preflight(self.space, self.oracle, self.batches, self.budget.expected_evals(), self.budget.cost, probe)

    @property
    def interpolates(self) -> bool:
        """Whether weights between the base model and the last step are evaluated at the end; not where scores are
        counted."""
        wanted = self.plan.config.interpolate
        if wanted is None:
            wanted = declarations.optimizer_info(self.plan.optimizer).interpolates
        return bool(wanted) and not self.test.scores_counted


def _with_max_kl(plan: Plan, new: bool) -> Plan:
    """The plan of a new run on generated text with the default limit of the KL divergence in its configuration."""
    if not new or plan.spec.kind != "generation" or plan.config.max_kl is not None:
        return plan
    return replace(plan, config=replace(plan.config, max_kl=DEFAULT_MAX_KL))


__all__ = ["Session"]
