"""A plan with its model loaded: what fitting, resuming and estimating share.

Joins model, task, objective and space; runs nothing by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from zotune import declarations, seeds
from zotune.config import RunConfig
from zotune.core.kernels import worth_compiling
from zotune.core.space import Space
from zotune.data.templates import TaskSpec
from zotune.distributed import ALONE, Processes
from zotune.errors import ObjectiveError, OptionError
from zotune.events import Emit, Example, Note, Phase, RunStarted
from zotune.models import adapters, loading
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import ModelFiles
from zotune.models.trainable import base_weights, trainable_names
from zotune.runs.heldout import HeldOut, linear_probe, scored_once, wins
from zotune.runs.plan import Plan
from zotune.scoring.score_budget import ScoreBudget
from zotune.search import checkpoint, optimizer_spec
from zotune.search.batches import Batches
from zotune.search.calibration import Calibration, Found
from zotune.search.engine import Budget, Engine, cost_of, planned
from zotune.search.journal import Journal
from zotune.search.oracle import Oracle
from zotune.search.perturb_mode import PerturbMode
from zotune.search.preflight import Preflight
from zotune.tasks import build, task_spec
from zotune.tasks import linear_probe as probe
from zotune.tasks.kl import Drift
from zotune.text import texts
from zotune.types import RunContext, Score

DEFAULT_EVALS = 2400
DEFAULT_BATCH = 16
EXAMPLES = 8
"""Completions of each evaluation that a run folder keeps."""
UNLIMITED = 600
"""Evaluations that a run limited by time or steps alone is taken to have, for its preflight."""
PROBING = 0.1
"""Of the budget, at most, for a linear probe to compare with."""
SMALL, SMALL_SHARE = 64 << 20, 1 / 16
"""Bytes of tuned weights, and their share of the model's, up to which a copy of them as they were is kept."""
CPU_ROWS = 16
"""Rows a forward on the CPU at most: sorted by length, small groups compute less padding."""


@dataclass(frozen=True)
class Scoring:
    """What the objective has cost. rows: scored; known: not asked again, for their scores were known; share: of the
    run's time; faults: what a scorer counts itself (retries, restarts)."""

    rows: int
    known: int
    seconds: float
    share: float
    faults: dict[str, int]


class Session:
    """A plan with its model loaded: everything that fit, resume and dry-run share."""

    def __init__(self, plan: Plan, emit: Emit, processes: Processes = ALONE) -> None:
        cfg = plan.config
        self.plan, self.emit, self.processes = plan, emit, processes
        self._shown: Mapping[str, Any] | None = None
        self._start: tuple[Mapping[str, Any], Score] | None = None
        self._said: list[dict[str, Any]] = []
        self._crowded = False
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        emit(Phase(f"loading {plan.model_name}"))
        self._probe: dict[str, torch.Tensor] | None = None
        self.loaded = self.load()
        self.task = self._task(self.loaded)
        self.train = self.task.rows(plan.splits.train)
        counted = cfg.max_score_calls is not None
        held = [self.task.rows(part) for part in (plan.splits.validation, plan.splits.test)]
        self.select, self.judge = (HeldOut(self.task, x, plan.objective, counted, processes) for x in held)
        self._every = self.sent = 0
        chosen = trainable_names(self.loaded, cfg.tune, cfg.embeddings)
        self.space = Space(self.loaded.model, cfg.seed, lambda t: t.name in chosen)
        self._base = self._copied()
        if self.task.cache_prefix(self.space.params, [self.train, self.select.rows]):
            emit(Note("only later blocks are tuned: what comes before them is computed once"))
        size = cfg.batch_size or plan.objective.info.batch_size or DEFAULT_BATCH
        self.batches = Batches(len(self.train), size, cfg.seed, self._strata())
        self.scores = self._scores()
        self.drift = Drift.of(self.task, self.train, processes)
        ordered = plan.objective.ordered
        eps = declarations.eps(plan.optimizer)
        self.oracle = Oracle(
            self.space,
            self.evaluate,
            self.batches,
            plan.objective.direction,
            passes=self._passes,
            collect=self.collect if ordered else None,
            compare=self.compare if ordered else None,
            unit=2 * eps if isinstance(eps, float) else 1.0,
            kl=self.drift,
            distribute=processes.deal,
        )
        self.points = PerturbMode(
            cfg, self.task, self.train, plan.objective.wants, self.space, self.batches, self.oracle, processes
        )
        if processes.size > 1:
            processes.split = self._split()
        kernels = self.space.kernels
        kernels.tell = lambda text: emit(Note(text))
        kernels.compile = cfg.compile == "on" or (cfg.compile == "auto" and self._long())
        cut = sum(r.cut for r in (self.train, self.select.rows, self.judge.rows))
        if cut:
            emit(Note(f"{cut} rows are longer than {self.task.max_length} tokens and were cut"))

    def load(self, cfg: RunConfig | None = None) -> LoadedModel:
        """The model as tuning starts from it: with the linear probe, fitted the first time, and the adapter that were
        asked for."""
        plan = self.plan
        cfg = cfg or plan.config
        loaded = load(cfg, plan.found, plan.spec)
        if cfg.init == "linear-probe" and self._probe is None:
            self.emit(Phase("fitting a linear probe to start from"))
            task = self._task(loaded)
            layer = probe.write(task, task.rows(plan.splits.train))
            self._probe = {name: x.detach().cpu().clone() for name, x in layer.state_dict().items()}
        elif self._probe is not None:
            probe.layer_of(loaded, len(self._probe["weight"])).load_state_dict(self._probe)
        adapters.attach(loaded, plan.adapter, cfg.seed)
        return loaded

    def _strata(self) -> Sequence[Hashable] | None:
        """The class of each training row, where batches are to hold classes in proportion: where that was said, or the
        optimizer wants it."""
        said = self.plan.config.stratify
        wanted = declarations.optimizer_info(self.plan.optimizer).stratifies if said is None else said
        return [tuple(g) for g in self.train.gold] if wanted and self.plan.spec.kind == "classification" else None

    def _task(self, loaded: LoadedModel) -> build.Task:
        cfg, spec = self.plan.config, self.plan.spec
        micro = cfg.eval_batch_size if loaded.device.type != "cpu" else min(cfg.eval_batch_size, CPU_ROWS)
        task = build.build(loaded, spec, task_spec.max_length(cfg, spec), micro, cfg.seed)
        task.forward.tell, task.forward.processes = self._short_of_memory, self.processes
        return task

    def _short_of_memory(self, text: str) -> None:
        self._crowded = True
        self.emit(Note(text))

    def _passes(self, rows: int) -> int | None:
        """Forward passes that so many rows take, as far as they decide how weights are probed: where memory is short,
        no copy of them pays."""
        return 1 if self._crowded else self.task.passes(rows)

    def evaluate(self, indices: Sequence[int]) -> Score:
        """The training signal: the objective on these rows.

        A metric of predictions changes in jumps, and most small differences between two points are jumps by chance.
        With
        `smooth`, it is averaged over that many sets of predictions sampled from the model's own probabilities, the same
        randomness at every point: its expectation, which moves with every logit. Held-out rows are never smoothed.
        """
        objective, task, count = self.plan.objective, self.task, len(indices)
        if isinstance(task, build.Generating):
            said = [self._generated(indices, k) for k in range(self.samples)]
            return scored_once(self.processes, lambda: mean([objective.score(count, one) for one in said]))
        outputs = task.outputs(self.train, indices, objective.wants)
        if not self.smooth:
            return scored_once(self.processes, lambda: objective.score(count, outputs))
        drawn = task.sampled(self.train, indices, outputs["logits"], self.smooth)
        return scored_once(self.processes, lambda: mean([objective.score(count, outputs | d) for d in drawn]))

    def _generated(self, indices: Sequence[int], draw: int) -> dict[str, Any]:
        """What the model says to training rows: the sampling's randomness belongs to the step and the draw."""
        task = self.task
        assert isinstance(task, build.Generating)
        task.step, task.draw = self.space.step, draw
        try:
            return task.outputs(self.train, indices, self.plan.objective.wants)
        finally:
            task.step = task.draw = 0

    @property
    def samples(self) -> int:
        """Completions sampled for each training prompt."""
        return self.plan.config.samples_per_prompt

    def collect(self, indices: Sequence[int]) -> dict[str, Any]:
        """What is to be compared: what the weights as they are now say on these rows."""
        if isinstance(self.task, build.Generating):
            return self._generated(indices, 0)
        return self.task.outputs(self.train, indices, self.plan.objective.wants)

    def compare(self, collected: Sequence[dict[str, Any]]) -> list[float | None]:
        """For each of several points the share of the others that it beats, over all rows that count; None where none
        does."""
        candidates = list(zip(*(c["completions"] for c in collected), strict=True))
        found = self.processes.first(lambda: list(self.plan.objective.compare(collected[0], candidates)))
        won = [wins(x) for x in found if x is not None]
        if not won:
            return [None] * len(collected)
        return [math.fsum(row[i] for row in won) / len(won) for i in range(len(collected))]

    @property
    def smooth(self) -> int:
        """Predictions sampled for each row; 0 where the objective reads more than predictions."""
        objective = self.plan.objective
        wants = objective.wants
        slow = any(o.info.fast is False for o in objective.each) and objective.info.level == "set"
        if not self.task.samples or slow:
            return 0
        jumps = wants & {"predictions", "completions"} and not wants & {"logits", "losses", "model"}
        return self.plan.config.smooth if jumps else 0

    def assess(self) -> dict[str, Any]:
        """Score the selection rows: what is selected has the smallest loss. Weights that have moved further than
        `--max-kl` have none, and are never selected; they, and those that are far worse than the start, are ruined.
        The first time, at the start, it says the score of each row too."""
        sent = self.processes.sent
        try:
            return self._assessed()
        finally:
            self.sent += self.processes.sent - sent

    def _assessed(self) -> dict[str, Any]:
        if not self.processes.alone:
            self.processes.same("the weights", self.space.digest())
        outputs, score = self.select.measure()
        self._shown, self._said = outputs, self._examples(outputs, score)
        sign = -1.0 if self.plan.objective.direction == "maximize" else 1.0
        found: dict[str, Any] = {"score": score.value, **({"parts": dict(score.parts)} if score.parts else {})}
        moved, limit = self._moved(), self.plan.config.max_kl
        if moved is not None:
            found["drift"] = moved
        if self._start is None:
            self._start = outputs, score
            found |= {"samples": list(score.samples)} if score.samples else {}
        ruined = self._ruined(outputs, score, moved)
        found |= {"ruined": ruined} if ruined else {}
        return found if moved is not None and limit and moved > limit else {"loss": sign * score.value, **found}

    def _ruined(self, outputs: Mapping[str, Any], score: Score, moved: float | None) -> str:
        """Why the weights as they are are no place to go on from; nothing where they are."""
        cfg = self.plan.config
        if not cfg.rollback or self._start is None:
            return ""
        if moved is not None and cfg.max_kl and moved > cfg.max_kl:
            return f"moved {moved:.3g} nats a token, beyond --max-kl {cfg.max_kl:g}"
        worse = self.select.deficit(self._start, (outputs, score), seeds.derive(cfg.seed, "ruined"))
        return f"{worse:.1f} paired standard errors worse than the start" if worse and worse > cfg.rollback else ""

    def _examples(self, outputs: Mapping[str, Any], score: Score) -> list[dict[str, Any]]:
        """Some of what was generated on the selection rows, with its scores: lines of completions.jsonl."""
        if not isinstance(self.task, build.Generating) or "completions" not in outputs:
            return []
        names = {"prompts": "prompt", "completions": "completion", "references": "reference"}
        count = min(EXAMPLES, len(self.select.rows))
        said = [{one: outputs[name][i] for name, one in names.items()} for i in range(count)]
        scores = score.samples or (None,) * count
        return [{**row, "score": x} for row, x in zip(said, scores, strict=False)]

    def said(self) -> list[dict[str, Any]]:
        """What the last evaluation generated; once, and nothing where it was read from the journal."""
        found, self._said = self._said, []
        return found

    def _moved(self) -> float | None:
        return self.drift() if self.drift else None

    def kept_within(self) -> bool:
        """Whether the weights as they are lie within `--max-kl`."""
        moved, limit = self._moved(), self.plan.config.max_kl
        return moved is None or not limit or moved <= limit

    @property
    def selects(self) -> bool:
        """Whether the objective scores held-out rows to select the best weights; else the last are the best."""
        return self.plan.objective.info.validates

    def _split(self) -> str:
        """What several processes share: a step's points, where there are enough of them and each process can score its
        own; else the rows of each."""
        said, them, goal = self.plan.config.parallel, self.processes, self.plan.objective
        one_scores = goal.ordered or self.scores.limit is not None or not self.selects
        if said == "points" and one_scores and them.size > 1:
            raise OptionError(
                "--parallel points: an order, a person or counted scores are asked in one place",
                hint="--parallel batch",
            )
        if said != "auto":
            return said
        return "batch" if one_scores or self.cost() % them.size else "points"

    def bind(self, folder: Path, stop: Callable[[], bool]) -> None:
        """Start the objective: tell it the run directory, when to stop, and how many rows it is going to score."""
        steps, _ = self.planned()
        planned = (steps or 0) * self.batches.size + len(self.judge.rows)
        for one in self.plan.objective.each:
            one.start(RunContext(folder, self._message, stop, self.plan.config.seed, planned))

    def _message(self, text: str) -> None:
        self.emit(Note(text))

    def scoring(self, seconds: float) -> Scoring:
        """What the objective has cost until now, of so many seconds."""
        each = self.plan.objective.each
        spent = math.fsum(o.meter.seconds for o in each)
        faults: dict[str, int] = {}
        for one in each:
            for name, count in one.faults().items():
                faults[name] = faults.get(name, 0) + count
        rows, known = sum(o.meter.rows for o in each), sum(o.meter.hits for o in each)
        return Scoring(rows, known, round(spent, 3), spent / max(seconds, 1e-9), faults)

    def _long(self) -> bool:
        """Whether the run is long enough to compile for."""
        return worth_compiling(self.space.numel, self.planned()[1])

    def prepare_probing(self) -> None:
        """Find out how points are best evaluated; what is probed by copy all the same is said."""
        if copied := self.points.prepare():
            names = ", ".join(copied[:3]) + (" …" if len(copied) > 3 else "")
            text = f"{len(copied)} of {len(self.space.params)} tensors are probed by copy: read outside their module"
            self.emit(Note(f"{text} ({names})"))

    def base(self) -> Mapping[str, torch.Tensor]:
        """The starting weights again: a copy where they are few, else from the model's own files, read into the host's
        memory, for beside a model there may be no room for another."""
        if self._base is not None:
            return self._base
        dtype = str(next(iter(self.space.params.values())).dtype).removeprefix("torch.")
        cfg = replace(self.plan.config, device="cpu", device_map=None, dtype=dtype, attn_implementation=None)
        return base_weights(self.space.params, self.load(cfg))

    def _copied(self) -> Mapping[str, torch.Tensor] | None:
        """The tuned weights, which are still those of the start, where a copy of them is small beside the model."""
        params, cfg = self.space.params, self.plan.config
        few = _bytes(params.values()) <= max(SMALL, SMALL_SHARE * _bytes(self.loaded.model.parameters()))
        return {n: p.detach().cpu().clone() for n, p in params.items()} if few or cfg.quantize else None

    def budget(self) -> Budget:
        cfg = self.plan.config
        none = cfg.max_steps is None and cfg.max_evals is None and cfg.max_time is None
        evals = DEFAULT_EVALS if none else cfg.max_evals
        if self.scores.limit is not None:
            paid = self.scores.paid(max(self.cost(), 1), cfg.eval_steps)
            evals = paid if evals is None or (none and cfg.max_score_calls is None) else min(evals, paid)
        return Budget(cfg.max_steps, evals, cfg.max_time)

    def _scores(self) -> ScoreBudget:
        """What may be scored. An objective that says how many scores it has time for (`max_scores`) is asked no more
        where nothing else limits the run."""
        cfg, goal = self.plan.config, self.plan.objective
        own = goal.info.max_scores
        others = (cfg.max_steps, cfg.max_evals, cfg.max_time, cfg.max_score_calls)
        parts = len(goal.each)
        return ScoreBudget(
            own if own is not None and not any(others) else cfg.max_score_calls,
            self.batches.size if goal.ordered else self.batches.size * self.samples * max(self.smooth, 1) * parts,
            declarations.optimizer_info(self.plan.optimizer).compares if goal.ordered else 1,
            parts * len(self.select.rows) if self.selects else 0,
            parts * len(self.judge.rows),
            1 if goal.ordered else 2,
        )

    def goes_on(self, journal: Journal) -> None:
        """Count, at most, what an earlier process has scored for this run; not the judging rows at the start, which are
        scored again. The weights are still those of the start."""
        evaluations = max((line["evals"] for line in journal.lines if line["kind"] == "step"), default=0)
        assessed = sum(line["kind"] == "eval" for line in journal.lines)
        first = next((line for line in journal.lines if line["kind"] == "eval"), None)
        if first and "samples" in first:
            self._start = {}, Score(first["score"], tuple(first["samples"]))
        elif first and self.select.resamples():
            self._start = self.select.measure()
        self._every = journal.header["eval_steps"]
        self.scores.earlier = self.scores.of(evaluations, assessed)

    def _spent(self, evaluations: int) -> bool:
        """Whether the scores that are left do not pay for another step."""
        if self.scores.limit is None:
            return False
        used = self.processes.first(lambda: sum(o.meter.rows for o in self.plan.objective.each))
        return self.scores.spent(used, evaluations)

    def planned(self) -> tuple[int | None, int | None]:
        """Steps and evaluations that the budget pays for; None where only time limits them."""
        return planned(self.budget(), self.cost)

    def cost(self, step: int = 0, progress: float = 0.0) -> int:
        """Evaluations that a step makes."""
        return cost_of(self.plan.optimizer, self.space, self.batches, step, progress)

    def eval_steps(self) -> int:
        return self.plan.config.eval_steps or self._every or max((self.planned()[0] or 500) // 10, 1)

    def engine(self, journal: Journal, store: checkpoint.Store, stop: Callable[[], bool]) -> Engine:
        cfg = self.plan.config
        return Engine(
            self.space,
            self.plan.optimizer,
            self.oracle,
            self.batches,
            Budget(**journal.header["budget"]),
            journal,
            store,
            assess=self.assess if self.selects else None,
            eval_steps=self.eval_steps(),
            save_steps=cfg.save_steps,
            max_failures=cfg.max_failures,
            patience=cfg.patience,
            emit=self.emit,
            calibrate=self._calibration(),
            preflight=self._preflight(),
            interpolate=self._interpolate(),
            stop=stop,
            spent=self._spent,
        )

    def _calibration(self) -> Callable[[], Found] | None:
        """What finds the options that the user leaves to it, if any."""
        cfg, rule = self.plan.config, self.plan.optimizer
        wanted = optimizer_spec.calibrated(rule, cfg.learning_rate, cfg.eps)
        if not wanted:
            return None
        budget, (steps, evals) = self.budget(), self.planned()
        return Calibration(
            rule,
            wanted.get("lr"),
            wanted.get("eps"),
            self.space,
            self.oracle,
            self.batches,
            steps,
            budget.evals or evals or math.inf,
            self.base,
        ).find

    def _preflight(self) -> Preflight | None:
        """What looks ahead; nothing does where scores are counted, or a person or a judge is asked."""
        goal, budget = self.plan.objective, self.budget()
        if not self.plan.config.preflight or self.select.counted or goal.ordered:
            return None
        evals = budget.evals or self.planned()[1] or UNLIMITED
        return Preflight(self.space, self.oracle, self.batches, evals, self.cost, self._rival)

    def _rival(self) -> list[str]:
        """Whether a linear probe does better than the start on the selection rows, where one can be fitted soon."""
        task = self.task
        evals = self.budget().evals or self.planned()[1] or UNLIMITED
        if not isinstance(task, build.Whole) or self.plan.config.init == "linear-probe" or not self.select.resamples():
            return []
        forwards = -(-len(self.train) // self.batches.size)
        if task.spec.kind != "classification" or forwards > PROBING * evals:
            return []
        try:
            found = linear_probe(self.select, self.train, seeds.derive(self.plan.config.seed, "bootstrap"))
        except ObjectiveError:
            return []
        if found is None or self._start is None:
            return []
        self.oracle.evaluations += forwards
        sign = -1.0 if self.plan.objective.direction == "maximize" else 1.0
        if sign * (self._start[1].value - found.value) <= 2 * (found.error or 0.0):
            return []
        return [
            f"a linear probe has {found.value:.4f} on the selection rows, where the start has "
            f"{self._start[1].value:.4f}: --init linear-probe starts from it"
        ]

    def _interpolate(self) -> bool:
        """Whether weights between start and end are assessed too: where the optimizer wants it, and scores are not
        counted."""
        said = self.plan.config.interpolate
        wanted = declarations.optimizer_info(self.plan.optimizer).interpolates if said is None else said
        return bool(wanted) and not self.select.counted

    def started(self, folder: Path, score: Score) -> RunStarted:
        """The event that opens a run. score: of the base model on the test set."""
        plan, budget = self.plan, self.budget()
        goal = plan.objective
        return RunStarted(
            folder=str(folder),
            model=plan.model_name,
            head=plan.head,
            device=str(self.loaded.device),
            objective=goal.name,
            better=goal.better,
            direction="order" if goal.ordered else goal.direction,
            optimizer=plan.rule,
            tuned_weights=self.space.numel,
            tensors=len(self.space.params),
            training_rows=len(self.train),
            validation_rows=len(self.select.rows),
            test_rows=len(self.judge.rows),
            batch_size=self.batches.size,
            test_score=score.value,
            max_steps=budget.steps,
            max_evals=budget.evals,
            max_time=budget.seconds,
        )

    def examples(self) -> tuple[Example, ...]:
        """Outputs for the first validation rows, once after each evaluation; nothing where it was read from the
        journal."""
        rows, out, self._shown = self.select.rows, self._shown, None
        if out is None:
            return ()
        if "completions" not in out:
            out = self.task.outputs(rows, range(min(4, len(rows))))
        right = [r if isinstance(r, str) else " | ".join(r or []) for r in out["references"][:4]]
        prompts = [p if isinstance(p, str) else p[-1]["content"] for p in out["prompts"][:4]]
        return tuple(map(Example, prompts, right, texts(out["completions"][:4])))


def load(cfg: RunConfig, found: ModelFiles, spec: TaskSpec) -> LoadedModel:
    """The model with its class names, and its adapter where it has one. Raises ModelError."""
    return load_with(cfg, found, list(spec.classes.words) if spec.classes else [])


def load_with(cfg: RunConfig, found: ModelFiles, classes: list[str]) -> LoadedModel:
    """`load` where nothing but the names of the classes is known of the task."""
    loaded = loading.load(
        found.source,
        found.folder,
        found.head,
        device=cfg.device,
        dtype=cfg.dtype,
        classes=len(classes) or None,
        seed=cfg.seed,
        trust_remote_code=cfg.trust_remote_code,
        revision=cfg.model_revision,
        attn_implementation=cfg.attn_implementation,
        device_map=cfg.device_map,
        allow_pickle=cfg.allow_pickle,
        quantize=cfg.quantize,
    )
    if found.head == "classification":
        loaded.set_class_names(classes)
    if found.adapter:
        adapters.load(loaded, found.adapter)
    return loaded


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def mean(scores: Sequence[Score]) -> Score:
    """The mean of several scores of the same rows, sample by sample where they have samples."""
    value = math.fsum(s.value for s in scores) / len(scores)
    count = len(scores)
    each: dict[str, list[float]] = {}  # a part of a sum may say nothing of some
    for name, x in (part for s in scores for part in s.parts):
        each.setdefault(name, []).append(x)
    parts = tuple((name, math.fsum(values) / len(values)) for name, values in each.items())
    columns = [s.samples for s in scores if s.samples is not None]
    if len(columns) < count:
        return Score(value, None, parts)
    samples = tuple(
        None if (known := [x for x in column if x is not None]) == [] else math.fsum(known) / len(known)
        for column in zip(*columns, strict=True)
    )
    return Score(value, samples, parts)
