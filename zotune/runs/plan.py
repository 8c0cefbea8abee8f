"""A plan: a run's configuration resolved and checked before any weights are loaded.

Knows configuration, plugins, data and a model's small files. Everything that can be refused without weights is refused
here.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from zotune import declarations
from zotune.config import RunConfig
from zotune.data import presets
from zotune.data.model_classes import FixedClasses
from zotune.data.readers import data_suffix
from zotune.data.records import Record, place_of
from zotune.data.splits import Splits, load_splits
from zotune.data.synthetic import synthetic_name
from zotune.data.task import TaskSpec
from zotune.errors import DataError, OptionError
from zotune.models import frozen_a
from zotune.models.adapters import AdapterConfig
from zotune.models.heads import Head
from zotune.models.model_files import ModelFiles
from zotune.models.trainable import check_tune
from zotune.runs.hub_id import check_hub_id
from zotune.runs.run_engine import RunEngine
from zotune.runs.set_sizes import affordable_rows, draw, note_on_sets
from zotune.scoring import objective_spec
from zotune.scoring.calls import Calls
from zotune.scoring.objective import Objective
from zotune.scoring.objective_spec import ObjectiveSpec
from zotune.search import optimizer_spec, tracker_spec
from zotune.tasks import resolve_task
from zotune.types import Optimizer, Tracker

EMBEDDED = "MiniLM (embedded)"
"""The display name of the model that ships with the package."""


@dataclass(frozen=True)
class Plan:
    """A run's configuration with everything that it names, resolved and checked.

    optimizer_name: as the user gave it; spec: the task; notes: lines for the user; trackers:
    what --report-to names; engine: what generates in place of the loaded model, or None.
    """

    config: RunConfig
    objective: Objective
    optimizer: Optimizer
    splits: Splits
    model_files: ModelFiles
    spec: TaskSpec
    adapter: AdapterConfig
    optimizer_name: str = "auto"
    notes: tuple[str, ...] = ()
    trackers: tuple[tuple[str, Tracker], ...] = ()
    engine: RunEngine | None = None

    @property
    def head(self) -> Head:
        return self.model_files.head

    @property
    def model_name(self) -> str:
        """The model's name as the user gave it."""
        return self.config.model or EMBEDDED


def embedded_data() -> Path:
    """The folder of the data set that ships with the package: messages to a shop's support, in six intents."""
    return Path(str(resources.files("zotune") / "data" / "support"))


def data_of(config: RunConfig, task: resolve_task.RequestedTask) -> str | Path:
    """The data set of a run: the user's, the task's, or the embedded one."""
    return config.dataset or task.data or embedded_data()


def plan(
    config: RunConfig,
    objective: ObjectiveSpec | None = None,
    optimizer: str | Optimizer | None = None,
    *,
    classes: FixedClasses | None = None,
    reduces: bool = True,
    recorded: Mapping[str, Any] | None = None,
) -> Plan:
    """Resolve a configuration and check everything that needs no weights.

    objective, optimizer: objects in place of the configuration's names. classes: those of a run that is resumed or
    replayed. reduces: whether held-out sets are reduced to what the budget affords, where the configuration has no
    numbers; a resumed run keeps the sets that it has. recorded: the options of that run's optimizer, which stand where
    the user gives none: a default may have been another one. Raises UsageError.
    """
    check_tune(config.tune)
    if config.push_to_hub:
        check_hub_id(config.push_to_hub)
    task = resolve_task.parse_task(config.task)
    calls = Calls(config.score_concurrency, config.score_batch_size, config.score_timeout, config.score_cache)
    resolved = objective_spec.resolve(
        objective or config.objective,
        config.objective_args,
        config.direction,
        calls,
        config.weight,
        task.objective_args,
    )
    wanted, options = optimizer or config.optimizer, dict(config.optimizer_args)
    if resolved.ordered and wanted == "rank-sgd":
        options.setdefault("points", resolved.info.candidates)
    chosen = optimizer_spec.resolve(wanted, options, config.learning_rate, config.eps)
    if recorded and isinstance(wanted, str):
        chosen = optimizer_spec.with_recorded(chosen, recorded, options, config.learning_rate, config.eps)
    optimizer_spec.check_needs(chosen, resolved)
    optimizer_spec.calibrated(chosen, config.learning_rate, config.eps)
    notes, trackers = _check_data_source(config, task), tuple(tracker_spec.resolve(config.report_to))
    splits = load_splits(
        data_of(config, task),
        seed=config.seed,
        columns=config.columns,
        train_split=config.train_split,
        eval_split=config.eval_split,
        test_split=config.test_split,
        limit=config.limit,
        train_size=config.train_size,
        k_per_class=config.k_per_class,
    )
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    model_files, spec, parts = resolve_task.resolve(config, task, parts, fixed=classes)
    notes += spec.classes.notes if spec.classes else ()
    spec, drawn = resolve_task.with_examples(config, task, spec, model_files.head, parts["train"])
    train = [record for i, record in enumerate(parts["train"]) if i not in drawn]  # none shows its own answer
    if not train:
        raise OptionError(f"--shots {config.shots} leaves no training row", hint="fewer demonstrations, or more rows")
    test = parts["test"][: resolved.info.test_rows]
    before = len(parts["validation"]), len(test)
    given = config
    validation, test, config = _reduced(config, resolved, parts["validation"], test, reduces)
    asked = given.validation_rows is not None or given.test_rows is not None
    notes += note_on_sets(before, (len(validation), len(test)), asked)
    splits = replace(splits, train=train, validation=validation, test=test)
    if resolved.ordered and wanted == "auto" and spec.kind != "generation":  # auto calibrates by values or by KL
        notes.append(f"{resolved.name} compares and has no values: --optimizer rank-sgd is used")
        wanted, options = "rank-sgd", {"points": resolved.info.candidates}
        chosen = optimizer_spec.resolve(wanted, options, config.learning_rate, config.eps)
    adapter = adapter_of(config, bool(config.quantize or model_files.quantized) and model_files.adapter is None)
    adapter.check(model_files.head)
    _check_quantized(config, model_files, chosen, wanted if isinstance(wanted, str) else type(wanted).__name__)
    _check_task(config, spec, model_files.head)
    resolved.check(resolve_task.available_fields(spec, model_files.head, parts), frozenset(splits.train[0]))
    notes += resolve_task.reference_note(spec, parts, resolved.required)
    notes.extend(spec.notes)
    inputs, takes_all = inputs_of(resolved.each)
    if synthetic_name(str(data_of(config, task))) is None:  # made data have columns for several metrics
        notes.extend(resolve_task.unused_columns(spec, splits.train, inputs, takes_all, config.columns))
    for part in resolved.each:
        if part.info.check is not None and spec.classes is not None:
            part.info.check(len(spec.classes.values))
    notes += text_notes(resolved.each, splits.train)
    notes += check_rows(resolved.each, {"training": splits.train, "validation": splits.validation, "test": splits.test})
    name = wanted if isinstance(wanted, str) else type(wanted).__name__
    return Plan(config, resolved, chosen, splits, model_files, spec, adapter, name, tuple(notes), trackers)


def _reduced(
    config: RunConfig, objective: Objective, validation: list[Record], test: list[Record], reduces: bool
) -> tuple[list[Record], list[Record], RunConfig]:
    """The validation and test set, drawn where they have more rows than the configuration or the budget allows, and the
    configuration with the numbers of rows that were drawn."""
    most = affordable_rows(config, objective.info.batch_size) if reduces else max(len(validation), len(test))
    few = draw(validation, config.validation_rows or most, config.seed, "validation rows")
    few_test = draw(test, config.test_rows or most, config.seed, "test rows")
    if len(few) < len(validation):
        config = replace(config, validation_rows=len(few))
    if len(few_test) < len(test):
        config = replace(config, test_rows=len(few_test))
    return few, few_test, config


def check_rows(objectives: Sequence[Objective], parts: Mapping[str, Sequence[Record]]) -> list[str]:
    """What objectives say about rows, each line once. parts: records by the name of their set. Raises DataError for a
    row that an objective cannot score."""
    notes, total = Counter[str](), sum(map(len, parts.values()))
    for check in (part.info.check_row for part in objectives if part.info.check_row is not None):
        for name, records in parts.items():
            for number, record in enumerate(records, 1):
                try:
                    if note := check(record):
                        notes[note] += 1
                except OptionError as error:
                    place = place_of(record, f"{name} record {number}")
                    raise DataError(f"{place}: {error.args[0]}", hint=error.hint) from None
    return [f"{note} ({count:,} of {total:,} rows)" for note, count in notes.items()]


def text_notes(objectives: Sequence[Objective], records: Sequence[Record]) -> list[str]:
    """A note for each function that declares completions as texts where prompts are messages: it gets messages, and
    most such functions then score 0 without an error."""
    if not any(isinstance(record.get("prompt"), list) for record in records):
        return []
    return [
        f"{part.name} declares completions as {declared}, and gets lists of messages, for prompts are messages: "
        "zotune.text.texts(completions) are the texts"
        for part in objectives
        if (declared := _declared(part.function)).lower().endswith("[str]")
    ]


def _declared(function: Any) -> str:
    """The annotation of a function's parameter `completions`; "" without one."""
    try:
        parameter = inspect.signature(function).parameters["completions"]
    except (TypeError, ValueError, KeyError):
        return ""
    text = parameter.annotation
    return "" if text is parameter.empty else text if isinstance(text, str) else str(text).removeprefix("typing.")


def inputs_of(objectives: Sequence[Objective]) -> tuple[frozenset[str], bool]:
    """The inputs that objectives name, and whether one of them gets every input."""
    named: frozenset[str] = frozenset().union(*(objective.inputs for objective in objectives))
    return named, any(objective.takes_all for objective in objectives)


def adapter_of(config: RunConfig, quantized: bool = False) -> AdapterConfig:
    """The adapter that a configuration describes. quantized: whether the base weights cannot be written, so that a run
    without another adapter gets lora-fa."""
    targets, method = tuple(config.lora_target_modules), config.peft
    if quantized and method == "none":
        method = frozen_a.METHOD
    return AdapterConfig(method, config.lora_r, config.lora_alpha, targets, config.prefix_tokens, config.prefix_init)


def _check_quantized(config: RunConfig, files: ModelFiles, optimizer: Optimizer, name: str) -> None:
    """Raises OptionError where whole matrices of quantised weights would be tuned."""
    if config.peft != "none" or files.adapter or not (config.quantize or files.quantized):
        return
    what = f"--quantize {config.quantize}" if config.quantize else f"{files.source} is quantised by {files.quantized}"
    if not declarations.optimizer_info(optimizer).populations:
        raise OptionError(
            f"{what}: {name} tunes whole matrices, and quantised weights are frozen",
            hint="--peft lora tunes an adapter; --optimizer auto and eggroll tune low-rank terms",
        )
    if config.tune != "auto":
        raise OptionError(
            f"{what}: quantised weights are frozen, so --tune {config.tune} cannot select them",
            hint="leave out --tune, or --peft lora",
        )


def _check_data_source(config: RunConfig, task: resolve_task.RequestedTask) -> list[str]:
    """Notes for the user where data that ship with the package are used. Raises OptionError where a data set is
    missing."""
    if config.dataset is not None:
        return []
    if task.data:
        return [f"no --dataset given: the rows of {task.data}"]
    if config.model is not None:
        hint = "-d FILE or a folder of splits"
        if task.file is not None:
            needed = ", ".join("/".join(names) for names in presets.needed_columns(task.file))
            raise OptionError(
                f"task {task.file.name} has no data of its own, and no --dataset is given",
                hint=f"{hint}, with {needed}",
            )
        raise OptionError("--model is given but no --dataset", hint=hint)
    if data_suffix(config.train_split):
        raise OptionError("--train-split names a file, but there is no --dataset", hint=f"-d {config.train_split}")
    return ["no --model and --dataset given: the embedded MiniLM encoder and 900 messages to a shop's support"]


def _check_task(config: RunConfig, spec: TaskSpec, head: Head) -> None:
    """Raises OptionError for options that a task or head does not have."""
    if config.init == "linear-probe" and head not in ("classification", "embedding"):
        raise OptionError(f"--init linear-probe writes a linear head; the head {head!r} has none")
    if config.max_kl and spec.kind != "generation":
        raise OptionError("--max-kl limits the KL divergence of generated text; this task generates none")
    if config.stratify and spec.kind != "classification":
        raise OptionError("--stratify draws batches by class, and this task has none")


__all__ = ["EMBEDDED", "Plan", "adapter_of", "check_rows", "data_of", "embedded_data", "inputs_of", "plan"]
