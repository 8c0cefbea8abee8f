"""The populations of a run: the tuned weights, whether rows of one pass have directions of their own, and how many rows
a step scores.

Knows a plan, its loaded model, task and training rows; asks for no score and runs no step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from zotune import declarations
from zotune.core.population import RowWise, matrix_shape
from zotune.core.space import Space
from zotune.distributed import Processes
from zotune.errors import EngineError, OptionError
from zotune.models.adapters import has_adapter
from zotune.models.loaded_model import LoadedModel
from zotune.models.trainable import trainable_names
from zotune.runs.budget import RunBudget
from zotune.runs.member_signal import MemberSignal
from zotune.runs.plan import Plan
from zotune.runs.questions_ahead import QuestionsAhead
from zotune.runs.reused_answers import ReusedAnswers, answer_pairs, read_examples
from zotune.runs.row_wise import (
    COMPILED,
    COMPLETIONS,
    SET_ROWS,
    SIZES,
    RowWiseTensors,
    reading_rows,
    reads_rows,
    row_wise,
    rows_of_step,
)
from zotune.runs.run_engine import RunEngine
from zotune.runs.sharpening import logit_scales_of
from zotune.runs.training_signal import TrainingSignal
from zotune.search.batches import Batches
from zotune.search.population_plan import PopulationPlan
from zotune.tasks import build
from zotune.tasks.teacher_forcing import EncodedAnswer
from zotune.types import Learning

POPULATION_ROWS: Final = 128
"""Rows of a population in a forward pass at most: a larger batch decodes more tokens a second."""
READ_PROMPTS: Final = 64
"""Prompts whose length tells what reading an answer costs."""
NO_ROWS: Final = "rows of one pass cannot have directions of their own in this model: points are used instead"


class RunPopulations:
    """Chooses the tuned weights of a run, and their evaluation row by row where the optimizer asks for populations and
    the model allows rows of one pass to have directions of their own.

    recorded: the header of the run that is resumed, which keeps to what it recorded. report: shows one line to the
    user. engine: what generates in place of the loaded model; it is started with the tuned weights. space: the tuned
    weights. Raises OptionError, and EngineError where the engine cannot be started.
    """

    def __init__(
        self,
        plan: Plan,
        loaded: LoadedModel,
        task: build.Task,
        train: build.EncodedRows,
        recorded: Mapping[str, Any] | None,
        report: Callable[[str], None],
        engine: RunEngine | None = None,
    ) -> None:
        self._engine = engine
        self._plan, self._loaded, self._task, self._train = plan, loaded, task, train
        self._recorded, self._report = recorded, report
        self._logit_scales: frozenset[str] = frozenset()
        self.space, self._row_wise = self._tuned()

    def _tuned(self) -> tuple[Space, RowWiseTensors | None]:
        config = self._plan.config
        wanted = self._recorded is None or bool(self._recorded.get("population"))
        asked = declarations.optimizer_info(self._plan.optimizer).populations
        inputs = self._plan.objective.inputs
        generates = isinstance(self._task, build.GenerationTask) and not inputs.isdisjoint(COMPLETIONS)
        by_rows = reads_rows(self._task, inputs) and (generates or self._plan.optimizer_name != "auto")
        possible = asked and config.perturb in ("auto", "population") and wanted and by_rows
        if possible:
            adapter = has_adapter(self._loaded)
            self._logit_scales = logit_scales_of(self._plan, self._task, self._train, self._recorded, self._report)
            tuned = self._space("matrices" if generates and config.tune == "auto" and not adapter else config.tune)
            tuned.kernels.on_note = self._report
            tuned.kernels.compile = config.compile != "off" and tuned.numel >= COMPILED  # the check writes members
            if found := self._members_of(tuned):
                return tuned, found
            self._logit_scales = frozenset()
        if config.perturb == "population":
            raise OptionError(
                "--perturb population: this optimizer asks for no population, the objective reads more than each row's "
                "own outputs, or rows of one pass cannot have directions of their own in this model",
                hint="--perturb auto",
            )
        if possible:
            self._report(NO_ROWS)
        tuned = self._space(config.tune)
        if self._engine is not None:
            self._start(self._engine, tuned)
        return tuned, None

    def _members_of(self, tuned: Space) -> RowWiseTensors | None:
        """How members are evaluated with these tuned weights; None where they are written one after the other."""
        if self._engine is None:
            return row_wise(self._task, self._train, tuned, self._compiled)
        if not (matrices := {t.name for t in tuned.theta.tensors if matrix_shape(t)}):
            return None
        self._start(self._engine, tuned)
        without = matrices - self._engine.matrices()
        if without == matrices:
            raise EngineError(
                f"--engine {self._engine.name}: none of the tuned matrices can differ from member to member",
                hint="--engine transformers",
            )
        return None, frozenset(without)

    def _start(self, engine: RunEngine, tuned: Space) -> None:
        """Start the engine with the tuned weights, and let it complete the task's prompts."""
        task = self._task
        assert isinstance(task, build.GenerationTask)
        engine.start(self._loaded, tuned, POPULATION_ROWS, task.max_length)
        task.engine = engine

    def _space(self, tune: str) -> Space:
        config = self._plan.config
        names = trainable_names(self._loaded, tune, config.embeddings) | self._logit_scales
        return Space(self._loaded.model, config.seed, lambda t: t.name in names, rounding=config.rounding)

    def members(
        self, batches: Batches, budget: RunBudget, signal: TrainingSignal, processes: Processes
    ) -> MemberSignal | None:
        """Fix in `batches` how many rows a population scores in a step and how many a forward pass holds; what scores
        the members, or None where rows have no directions of their own.

        Where hidden states of frozen blocks are fed in by now, rows are tried once more.
        """
        config, task = self._plan.config, self._task
        fed = task.forward.frozen_prefix is not None
        found = self._row_wise
        if fed and found and self._engine is None:
            found = row_wise(task, self._train, self.space, self._compiled)
        if found is None:
            if self._row_wise:
                self._report(NO_ROWS)
            batches.population = PopulationPlan(max_kl=config.max_kl or 0.0)
            return None
        evaluation, without = found
        reading, kept = self._reading()
        without |= kept
        if without:
            names = ", ".join(sorted(without)[:3]) + (" …" if len(without) > 3 else "")
            self._report(f"{len(without)} matrices have no directions of their own for each row and stay: {names}")
        compiled = evaluation is not None and evaluation.compiled
        if isinstance(task, build.GenerationTask):  # a step decodes as many rows: the processor can
            task.forward.set_micro_batch(config.eval_batch_size)
        if self._recorded is not None:
            batches.population = PopulationPlan.from_json(self._recorded["population"])
            if batches.population.compiled and not compiled and evaluation is not None:
                self._report("the kernels that this run began with cannot be compiled here: last bits may differ")
        else:
            first = PopulationPlan(without=without, logit_scales=self._logit_scales, compiled=compiled)
            first = replace(first, learning=self._learning() if reading else Learning())
            rows_of_step(lambda count: self._steps(replace(first, rows=count), batches, budget))
        population = batches.population
        decoding = population.decoding if population.logit_scales else None

        def rows_at(step: int, places: int) -> Sequence[int] | None:
            steps = budget.planned()[0]
            return batches.members(step, places).rows if steps is None or step < steps else None

        ahead, reused = QuestionsAhead(rows_at) if population.ahead else None, None
        if population.learning.pairs and (reader := reading or evaluation):
            reused = ReusedAnswers(signal, reader, config.seed, processes, self._examples())
        return MemberSignal(signal, evaluation, population.in_pass, processes, self._report, decoding, ahead, reused)

    @property
    def _compiled(self) -> bool | None:
        """Whether a resumed run began with compiled kernels for rows; None for a new run, which may choose."""
        if self._recorded is not None:
            return PopulationPlan.from_json(self._recorded.get("population")).compiled
        return False if self._plan.config.compile == "off" else None

    def _steps(self, plan: PopulationPlan, batches: Batches, budget: RunBudget) -> int | None:
        """Steps that the budget pays for where each scores the plan's rows; leaves the whole plan in `batches`."""
        config, objective = self._plan.config, self._plan.objective
        sets = objective.info.level == "set" and not objective.repeats_calls(budget.counts_scores)
        cuda = self._loaded.device.type == "cuda"
        most = config.pass_rows or (max(POPULATION_ROWS, config.eval_batch_size) if cuda else POPULATION_ROWS)
        each, limit = SET_ROWS if sets else 1, config.max_kl or 0.0
        ahead = objective.ordered and objective.info.ask is not None
        batches.population = replace(plan, each=each, max_kl=limit, in_pass=most, ahead=ahead)
        try:
            return budget.planned()[0]
        except OptionError:  # too few scores for a step of so many rows
            if plan.rows == SIZES[-1]:
                raise
            return 0

    def _reading(self) -> tuple[RowWise | None, frozenset[str]]:
        """The row-wise evaluation of passes that read answers, None where no answers are reused, and the matrices that
        take no part in it."""
        info, task = self._plan.objective.info, self._task
        if info.ask is None or info.learn == "perturbed" or not isinstance(task, build.GenerationTask):
            return None, frozenset()
        reuses = declarations.optimizer_info(self._plan.optimizer).reuses_answers
        found = row_wise(task, self._train, self.space, self._compiled, reading_rows(task, self._train))
        if found is None or not reuses:
            why = "rows of a pass that reads texts" if reuses else "steps of this optimizer"
            self._report(f"{why} cannot learn from earlier answers: each answer is used once")
            return None, frozenset()
        return found

    def _examples(self) -> Sequence[Sequence[EncodedAnswer]]:
        """Pairs that count as answers before the first one. Raises DataError."""
        path, task = self._plan.objective.info.examples, self._task
        if path is None or not isinstance(task, build.GenerationTask):
            return ()
        examples = read_examples(path, task)
        self._report(f"{len(examples)} chosen and rejected completions from {Path(path).name} count as answers")
        return examples

    def _learning(self) -> Learning:
        """What steps learn from, and how many pairs of members read the answers so far: as many as a step's arithmetic
        allows, for people are to find the next questions when they come to them."""
        prompts = (self._train.tokens[i][0] for i in range(min(READ_PROMPTS, len(self._train))))
        length = max(map(len, prompts)) + self._plan.spec.max_new_tokens
        weights = sum(p.numel() for p in self._loaded.model.parameters())
        return Learning(self._plan.objective.info.learn, answer_pairs(2.0 * weights * length))


__all__ = ["RunPopulations"]
