"""The head that tuning started from, where that is a linear probe, as the journal's header holds it.

Numbers are exact: a resumed run, a replay and an export read them again and fit nothing. Knows tensors and headers.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from zotune.errors import RunFolderError

KEY: Final = "initial_head"
"""The key of the header."""


def encode(head: Mapping[str, Tensor]) -> dict[str, Any]:
    """The tensors of a linear layer as JSON, in float32, or float64 where they are."""
    tensors = {}
    for name, x in head.items():
        kind = "<f8" if x.dtype == torch.float64 else "<f4"
        values = x.double().numpy().astype(kind).tobytes()
        tensors[name] = {"shape": list(x.shape), "dtype": kind, "base64": base64.b64encode(values).decode()}
    return tensors


def decode(header: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of the layer in a run's header; None where the header has none. Raises RunFolderError."""
    if KEY not in header:
        return None
    try:
        head = {}
        for name, x in header[KEY].items():
            if x["dtype"] not in ("<f4", "<f8"):
                raise ValueError(x["dtype"])
            values = np.frombuffer(base64.b64decode(x["base64"], validate=True), x["dtype"])
            if math.prod(x["shape"]) != len(values):
                raise ValueError(name)
            head[name] = torch.tensor(values).view(x["shape"])
        if head["weight"].dim() != 2 or not head.keys() <= {"weight", "bias"}:
            raise ValueError("no linear layer")
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise RunFolderError(f"the header's {KEY} cannot be read: {type(error).__name__}") from None
    return head


__all__ = ["KEY", "decode", "encode"]
