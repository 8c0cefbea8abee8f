"""A broken optimizer ends a run with one line that names it, and leaves the weights as they were."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from references import load
from torch import nn

import zotune
from zotune import plugins
from zotune.errors import ObjectiveFailures, OptimizerError
from zotune.testing import Bench, TinyNet, data
from zotune.types import Score

Step = Callable[[Any, Any, Any, Any], Any]


class Broken:
    """An optimizer whose step is a function of the test."""

    forwards = 2

    def __init__(self, step: Step) -> None:
        self._step = step

    def init(self, theta: Any) -> Any:
        return None

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> Any:
        return self._step(theta, oracle, state, at)


def raises(theta: Any, oracle: Any, state: Any, at: Any) -> Any:
    raise ValueError("bad\nnews")


STEPS: dict[str, tuple[Step, str]] = {
    "returns None": (lambda theta, oracle, state, at: None, "step returned None instead of a pair"),
    "returns theta alone": (lambda theta, oracle, state, at: theta, "step returned one recipe instead of a pair"),
    "returns three": (lambda theta, oracle, state, at: (theta, state, 1), "step returned a tuple of 3 items instead"),
    "returns no recipe": (
        lambda theta, oracle, state, at: (torch.zeros(3), state),
        "step returned a Tensor as the next",
    ),
    "raises": (raises, r"step raised ValueError: bad \(test_optimizer_call.py:\d+\)"),
    "divides by zero": (lambda theta, oracle, state, at: (theta / (1 / 0), state), "step raised ZeroDivisionError"),
    "misuses the oracle": (lambda theta, oracle, state, at: oracle(theta, size=3), "step raised TypeError"),
    "evaluates no recipe": (
        lambda theta, oracle, state, at: oracle(1.0),
        "step built no recipe: a point is a recipe such as",
    ),
    "cubes a recipe": (
        lambda theta, oracle, state, at: (theta**3, state),
        "step built no recipe: a recipe can only be",
    ),
    "NaN learning rate": (lambda theta, oracle, state, at: (theta - math.nan * at.normal(), state), "the scalar nan"),
    "infinite step": (lambda theta, oracle, state, at: (theta + math.inf * at.normal(), state), "the scalar inf"),
    "NaN on a tensor": (lambda theta, oracle, state, at: (theta * theta.per(lambda t: math.nan), state), "scalar nan"),
    "NaN in a sum": (
        lambda theta, oracle, state, at: (theta + zotune.weighted_sum([(math.nan, at.normal())]), state),
        "the scalar nan",
    ),
    "NaN in the state": (lambda theta, oracle, state, at: (theta, {"m": math.nan * theta}), "the scalar nan"),
    "NaN in a comparison": (
        lambda theta, oracle, state, at: (zotune.where(theta <= math.nan, theta, 0.0), state),
        "the scalar nan",
    ),
}


@pytest.mark.parametrize("case", STEPS)
def test_a_broken_step_is_one_line_with_the_optimizer_s_name(case: str) -> None:
    step, message = STEPS[case]
    bench = Bench(Broken(step))
    before = bench.space.digest()
    with pytest.raises(OptimizerError, match=message) as caught:
        bench.run()
    text = str(caught.value)
    assert text.startswith("optimizer Broken: ")
    assert "\n" not in text
    assert caught.value.exit_code == 1
    assert bench.space.digest() == before


def test_an_init_that_raises_is_one_line_with_the_optimizer_s_name() -> None:
    class NoStart(Broken):
        def init(self, theta: Any) -> Any:
            return [][0]

    with pytest.raises(OptimizerError, match=r"optimizer NoStart: init raised IndexError: .*_call.py:\d+"):
        Bench(NoStart(raises)).run()


def test_thresholds_and_bounds_may_be_infinite() -> None:
    def step(theta: Any, oracle: Any, state: Any, at: Any) -> Any:
        z = zotune.where(abs(theta) <= math.inf, at.normal(), 0.0)
        up, down = oracle(theta + 1e-2 * z, theta - 1e-2 * z)
        return zotune.clip(theta - 1e-2 * (up - down) * z, -math.inf, math.inf), state

    bench = Bench(Broken(step))
    before = bench.space.digest()
    bench.run()
    assert bench.space.digest() != before


def test_an_element_that_becomes_nan_is_found_where_the_objective_fails() -> None:
    def step(theta: Any, oracle: Any, state: Any, at: Any) -> Any:
        oracle(theta + 1e-2 * at.normal(), theta - 1e-2 * at.normal())
        return theta + zotune.sqrt(theta - 1000.0), state

    with pytest.raises(OptimizerError, match=r"optimizer Broken: tensor \S+ is not finite before step 1"):
        Bench(Broken(step)).run()


def test_a_failing_objective_is_not_blamed_on_the_optimizer() -> None:
    mezo = plugins.default().find("optimizer", "mezo").load()(lr=1e-2, eps=1e-2)
    bench = Bench(mezo, fail_at=frozenset(range(3, 99)))
    bench.engine.settings.max_failures = 1
    with pytest.raises(ObjectiveFailures):
        bench.run()


def test_a_failing_model_is_not_blamed_on_the_optimizer() -> None:
    class Fails(TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel image")

    with pytest.raises(RuntimeError, match="no kernel image"):
        Bench(plugins.default().find("optimizer", "mezo").load()(), module=Fails()).run()


def test_the_tuner_gives_the_same_line() -> None:
    x, y = data()

    def loss(model: nn.Module, batch: list[int]) -> float:
        return float(nn.functional.cross_entropy(model(x[batch]), y[batch]))

    tuner = zotune.Tuner(TinyNet(), loss, Broken(raises), data=list(range(24)), batch_size=6)
    with pytest.raises(OptimizerError, match="optimizer Broken: step raised ValueError: bad"):
        tuner.fit(max_steps=2)


@pytest.mark.parametrize("name", plugins.default().names("optimizer"))
def test_no_installed_optimizer_is_taken_for_broken(name: str) -> None:
    """Flat objectives give spreads, slopes and moments of zero, which some optimizer may divide by."""
    options = {"pattern": "layers"} if name == "dizo" else {}
    Bench(load(name, **options), steps=3, evaluate=lambda rows: Score(1.0)).run()
