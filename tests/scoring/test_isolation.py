"""What an objective may change: its own lists and its own random numbers, and nothing of the process or the model."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig

import zotune
from zotune.errors import ObjectiveError, SideEffectError
from zotune.scoring import objective_spec
from zotune.scoring.calls import Calls


def inputs(*completions: str) -> dict[str, Any]:
    n = len(completions)
    return {"prompts": ["p"] * n, "completions": list(completions), "references": [["r"] for _ in completions]}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = BertConfig(hidden_size=4, num_attention_heads=1)
        self.linear, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x))  # type: ignore[no-any-return]


def test_each_call_has_lists_of_its_own() -> None:
    seen: list[list[str]] = []

    def sorter(completions: list[str], references: list[list[str]]) -> list[float]:
        completions.sort()
        references[0].append("x")
        references.clear()
        return [0.0] * len(completions)

    def look(completions: list[str], references: list[list[str]]) -> list[float]:
        assert references == [["r"], ["r"]]
        seen.append(completions)
        return [float(c == "a") for c in completions]

    given = inputs("b", "a")
    both = objective_spec.resolve([sorter, look], {})
    assert both.score(2, given).samples == (0.0, 1.0)
    assert both.score(2, given).samples == (0.0, 1.0)
    assert seen == [["b", "a"]] * 2
    assert given == inputs("b", "a")


def test_messages_records_and_logits_are_copies_too() -> None:
    def change(completions: list[list[dict[str, str]]], batch: list[dict[str, Any]], logits: torch.Tensor) -> float:
        completions[0][0]["content"] = batch[0]["tags"][0] = "changed"
        logits.zero_()
        return 1.0

    given = {"completions": [[{"content": "x"}]], "batch": [{"tags": ["y"]}], "logits": torch.ones(1, 2)}
    assert objective_spec.resolve(change, {}).score(1, given).value == 1.0
    assert given["completions"] == [[{"content": "x"}]]
    assert given["batch"] == [{"tags": ["y"]}]
    assert torch.equal(given["logits"], torch.ones(1, 2))  # type: ignore[arg-type]


def test_the_state_of_the_process_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOTUNE_KEPT", "1")
    monkeypatch.delenv("ZOTUNE_NEW", raising=False)
    before = os.getcwd(), torch.get_default_dtype(), torch.get_num_threads(), sys.stdout, sys.stderr

    def change(completions: list[str]) -> float:
        os.chdir(tmp_path)
        os.environ["ZOTUNE_NEW"] = "1"
        del os.environ["ZOTUNE_KEPT"]
        sys.stdout = sys.stderr = None  # type: ignore[assignment]
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_default_device("meta")
        if completions == ["fail"]:
            raise ValueError("no")
        return 1.0

    objective = objective_spec.resolve(change, {})
    for text in "fine", "fail":
        if text == "fine":
            assert objective.score(1, inputs(text)).value == 1.0
        else:
            with pytest.raises(ObjectiveError, match=r"raised ValueError: no \(test_isolation.py:\d+\)"):
                objective.score(1, inputs(text))
        assert (os.getcwd(), torch.get_default_dtype(), torch.get_num_threads(), sys.stdout, sys.stderr) == before
        assert os.environ["ZOTUNE_KEPT"] == "1"
        assert "ZOTUNE_NEW" not in os.environ
        assert torch.is_grad_enabled()
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.ones(1).device.type == "cpu"


def test_a_closed_standard_stream_is_opened_again(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys\nfrom zotune.scoring import objective_spec\n"
        "def f(completions):\n    sys.stdout.close()\n    return 1.0\n"
        "print(objective_spec.resolve(f, {}).score(1, {'completions': ['x']}).value)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1.0\n"


def test_an_objective_draws_from_generators_of_its_own() -> None:
    def draw(completions: list[str]) -> float:
        return random.random() + float(np.random.rand()) + float(torch.rand(()))

    def seed(completions: list[str]) -> float:
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        return 1.0

    def global_draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed([])
    expected = global_draws()
    seed([])
    objective = objective_spec.resolve(draw, {})
    values = {objective.score(1, inputs("x")).value for _ in range(3)}
    objective_spec.resolve(seed, {}).score(1, inputs("x"))
    assert len(values) == 3  # its draws differ from call to call
    assert global_draws() == expected


def test_the_state_of_the_model_is_put_back() -> None:
    model = Model().eval()
    weight, mean = model.linear.weight.data.clone(), model.norm.running_mean
    assert mean is not None

    def change(model: Model, batch: Any) -> float:
        model.train()
        model(torch.randn(4, 2))  # moves the running mean
        model.config.hidden_size = 8
        model.linear.weight.requires_grad_(False)
        model.linear.register_forward_hook(lambda *_: torch.zeros(4, 2))
        model.frozen.data = torch.zeros(3)
        model.norm = nn.Identity()  # type: ignore[assignment]
        model.half()
        return 1.0

    objective = objective_spec.resolve(change, {})
    for _ in range(5):
        assert objective.score(1, {"model": model, "batch": []}).value == 1.0
        assert not any(m.training for m in model.modules())
        assert model.norm.running_mean is mean
        assert torch.equal(mean, torch.zeros(2))
        assert model.config.hidden_size == 4
        assert model.linear.weight.requires_grad
        assert torch.equal(model.linear.weight, weight)
        assert torch.equal(model.frozen, torch.ones(3))
        assert not model.linear._forward_hooks


@pytest.mark.parametrize("name", ["frozen", "linear.weight"])
@pytest.mark.parametrize("way", ["no_grad", "data", "numpy"])
def test_a_weight_changed_in_place_is_refused_by_name(name: str, way: str) -> None:
    model = Model()

    def change(model: Model, batch: Any) -> float:
        tensor = model.get_parameter(name)
        if way == "numpy":
            tensor.detach().numpy()[...] *= 1.01
        elif way == "data":
            tensor.data.mul_(1.01)
        else:
            with torch.no_grad():
                tensor.mul_(1.01)
        return 1.0

    with pytest.raises(SideEffectError, match=f"'change' changed the model's weights: {name} .*deepcopy"):
        objective_spec.resolve(change, {}).score(1, {"model": model, "batch": []})


def test_weights_that_an_objective_changes_back_are_no_change() -> None:
    model, calls = Model(), 0

    def perturbed(model: Model, batch: Any) -> float:
        nonlocal calls
        calls += 1
        kept = model.linear.weight.detach().clone()
        with torch.no_grad():
            model.linear.weight.mul_(2.0)
            model.linear.weight.copy_(kept)
            if calls == 6:
                model.linear.weight.add_(1.0)
        return 1.0

    objective = objective_spec.resolve(perturbed, {})
    for _ in range(5):
        objective.score(1, {"model": model, "batch": []})
    with pytest.raises(SideEffectError, match=r"linear\.weight"):
        objective.score(1, {"model": model, "batch": []})


def test_a_later_change_is_seen_too() -> None:
    model, calls = Model(), 0

    def late(model: Model, batch: Any) -> float:
        nonlocal calls
        calls += 1
        with torch.no_grad():
            if calls == 7:
                model.frozen.mul_(2.0)
        return 1.0

    objective = objective_spec.resolve(late, {})
    for _ in range(6):
        objective.score(1, {"model": model, "batch": []})
    with pytest.raises(SideEffectError, match="frozen"):
        objective.score(1, {"model": model, "batch": []})


@pytest.mark.parametrize(
    "objective",
    [
        lambda completions, **_: _sleep(),
        lambda completions, model: _sleep(),
        lambda completions, model=None, **_: _sleep(),
        lambda **_: _sleep(),
    ],
)
def test_the_time_limit_holds_for_every_signature(objective: Any) -> None:
    limited = objective_spec.resolve(objective, {}, calls=Calls(timeout=0.1))
    with pytest.raises(ObjectiveError, match=r"no score within 0\.1 s"):
        limited.score(1, {**inputs("x"), "model": Model()})


def test_a_timed_call_has_no_gradients_where_the_run_has_none() -> None:
    def grad(completions: list[str], model: Any) -> float:
        return float(torch.is_grad_enabled())

    objective = objective_spec.resolve(grad, {}, calls=Calls(timeout=60))
    with torch.no_grad():
        assert objective.score(1, {**inputs("x"), "model": Model()}).value == 0.0


def test_only_an_objective_that_names_the_model_gets_it() -> None:
    def names(completions: list[str], **more: Any) -> float:
        return float("model" in more)

    given = {**inputs("x"), "model": Model()}
    assert objective_spec.resolve(names, {}).score(1, given).value == 0.0
    assert (
        objective_spec.resolve(lambda completions, model, **_: float(model is given["model"]), {}).score(1, given).value
    )


def test_a_tuner_stops_at_a_changed_weight() -> None:
    def change(model: Model, batch: Any) -> float:
        with torch.no_grad():
            model.frozen.mul_(2.0)
        return 0.0

    with pytest.raises(SideEffectError, match="frozen"):
        zotune.Tuner(Model(), change).fit(max_steps=2)
    tuner = zotune.Tuner(Model(), lambda **named: float(set(named) == {"model", "batch"}))
    assert tuner.score() == 1.0


def _sleep() -> float:
    import time

    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.01)
    return 1.0
