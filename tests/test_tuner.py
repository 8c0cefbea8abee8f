"""The Python door: any torch module, any callable."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zotune
from zotune.errors import ObjectiveFailures, OptimizerError, OptionError
from zotune.events import StepDone
from zotune.testing import TinyNet, data
from zotune.types import Tracker


def pairs() -> list[tuple[int, int]]:
    x, y = data()
    return list(zip(x.tolist(), y.tolist(), strict=True))


@zotune.objective(direction="minimize")
def loss(model: nn.Module, batch: list[tuple[int, int]]) -> list[float]:
    x, y = torch.tensor(batch).T
    return nn.functional.cross_entropy(model(x), y, reduction="none").tolist()  # type: ignore[no-any-return]


def accuracy(net: nn.Module, items: list[tuple[int, int]]) -> float:
    x, y = torch.tensor(items).T
    return float((net(x).argmax(-1) == y).float().mean())


def test_it_tunes_a_module_for_a_loss_and_goes_on() -> None:
    tuner = zotune.Tuner(TinyNet(), loss, data=pairs(), batch_size=6, seed=1)
    start = tuner.score()
    tuner.fit(max_steps=150)
    middle = tuner.score()
    outcome = tuner.fit(max_steps=50)
    assert outcome.progress.step == 200
    assert middle < start
    assert tuner.score() < start


def test_parameters_may_have_any_names_and_accuracy_is_maximized() -> None:
    tuner = zotune.Tuner(TinyNet(), accuracy, data=pairs(), eval_data=pairs(), batch_size=24)
    start = tuner.score()
    tuner.fit(max_steps=60, eval_steps=10)
    assert tuner.score() >= start


def test_no_data_is_needed() -> None:
    net = nn.Linear(3, 1, bias=False)
    target = torch.tensor([[0.5, -1.0, 2.0]])

    def distance(model: nn.Linear) -> float:
        return -float((model.weight - target).square().sum())

    tuner = zotune.Tuner(net, distance, optimizer="mezo", optimizer_args={"lr": 0.02})
    start = tuner.score()
    tuner.fit(max_steps=300)
    assert tuner.score() > 0.01 * start


def test_modes_buffers_and_requires_grad_are_left_alone() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    net.train()
    net[1].eval()
    buffers = {n: b.clone() for n, b in net.named_buffers()}

    def score(model: nn.Module) -> float:
        assert not model.training
        return float(model(torch.ones(2, 4)).sum())

    zotune.Tuner(net, score).fit(max_steps=3)
    assert net.training
    assert not net[1].training
    assert all(torch.equal(b, buffers[n]) for n, b in net.named_buffers())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_an_exception_and_an_interrupt_leave_the_weights_of_the_last_good_step() -> None:
    for error, raised in ((ValueError, ObjectiveFailures), (KeyboardInterrupt, KeyboardInterrupt)):
        net, calls = TinyNet(), 0

        def score(model: nn.Module, batch: Any, error: Any = error) -> float:
            nonlocal calls
            calls += 1
            if calls > 40:
                raise error("down")
            return -float(loss(model, batch)[0])

        tuner = zotune.Tuner(net, score, optimizer="mezo", data=pairs(), batch_size=6, optimizer_args={"lr": 1e-2})
        with pytest.raises(raised):
            tuner.fit(max_steps=1000, max_failures=0)
        good = zotune.Tuner(TinyNet(), loss_of_first, "mezo", data=pairs(), batch_size=6, optimizer_args={"lr": 1e-2})
        good.fit(max_steps=20)
        assert tuner.space.digest() == good.space.digest()


def loss_of_first(model: nn.Module, batch: Any) -> float:
    return -float(loss(model, batch)[0])


def test_an_optimizer_may_be_an_object() -> None:
    class Sign:
        """Signed SPSA in eight lines."""

        def init(self, theta: Any) -> None:
            return None

        def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
            z = at.normal()
            up, down = oracle(theta + 1e-2 * z, theta - 1e-2 * z)
            return theta - (3e-3 if up > down else -3e-3) * z, state

    tuner = zotune.Tuner(TinyNet(), loss, Sign(), data=pairs(), batch_size=24)
    start = tuner.score()
    tuner.fit(max_steps=200)
    assert tuner.score() < start
    with pytest.raises(OptionError, match="an instance has its options already"):
        zotune.Tuner(TinyNet(), loss, Sign(), optimizer_args={"lr": 1})


def test_it_needs_no_transformers() -> None:
    code = (
        "import sys, torch, zotune\n"
        "net = torch.nn.Linear(2, 1)\n"
        "zotune.Tuner(net, lambda m: -float(m.weight.square().sum())).fit(max_steps=3)\n"
        "assert 'transformers' not in sys.modules and 'sklearn' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_second_fit_plans_with_its_own_budget() -> None:
    seen: list[int | None] = []

    class Looks:
        forwards = 2

        def init(self, theta: Any) -> None:
            return None

        def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
            seen.append(at.total)
            oracle(theta + 0.01 * at.normal(), theta - 0.01 * at.normal())
            return theta, None

    tuner = zotune.Tuner(torch.nn.Linear(2, 1), lambda model: float(model.weight.sum()), Looks())
    tuner.fit(max_steps=2)
    tuner.fit(max_evals=6)
    assert seen == [2, 2, 5, 5, 5]


def test_a_cnn_is_tuned_for_accuracy_without_transformers() -> None:
    """The example, in a process of its own with fewer forwards."""
    root = Path(__file__).resolve().parents[1]
    code = (
        "import runpy, sys; sys.argv = ['digits.py', '--evals', '1000'];"
        f"runpy.run_path({str(root / 'examples/digits.py')!r}, run_name='__main__');"
        "assert 'transformers' not in sys.modules"
    )
    if not (root / "examples/digits.py").exists():
        pytest.skip("the examples are not beside the tests")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = (float(line.split()[1]) for line in done.stdout.splitlines())
    assert before < 0.2
    assert after > before + 0.15


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_divergence_leaves_the_last_weights_that_could_be_scored(rate: float) -> None:
    """At 1e30 the objective overflows, at 1e38 the weights do."""
    events: list[Any] = []

    def score(model: nn.Module, batch: Any) -> float:
        return -float(loss(model, batch)[0]) - float((model.norm.weight**2).sum())

    def tuner(net: nn.Module) -> zotune.Tuner:
        options = {"lr": rate, "eps": 1e-2}
        return zotune.Tuner(net, score, "mezo", data=pairs(), batch_size=6, optimizer_args=options, emit=events.append)

    net, base = TinyNet(), {n: x.clone() for n, x in TinyNet().state_dict().items()}
    diverging = tuner(net)
    with pytest.raises((ObjectiveFailures, OptimizerError)):
        diverging.fit(max_steps=100)
    assert all(torch.equal(x, base[n]) for n, x in net.state_dict().items())  # step 0 was the last one that worked
    assert sum(isinstance(e, StepDone) and not e.dropped for e in events) == 1


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_divergence_in_the_last_steps_leaves_the_last_weights_that_could_be_scored(rate: float) -> None:
    """Fewer steps fail than `max_failures`, so `fit` ends as usual; a second call continues from these weights."""

    def score(model: nn.Module, batch: Any) -> float:
        return -float(loss(model, batch)[0]) - float((model.norm.weight**2).sum())

    net, base = TinyNet(), {n: x.clone() for n, x in TinyNet().state_dict().items()}
    options = {"lr": rate, "eps": 1e-2}
    tuner = zotune.Tuner(net, score, "mezo", data=pairs(), batch_size=6, optimizer_args=options)
    try:
        outcome = tuner.fit(max_steps=4)
        assert outcome.progress.dropped == 3
    except OptimizerError:  # the step itself gives infinite weights
        assert rate == 1e38
    assert all(torch.equal(x, base[n]) for n, x in net.state_dict().items())
    assert math.isfinite(tuner.score())


def test_the_outcome_has_scores_before_and_after_and_the_best_weights() -> None:
    tuner = zotune.Tuner(TinyNet(), loss, data=pairs(), eval_data=pairs(), batch_size=6, seed=1)
    start = tuner.score(pairs())
    outcome = tuner.fit(max_steps=100, eval_steps=20)
    assert outcome.felt
    assert outcome.before == pytest.approx(start)
    assert outcome.after == pytest.approx(tuner.score(pairs()))
    assert outcome.after is not None
    assert outcome.after < start
    assert zotune.Tuner(TinyNet(), loss, data=pairs()).fit(max_steps=1).after is None


def test_an_objective_that_feels_nothing_is_reported() -> None:
    tuner = zotune.Tuner(TinyNet(), lambda model: 0.5, optimizer="mezo")
    with pytest.warns(UserWarning, match="no step has changed the objective"):
        assert not tuner.fit(max_steps=3).felt


def test_callbacks_of_a_tuner_receive_numbers_and_may_end_it() -> None:
    class Few(Tracker):
        def __init__(self) -> None:
            self.steps, self.scores, self.ends = list[int](), list[int](), list[Any]()

        def on_step_end(self, step: int, metrics: Any) -> str | None:
            self.steps.append(step)
            return "enough" if step == 7 else None

        def on_evaluation(self, step: int, metrics: Any, samples: Any) -> None:
            self.scores.append(step)

        def on_run_end(self, summary: Any) -> None:
            self.ends.append(summary["reason"])

    few = Few()
    tuner = zotune.Tuner(TinyNet(), loss, data=pairs(), eval_data=pairs(), batch_size=6)
    outcome = tuner.fit(max_steps=50, eval_steps=5, callbacks=[few])
    assert (outcome.reason, outcome.progress.step) == ("tracker", 7)
    assert few.steps == list(range(1, 8))
    assert few.scores == [0, 5, 7]
    tuner.fit(max_steps=2, callbacks=[few])
    assert few.steps == list(range(1, 10))
    assert few.ends == ["tracker", "done"]
    with pytest.raises(OptionError, match="pass an instance"):
        tuner.fit(max_steps=1, callbacks=[Few])  # type: ignore[list-item]
