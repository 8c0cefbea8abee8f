"""A run, resolved and checked with nothing heavy loaded: what can be refused is refused here.

Knows configuration, plugins, data and a model's small files; loads no weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from zotune import asking, data, models, objectives, optimizers
from zotune.adapters import Adapter
from zotune.calls import Calls
from zotune.config import RunConfig
from zotune.errors import OptionError
from zotune.objectives import Goal, Objective
from zotune.prompts import Spec
from zotune.recipe import TensorInfo
from zotune.types import Optimizer

VALUE = re.compile(r"(?:^|\.)(?:v_proj|value|v_lin|SelfAttention\.v|value_proj)\.weight$")
"""Value projections as Llama, BERT, OPT, DistilBERT, T5 and DeBERTa name them."""
LINEAR = f"{models.LINEAR_HEAD}."
EMBEDDED = "MiniLM (embedded)"
"""What the model is called that ships with the package."""


@dataclass
class Plan:
    """A run, resolved and checked, with nothing heavy loaded yet."""

    config: RunConfig
    objective: Objective
    optimizer: Optimizer
    splits: data.Splits
    found: models.Found
    spec: Spec
    adapter: Adapter
    rule: str = "auto"
    notes: list[str] = field(default_factory=list)

    @property
    def head(self) -> models.Head:
        return self.found.head

    @property
    def model_name(self) -> str:
        """What the user called the model."""
        return self.config.model or EMBEDDED


def embedded_data() -> Path:
    """The folder of the data set that ships with the package: messages to a shop's support, in six intents."""
    return Path(str(resources.files("zotune") / "embedded" / "support"))


def choose(tune: str, tensors: Sequence[TensorInfo], head: models.Head, embeddings: bool = True) -> set[str]:
    """Names of the tensors that `--tune` means: all, auto, head, value, bias, norm, bias+norm, last:N, or a pattern.

    auto: the biases of the last block but one where the model has them, else the value projections of the last third of
    the blocks, else every matrix but embeddings; and a classification head's own weights. At equal damage to the model
    a step in these gains several times what one in all weights does, and the blocks before are computed once
    (docs/log.md). head: what lies outside all blocks and is no embedding and no norm. Raises OptionError where nothing
    is meant.
    """
    biases = [t for t in tensors if t.kind == "bias" or (t.kind == "norm" and t.name.endswith("bias"))]
    heads = [t for t in tensors if t.block is None and t.kind in ("linear", "bias")]
    if tune == "all":
        found = list(tensors)
    elif tune == "auto":
        matrices = [t for t in tensors if len(t.shape) > 1 and t.kind != "embedding"]
        blocks = sorted({t.block for t in tensors if t.block is not None})
        last = set(blocks[-max(2, len(blocks) // 3) :])
        found = [t for t in biases if t.block in blocks[-2:-1]]
        found = found or [t for t in matrices if t.block in last and VALUE.search(t.name)]
        if found and (head == "classification" or any(LINEAR in t.name for t in heads)):
            found += [t for t in matrices if t.block is None]
        found = found or matrices or list(tensors)
    elif tune == "head":
        found = heads
    elif tune == "value":
        found = [t for t in tensors if VALUE.search(t.name)]
    elif tune == "bias":
        found = biases
    elif tune == "norm":
        found = [t for t in tensors if t.kind == "norm"]
    elif tune == "bias+norm":
        found = [t for t in tensors if t.kind in ("bias", "norm")]
    elif tune.startswith("last:"):
        blocks = sorted({t.block for t in tensors if t.block is not None})
        last = set(blocks[-int(tune.removeprefix("last:")) :])
        found = [t for t in tensors if t.block in last]
    else:
        found = [t for t in tensors if re.search(tune, t.name)]
    if not embeddings:
        found = [t for t in found if t.kind != "embedding"]
    if not found:
        names = ", ".join(t.name for t in tensors[:3])
        raise OptionError(f"--tune {tune!r} means no tensor of this model", hint=f"names look like {names}")
    return {t.name for t in found}


def check_tune(tune: str) -> None:
    """Refuse what `choose` could not read, before a model is loaded."""
    if tune.startswith("last:"):
        count = tune.removeprefix("last:")
        if not count.isdigit() or int(count) < 1:
            raise OptionError(f"--tune {tune!r}: say how many of the last blocks, such as last:2")
    try:
        re.compile(tune)
    except re.error as error:
        raise OptionError(f"--tune {tune!r} is no regular expression: {error}") from None


def plan(cfg: RunConfig, objective: Goal | None = None, optimizer: Any = None) -> Plan:
    """Resolve and check everything that needs no model. Raises UsageError of all kinds."""
    notes: list[str] = []
    check_tune(cfg.tune)
    task = asking.read(cfg.task)
    calls = Calls(cfg.score_concurrency, cfg.score_batch_size, cfg.score_timeout, cfg.score_cache)
    goal = objectives.resolve(objective or cfg.objective, cfg.objective_args, cfg.direction, calls, cfg.weight)
    chosen, own = optimizer or cfg.optimizer, dict(cfg.optimizer_args)
    if goal.ordered and chosen == "rank-sgd":
        own.setdefault("points", getattr(goal.function, "candidates", 4))
    rule = optimizers.resolve(chosen, own, cfg.learning_rate, cfg.eps)
    optimizers.check_needs(rule, goal)
    optimizers.calibrated(rule, cfg.learning_rate, cfg.eps)
    if cfg.dataset is None:
        if cfg.model is not None:
            raise OptionError("--model is given but no --dataset", hint="-d FILE or a folder of splits")
        if cfg.train_split.lower().endswith(data.SUFFIXES):
            raise OptionError("--train-split names a file, but there is no --dataset", hint=f"-d {cfg.train_split}")
        notes.append("no --model and --dataset given: the embedded MiniLM encoder and 900 messages to a shop's support")
    splits = data.split(
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
    parts = {"train": splits.train, "selection": splits.select, "judging": splits.judge}
    found, spec, parts = asking.resolve(cfg, task, parts)
    judged = getattr(goal.function, "judged", None)
    splits = replace(splits, train=parts["train"], select=parts["selection"], judge=parts["judging"][:judged])
    if goal.ordered and chosen == "auto" and spec.kind != "generation":  # auto is calibrated by values, or by drift
        notes.append(f"{goal.name} compares and has no values: --optimizer rank-sgd is used")
        chosen, own = "rank-sgd", {"points": getattr(goal.function, "candidates", 4)}
        rule = optimizers.resolve(chosen, own, cfg.learning_rate, cfg.eps)
    adapter = adapter_of(cfg)
    adapter.check(found.head)
    if cfg.init == "linear-probe" and found.head not in ("classification", "embedding"):
        raise OptionError(f"--init linear-probe writes a linear head; the head {found.head!r} has none")
    if cfg.max_kl and spec.kind != "generation":
        raise OptionError("--max-kl limits what tuning does to generated text; this task generates none")
    goal.check(asking.offered(spec, found.head, parts), frozenset(splits.train[0]))
    _check_metric(goal, spec)
    named = chosen if isinstance(chosen, str) else type(chosen).__name__
    return Plan(cfg, goal, rule, splits, found, spec, adapter, named, notes)


def adapter_of(cfg: RunConfig) -> Adapter:
    return Adapter(cfg.peft, cfg.lora_r, cfg.lora_alpha, tuple(cfg.lora_target_modules), cfg.prefix_tokens)


def _check_metric(goal: Objective, spec: Spec) -> None:
    """Objectives may look at the classes before anything is spent, by a method `check(classes)`."""
    for one in goal.each:
        check = getattr(one.function, "check", None)
        if callable(check) and spec.classes is not None:
            check(len(spec.classes.keys))
