"""Models that the user has loaded: tuned where they are, known by a name instead of a folder.

A name is valid inside `lent`. Its folder holds configuration and tokenizer, so that whatever reads a model's small
files reads them as of any other model. Knows transformers' models; knows no task and no run.
"""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from zotune.core.space import named_tensors
from zotune.errors import ModelError
from zotune.models.configuration import config_value
from zotune.models.library_calls import quiet

PREFIX: Final = "loaded:"
"""How names of loaded models begin; the class of the model follows."""
_LENT: dict[str, LentModel] = {}


@dataclass
class LentModel:
    """A loaded model with its tokenizer. folder: its small files. config: a copy of its configuration. initial: the
    tuned weights as they came, by name, once they are known. used: whether a run has the model; a second one gets a
    copy."""

    model: Any
    tokenizer: Any
    folder: Path
    config: Any
    initial: Mapping[str, torch.Tensor] = field(default_factory=dict)
    used: bool = False

    def take(self) -> Any:
        """The model itself, the first time; then a copy of it with its initial weights. Raises ModelError."""
        if not self.used:
            self.used = True
            return self.model
        if config_value(self.model, "peft_config") is not None:
            raise ModelError("an adapter on a loaded model cannot be built twice", hint="name the model's folder")
        model = copy.deepcopy(self.model)
        _write(model, self.initial)
        return model

    def put_back(self) -> None:
        """Give the model its initial weights and configuration again."""
        _write(self.model, self.initial)
        values = vars(_unwrapped(self.model).config)
        values.clear()
        values.update(vars(self.config))


@contextlib.contextmanager
def lent(model: Any, tokenizer: Any) -> Iterator[tuple[str, LentModel]]:
    """Inside the block, the name of a loaded model and its record. Mode flags, `requires_grad` and the tokenizer's
    padding are restored at its end. Raises ModelError for what is no model of transformers."""
    unwrapped = _unwrapped(model)
    if config_value(unwrapped, "config") is None or not callable(config_value(model, "save_pretrained")):
        raise ModelError(
            f"model is a {type(model).__name__}, not a model of transformers",
            hint="zotune.Tuner tunes any torch module",
        )
    if tokenizer is None:
        raise ModelError("a loaded model needs its tokenizer", hint="zotune.fit(model=model, tokenizer=tokenizer)")
    name = PREFIX + type(unwrapped).__name__
    modes = {module: module.training for module in model.modules()}
    padding = tokenizer.pad_token
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with tempfile.TemporaryDirectory(prefix="zotune-") as path:
        with quiet():
            unwrapped.config.save_pretrained(path)
            tokenizer.save_pretrained(path)
        saved = json.loads(Path(path, "config.json").read_text(encoding="utf-8"))
        Path(path, "config.json").write_text(json.dumps({**saved, "architectures": [type(unwrapped).__name__]}))
        _LENT[name] = LentModel(model, tokenizer, Path(path), copy.deepcopy(unwrapped.config))
        try:
            yield name, _LENT[name]
        finally:
            del _LENT[name]
            if padding is None:
                tokenizer.pad_token = None
            for module, training in modes.items():
                module.training = training
            for parameter, wanted in flags.items():
                parameter.requires_grad_(wanted)


def lent_model(name: str | None) -> LentModel | None:
    """The loaded model of this name, None for any other model. Raises ModelError where it is not there any more."""
    if name is None or not name.startswith(PREFIX):
        return None
    if name not in _LENT:
        raise ModelError(
            f"this run tunes a {name.removeprefix(PREFIX)} that was handed over as an object",
            hint="zotune.resume(run, model=…, tokenizer=…) with the model as it was before the run",
        )
    return _LENT[name]


def _unwrapped(model: Any) -> Any:
    """The transformers model, without peft's wrapper."""
    get_base_model = config_value(model, "get_base_model")
    return model if get_base_model is None else get_base_model()


def _write(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    tensors = named_tensors(model)
    with torch.no_grad():
        for name, value in weights.items():
            tensors[name].copy_(value)


__all__ = ["PREFIX", "LentModel", "lent", "lent_model"]
