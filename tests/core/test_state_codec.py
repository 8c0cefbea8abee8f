"""Optimizer state survives JSON, and a state file cannot name other code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from zotune.core import state_codec
from zotune.core.recipe import Field, Noise, PerTensor
from zotune.errors import RunFolderError, ZotuneError


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclass(frozen=True)
class Record:
    x: float
    z: Any


def test_round_trip() -> None:
    made = {
        "n": 3,
        "x": 0.1,
        "t": (1, [2, None]),
        "p": Pair(Field("p.a"), PerTensor({"w": 1.5})),
        "r": Record(1e-300, Noise("normal", -1, 2)),
    }
    back = state_codec.decode(json.loads(json.dumps(state_codec.encode(made))), __name__)
    assert back["t"] == (1, [2, None])
    assert back["p"].a.path == "p.a"
    assert back["p"].b.values == {"w": 1.5}
    assert (back["r"].x, back["r"].z.step) == (1e-300, -1)


def test_only_the_optimizers_own_types_are_rebuilt() -> None:
    for name in ("json.loads", "subprocess.Popen", "pytest", "__builtins__", "test_round_trip"):
        with pytest.raises(RunFolderError, match="not defined in"):
            state_codec.decode({"$type": name, "of": {}}, __name__)


@pytest.mark.parametrize("bad", [object(), {1: 2}, {"$x": 1}, {1, 2}])
def test_a_state_that_cannot_be_saved_is_reported(bad: Any) -> None:
    with pytest.raises(ZotuneError, match="optimizer state"):
        state_codec.encode(bad)
