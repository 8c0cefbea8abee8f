"""The shipped contract finds faults: undeclared memory, a step that is not its paper, steps that do not converge."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zotune import plugins
from zotune.testing import PROBLEMS, FirstStep, LiveTensors, OptimizerContract


def test_live_tensors_are_counted_until_they_die() -> None:
    with LiveTensors() as live:
        a = torch.zeros(1000)
        b = a[10:]
        assert live.live == 4000
        c = a + 1
        assert live.live == 8000
        del a, c
        assert live.live == 4000, "a view keeps its storage alive"
        del b
        assert live.live == 0
    assert live.peak == 8000


class Hoarder:
    """Keeps a copy of the weights that it does not declare."""

    def init(self, theta: Any) -> Any:
        return {"copy": theta}

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> Any:
        z = at.normal()
        up, down = oracle(theta + 0.01 * z, theta - 0.01 * z)
        return theta - (up - down) * z, {"copy": theta}


class HoarderContract(OptimizerContract):
    def optimizer(self) -> Any:
        return Hoarder()


@pytest.mark.parametrize(
    "test", ["test_memory_stays_within_what_is_declared", "test_fields_declared_are_fields_stored"]
)
def test_the_contract_finds_undeclared_memory(test: str) -> None:
    with pytest.raises(AssertionError):
        getattr(HoarderContract(), test)()


class RightReference(OptimizerContract):
    """The hook for a reference, on the smallest optimizer there is."""

    def optimizer(self) -> Any:
        return plugins.default().find("optimizer", "mezo").load()(lr=1e-2, eps=1e-2)

    def reference(self, first: FirstStep) -> Any:
        z = first.noise()
        up, down = (first.loss({n: w + s * 1e-2 * z[n] for n, w in first.weights.items()}) for s in (1, -1))
        return {n: w - 1e-2 * (up - down) / 2e-2 * z[n] for n, w in first.weights.items()}


class WrongReference(RightReference):
    def reference(self, first: FirstStep) -> Any:
        return {n: w + 1e-9 for n, w in super().reference(first).items()}


def test_the_contract_finds_a_step_that_is_not_its_paper() -> None:
    RightReference().test_one_step_equals_the_reference()
    with pytest.raises(AssertionError):
        WrongReference().test_one_step_equals_the_reference()


class Wanders:
    """Goes by noise alone, as far a step as the signal could make it."""

    forwards = 2

    def init(self, theta: Any) -> None:
        return None

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
        z = at.normal()
        oracle(theta + 0.01 * z, theta - 0.01 * z)
        return theta + 1e-2 * at.normal(1), None


class Climbs(Wanders):
    """Takes the sign the wrong way round."""

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
        z = at.normal()
        up, down = oracle(theta + 0.01 * z, theta - 0.01 * z)
        return theta + 1e-2 * (up - down) / 0.02 * z, None


@pytest.mark.parametrize("kind", [Wanders, Climbs])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_contract_finds_what_does_not_converge(
    kind: type[Wanders], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Contract(OptimizerContract):
        def optimizer(self) -> Any:
            return kind()

    monkeypatch.setattr("zotune.testing.PROBLEMS", {problem: PROBLEMS[problem]})
    with pytest.raises(AssertionError, match=problem):
        Contract().test_it_converges_on_four_small_problems()
