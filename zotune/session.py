"""A plan with its model loaded: what fitting, resuming and estimating share.

Joins model, task, objective and space; runs nothing by itself.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from zotune import adapters, asking, checkpoint, keys, models, noise, probe, tasks
from zotune.config import RunConfig
from zotune.engine import Budget, Emit, Engine, cost_of, planned
from zotune.journal import Journal
from zotune.judging import HeldOut
from zotune.kernels import worth_compiling
from zotune.oracle import Batches, Oracle
from zotune.plan import Plan, choose
from zotune.prompts import Spec
from zotune.space import Space, describe, named_tensors
from zotune.types import Score

DEFAULT_EVALS = 2400
DEFAULT_BATCH = 16
MANY = 1 << 20
"""Tuned weights from which they are probed while a forward pass is under way instead of by copy."""
CPU_ROWS = 16
"""Rows a forward on the CPU at most: sorted by length, small groups compute less padding."""


class Session:
    """A plan with its model loaded: everything that fit, resume and dry-run share."""

    def __init__(self, plan: Plan, emit: Emit) -> None:
        cfg = plan.config
        self.plan, self.emit = plan, emit
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        emit("phase", {"text": f"loading {plan.model_name}"})
        self.loaded = self._load()
        self.task = self._task(self.loaded)
        self.train = self.task.rows(plan.splits.train)
        self.select = HeldOut(self.task, self.task.rows(plan.splits.select), plan.objective)
        self.judge = HeldOut(self.task, self.task.rows(plan.splits.judge), plan.objective)
        chosen = self._chosen()
        self.space = Space(self.loaded.model, cfg.seed, lambda t: t.name in chosen)
        if self.task.cache_prefix(self.space.params, [self.train, self.select.rows]):
            emit("note", {"text": "only later blocks are tuned: what comes before them is computed once"})
        self.batches = Batches(len(self.train), cfg.batch_size or DEFAULT_BATCH, cfg.seed)
        self.oracle = Oracle(self.space, self.evaluate, self.batches, plan.objective.direction, passes=self.task.passes)
        kernels = self.space.kernels
        kernels.tell = lambda text: emit("note", {"text": text})
        kernels.compile = cfg.compile == "on" or (cfg.compile == "auto" and self._long())
        cut = sum(r.cut for r in (self.train, self.select.rows, self.judge.rows))
        if cut:
            emit("note", {"text": f"{cut} rows are longer than {self.task.max_length} tokens and were cut"})

    def _load(self) -> models.Loaded:
        """The model as tuning starts from it: with the linear probe and the adapter that were asked for."""
        plan, cfg = self.plan, self.plan.config
        loaded = load(cfg, plan.found, plan.spec)
        if cfg.init == "linear-probe":
            self.emit("phase", {"text": "fitting a linear probe to start from"})
            task = self._task(loaded)
            probe.write(task, task.rows(plan.splits.train))
        adapters.attach(loaded, plan.adapter, cfg.seed)
        return loaded

    def _task(self, loaded: models.Loaded) -> tasks.Task:
        cfg, spec = self.plan.config, self.plan.spec
        micro = cfg.eval_batch_size if loaded.device.type != "cpu" else min(cfg.eval_batch_size, CPU_ROWS)
        return tasks.build(loaded, spec, asking.max_length(cfg, spec), micro, cfg.seed)

    def _chosen(self) -> set[str]:
        """Names of the tuned tensors: with an adapter, among its own."""
        cfg, tensors = self.plan.config, list(describe(self.loaded.model).values())
        if not adapters.is_adapter(self.loaded):
            return choose(cfg.tune, tensors, self.plan.head, cfg.embeddings)
        own = {n for n, p in named_tensors(self.loaded.model).items() if p.requires_grad}
        tensors = [t for t in tensors if t.name in own]
        return {t.name for t in tensors} if cfg.tune in ("auto", "all") else choose(cfg.tune, tensors, self.plan.head)

    def evaluate(self, indices: Sequence[int]) -> Score:
        """The training signal: the objective on these rows.

        A metric of predictions changes in jumps, and most small differences between two points are jumps by chance.
        With
        `smooth`, it is averaged over that many sets of predictions sampled from the model's own probabilities, the same
        randomness at every point: its expectation, which moves with every logit. Held-out rows are never smoothed.
        """
        objective, task, rows = self.plan.objective, self.task, self.train
        if isinstance(task, tasks.Generating):
            task.step = self.space.step
        outputs = task.outputs(rows, indices, objective.wants)
        if not self.smooth:
            return objective.score(len(indices), outputs)
        drawn = task.sampled(rows, indices, outputs["logits"], self.smooth)
        return mean([objective.score(len(indices), outputs | d) for d in drawn])

    @property
    def smooth(self) -> int:
        """Predictions sampled for each row; 0 where the objective reads more than predictions."""
        wants = self.plan.objective.wants
        if not self.task.samples:
            return 0
        jumps = wants & {"predictions", "completions"} and not wants & {"logits", "losses", "model"}
        return self.plan.config.smooth if jumps else 0

    def assess(self) -> dict[str, Any]:
        _, score = self.select.measure()
        sign = -1.0 if self.plan.objective.direction == "maximize" else 1.0
        return {"loss": sign * score.value, "score": score.value}

    def _long(self) -> bool:
        """Whether the run is long enough to compile for."""
        return worth_compiling(self.space.numel, self.planned()[1])

    def prepare_probing(self) -> None:
        """Find out, by a few forward passes, which weights can be perturbed while a pass is under way. Few weights are
        cheaper to copy."""
        mode = self.plan.config.probe
        many = isinstance(self.task, tasks.Generating) and self.plan.objective.wants & {"completions", "completion_ids"}
        if mode == "copy" or (mode == "auto" and (self.space.numel < MANY or many)):
            return
        rows = self.batches.at(0).rows[:CPU_ROWS]
        self.space.most_in_forward = math.inf if mode == "forward" else 2
        copied = self.space.probe_in_forward(lambda: self._logits(rows))
        if copied:
            names = ", ".join(copied[:3]) + (" …" if len(copied) > 3 else "")
            text = f"{len(copied)} of {len(self.space.params)} tensors are probed by copy: read outside their module"
            self.emit("note", {"text": f"{text} ({names})"})

    def _logits(self, rows: Sequence[int]) -> torch.Tensor:
        if isinstance(self.task, tasks.Generating):
            return torch.tensor(self.task.log_probabilities([o for i in rows for o in self.train.tokens[i][1]]))
        return self.task.logits(self.train, rows)

    def base(self) -> Mapping[str, torch.Tensor]:
        """The starting weights again, from the model's own files."""
        return models.base_weights(self.loaded, self.space.params, self._load())

    def header(self) -> dict[str, Any]:
        """Everything that the bits depend on."""
        cfg, plan, space = self.plan.config, self.plan, self.space
        tensors = {t.name: [list(t.shape), f"{keys.name_key(t.name):016x}"] for t in space.theta.tensors}
        return {
            "model": plan.model_name,
            "base_weights": space.digest(),
            "data": plan.splits.digest,
            "objective": cfg.objective,
            "objective_source": source_hash(plan.objective.function),
            "objective_args": cfg.objective_args,
            "direction": plan.objective.direction,
            "optimizer": type(plan.optimizer).__qualname__,
            "optimizer_source": source_hash(type(plan.optimizer)),
            "optimizer_options": _plain(plan.optimizer),
            "template": plan.spec.template.text,
            "task": _task_record(plan),
            "batch_size": self.batches.size,
            "max_length": self.task.max_length,
            "smooth": self.smooth,
            "eval_steps": self.eval_steps(),
            "seed": cfg.seed,
            "noise": noise.VERSION,
            "dtype": str(next(iter(space.params.values())).dtype),
            "tensors": tensors,
        }

    def budget(self) -> Budget:
        cfg = self.plan.config
        none = cfg.max_steps is None and cfg.max_evals is None and cfg.max_time is None
        return Budget(cfg.max_steps, DEFAULT_EVALS if none else cfg.max_evals, cfg.max_time)

    def planned(self) -> tuple[int | None, int | None]:
        """Steps and evaluations that the budget pays for; None where only time limits them."""
        return planned(self.budget(), self.cost)

    def cost(self, step: int = 0, progress: float = 0.0) -> int:
        """Evaluations that a step makes."""
        return cost_of(self.plan.optimizer, self.space, self.batches, step, progress)

    def eval_steps(self) -> int:
        return self.plan.config.eval_steps or max((self.planned()[0] or 500) // 10, 1)

    def engine(self, journal: Journal, store: checkpoint.Store, stop: Callable[[], bool]) -> Engine:
        cfg = self.plan.config
        return Engine(
            self.space,
            self.plan.optimizer,
            self.oracle,
            self.batches,
            self.budget(),
            journal,
            store,
            assess=self.assess,
            eval_steps=self.eval_steps(),
            save_steps=cfg.save_steps,
            max_failures=cfg.max_failures,
            patience=cfg.patience,
            emit=self.emit,
            stop=stop,
        )

    def start_event(self, folder: Path, score: Score) -> dict[str, Any]:
        plan, budget = self.plan, self.budget()
        return {
            "folder": str(folder),
            "model": plan.model_name,
            "head": plan.head,
            "objective": plan.objective.name,
            "better": plan.objective.better,
            "optimizer": plan.config.optimizer,
            "tuned": self.space.numel,
            "tensors": len(self.space.params),
            "device": str(self.loaded.device),
            "rows": [len(self.train), len(self.select.rows), len(self.judge.rows)],
            "batch": self.batches.size,
            "score": score.value,
            "budget": asdict(budget),
            "samples": self._samples,
        }

    def _samples(self) -> list[tuple[str, str, str]]:
        """(text, gold, prediction) of a few selection rows with the present weights."""
        rows = self.select.rows
        out = self.task.outputs(rows, range(min(4, len(rows))))
        right = [r if isinstance(r, str) else " | ".join(r or []) for r in out["references"]]
        return list(zip(map(str, out["prompts"]), right, out["completions"], strict=True))


def load(cfg: RunConfig, found: models.Found, spec: Spec) -> models.Loaded:
    """The model with its class names, and its adapter where it has one. Raises ModelError."""
    classes = list(spec.classes.words) if spec.classes else []
    loaded = models.load(
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
        pickles=cfg.allow_pickle,
        quantize=cfg.quantize,
    )
    if found.head == "classification":
        models.set_labels(loaded, classes)
    if found.adapter:
        adapters.load(loaded, found.adapter)
    return loaded


def _task_record(plan: Plan) -> dict[str, Any]:
    """What the bits depend on beside the template."""
    spec = plan.spec
    record: dict[str, Any] = {"kind": spec.kind, "adapter": asdict(plan.adapter), "init": plan.config.init}
    if spec.classes:
        record["labels"] = [list(spec.classes.keys), list(spec.classes.words)]
    if spec.kind == "generation":
        record |= {n: getattr(spec, n) for n in ("stop", "max_new_tokens", "temperature", "top_p")}
    return record | ({"choices": spec.choices} if spec.choices else {})


def mean(scores: Sequence[Score]) -> Score:
    """The mean of several scores of the same rows, sample by sample where they have samples."""
    value = math.fsum(s.value for s in scores) / len(scores)
    columns = [s.samples for s in scores if s.samples is not None]
    if len(columns) < len(scores):
        return Score(value)
    samples = tuple(
        None if (known := [x for x in column if x is not None]) == [] else math.fsum(known) / len(known)
        for column in zip(*columns, strict=True)
    )
    return Score(value, samples)


def source_hash(target: Any) -> str:
    """A hash of the file that defines a function or class, or of its name where there is no file."""
    target = target if inspect.isclass(target) or inspect.isroutine(target) else type(target)
    try:
        text = Path(inspect.getfile(target)).read_bytes()
    except (OSError, TypeError):
        text = repr(getattr(target, "__qualname__", target)).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _plain(optimizer: Any) -> Any:
    try:
        return json.loads(json.dumps(asdict(optimizer)))
    except TypeError:
        return {}


def environment() -> dict[str, Any]:
    """Versions and machine, for env.json and `zotune env`."""
    versions: dict[str, str | None] = {}
    for name in ("zotune", "torch", "transformers", "tokenizers", "safetensors", "scikit-learn", "pluggy", "peft"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(models.pick_device("auto")),
        "versions": versions,
    }
