"""Declarations: the core reads what an object declares and nothing else, so a user's option may have any name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zotune
from zotune import declarations
from zotune.errors import ObjectiveError, OptionError, UsageError
from zotune.runs.check import check
from zotune.runs.fit import fit
from zotune.scoring import objective_spec
from zotune.scoring.calls import Calls
from zotune.scoring.objective import wrap
from zotune.search.journal import Journal
from zotune.types import ObjectiveInfo, OptimizerInfo, RunContext

NAMES = (
    *("rows", "judged", "report", "check", "close", "timeout", "info", "cached", "candidates", "questions", "bind"),
    *("needs", "fields", "forwards", "cost", "describe", "level", "direction", "cacheable", "fast", "start", "faults"),
    *("concurrency", "batch_size", "zotune_objective", "calibrates", "stratifies", "interpolates", "compares"),
)
"""Names that a declaration uses or that zotune once read from objects."""


def options_of(*names: str) -> type:
    """An objective whose options have these names and defaults that would break a run that read them."""

    def __call__(self: Any, predictions: Sequence[int], labels: Sequence[int]) -> list[float]:
        return [float(p == y) for p, y in zip(predictions, labels, strict=True)]

    fields = [(name, str, dataclasses.field(default=f"the user's {name}")) for name in names]
    return dataclasses.make_dataclass("Mine", fields, namespace={"__call__": __call__}, frozen=True)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_may_have_any_name(name: str) -> None:
    goal = objective_spec.resolve(options_of(name), {name: "3"}, calls=Calls(timeout=5.0, concurrency=2, batch_size=7))
    assert goal.info == ObjectiveInfo()
    assert vars(goal.function) == {name: "3"}
    assert goal.score(2, {"predictions": [0, 1], "labels": [0, 0]}).value == 0.5
    assert goal.faults() == {}
    goal.close()


def test_options_of_these_names_change_nothing_in_a_run(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Plain:
        def __call__(self, predictions: Sequence[int], labels: Sequence[int]) -> list[float]:
            return [float(p == y) for p, y in zip(predictions, labels, strict=True)]

    def run(objective: Any, folder: str) -> list[Any]:
        options = {"model": str(tiny_encoder), "dataset": str(toy), "labels": "awful film,lovely film"}
        fit(objective=objective, optimizer="mezo", max_steps=2, output_dir=str(tmp_path / folder), **options)
        lines = Journal.open(tmp_path / folder / "journal.jsonl", read_only=True).lines
        return [(x["kind"], x.get("tape"), x.get("evals"), x.get("score")) for x in lines]

    class Mine(options_of("rows", "judged", "report", "check", "close", "timeout", "info", "questions", "bind")):  # type: ignore[misc]
        pass

    lines = run(Plain(), "plain")
    assert run(Mine(), "mine") == lines
    assert sum(kind == "step" for kind, *_ in lines) == 2


def test_an_info_method_declares_what_depends_on_options() -> None:
    closed: list[str] = []

    @dataclass(frozen=True)
    class Mine:
        strict: bool = False

        def info(self) -> ObjectiveInfo:
            return ObjectiveInfo("minimize", level="set" if self.strict else "sample", close=self._close)

        def _close(self) -> None:
            closed.append("closed")

        def __call__(self, completions: Sequence[str]) -> list[float]:
            return [float(len(c)) for c in completions]

    goal = objective_spec.resolve(Mine, {"strict": "true"})
    assert (goal.direction, goal.info.level) == ("minimize", "set")
    goal.close()
    assert closed == ["closed"]


@pytest.mark.parametrize(
    ("returned", "message"), [(3, "returned a int"), (RuntimeError("no disk"), "info.. raised RuntimeError: no disk")]
)
def test_an_info_method_that_declares_nothing_is_refused(returned: Any, message: str) -> None:
    class Mine:
        def info(self) -> Any:
            if isinstance(returned, Exception):
                raise returned
            return returned

        def __call__(self, completions: Sequence[str]) -> float:
            return 0.0

    with pytest.raises(UsageError, match=message):
        wrap(Mine(), "mine")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"direction": "up"}, {"level": "row"}, {"gives": "ranks"}, {"batch_size": 0}, {"candidates": 1}),
        *({"timeout": 0}, {"test_rows": 0.5}, {"max_scores": 0}, {"call_options": ["retries"]}),
    ],
)
def test_wrong_declarations_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        zotune.objective(**wrong)


def test_a_declaration_follows_bases_wrappers_and_methods() -> None:
    @zotune.objective(direction="minimize")
    class Base:
        def __call__(self, completions: Sequence[str]) -> float:
            return 0.0

        @zotune.objective(level="set")
        def method(self, completions: Sequence[str]) -> float:
            return 0.0

    class Inherits(Base):
        pass

    @functools.wraps(Base.method)
    def wrapper(*args: Any) -> Any: ...

    assert declarations.objective_info(Inherits()).direction == "minimize"
    assert declarations.objective_info(Inherits().method).level == "set"
    assert declarations.objective_info(wrapper).level == "set"
    assert declarations.objective_info(len) == ObjectiveInfo()


def test_declared_inputs_replace_the_signature() -> None:
    @zotune.objective(needs=["completions"])
    def score(**inputs: Any) -> float:
        return float(len(inputs))

    goal = wrap(score, "score")
    assert (goal.inputs, goal.required, goal.takes_all) == ({"completions"}, {"completions"}, False)
    assert goal.score(1, {"completions": ["a"], "prompts": ["b"]}).value == 1.0


def test_a_declared_timeout_holds_unless_the_user_gives_one() -> None:
    @zotune.objective(timeout=0.05)
    def slow(completions: Sequence[str], delay: Sequence[float]) -> float:
        import time

        time.sleep(delay[0])
        return 1.0

    with pytest.raises(ObjectiveError, match=r"no score within 0.05 s"):
        wrap(slow, "slow").score(1, {"completions": ["a"], "delay": [1.0]})
    assert wrap(slow, "slow", calls=Calls(timeout=9.0)).score(1, {"completions": ["a"], "delay": [0.1]}).value == 1.0


def test_start_gets_the_run_and_faults_are_counted() -> None:
    runs: list[RunContext] = []

    class Mine:
        def info(self) -> ObjectiveInfo:
            return ObjectiveInfo(start=runs.append, faults=lambda: {"retries": 2})

        def __call__(self, completions: Sequence[str]) -> float:
            return 0.0

    goal = wrap(Mine(), "mine")
    context = RunContext(Path("run"), print, lambda: False, 3, 40)
    goal.start(context)
    assert runs == [context]
    assert goal.faults() == {"retries": 2}


@dataclass(frozen=True)
class Declared:
    size: int = 3
    needs: str = "an option"

    fields = 2
    stratifies = True

    @property
    def forwards(self) -> int:
        return 2 * self.size

    def describe(self, state: float) -> dict[str, float]:
        return {"size": self.size, "state": state}

    def summarize(self, state: float) -> dict[str, float]:
        return {"last": state}

    def init(self, theta: Any) -> None: ...

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> Any: ...


def test_capabilities_of_an_optimizer_are_read_from_its_class() -> None:
    assert declarations.optimizer_info(Declared()) == OptimizerInfo(fields=2, stratifies=True)
    assert declarations.step_cost(Declared(4), None, lambda: None) == 8
    assert declarations.description(Declared(), 0.5) == {"size": 3, "state": 0.5}
    with pytest.raises(UsageError, match="Wordy: describe must return numbers by name"):
        declarations.description(type("Wordy", (), {"describe": lambda self, state: ["text"]})(), None)
    assert declarations.findings(Declared(), 2) == {"last": 2.0}
    assert declarations.findings(object(), 2) == {}
    with pytest.raises(UsageError, match="Wordy: summarize must return numbers by name"):
        declarations.findings(type("Wordy", (), {"summarize": lambda self, state: 1.0})(), None)
    assert declarations.eps(Declared()) is None


@pytest.mark.parametrize(("name", "value"), [("needs", "gradients"), ("fields", -1), ("compares", 1)])
def test_wrong_capabilities_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"Wrong: {name} must be"):
        declarations.optimizer_info(type("Wrong", (), {name: value})())


def test_numbers_and_arrays_of_libraries_are_read_as_python_s() -> None:
    assert declarations.plain(np.array([1, 2])) == [1, 2]
    assert declarations.plain("text") == "text"
    assert declarations.scalar(torch.tensor([2.5])) == 2.5
    assert declarations.length(torch.zeros(3, 2)) == 3
    assert declarations.length(np.float32(1.0)) is None
    assert declarations.length([1]) is None


def refuses(*allowed: str) -> Callable[[Any, str], Any]:
    """A `__getattribute__` that raises for every name but these, dunder names and names that begin with _."""

    def look(self: Any, name: str) -> Any:
        if name not in allowed and not name.startswith("_"):
            raise RuntimeError(f"{name} is not declared, and was read")
        return object.__getattribute__(self, name)

    return look


@dataclass(frozen=True)
class StrictObjective:
    price: float = 0.1
    __getattribute__ = refuses("price", "info")

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo(level="sample")

    def __call__(self, predictions: Sequence[int], labels: Sequence[int]) -> list[float]:
        return [float(p == y) - self.price for p, y in zip(predictions, labels, strict=True)]


class BareObjective:
    __getattribute__ = refuses()

    def __call__(self, predictions: Sequence[int], labels: Sequence[int]) -> float:
        return sum(p == y for p, y in zip(predictions, labels, strict=True)) / len(labels)


@dataclass(frozen=True)
class StrictOptimizer:
    lr: float = 1e-3
    eps: float = 1e-2
    __getattribute__ = refuses("lr", "eps", "init", "step")

    def init(self, theta: Any) -> None:
        return None

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
        z = at.normal()
        up, down = oracle(theta + self.eps * z, theta - self.eps * z)
        return theta - self.lr * (up - down) / (2 * self.eps) * z, state


@pytest.mark.parametrize("objective", [StrictObjective(), BareObjective()])
def test_objects_that_raise_on_undeclared_attributes_run(
    objective: Any, tiny_encoder: Path, toy: Path, tmp_path: Path
) -> None:
    options = {"model": str(tiny_encoder), "dataset": str(toy), "labels": "awful film,lovely film"}
    folder = str(tmp_path / "run")
    common: dict[str, Any] = {"objective": objective, "optimizer": StrictOptimizer(), "output_dir": folder, **options}
    first = fit(max_steps=2, save_steps=1, **common)
    again = fit(max_steps=4, save_steps=1, resume="last", **common)
    assert (first.steps, again.steps) == (2, 4)
    from zotune import config

    report = check(config.resolve({**options, "optimizer": "mezo"}, None), objective=objective, rows=4)
    assert report["rows"] == 4


def test_a_tuner_takes_objects_that_raise_on_undeclared_attributes() -> None:
    class Loss:
        __getattribute__ = refuses()

        def __call__(self, model: Any, batch: Any) -> float:
            return -float(sum(p.square().sum() for p in model.parameters()))

    tuner = zotune.Tuner(torch.nn.Linear(2, 2), Loss(), StrictOptimizer())
    before = tuner.score()
    tuner.fit(max_steps=20)
    assert tuner.score() > before
