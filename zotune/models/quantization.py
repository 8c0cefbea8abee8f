"""Quantised base weights: which kinds there are, how they are asked for, and what a layer's weights are in numbers.

bitsandbytes: 4bit (nf4) and 8bit. torchao, also on a CPU: int8 (a scale a row), int4 (a scale for 32 weights, stored in
bytes) and fp8. A checkpoint that is quantised already is loaded as its configuration says. In all of them the layer
keeps its low-bit weights and multiplies with them; nothing here changes a weight.

Knows transformers' configurations, tensor subclasses and modules; knows no adapter and no run.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from zotune.errors import ModelError, nearest
from zotune.models.configuration import config_value

BITSANDBYTES: Final = ("4bit", "8bit")
TORCHAO: Final = ("int8", "int4", "fp8")
KINDS: Final = (*BITSANDBYTES, *TORCHAO)
GROUP: Final = 32
"""Weights that share a scale in int4."""
DIGITS: Final = 5
"""Bits of a layer's size: its last bits depend on the order of a sum."""


def require(package: str, flag: str, extra: str) -> None:
    """Raises ModelError with the install command where the package is missing."""
    if importlib.util.find_spec(package) is None:
        raise ModelError(f"{flag} needs the {package} package", hint=f"pip install 'zotune[{extra}]'")


def quantization_config(kind: str, device: torch.device) -> Any:
    """transformers' options for a kind of `KINDS`. Raises ModelError for an unknown kind, a missing package, and a
    device that the kind does not run on."""
    if kind not in KINDS:
        raise ModelError(f"--quantize must be one of {', '.join(KINDS)}, got {kind!r}", hint=nearest(kind, KINDS))
    if kind in BITSANDBYTES and device.type != "cuda":
        hint = "--quantize int8 runs on a CPU"
        raise ModelError(f"--quantize {kind} needs a CUDA device, got {device}", hint=hint)
    if device.type not in ("cuda", "cpu"):
        raise ModelError(f"--quantize {kind} needs a CUDA device or a CPU, got {device}", hint="--device cpu")
    import transformers

    if kind in BITSANDBYTES:
        require("bitsandbytes", f"--quantize {kind}", "gpu")
        require("accelerate", f"--quantize {kind}", "gpu")
        if kind == "8bit":
            return transformers.BitsAndBytesConfig(load_in_8bit=True)
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    require("torchao", f"--quantize {kind}", "torchao")
    require("accelerate", f"--quantize {kind}", "torchao")
    quantization = importlib.import_module("torchao.quantization")
    granularity = importlib.import_module("torchao.quantization.granularity")
    if kind == "int8":
        weights = quantization.Int8WeightOnlyConfig(version=2)
    elif kind == "int4":
        weights = quantization.IntxWeightOnlyConfig(
            weight_dtype=config_value(torch, "int4"), granularity=granularity.PerGroup(GROUP)
        )
    else:
        weights = quantization.Float8WeightOnlyConfig()
    return transformers.TorchAoConfig(weights)


def saved_kind(config: Mapping[str, Any]) -> str:
    """The method by which a model's files are quantised, such as torchao; "" where they are not. config: its
    config.json."""
    saved = config.get("quantization_config")
    return str(saved.get("quant_method", "quantised")) if isinstance(saved, Mapping) else ""


def is_quantized(model: Any) -> bool:
    """Whether transformers has loaded a model with quantised layers."""
    return bool(config_value(model, "is_quantized", False))


def layer_size(module: nn.Module) -> float:
    """The root mean square of a linear layer's weights, quantised or not, to DIGITS bits, so that it does not depend on
    threads and devices. Raises ModelError for a kind of layer whose weights cannot be read."""
    from peft.utils.integrations import dequantize_module_weight

    try:
        with torch.no_grad():
            weight = dequantize_module_weight(module).detach()
        if not weight.is_floating_point():
            raise TypeError(str(weight.dtype))
        mean = float(weight.double().square().mean())
    except Exception as error:  # each library of quantisation raises its own types
        raise ModelError(
            f"weights of a layer of type {type(module).__name__} cannot be read: {type(error).__name__}",
            hint="--peft lora, or a model that is not quantised",
        ) from None
    root = math.sqrt(mean)
    if not root or not math.isfinite(root):
        return 1.0
    fraction, exponent = math.frexp(root)
    return math.ldexp(round(fraction * (1 << DIGITS)), exponent - DIGITS)


__all__ = ["BITSANDBYTES", "GROUP", "KINDS", "TORCHAO", "is_quantized", "layer_size", "quantization_config", "require"]
__all__ += ["saved_kind"]
