"""Optimizer state as plain data: numbers, strings, recipes and noise handles in dicts, lists, tuples and dataclasses.

A recipe in a state becomes a field, a stored tensor, under its path, such as "m" or "moments.0"; a noise handle stays a
handle. A state is converted to JSON and back. Only container types that the optimizer's own module defines are rebuilt,
so a state file cannot name other code.

Knows recipes; knows no models and no files.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch

from zotune.core.recipe import Field, Noise, PerTensor, Recipe
from zotune.errors import RunFolderError, ZotuneError


def map_recipes(state: Any, fn: Callable[[str, Recipe], Any], path: str = "") -> Any:
    """The state with every recipe replaced by fn(path, recipe), except noise handles and per-tensor numbers."""
    if isinstance(state, Noise | PerTensor):
        return state
    if isinstance(state, Recipe):
        return fn(path, state)

    def at(key: object) -> str:
        return f"{path}.{key}" if path else str(key)

    if isinstance(state, dict):
        return {k: map_recipes(v, fn, at(k)) for k, v in state.items()}
    if _is_namedtuple(state):
        return type(state)(*(map_recipes(v, fn, at(k)) for k, v in zip(state._fields, state, strict=True)))
    if isinstance(state, list | tuple):
        return type(state)(map_recipes(v, fn, at(i)) for i, v in enumerate(state))
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return dataclasses.replace(
            state, **{f.name: map_recipes(getattr(state, f.name), fn, at(f.name)) for f in dataclasses.fields(state)}
        )
    return state


def encode(state: Any) -> Any:
    """The state as a JSON value. Raises ZotuneError for an object that has no exact JSON form."""
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, Field):
        return {"$field": state.path}
    if isinstance(state, Noise):
        return {"$noise": [state.kind, state.step, state.draw]}
    if isinstance(state, PerTensor):
        return {"$per": dict(state.values)}
    if isinstance(state, dict):
        if any(not isinstance(k, str) or k.startswith("$") for k in state):
            raise ZotuneError(f"optimizer state: dict keys must be strings without a leading $, got {list(state)}")
        return {k: encode(v) for k, v in state.items()}
    if isinstance(state, list):
        return [encode(v) for v in state]
    if _is_namedtuple(state):
        return {
            "$type": type(state).__qualname__,
            "of": {k: encode(v) for k, v in zip(state._fields, state, strict=True)},
        }
    if isinstance(state, tuple):
        return {"$tuple": [encode(v) for v in state]}
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        values = {f.name: encode(getattr(state, f.name)) for f in dataclasses.fields(state)}
        return {"$type": type(state).__qualname__, "of": values}
    if isinstance(state, np.generic | np.ndarray | torch.Tensor) and state.ndim == 0:
        return encode(state.item())
    raise ZotuneError(
        f"the optimizer state holds a value of type {type(state).__name__}, which cannot be saved",
        hint="keep numbers, strings, lists, dictionaries and dataclasses of these in it, and recipes for tensors",
    )


def decode(value: Any, module: str) -> Any:
    """The state that a JSON value describes. `$type` names are looked up in `module`, the optimizer's own, alone.

    Raises RunFolderError where the module defines no such container type.
    """
    if isinstance(value, list):
        return [decode(v, module) for v in value]
    if not isinstance(value, dict):
        return value
    if "$field" in value:
        return Field(str(value["$field"]))
    if "$noise" in value:
        kind, step, draw = value["$noise"]
        return Noise(str(kind), int(step), int(draw))
    if "$per" in value:
        return PerTensor({str(k): float(v) for k, v in value["$per"].items()})
    if "$tuple" in value:
        return tuple(decode(v, module) for v in value["$tuple"])
    if "$type" in value:
        cls: Any = sys.modules[module]
        for part in str(value["$type"]).split("."):
            cls = vars(cls).get(part) if isinstance(cls, ModuleType | type) else None
        if not (isinstance(cls, type) and (dataclasses.is_dataclass(cls) or issubclass(cls, tuple))):
            raise RunFolderError(f"optimizer state of type {value['$type']!r} is not defined in {module}")
        return cls(**{k: decode(v, module) for k, v in value["of"].items()})
    return {k: decode(v, module) for k, v in value.items()}


def _is_namedtuple(state: Any) -> bool:
    return isinstance(state, tuple) and any("_fields" in vars(cls) for cls in type(state).__mro__)
