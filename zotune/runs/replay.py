"""A run's weights again, from its base model and its journal alone; and whether a run folder is what was written.

Replay makes no forward pass and scores nothing: it is the engine itself with an oracle that reads. It runs no code that
a run folder names. Knows run folders, models and the engine.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from zotune import config, files
from zotune.config import RunConfig
from zotune.core import noise
from zotune.core import state_codec as state
from zotune.core.kernels import worth_compiling
from zotune.core.recipe import Each, Recipe
from zotune.core.space import Space, named_tensors
from zotune.errors import OptionError, RunFolderError, UsageError, ZotuneError, nearest
from zotune.events import Emit, Note, Phase, ignore
from zotune.models import adapters
from zotune.models.adapters import AdapterConfig
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.runs import export
from zotune.runs.model_source import load_with_classes
from zotune.runs.plan import EMBEDDED, plan
from zotune.runs.provenance import environment
from zotune.runs.run_directory import JOURNAL, RESULT
from zotune.runs.session import Session
from zotune.search import checkpoint, optimizer_spec
from zotune.search.batches import Batches
from zotune.search.engine import Budget, Engine
from zotune.search.journal import Journal
from zotune.search.oracle import Oracle
from zotune.types import Optimizer

NEEDED = frozenset(
    [
        *("model", "revision", "head", "dtype", "quantize", "versions", "task", "base_weights", "frozen_weights"),
        *("tensors", "seed", "noise", "rule", "optimizer", "optimizer_options"),
        *("rows", "batch_size", "budget", "eval_steps", "direction", "drift"),
    ]
)
"""What a replay reads in a header."""


class ReplayedSpace(Space):
    """A space that sees whether what is written to it is the same on every kind of machine: all but `each` is."""

    portable = True

    def assign(self, theta: Recipe, state: Any = None) -> Any:
        self.portable &= not any(isinstance(x, Each) for x in _parts((theta, state)))
        return super().assign(theta, state)


def _parts(x: Any) -> Iterator[Any]:
    """An object and everything in it, through containers and dataclasses."""
    yield x
    inner: Sequence[Any] = ()
    if isinstance(x, Mapping):
        inner = list(x.values())
    elif isinstance(x, list | tuple):
        inner = x
    elif dataclasses.is_dataclass(x):
        inner = [getattr(x, f.name) for f in dataclasses.fields(x)]
    for one in inner:
        yield from _parts(one)


def rebuilt(
    loaded: LoadedModel, optimizer: Optimizer, journal: Journal, step: int, compile: bool = False
) -> tuple[ReplayedSpace, dict[str, Any]]:
    """The space as step number `step` left it, over a model as tuning started from it, and what a checkpoint would say:
    step and state. Raises RunFolderError where the model, the optimizer or the noise is not that of the journal."""
    header = journal.header
    _match(loaded, optimizer, header)
    names = set(header["tensors"])
    space = ReplayedSpace(loaded.model, header["seed"], lambda t: t.name in names, compile=compile)
    others = {n: p for n, p in named_tensors(loaded.model).items() if n not in names}
    if space.digest() != header["base_weights"] or checkpoint.digest(others) != header["frozen_weights"]:
        raise RunFolderError(
            f"the weights of {loaded.source} are not those that the run started from",
            hint=f"--base takes the same files as then: {header['model']}",
        )
    batches = Batches(header["rows"], header["batch_size"], header["seed"])
    oracle = Oracle(space, _unasked, batches, header["direction"], retries=0, kl=_unasked if header["drift"] else None)
    undone = any(line["kind"] == "rollback" for line in journal.lines)
    engine = Engine(
        space,
        optimizer,
        oracle,
        batches,
        Budget(**header["budget"]),
        journal.again(),
        checkpoint.MemoryStore() if undone else checkpoint.FolderStore(Path(), 0, dict),
        assess=_unasked if any(line["kind"] == "eval" for line in journal.lines) else None,
        eval_steps=header["eval_steps"],
    )
    try:
        engine.replay(step)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        place = f"{journal.path or 'journal'}, line {engine.journal.cursor + 1}"
        raise RunFolderError(f"{place}: cannot be replayed: {type(error).__name__}: {error}") from error
    return space, {"step": step, "state": state.encode(engine.state)}


def _match(loaded: LoadedModel, optimizer: Optimizer, header: Mapping[str, Any]) -> None:
    """Raises RunFolderError where a replay would make other weights than the run."""
    if type(optimizer).__qualname__ != header["optimizer"]:
        raise RunFolderError(f"the run's optimizer is {header['optimizer']}, not {type(optimizer).__qualname__}")
    if header["noise"] != noise.VERSION:
        raise RunFolderError(f"the run's noise is of version {header['noise']}, this version makes {noise.VERSION}")
    found = named_tensors(loaded.model)
    for name, (shape, _) in header["tensors"].items():
        if name not in found or list(found[name].shape) != shape:
            raise RunFolderError(f"{loaded.source} has no tensor {name!r} of shape {shape}", hint=nearest(name, found))


def _header(journal: Journal) -> dict[str, Any]:
    """A journal's header, with all that a replay reads in it. Raises RunFolderError where it is of something else."""
    if missing := sorted(NEEDED - journal.header.keys()):
        raise RunFolderError(f"{journal.path}, line 1: the header has no {', '.join(missing)}: it is of no whole run")
    return journal.header


def _unasked(*_: Any) -> NoReturn:
    raise RunFolderError("the journal does not hold what this optimizer asks for", hint="a replay computes nothing")


@dataclass(frozen=True)
class Replayed:
    """What a replay made. weights: a hash of the tuned ones; confirmed: whether the journal records the same for this
    step, or None where it records none; portable: whether other kinds of machines are sure to make the same bits."""

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
    """Rebuild a run's weights from its base model and its journal, and write them where `from_pretrained` reads them.

    step: whose weights; by default those that the run kept, or its last. base: the model that the run started from,
    where it lies elsewhere now. optimizer: where the run's own came from a file or from Python. Raises UsageError where
    this cannot be done, ZotuneError where it gives other weights than the journal records.
    """
    folder, target = Path(run), Path(output)
    export.free(target)
    journal = Journal.open(folder / JOURNAL, read_only=True)
    header = _header(journal)
    last = sum(line["kind"] == "step" for line in journal.lines)
    kept = next((line for line in reversed(journal.lines) if line["kind"] == "kept"), {"step": last, "share": 1.0})
    wanted, share = (kept["step"], kept["share"]) if step is None else (step, 1.0)
    if not 0 <= wanted <= last:
        raise OptionError(f"--step {wanted}: the journal goes from step 0 to {last}")
    if threads:
        torch.set_num_threads(threads)
    for name, value in environment()["versions"].items():
        if name in header["versions"] and header["versions"][name] != value:
            emit(Note(f"the run was made with {name} {header['versions'][name]}, this is {value}"))
    cfg = _config(header, base or (None if header["model"] == EMBEDDED else header["model"]))
    cfg = replace(cfg, device=device, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    emit(Phase(f"loading {base or header['model']}"))
    loaded = _start(cfg, header, folder, emit)
    emit(Phase(f"replaying {wanted} of {last} steps"))
    rule = _rule(optimizer, header)
    tuned = sum(math.prod(shape) for shape, _ in header["tensors"].values())
    long = compile == "on" or (compile == "auto" and worth_compiling(tuned, wanted))
    tensors = named_tensors(loaded.model)
    start = {n: tensors[n].detach().clone() for n in header["tensors"] if share != 1.0 and n in tensors}
    space, _ = rebuilt(loaded, rule, journal, wanted, long)
    if start:
        space.load(checkpoint.between(start, space.params, share))
    found = space.digest()
    recorded = {
        x["weights"]
        for x in journal.lines
        if x["kind"] in ("end", "kept") and (x["step"], x.get("share", 1.0)) == (wanted, share)
    }
    if recorded and found not in recorded:
        raise ZotuneError(
            f"the weights of step {wanted} came out other than the run journaled",
            hint="" if space.portable else "this optimizer computes matrices by torch: replay where the run was made",
        )
    export.write(loaded, target)
    return Replayed(target, wanted, found, True if recorded else None, space.portable)


def _rule(said: str | Optimizer | None, header: Mapping[str, Any]) -> Optimizer:
    """The run's optimizer; a file that only the journal names is not run."""
    spec = said or header["rule"]
    if said is None and ":" in header["rule"]:
        raise OptionError(f"the run's optimizer is {header['rule']}", hint=f"--optimizer {header['rule']} allows it")
    try:
        return optimizer_spec.resolve(spec, header["optimizer_options"] if isinstance(spec, str) else {})
    except UsageError as error:
        raise RunFolderError(f"the run's optimizer {header['rule']} is not at hand: {error}") from None


def _start(cfg: RunConfig, header: Mapping[str, Any], folder: Path, emit: Emit) -> LoadedModel:
    """The model as tuning started from it. A linear probe is fitted again, to the data that the run names."""
    task = header["task"]
    if task["init"] == "linear-probe":
        saved = config.resolve({}, str(folder / "config.yaml"))
        plain = replace(saved, objective="cross-entropy", objective_args={}, weight=(), optimizer="auto")
        plain = replace(plain, optimizer_args={}, learning_rate=None, eps=None, direction=None)
        # what may run is said by who replays
        plain = replace(plain, trust_remote_code=cfg.trust_remote_code, allow_pickle=cfg.allow_pickle)
        return Session(plan(replace(plain, model=cfg.model, device=cfg.device, dtype=cfg.dtype)), emit).loaded
    found = find_model(cfg.model, cfg.head, cfg.allow_pickle)
    loaded = load_with_classes(cfg, found, _classes(header))
    said = task["adapter"]
    adapters.attach(loaded, AdapterConfig(**{**said, "targets": tuple(said["targets"])}), cfg.seed)
    return loaded


def _config(header: Mapping[str, Any], model: str | None) -> RunConfig:
    """How a run's model is loaded; nothing of it runs code."""
    return RunConfig(
        model=model,
        model_revision=header["revision"],
        head=header["head"],
        dtype=header["dtype"].removeprefix("torch."),
        seed=header["seed"],
        peft=header["task"]["adapter"]["method"],
        quantize=header["quantize"],
    )


def _classes(header: Mapping[str, Any]) -> list[str]:
    return list(header["task"]["labels"][1]) if "labels" in header["task"] else []


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ok: None where there was nothing to look at."""

    name: str
    ok: bool | None
    said: str


def verify(run: str | Path, emit: Emit = ignore) -> list[Check]:
    """Check a run folder against what was written: the journal's chain of checksums, every checkpoint, the model's
    files, and its tuned weights against the journal. Raises RunFolderError where the folder holds no run."""
    folder = Path(run)
    if not (folder / JOURNAL).is_file():
        raise RunFolderError(f"{folder} holds no run: there is no {JOURNAL}")
    try:
        journal = Journal.open(folder / JOURNAL, read_only=True)
    except RunFolderError as error:
        return [Check("journal", False, str(error))]
    steps = sum(line["kind"] == "step" for line in journal.lines)
    torn = f"; {journal.torn} bytes of a torn last line, which a resume drops" if journal.torn else ""
    checks = [Check("journal", True, f"{len(journal.lines)} lines, {steps} steps{torn}")]
    checks += [_checked(folder / f"checkpoint-{s}", journal) for s in checkpoint.checkpoints(folder)]
    kept = next((line for line in reversed(journal.lines) if line["kind"] == "kept"), None)
    if kept is None:
        return [*checks, Check("model", None, "the run has not ended: zotune resume goes on with it")]
    try:
        recorded = {str(name): str(said) for name, said in json.loads((folder / RESULT).read_text())["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [*checks, Check(RESULT, False, "cannot be read: zotune resume writes it again")]
    if not recorded:
        return [*checks, Check("model", None, "no model files were written: zotune replay rebuilds them")]
    checks += [_file(folder, name, said) for name, said in recorded.items()]
    return [*checks, _tuned(folder, _header(journal), kept, emit)]


def _checked(path: Path, journal: Journal) -> Check:
    try:
        meta = checkpoint.examine(path)
        if meta["mark"] != journal.mark(min(meta["lines"], len(journal.lines))):
            return Check(path.name, False, "it does not belong to the journal beside it")
    except RunFolderError as error:
        return Check(path.name, False, str(error))
    return Check(path.name, True, f"{len(meta['files'])} files, at line {meta['lines']} of the journal")


def _file(folder: Path, name: str, wanted: str) -> Check:
    try:
        inside = "\0" not in name and (folder / name).parent.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # no path at all, or one that leads to itself
        inside = False
    if not inside:
        return Check(name, False, "is no file of this folder")
    try:
        same = files.checksum(folder / name) == wanted
    except OSError as error:
        return Check(name, False, f"cannot be read: {error.strerror}")
    return Check(name, same, "as it was written" if same else "not as it was written (checksum differs)")


def _tuned(folder: Path, header: Mapping[str, Any], kept: Mapping[str, Any], emit: Emit) -> Check:
    """The model as anyone would load it, against the journal."""
    emit(Phase("loading the kept model"))
    cfg = _config(header, str(folder))
    try:
        found = find_model(cfg.model, cfg.head)
        loaded = load_with_classes(cfg, found, _classes(header))
    except ZotuneError as error:
        return Check("weights", False, str(error))
    tuned = {n: p for n, p in named_tensors(loaded.model).items() if n in header["tensors"]}
    same = checkpoint.digest(tuned) == kept["weights"]
    said = "as the journal records" if same else "not as the journal records"
    return Check("weights", same, f"{len(tuned)} tuned tensors, kept from step {kept['step']}: {said}")


__all__ = ["Check", "Replayed", "ReplayedSpace", "rebuilt", "replay", "verify"]
