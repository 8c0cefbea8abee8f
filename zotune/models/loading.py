"""Loads models: from files to a model in eval mode on its device, with its tokenizer.

Weights are read from safetensors; pickle files, and code from the hub, only where the caller allows them. Knows
transformers; knows no task and no run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zotune.distributed import launched
from zotune.errors import ModelError, nearest
from zotune.models.configuration import config_value
from zotune.models.cpu_dtype import FASTER, bfloat16_gain, quantized_in_file, saved_as_bfloat16
from zotune.models.cpu_dtype import note as dtype_note
from zotune.models.gguf_files import forget_quantization, gguf_options, gguf_path, parsed_once, size_note
from zotune.models.heads import AUTO_CLASSES, Head
from zotune.models.library_calls import first_line, quiet, silent_stderr
from zotune.models.loaded_model import LoadedModel, load_linear_head
from zotune.models.memory_model import LentModel, lent_model
from zotune.models.quantization import BITSANDBYTES, GROUP, quantization_config, require
from zotune.models.sentence_encoder import SentenceEncoder, read_sentence_encoder
from zotune.models.small_files import check_small_files
from zotune.models.weight_check import check_weights, head_tensors, pooler_tensors, wrapper_mapping

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def pick_device(name: str) -> torch.device:
    """The device of this name; "auto" is the first available of cuda, mps and cpu. A process that has other processes
    of its run beside it gets the GPU that is set for it, with its number. Raises ModelError for a device that is not
    available."""
    if launched() > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(f"--device {name!r} is not available: {first_line(error)}") from None
    return device


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
    allow_pickle: bool = False,
    quantize: str | None = None,
    quantized: str = "",
    new_head: bool = False,
) -> LoadedModel:
    """The model in eval mode on its device, and its tokenizer. Global random generators are left as they were.

    source, folder: of ModelFiles. dtype: "auto" is the saved dtype, and on the CPU float32, except for a large model
    that generates text and whose files hold no more than bfloat16, where the processor is faster in it. device_map:
    spreads the model over several devices by accelerate. quantize: base weights of one of `quantization.KINDS`, for an
    adapter. quantized: the method by which the files are quantised already, "" where they are not. classes: size of the
    classification head that is wanted; one of another size is refused. new_head: draw the head from `seed`: the tensors
    that the files lack, and those whose sizes depend on the number of classes.
    Raises ModelError, also where the files lack weights that the class uses, or hold weights that it has no place for
    (`weight_check`).
    """
    import transformers

    if lent := lent_model(source):
        return _load_lent(lent, source, head, device, dtype, classes, bool(new_head or device_map or quantize))
    target = pick_device(device)
    common = {"trust_remote_code": trust_remote_code, "revision": revision or "main"}
    place, gguf = gguf_options(source)
    common |= gguf
    options: dict[str, Any] = {"use_safetensors": None if allow_pickle or gguf else True, **common}
    if quantize and quantized:
        raise ModelError(f"--quantize {quantize}: {source} is quantised already, by {quantized}", hint="leave it out")
    plain = dtype == "auto" and target.type == "cpu" and not (quantize in BITSANDBYTES or quantized or device_map)
    halved = plain and not gguf and saved_as_bfloat16(folder, head) and bfloat16_gain() >= FASTER
    widened = target.type == "cpu" and not halved and not quantized
    options["dtype"] = _parse_dtype(dtype, torch.float32 if widened else "auto")
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    if device_map:
        require("accelerate", "--device-map", "gpu")
        options["device_map"] = device_map
    if quantize and gguf:
        raise ModelError(f"--quantize {quantize}: the weights of a GGUF file are de-quantised", hint="a model folder")
    if (
        gguf and (gguf_config := config_value(transformers, "GgufConfig")) is not None
    ):  # older versions de-quantise always
        options["quantization_config"] = gguf_config(dequantize=True)
    if quantize:
        options["quantization_config"] = quantization_config(quantize, target)
    if quantize or quantized:
        options.setdefault("device_map", {"": target})
    if not gguf:
        check_small_files(source, folder, revision)
    encoder = read_sentence_encoder(source, folder, revision or "main") if head == "embedding" else SentenceEncoder()
    try:
        once = parsed_once() if gguf else contextlib.nullcontext()
        with once, quiet(), silent_stderr(bool(gguf)), torch.random.fork_rng(devices=[]):
            auto: Any = getattr(transformers, AUTO_CLASSES[head])
            if head == "classification" and classes is not None:
                model, notes, drawn = _load_classifier(auto, source, options, seed, classes, new_head)
            else:
                model, info = _from_pretrained(auto, place, options, seed)
                notes, drawn = check_weights(source, model, head, info), frozenset()
            tokenizer = load_tokenizer(source, place, common)
    except ModelError:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, ImportError, SafetensorError and more
        hint = f"int4 needs layers whose inputs are multiples of {GROUP}: --quantize int8" if quantize == "int4" else ""
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"--model {source!r} cannot be loaded: {reason}", hint=hint) from error
    if gguf:
        forget_quantization(model)
        if plain and quantized_in_file(gguf_path(source, revision), model, head) and bfloat16_gain() >= FASTER:
            model, halved = model.to(torch.bfloat16), True
    _set_padding(model, tokenizer)
    if device_map or quantize or quantized:
        target = _input_device(model, source)
    else:
        model.to(target)
    loaded = LoadedModel(model.eval(), tokenizer, head, source, folder, target)
    loaded.notes, loaded.drawn = (*notes, *encoder.notes, *([dtype_note(bfloat16_gain())] if halved else [])), drawn
    if gguf and (path := gguf_path(source, revision)):
        loaded.notes = (*loaded.notes, size_note(path, model))
    loaded.encoder = encoder
    if encoder.lowercase and tokenizer.tokenize("Aa") != tokenizer.tokenize("aa"):
        raise ModelError(f"--model {source!r} lowers texts (do_lower_case), and its tokenizer does not")
    if head == "embedding" and folder is not None:
        load_linear_head(loaded, folder)
    return loaded


def _load_lent(
    lent: LentModel, source: str, head: Head, device: str, dtype: str, classes: int | None, changes: bool
) -> LoadedModel:
    """A model that the user has loaded, on its device and in its type. changes: whether options would make another
    model of it. Raises ModelError."""
    model = lent.take()
    first = next(model.parameters())
    own = {"--dtype": (dtype, str(first.dtype).removeprefix("torch.")), "--device": (device, first.device.type)}
    for flag, (wanted, value) in own.items():
        if wanted not in ("auto", value) and not (flag == "--device" and torch.device(wanted) == first.device):
            raise ModelError(f"{flag} {wanted}: the loaded model has {value} and is tuned as it is")
    if changes:
        raise ModelError("a new head, a device map and quantized weights need the model's files", hint="model=FOLDER")
    if head == "classification" and classes is not None and model.config.num_labels != classes:
        raise ModelError(f"the loaded model has a head of {model.config.num_labels} classes, not {classes}")
    _set_padding(model, lent.tokenizer)
    return LoadedModel(model.eval(), lent.tokenizer, head, source, lent.folder, first.device)


def load_tokenizer(source: str, place: str, options: Mapping[str, Any]) -> Any:
    """Raises ModelError for a tokenizer that cannot be loaded, and for one without a vocabulary."""
    import transformers

    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(place, **options)
        words = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    except Exception as error:  # tokenizers raises a bare Exception
        raise ModelError(
            f"--model {source!r}: its tokenizer cannot be loaded: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not words:
        raise ModelError(
            f"--model {source!r} has no tokenizer: its vocabulary holds special tokens alone",
            hint="copy the tokenizer's files (tokenizer.json, vocab.txt, tokenizer.model …) into the folder",
        )
    return tokenizer


def _from_pretrained(auto: Any, source: str, options: Mapping[str, Any], seed: int) -> tuple[Any, dict[str, Any]]:
    """The model and what transformers reports about loading it; a second try strips the prefixes of wrappers such as
    torch.compile and DDP. What is missing, or has another shape, is drawn from the seed alone."""
    options = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
    torch.manual_seed(seed)
    model, info = auto.from_pretrained(source, **options)
    if mapping := wrapper_mapping(info):
        torch.manual_seed(seed)
        model, info = auto.from_pretrained(source, key_mapping=mapping, **options)
    return model, info


def _load_classifier(
    auto: Any, source: str, options: Mapping[str, Any], seed: int, classes: int, new_head: bool
) -> tuple[Any, list[str], frozenset[str]]:
    """A model with a head of `classes` classes, notes, and the names of the tensors that were drawn."""
    if not new_head:
        model, info = _from_pretrained(auto, gguf_options(source)[0], options, seed)
        notes = check_weights(source, model, "classification", info)
        if model.config.num_labels != classes:
            raise ModelError(
                f"--model {source!r} has a classification head of {model.config.num_labels} classes, not {classes}",
                hint="--new-head draws a new one",
            )
        return model, notes, frozenset()
    model, info = _from_pretrained(auto, gguf_options(source)[0], {**options, "num_labels": classes}, seed)
    new = head_tensors(model) | pooler_tensors(model)
    notes = check_weights(source, model, "classification", info, new)
    missing, names = set(info["missing_keys"]) & new, _sized_by_classes(auto, source, options, classes)
    mismatched = {name for name, *_ in info["mismatched_keys"]}
    _draw({name: model.get_parameter(name) for name in sorted(names - missing - mismatched)}, model.config, seed)
    return model, notes, frozenset(names | missing)


def _draw(tensors: Mapping[str, Any], config: Any, seed: int) -> None:
    """Draw the last layer of a head of the wanted size, as transformers draws one of another size: normal weights, zero
    biases."""
    torch.manual_seed(seed)
    deviation = config_value(config, "initializer_range", 0.02)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.normal_(0.0, deviation) if tensor.dim() > 1 else tensor.zero_()


def _sized_by_classes(auto: Any, source: str, options: Mapping[str, Any], classes: int) -> set[str]:
    """The names of the tensors of a head whose shapes depend on the number of classes."""
    import transformers

    shapes = []
    for count in (classes, classes + 1):
        own = {key: options[key] for key in ("trust_remote_code", "revision", "gguf_file") if key in options}
        config: Any = transformers.AutoConfig.from_pretrained(gguf_options(source)[0], num_labels=count, **own)
        with torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=options["trust_remote_code"])
        shapes.append({name: tensor.shape for name, tensor in model.state_dict().items()})
    return {name for name, shape in shapes[0].items() if shapes[1][name] != shape}


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
    """A model with random weights and no tokenizer, to measure costs that depend on the model's shape alone.

    family: a model type of transformers; options: fields of its configuration. dtype: "auto" is float32 on the CPU and
    bfloat16 elsewhere. Weights are drawn on the device; global random generators are left as they were. Raises
    ModelError.
    """
    import transformers

    target = pick_device(device)
    parsed = _parse_dtype(dtype, torch.float32 if target.type == "cpu" else torch.bfloat16)
    devices = [target] if target.type == "cuda" else []
    try:
        config: Any = transformers.AutoConfig.for_model(family, **options)
        with quiet(), torch.random.fork_rng(devices=devices), target:
            torch.manual_seed(seed)
            model: Any = getattr(transformers, AUTO_CLASSES[head]).from_config(config, dtype=parsed)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"a {family} model of this shape cannot be created: {type(error).__name__}: {first_line(error)}"
        ) from error
    return LoadedModel(model.to(target).eval(), None, head, name or family, None, target)


def _parse_dtype(name: str, auto: torch.dtype | str) -> torch.dtype | str:
    """Raises ModelError for an unknown name."""
    if name != "auto" and name not in DTYPES:
        choices = ("auto", *DTYPES)
        raise ModelError(f"--dtype must be one of {', '.join(choices)}, got {name!r}", hint=nearest(name, choices))
    return DTYPES.get(name, auto)


def _set_padding(model: Any, tokenizer: Any) -> None:
    """Give a tokenizer without a padding token another token for it, and the model's configuration a valid padding
    id."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    config = model.config.get_text_config()
    pad = config_value(config, "pad_token_id")
    if pad is None or not 0 <= pad < config_value(config, "vocab_size", pad + 1):
        config.pad_token_id = tokenizer.pad_token_id or 0


def _input_device(model: Any, source: str) -> torch.device:
    """The device that takes the inputs of a model spread by accelerate. Raises ModelError where parts of the model are
    offloaded to disk or main memory: offloaded weights cannot be tuned."""
    places = set((config_value(model, "hf_device_map") or {}).values())
    if offloaded := places & {"disk", "meta"} or any(p.is_meta for p in model.parameters()):
        raise ModelError(
            f"--model {source!r} does not fit: parts of it are offloaded ({offloaded})", hint="--dtype bfloat16"
        )
    device: torch.device = next(model.parameters()).device
    return device


__all__ = ["DTYPES", "load", "pick_device", "random_model"]
