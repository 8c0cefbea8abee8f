"""A run, resolved and checked with nothing heavy loaded: what can be refused is refused here.

Knows configuration, plugins, data and a model's small files; loads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from zotune.config import RunConfig
from zotune.data import splits as data
from zotune.data.templates import TaskSpec
from zotune.errors import OptionError
from zotune.models.adapters import AdapterConfig
from zotune.models.heads import Head
from zotune.models.model_files import ModelFiles
from zotune.models.trainable import check_tune
from zotune.scoring import objective_spec
from zotune.scoring.calls import Calls
from zotune.scoring.objective import Objective
from zotune.scoring.objective_spec import ObjectiveSpec
from zotune.search import optimizer_spec
from zotune.tasks import task_spec
from zotune.types import Optimizer

EMBEDDED = "MiniLM (embedded)"
"""What the model is called that ships with the package."""


@dataclass
class Plan:
    """A run, resolved and checked, with nothing heavy loaded yet."""

    config: RunConfig
    objective: Objective
    optimizer: Optimizer
    splits: data.Splits
    model_files: ModelFiles
    spec: TaskSpec
    adapter: AdapterConfig
    optimizer_name: str = "auto"
    notes: list[str] = field(default_factory=list)

    @property
    def head(self) -> Head:
        return self.model_files.head

    @property
    def model_name(self) -> str:
        """What the user called the model."""
        return self.config.model or EMBEDDED


def embedded_data() -> Path:
    """The folder of the data set that ships with the package: messages to a shop's support, in six intents."""
    return Path(str(resources.files("zotune") / "data" / "support"))


def plan(cfg: RunConfig, objective: ObjectiveSpec | None = None, optimizer: Any = None) -> Plan:
    """Resolve and check everything that needs no model. Raises UsageError of all kinds."""
    notes: list[str] = []
    check_tune(cfg.tune)
    task = task_spec.read(cfg.task)
    calls = Calls(cfg.score_concurrency, cfg.score_batch_size, cfg.score_timeout, cfg.score_cache)
    goal = objective_spec.resolve(objective or cfg.objective, cfg.objective_args, cfg.direction, calls, cfg.weight)
    chosen, own = optimizer or cfg.optimizer, dict(cfg.optimizer_args)
    if goal.ordered and chosen == "rank-sgd":
        own.setdefault("points", goal.info.candidates)
    rule = optimizer_spec.resolve(chosen, own, cfg.learning_rate, cfg.eps)
    optimizer_spec.check_needs(rule, goal)
    optimizer_spec.calibrated(rule, cfg.learning_rate, cfg.eps)
    if cfg.dataset is None:
        if cfg.model is not None:
            raise OptionError("--model is given but no --dataset", hint="-d FILE or a folder of splits")
        if cfg.train_split.lower().endswith(data.SUFFIXES):
            raise OptionError("--train-split names a file, but there is no --dataset", hint=f"-d {cfg.train_split}")
        notes.append("no --model and --dataset given: the embedded MiniLM encoder and 900 messages to a shop's support")
    splits = data.load_splits(
        cfg.dataset or embedded_data(),
        seed=cfg.seed,
        columns=cfg.columns,
        train_split=cfg.train_split,
        eval_split=cfg.eval_split,
        test_split=cfg.test_split,
        limit=cfg.limit,
        train_size=cfg.train_size,
        k_per_class=cfg.k_per_class,
    )
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    found, spec, parts = task_spec.resolve(cfg, task, parts)
    test = parts["test"][: goal.info.test_rows]
    splits = replace(splits, train=parts["train"], validation=parts["validation"], test=test)
    if goal.ordered and chosen == "auto" and spec.kind != "generation":  # auto is calibrated by values, or by drift
        notes.append(f"{goal.name} compares and has no values: --optimizer rank-sgd is used")
        chosen, own = "rank-sgd", {"points": goal.info.candidates}
        rule = optimizer_spec.resolve(chosen, own, cfg.learning_rate, cfg.eps)
    adapter = adapter_of(cfg)
    adapter.check(found.head)
    if cfg.init == "linear-probe" and found.head not in ("classification", "embedding"):
        raise OptionError(f"--init linear-probe writes a linear head; the head {found.head!r} has none")
    if cfg.max_kl and spec.kind != "generation":
        raise OptionError("--max-kl limits what tuning does to generated text; this task generates none")
    if cfg.stratify and spec.kind != "classification":
        raise OptionError("--stratify draws batches by class, and this task has none")
    goal.check(task_spec.offered(spec, found.head, parts), frozenset(splits.train[0]))
    _check_metric(goal, spec)
    named = chosen if isinstance(chosen, str) else type(chosen).__name__
    return Plan(cfg, goal, rule, splits, found, spec, adapter, named, notes)


def adapter_of(cfg: RunConfig) -> AdapterConfig:
    return AdapterConfig(cfg.peft, cfg.lora_r, cfg.lora_alpha, tuple(cfg.lora_target_modules), cfg.prefix_tokens)


def _check_metric(goal: Objective, spec: TaskSpec) -> None:
    """Let objectives refuse a number of classes before anything is spent."""
    for part in goal.each:
        if part.info.check is not None and spec.classes is not None:
            part.info.check(len(spec.classes.values))
