"""The model of a recorded run: loaded as the header of its journal describes it.

Knows headers and models; runs no code that a run directory names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from zotune.config import RunConfig
from zotune.data.classes import is_numeric
from zotune.data.model_classes import FixedClasses
from zotune.errors import RunFolderError
from zotune.runs.run_directory import CONFIG, JOURNAL
from zotune.search.journal import Journal
from zotune.search.optimizer_spec import NAMES
from zotune.yaml_file import read_yaml

FLAGS: Final = {"learning_rate": NAMES["lr"], "eps": NAMES["eps"]}
"""Options of a run that set an option of its optimizer."""
REQUIRED: Final = frozenset(
    [
        *("model", "revision", "head", "dtype", "quantize", "versions", "task", "base_weights", "frozen_weights"),
        *("tensors", "seed", "noise", "rule", "optimizer", "optimizer_options"),
        *("rows", "batch_size", "budget", "eval_steps", "direction", "drift"),
    ]
)
"""Keys of the header that a replay reads."""


def complete_header(journal: Journal) -> dict[str, Any]:
    """A journal's header. Raises RunFolderError where it lacks keys that a replay reads."""
    if missing := sorted(REQUIRED - journal.header.keys()):
        raise RunFolderError(f"{journal.path}, line 1: the header lacks {', '.join(missing)}: not the journal of a run")
    return journal.header


def config_of(header: Mapping[str, Any], model: str | None) -> RunConfig:
    """The configuration that loads the run's model from another place; it allows no code and no pickle."""
    return RunConfig(
        model=model,
        model_revision=header["revision"],
        head=header["head"],
        dtype=recorded_dtype(header),
        seed=header["seed"],
        peft=header["task"]["adapter"]["method"],
        quantize=header["quantize"],
    )


def recorded_dtype(header: Mapping[str, Any]) -> str:
    """The type of the run's model: that of its first weight, which may be another one than the adapter's."""
    return str(header.get("base_dtype", header["dtype"])).removeprefix("torch.")


def with_recorded_quantization(config: RunConfig, header: Mapping[str, Any]) -> RunConfig:
    """The configuration with the run's quantisation and type of its base weights, where the user names none."""
    quantize = header.get("quantize")
    if config.quantize or not quantize:
        return config
    dtype = recorded_dtype(header) if config.dtype == "auto" and "base_dtype" in header else config.dtype
    return replace(config, quantize=quantize, dtype=dtype)


def class_names(header: Mapping[str, Any]) -> list[str]:
    """The words of the classes, in order; empty for other tasks."""
    return list(header["task"]["labels"][1]) if "labels" in header["task"] else []


def fixed_classes(header: Mapping[str, Any]) -> FixedClasses | None:
    """The classes of the run, which no data file changes; None where its task has none."""
    labels = header["task"].get("labels")
    if not labels:
        return None
    numbered = not any(is_numeric([value]) for value in labels[0])
    return FixedClasses(tuple(labels[0]), tuple(labels[1]), "the run", numbered)


def recorded_rounding(header: Mapping[str, Any]) -> int:
    """The version of the run's stochastic rounding: 1 where a header does not name it."""
    return int(header.get("rounding", 1))


def recorded_kl_estimate(header: Mapping[str, Any]) -> str:
    """How the run estimates the KL divergence: by sampled tokens where a header does not tell."""
    return str(header.get("kl_estimate", "sampled"))


def recorded_init(header: Mapping[str, Any], wanted: str) -> str:
    """The run's initial head for `--init auto`; else the one that is wanted."""
    recorded = header["task"].get("init")
    return recorded if wanted == "auto" and recorded in ("none", "linear-probe") else wanted


def read_header(run: str | Path) -> dict[str, Any] | None:
    """The header of a run directory's journal, or None where the folder holds none that can be read."""
    path = Path(run) / JOURNAL
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            header = json.loads(file.readline())["body"]
        return header if header["kind"] == "header" and isinstance(header["task"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # zotune verify says what is wrong with it
        return None


def recorded_defaults(folder: Path, header: Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
    """The values of the optimizer's options that a run took by default, so that a resumed run has them again where a
    newer version has other defaults; empty for another optimizer or an instance."""
    if not isinstance(optimizer, str) or optimizer != header.get("rule") or not (folder / CONFIG).is_file():
        return {}
    saved, options = read_yaml(folder / CONFIG), header.get("optimizer_options")
    given = set(saved.get("optimizer_args") or ())
    given |= {name for key, names in FLAGS.items() if saved.get(key) is not None for name in names}
    return {name: value for name, value in options.items() if name not in given} if isinstance(options, dict) else {}


__all__ = [
    "REQUIRED",
    "class_names",
    "complete_header",
    "config_of",
    "fixed_classes",
    "read_header",
    "recorded_defaults",
    "recorded_dtype",
    "recorded_init",
    "recorded_kl_estimate",
    "recorded_rounding",
    "with_recorded_quantization",
]
