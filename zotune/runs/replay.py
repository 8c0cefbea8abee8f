"""`zotune replay`: the weights of a run from its base model and its journal alone.

A replay is the engine with an oracle that reads the journal: no forward pass, no score, and no code that a run
directory names. Knows run directories, models and the engine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from zotune import config as configuration
from zotune.config import RunConfig
from zotune.core import noise, state_codec
from zotune.core.kernels import worth_compiling
from zotune.core.recipe import Each, Recipe
from zotune.core.space import Space, named_tensors
from zotune.errors import OptionError, RunFolderError, UsageError, ZotuneError, nearest
from zotune.events import Emit, Note, Phase, ignore
from zotune.models import adapters
from zotune.models.adapters import AdapterConfig
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.runs import export, initial_head
from zotune.runs.model_source import load_recorded
from zotune.runs.plan import EMBEDDED
from zotune.runs.plan import plan as make_plan
from zotune.runs.provenance import environment
from zotune.runs.recorded import class_names, complete_header, config_of, fixed_classes, recorded_rounding
from zotune.runs.run_directory import CONFIG, JOURNAL, check_files
from zotune.runs.session import Session
from zotune.search import checkpoint, optimizer_spec
from zotune.search.batches import Batches
from zotune.search.engine import Engine
from zotune.search.hooks import Hooks, Settings
from zotune.search.journal import Journal
from zotune.search.limits import Budget
from zotune.search.oracle import Oracle
from zotune.search.population_plan import PopulationPlan
from zotune.tasks import linear_probe
from zotune.types import Optimizer


class ReplayedSpace(Space):
    """A space that records whether its weights are the same bits on every machine. portable: False once a recipe holds
    `each`, which computes matrices by torch."""

    portable = True

    def assign(self, theta: Recipe, state: Any = None) -> Any:
        self.portable &= not any(isinstance(x, Each) for x in _nested((theta, state)))
        return super().assign(theta, state)


def rebuild(
    loaded: LoadedModel, optimizer: Optimizer, journal: Journal, step: int, compile: bool = False
) -> tuple[ReplayedSpace, dict[str, Any]]:
    """Replay a journal to a step over a model as tuning started from it.

    Returns the space with the weights and fields of that step, and the metadata of a checkpoint: step and state. Raises
    RunFolderError where model, optimizer or noise are not those of the journal.
    """
    header = journal.header
    _check_match(loaded, optimizer, header)
    names = set(header["tensors"])
    rounding = recorded_rounding(header)
    space = ReplayedSpace(loaded.model, header["seed"], lambda t: t.name in names, compile=compile, rounding=rounding)
    others = {n: p for n, p in named_tensors(loaded.model).items() if n not in names}
    if space.digest() != header["base_weights"] or checkpoint.digest(others) != header["frozen_weights"]:
        raise RunFolderError(
            f"the weights of {loaded.source} are not the run's initial weights",
            hint=f"--base takes the model that the run started from: {header['model']}",
        )
    batches = Batches(header["rows"], header["batch_size"], header["seed"])
    batches.population = PopulationPlan.from_json(header.get("population"))
    kl = _not_recorded if header["drift"] else None
    oracle = Oracle(space, _not_recorded, batches, header["direction"], retries=0, kl=kl)
    rolled_back = any(line["kind"] == "rollback" for line in journal.lines)
    engine = Engine(
        space,
        optimizer,
        oracle,
        batches,
        Budget(**header["budget"]),
        journal.copy(),
        checkpoint.MemoryStore() if rolled_back else checkpoint.FolderStore(Path(), 0, dict),
        Settings(eval_steps=header["eval_steps"]),
        Hooks(validate=_not_recorded if any(line["kind"] == "eval" for line in journal.lines) else None),
    )
    try:
        engine.replay(step)
    except (KeyError, IndexError, TypeError, ValueError) as error:  # a journal that was edited or made by hand
        place = f"{journal.path or 'journal'}, line {engine.journal.cursor + 1}"
        raise RunFolderError(f"{place}: cannot be replayed: {type(error).__name__}: {error}") from error
    return space, {"step": step, "state": state_codec.encode(engine.state)}


@dataclass(frozen=True)
class Replayed:
    """The outcome of a replay. weights: a hash of the tuned weights; confirmed: True where the journal records the same
    hash for this step, None where it records none; portable: whether every machine computes the same bits."""

    folder: Path
    step: int
    weights: str
    confirmed: bool | None
    portable: bool


def replay(
    run: str | Path,
    output: str | Path,
    *,
    base: str | None = None,
    step: int | None = None,
    optimizer: str | Optimizer | None = None,
    device: str = "auto",
    threads: int | None = None,
    compile: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    emit: Emit = ignore,
) -> Replayed:
    """Rebuild a run's weights, and write them to a new folder that `from_pretrained` loads.

    base: the model that the run started from, where it has moved. step: the step to rebuild; by default the kept
    weights, or else the last step. optimizer: the run's own, where it came from a file or from Python. Raises
    UsageError where a replay is impossible, ZotuneError where its weights differ from those that the journal records.
    """
    folder, target = Path(run), Path(output)
    export.check_free(target)
    check_files(folder)
    journal = Journal.open(folder / JOURNAL, read_only=True)
    header = complete_header(journal)
    last = sum(line["kind"] == "step" for line in journal.lines)
    kept = next((line for line in reversed(journal.lines) if line["kind"] == "kept"), {"step": last, "share": 1.0})
    wanted, share = (kept["step"], kept["share"]) if step is None else (step, 1.0)
    if not 0 <= wanted <= last:
        raise OptionError(f"--step {wanted}: the journal has steps 0 to {last}")
    if threads:
        torch.set_num_threads(threads)
    for name, version in environment()["versions"].items():
        if name in header["versions"] and header["versions"][name] != version:
            emit(Note(f"the run was made with {name} {header['versions'][name]}; this is {name} {version}"))
    config = config_of(header, base or (None if header["model"] == EMBEDDED else header["model"]))
    config = replace(config, device=device, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    emit(Phase(f"loading {base or header['model']}"))
    loaded = initial_model(config, header, folder, emit)
    emit(Phase(f"replaying {wanted} of {last} steps"))
    tuned = sum(math.prod(shape) for shape, _ in header["tensors"].values())
    long = PopulationPlan.from_json(header.get("population")).compiled or worth_compiling(tuned, wanted)
    compiles = compile == "on" or (compile == "auto" and long)
    tensors = named_tensors(loaded.model)
    initial = {n: tensors[n].detach().clone() for n in header["tensors"] if share != 1.0 and n in tensors}
    space, _ = rebuild(loaded, recorded_optimizer(optimizer, header), journal, wanted, compiles)
    if initial:
        space.load(checkpoint.interpolate(initial, space.params, share))
    weights = space.digest()
    recorded = {
        line["weights"]
        for line in journal.lines
        if line["kind"] in ("end", "kept") and (line["step"], line.get("share", 1.0)) == (wanted, share)
    }
    if recorded and weights not in recorded:
        hint = "" if space.portable else "this optimizer computes matrices by torch: replay on the run's own machine"
        raise ZotuneError(
            f"the replayed weights of step {wanted} differ from those that the journal records", hint=hint
        )
    export.write(loaded, target)
    return Replayed(target, wanted, weights, True if recorded else None, space.portable)


def recorded_optimizer(spec: str | Optimizer | None, header: Mapping[str, Any]) -> Optimizer:
    """The run's optimizer. A file that the journal alone names is not executed."""
    name = header["rule"]
    if spec is None and ":" in name:
        raise OptionError(f"the run's optimizer is {name}", hint=f"--optimizer {name} allows running this file")
    wanted = spec or name
    try:
        if not isinstance(wanted, str):
            return optimizer_spec.resolve(wanted, {})
        recorded = header["optimizer_options"]
        optimizer: Optimizer = optimizer_spec.with_recorded(
            optimizer_spec.resolve(wanted, recorded), recorded, recorded
        )
        return optimizer
    except UsageError as error:
        raise RunFolderError(f"the run's optimizer {name} cannot be loaded: {error}") from None


def initial_model(config: RunConfig, header: Mapping[str, Any], folder: Path, emit: Emit) -> LoadedModel:
    """The model as tuning started from it. A linear probe that the header does not hold is fitted again on the data
    of the run's configuration."""
    task = header["task"]
    head = initial_head.decode(header) if task["init"] == "linear-probe" else None
    if task["init"] == "linear-probe" and head is None:
        saved = configuration.resolve({}, str(folder / CONFIG))
        saved = replace(saved, objective="cross-entropy", objective_args={}, weight=(), direction=None)
        saved = replace(saved, optimizer="auto", optimizer_args={}, learning_rate=None, eps=None)
        # The caller, not the directory, decides which code may run.
        saved = replace(saved, trust_remote_code=config.trust_remote_code, allow_pickle=config.allow_pickle)
        saved = replace(saved, model=config.model, device=config.device, dtype=config.dtype)
        return Session(make_plan(saved, classes=fixed_classes(header)), emit, scores_base=False).loaded
    files = find_model(config.model, config.head, config.allow_pickle, config.model_revision)
    loaded = load_recorded(config, files, header, initial=True)
    if head is not None:
        linear_probe.load(loaded, head)
        if loaded.linear_head is not None:
            loaded.set_class_names(class_names(header))
    adapter = {**task["adapter"], "targets": tuple(task["adapter"]["targets"])}
    adapters.attach(loaded, AdapterConfig(**adapter), config.seed)
    return loaded


def _check_match(loaded: LoadedModel, optimizer: Optimizer, header: Mapping[str, Any]) -> None:
    """Raises RunFolderError where a replay would give other weights than the run."""
    if type(optimizer).__qualname__ != header["optimizer"]:
        raise RunFolderError(f"the run's optimizer is {header['optimizer']}, not {type(optimizer).__qualname__}")
    if header["noise"] != noise.VERSION:
        raise RunFolderError(f"the run has noise of version {header['noise']}; this zotune has {noise.VERSION}")
    tensors = named_tensors(loaded.model)
    for name, (shape, _) in header["tensors"].items():
        if name not in tensors or list(tensors[name].shape) != shape:
            raise RunFolderError(
                f"{loaded.source} has no tensor {name!r} of shape {shape}", hint=nearest(name, tensors)
            )


def _not_recorded(*_: Any) -> NoReturn:
    raise RunFolderError("the journal lacks a value that this optimizer reads", hint="a replay computes no values")


def _nested(x: Any) -> Iterator[Any]:
    """An object and everything inside it, through containers and dataclasses."""
    yield x
    inner: Sequence[Any] = ()
    if isinstance(x, Mapping):
        inner = list(x.values())
    elif isinstance(x, list | tuple):
        inner = x
    elif dataclasses.is_dataclass(x):
        inner = [getattr(x, f.name) for f in dataclasses.fields(x)]
    for item in inner:
        yield from _nested(item)


__all__ = ["Replayed", "ReplayedSpace", "initial_model", "rebuild", "recorded_optimizer", "replay"]
