"""The context of a step: reductions through the tape, schedules, and numbers on the host."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from zotune.core.space import Space
from zotune.errors import OptionError, RunFolderError, UsageError
from zotune.search.batches import Batches
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.testing import TinyNet


def at(space: Space, tape: Tape, t: int = 3) -> At:
    return At(space, Batches(24, 6, 0), tape, t, 10, 0.3)


def test_reductions_equal_numpy_and_are_read_back() -> None:
    space = Space(TinyNet(), 0, chunk=32)
    tape = Tape()
    made = at(space, tape)
    norm, rms, q = made.norm(space.theta), made.rms(space.theta), made.quantile(abs(space.theta), 0.75)
    for name, p in space.params.items():
        x = p.detach().double().numpy().ravel()
        assert norm.values[name] == pytest.approx(np.linalg.norm(x), rel=1e-12)
        assert rms.values[name] == pytest.approx(np.sqrt((x**2).mean()), rel=1e-12)
        assert q.values[name] == pytest.approx(np.quantile(np.abs(x), 0.75), rel=1e-12)
    again = Tape(json.loads(json.dumps(tape.entries)))
    with torch.no_grad():
        next(iter(space.params.values())).zero_()
    assert at(space, again).norm(space.theta).values == norm.values
    with pytest.raises(RunFolderError, match="does not hold what this optimizer asks for"):
        at(space, again).norm(space.theta)
    with pytest.raises(UsageError, match="q in"):
        made.quantile(space.theta, 1.5)


def test_vectors_are_repeatable_and_differ_between_draws() -> None:
    made = at(Space(TinyNet(), 0), Tape())
    assert made.epoch == 0
    assert len(made.vector(5)) == 5
    assert made.vector(5) == made.vector(5)
    assert made.vector(5, draw=1) != made.vector(5)


def test_schedules_go_from_1_to_0() -> None:
    made = at(Space(TinyNet(), 0), Tape())  # at a progress of 0.3
    assert made.schedule("constant") == 1.0
    assert made.schedule("linear") == 1.0 - 0.3
    assert made.schedule("cosine") == 0.5 * (1.0 + math.cos(math.pi * 0.3))
    unknown: Any = "linaer"
    with pytest.raises(OptionError, match="unknown schedule 'linaer'"):
        made.schedule(unknown)
