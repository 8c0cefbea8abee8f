"""Everything that the bits of a run depend on: the header of its journal, and env.json.

Reads sessions and changes none.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from zotune import declarations, seeds
from zotune.core import noise
from zotune.models import adapters, frozen_a, loading
from zotune.models.loaded_model import base_dtype
from zotune.runs import initial_head
from zotune.runs.file_hashes import folder_hashes, model_file_hashes, objective_file_hashes, optimizer_file_hashes
from zotune.runs.frozen_weights import frozen_digest
from zotune.runs.plan import Plan
from zotune.runs.session import Session
from zotune.tasks.chat import chat_record
from zotune.tasks.kl import SAMPLED

LIBRARIES = ("zotune", "torch", "transformers", "tokenizers")
"""Libraries whose versions the bits of a run depend on; with an adapter, peft too."""


def header_of(session: Session) -> dict[str, Any]:
    """The header of a session's journal, as JSON values: everything that the bits depend on."""
    plan, space = session.plan, session.space
    config, processes = plan.config, session.processes
    tensors = {t.name: [list(t.shape), f"{seeds.name_key(t.name):016x}"] for t in space.theta.tensors}
    libraries = [*LIBRARIES, *(["peft"] if adapters.has_adapter(session.loaded) else [])]
    return {
        "versions": {name: environment()["versions"][name] for name in libraries},
        "device": session.loaded.device.type,
        "model": plan.model_name,
        "revision": config.model_revision,
        "quantize": config.quantize,
        "head": plan.head,
        "base_weights": space.digest(),
        "frozen_weights": frozen_digest(space.module, space.params),
        "model_files": model_file_hashes(plan.model_files, config.model_revision),
        "data": plan.splits.digest,
        "objective": config.objective,
        "weight": config.weight,
        "objective_source": [source_hash(o.function) for o in plan.objective.each],
        "objective_files": objective_file_hashes(
            config.objective,
            config.objective_args,
            [o.function for o in plan.objective.each if not declarations.is_shipped(o.function)],
        ),
        "objective_folders": folder_hashes(config.objective, config.objective_args),
        "objective_args": config.objective_args,
        "direction": plan.objective.direction,
        "rule": plan.optimizer_name,
        "optimizer": type(plan.optimizer).__qualname__,
        "optimizer_source": source_hash(type(plan.optimizer)),
        "optimizer_files": optimizer_file_hashes(plan.optimizer),
        "optimizer_options": _plain(plan.optimizer),
        "template": plan.spec.template.text,
        "task": _task_record(plan),
        "rows": session.batches.rows,
        "batch_size": session.batches.size,
        "budget": asdict(session.budget.limits()),
        "drift": session.oracle.measures_kl,
        **({"kl_estimate": config.kl_estimate} if session.oracle.measures_kl and config.kl_estimate != SAMPLED else {}),
        "max_length": session.task.max_length,
        "eval_batch_size": config.eval_batch_size,
        "attn_implementation": config.attn_implementation,
        "smooth": session.signal.smooth,
        "together": session.perturb_mode.joint or None,
        "eval_steps": session.budget.eval_steps(),
        "seed": config.seed,
        "noise": noise.VERSION,
        **({"rounding": space.rounding} if space.rounding > 1 else {}),
        "dtype": str(next(iter(space.params.values())).dtype),
        **({"base_dtype": base_dtype(session.loaded)} if plan.adapter.method == frozen_a.METHOD else {}),
        "parallel": f"batch over {processes.size}" if processes.size > 1 and processes.split == "batch" else None,
        **({"population": population} if (population := session.batches.population.to_json()) else {}),
        **({initial_head.KEY: initial_head.encode(head)} if (head := session.source.head) is not None else {}),
        **({"engine": session.inference and session.inference.record()} if session.records_engine else {}),
        "tensors": tensors,
    }


def _task_record(plan: Plan) -> dict[str, Any]:
    """Everything about the task that the bits depend on, except the template."""
    spec = plan.spec
    adapter = asdict(plan.adapter)
    if adapter["init"] == "tokens":  # as runs before this option recorded it
        del adapter["init"]
    record: dict[str, Any] = {"kind": spec.kind, "adapter": adapter, "init": plan.config.init}
    if plan.config.new_head:
        record["new_head"] = True
    if spec.classes:
        record["labels"] = [list(spec.classes.values), list(spec.classes.words)]
    if spec.kind == "generation":
        record |= {n: getattr(spec, n) for n in ("stop", "max_new_tokens", "temperature", "top_p", "system")}
        record |= spec.sampling.record()
        record["samples"] = plan.config.samples_per_prompt
    return record | ({"choices": spec.choices} if spec.choices else {}) | chat_record(spec)


def source_hash(target: Any) -> str:
    """The hash of the file that defines an object's class or a function, or of its name where there is no file."""
    target = declarations.definition(target)
    try:
        text = Path(inspect.getfile(target)).read_bytes()
    except (OSError, TypeError):
        text = repr(target.__qualname__).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _plain(optimizer: Any) -> Any:
    """The options of an optimizer, without those that have the value of runs which recorded none."""
    before = declarations.unrecorded(optimizer)
    try:
        values = json.loads(json.dumps(asdict(optimizer)))
    except TypeError:
        return {}
    return {name: value for name, value in values.items() if name not in before or before[name] != value}


def environment() -> dict[str, Any]:
    """Versions and machine: the content of env.json and of `zotune env`."""
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
        "device": str(loading.pick_device("auto")),
        "versions": versions,
    }


def sources_of_users(session: Session) -> set[str]:
    """The keys of source hashes in a header that a resumed run must have again: those of code that is not zotune's."""
    plan = session.plan
    keys = set() if all(declarations.is_shipped(o.function) for o in plan.objective.each) else {"objective_source"}
    return keys if declarations.is_shipped(type(plan.optimizer)) else keys | {"optimizer_source"}


__all__ = ["environment", "header_of", "source_hash", "sources_of_users"]
