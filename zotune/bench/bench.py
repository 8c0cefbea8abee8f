"""`zotune bench`: the cost of a tuning step on this machine, beside the forward passes that it contains.

In every round, in turn: plain passes `model(**inputs)` without a hook, then a step of each kind that the optimizer has,
through its engine and a journal on disk. For one optimizer the round also times a step of a textbook MeZO loop, the
pass that writes weights, and a copy of as many bytes. Times are medians over the rounds; ratios compare what was
measured in the same rounds. The weights are restored after each round.

    forwards = plain passes, as many and of as many rows as the step makes
    step = forwards + perturb + update + objective + norms + rest
        perturb: passes under perturbed weights, beyond plain ones
        update: `Space.assign`
        objective: choosing rows, and computing a number of the output
        norms: reductions that the optimizer asks for
        rest: engine, journal and optimizer

Knows models, spaces and the engine; knows no data set and no objective of a user.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zotune import plugins
from zotune.bench import textbook
from zotune.bench.instruments import Clock, ModelOnRandomTokens, Options, WeightWrite, module_bytes, peak_bytes
from zotune.bench.optimizer_cost import OptimizerCase, Rounds, run_rounds, summarize
from zotune.bench.shapes import SHAPES
from zotune.core.space import Space, named_tensors
from zotune.errors import OptionError, PluginError, ZotuneError
from zotune.events import Emit, Phase, ignore
from zotune.models import adapters, loading
from zotune.models.adapters import AdapterConfig
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.models.trainable import trainable_names
from zotune.runs.plan import EMBEDDED
from zotune.search import optimizer_spec
from zotune.search.journal import Journal
from zotune.search.perturb_mode import IN_FORWARD_WEIGHTS
from zotune.types import Optimizer

ALL = "all"
"""As an optimizer's name: every installed one."""
TEXTBOOK_LR, TEXTBOOK_EPS = 1e-6, 1e-3
"""Options of the textbook loop: MeZO's defaults. Its cost does not depend on them."""


def load(
    model: str | None = None,
    shape: str | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    peft: str = "none",
    head: str = "auto",
    seed: int = 0,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """A model as `zotune fit` loads it, or a known shape with random weights; with a new adapter if `peft` names one.

    Raises ModelError and OptionError.
    """
    adapter = AdapterConfig(peft)
    adapter.check()
    if shape is not None:
        if model is not None:
            raise OptionError("--model and --config exclude each other")
        if shape not in SHAPES:
            raise OptionError(f"--config {shape!r} is no known shape", hint=f"known: {', '.join(SHAPES)}")
        if peft == "prefix":
            raise OptionError("--peft prefix starts from real tokens, and --config has no tokenizer")
        family, sizes = SHAPES[shape]
        loaded = loading.random_model(family, sizes, device=device, dtype=dtype, seed=seed, name=shape)
    else:
        files = find_model(model, head)
        loaded = loading.load(
            files.source,
            files.folder,
            files.head,
            device=device,
            dtype=dtype,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
        loaded.source = model or EMBEDDED
        if files.adapter:
            adapters.load(loaded, files.adapter)
    adapters.attach(loaded, adapter, seed)
    return loaded


def resolve(
    names: Sequence[str], options: Mapping[str, Any] | None = None
) -> tuple[dict[str, Optimizer], dict[str, str]]:
    """(optimizers by name, reasons by name of those that cannot be built).

    names: "all" stands for every installed optimizer with its default options, and only these may fail. options: of a
    single named optimizer. Raises PluginError and OptionError for a named one.
    """
    optimizers: dict[str, Optimizer] = {}
    failed: dict[str, str] = {}
    if options and (len(names) != 1 or ALL in names):
        raise OptionError("--optimizer-arg needs one --optimizer that it belongs to")
    for name in names:
        if name != ALL:
            optimizers[name] = optimizer_spec.resolve(name, options or {})
            continue
        host = plugins.default()
        for plugin in (p for p in host.plugins if p.kind == "optimizer"):
            short = plugin.name if host.find("optimizer", plugin.name) is plugin else plugin.qualified
            try:
                optimizers.setdefault(short, optimizer_spec.resolve(short, {}))
            except (PluginError, OptionError) as error:
                failed[short] = str(error)
    return optimizers, failed


def measure(
    loaded: LoadedModel,
    optimizers: Mapping[str, Optimizer],
    o: Options | None = None,
    *,
    strict: bool = True,
    failed: Mapping[str, str] | None = None,
    emit: Emit = ignore,
) -> dict[str, Any]:
    """The costs of these optimizers' steps on a model, as JSON. The weights are the same bits afterwards.

    strict: an optimizer that cannot initialize or step raises; otherwise it is listed under `skipped`, with those of
    `failed`. Raises OptionError, ModelError, OutOfMemory, and what a step raises.
    """
    o = o or Options()
    clock = Clock(loaded.device)
    subject = ModelOnRandomTokens(loaded, o, clock)
    names = frozenset(trainable_names(loaded, o.tune))
    model_bytes = module_bytes(loaded.model)
    inference_bytes = peak_bytes(loaded.device, subject.plain_pass(o.rows), model_bytes)
    base = Space(loaded.model, o.seed, lambda t: t.name in names, compile=o.compile)
    start, memory = base.snapshot(), {name: p.data for name, p in base.params.items()}

    def undo() -> None:
        for name, p in base.params.items():  # the textbook loop leaves its weights in other memory
            p.data = memory[name]
        base.load(start)

    entries: list[dict[str, Any]] = []
    skipped = dict(failed or {})
    plain_seconds: list[float] = []
    comparisons: dict[str, Any] = {}
    compared = "mezo" if "mezo" in optimizers else next(iter(optimizers), "")
    try:
        for name, optimizer in optimizers.items():
            emit(Phase(f"measuring {name} ({len(entries) + len(skipped) + 1} of {len(optimizers)})"))
            try:
                with tempfile.TemporaryDirectory() as folder:
                    journal = Journal.create(Path(folder) / "journal.jsonl", {})
                    with contextlib.closing(journal):
                        case = OptimizerCase(optimizer, subject, names, o, journal)
                        beside = base if name == compared else None
                        entry, rounds = _measure_case(name, case, o, beside, undo, inference_bytes, model_bytes)
            except ZotuneError as error:
                if strict:
                    raise
                skipped[name] = str(error)
                continue
            finally:
                undo()
                case = None  # type: ignore[assignment]
                if base.numel >= IN_FORWARD_WEIGHTS:
                    gc.collect()  # a space and its tables refer to each other, so its copies are not freed at once
            entries.append(entry)
            plain_seconds += rounds.plain[o.rows]
            if rounds.comparisons:
                comparisons = _comparisons(name, entry, rounds, base)
    finally:
        undo()
    forward = statistics.median(plain_seconds) if plain_seconds else math.nan
    largest = max(base.theta.tensors, key=lambda t: t.numel)
    return {
        "model": loaded.source,
        "head": loaded.head,
        "device": str(loaded.device),
        "dtype": str(next(iter(base.params.values())).dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": o.rows,
        "tokens": o.tokens,
        "rounds": o.rounds,
        "tune": o.tune,
        "compiled": o.compile,
        "seed": o.seed,
        "weights": sum(p.numel() for p in named_tensors(loaded.model).values()),
        "weights_bytes": model_bytes,
        "tuned": base.numel,
        "tensors": len(base.params),
        "largest": {"name": largest.name, "weights": largest.numel},
        "forward": {"ms": 1e3 * forward, "tokens_per_s": o.rows * o.tokens / forward},
        "optimizers": entries,
        "textbook": comparisons.get("textbook"),
        "write": comparisons.get("write"),
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped.items()],
    }


def _measure_case(
    name: str,
    case: OptimizerCase,
    o: Options,
    base: Space | None,
    undo: Callable[[], None],
    inference_bytes: int,
    model_bytes: int,
) -> tuple[dict[str, Any], Rounds]:
    """One optimizer: its first steps, its memory, its rounds.

    base: a space on which the textbook loop, the write and the copy are timed in the same rounds; None: they are not.
    """
    began = time.perf_counter()
    first_steps = [case.step(kind) for kind in case.shares]
    first_seconds = time.perf_counter() - began
    costliest, space, fields = max(case.shares), case.space, case.field_bytes
    in_use = model_bytes + fields + space.perturb_bytes
    step_bytes = peak_bytes(case.subject.loaded.device, lambda: case.step(costliest), in_use)
    undo()
    comparisons: dict[str, Callable[[], Any]] = {}
    if base is not None:
        write, seeds = WeightWrite(base), itertools.count()
        params = list(base.params.values())
        loss = case.subject.loss
        comparisons = {
            "textbook": lambda: textbook.step(params, loss, next(seeds), TEXTBOOK_LR, TEXTBOOK_EPS),
            "write": write.write,
            "copy": write.copy,
        }
        write.write()  # compiles before anything is timed
        undo()
    rounds = run_rounds(case, o, comparisons, first_steps, undo)
    entry = summarize(name, case, rounds)
    entry["first_step_s"] = first_seconds / len(first_steps)
    entry["compile"] = {
        "seconds": space.kernels.seconds,
        "compilations": space.kernels.compilations,
        "recompilations": space.kernels.recompilations,
    }
    entry["memory"] = {
        "inference_bytes": inference_bytes,
        "step_bytes": step_bytes,
        "ratio": step_bytes / inference_bytes,
        "perturb_bytes": space.perturb_bytes,
        "field_bytes": fields,
    }
    return entry, rounds


def _comparisons(name: str, entry: Mapping[str, Any], rounds: Rounds, base: Space) -> dict[str, Any]:
    """What was timed in the same rounds as one optimizer, as JSON."""
    median = {what: statistics.median(x) for what, x in rounds.comparisons.items()}
    size = sum(p.numel() * p.element_size() for p in base.params.values())
    gigabytes = 2 * size / 1e9  # read and written
    step_ms = 1e3 * median["textbook"]
    return {
        "textbook": {
            "beside": name,
            "step_ms": step_ms,
            "two_forwards_ms": entry["two_forwards_ms"],
            "ratio": step_ms / entry["two_forwards_ms"],
            "over_step": step_ms / entry["step_ms"],
        },
        "write": {
            "bytes": size,
            "write_ms": 1e3 * median["write"],
            "copy_ms": 1e3 * median["copy"],
            "write_gb_s": gigabytes / median["write"],
            "copy_gb_s": gigabytes / median["copy"],
            "of_copy": median["copy"] / median["write"],
        },
    }


__all__ = ["ALL", "Options", "load", "measure", "resolve"]
