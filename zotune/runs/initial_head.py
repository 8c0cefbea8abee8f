"""The file of a run that holds the head which tuning started from, where that is a linear probe.

Numbers are exact: a resumed run, a replay and an export read them again and fit nothing. Knows tensors and the file.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zotune import files
from zotune.errors import RunFolderError
from zotune.runs.run_directory import INITIAL_HEAD


def write(folder: Path, head: Mapping[str, Tensor]) -> None:
    """Write the tensors of a linear layer, in float64. Raises ZotuneError."""
    tensors = {}
    for name, x in head.items():
        values = base64.b64encode(x.double().numpy().astype("<f8").tobytes()).decode()
        tensors[name] = {"shape": list(x.shape), "float64": values}
    files.write(folder / INITIAL_HEAD, json.dumps(tensors))


def read(folder: Path) -> dict[str, Tensor] | None:
    """The tensors of the layer, in float64; None where the directory has no such file. Raises RunFolderError."""
    path = folder / INITIAL_HEAD
    if not path.is_file():
        return None
    try:
        head = {}
        for name, x in json.loads(path.read_text(encoding="utf-8")).items():
            values = np.frombuffer(base64.b64decode(x["float64"], validate=True), "<f8")
            if math.prod(x["shape"]) != len(values):
                raise ValueError(name)
            head[name] = torch.tensor(values).view(x["shape"])
        if head["weight"].dim() != 2 or not head.keys() <= {"weight", "bias"}:
            raise ValueError("no linear layer")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise RunFolderError(f"{path} cannot be read: {type(error).__name__}") from None
    return head


__all__ = ["read", "write"]
