"""Joint forward: several points in one pass have the values of separate passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rows, write_jsonl
from torch import nn

from zotune import config
from zotune.core.joint_forward import joined, part_of
from zotune.core.recipe import Noise
from zotune.errors import ModelError, ObjectiveError, OptionError
from zotune.events import ignore
from zotune.runs.plan import plan
from zotune.runs.session import Session
from zotune.search.journal import Tape

POINTS = 3


def session(probe: str, **options: Any) -> Session:
    given = {"threads": 1, "perturb": probe, "batch_size": 6, "init": "none", **options}
    made = Session(plan(config.resolve(given, None)), ignore)
    made.choose_perturbation()
    return made


def ask(it: Session, step: int = 0) -> tuple[tuple[float, ...], int]:
    """Values of some points and of theta, and the forward passes of the model that they took."""
    passes = []
    handle = it.loaded.model.register_forward_hook(lambda *a: passes.append(1))
    it.oracle.begin(Tape(), step)
    theta = it.space.theta
    try:
        found = it.oracle(*(theta + 0.3 * Noise("normal", step, k) for k in range(POINTS)), theta)
    finally:
        handle.remove()
    return found, len(passes)


GOAL = """
def words(completion_ids, **_):
    return [float(sum(k * x for k, x in enumerate(ids))) for ids in completion_ids]

def fails(completions, **_):
    raise ValueError("no score")

calls = []

def odd(completions, **_):
    calls.append(1)
    if len(calls) % 2:
        raise ValueError("once")
    return [float(len(c)) for c in completions]

def order(candidates, **_):
    return [[len(c) for c in row] for row in candidates]
"""


@pytest.fixture
def prompts(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "goal.py").write_text(GOAL)
    data = [{"prompt": "the film was " + "very " * (i % 3)} for i in range(260)]
    return {"dataset": str(write_jsonl(tmp_path / "prompts.jsonl", data)), "max_new_tokens": 6}


def goal(prompts: dict[str, Any], name: str) -> str:
    return f"{Path(prompts['dataset']).parent}/goal.py:{name}"


def same(options: dict[str, Any]) -> None:
    one, all_ = session("copy", **options), session("joint", **options)
    assert all_.oracle.joint is not None
    before = all_.space.digest()
    (plain, passes), (found, fewer) = ask(one), ask(all_)
    assert found == pytest.approx(plain, rel=1e-5, abs=1e-6)
    assert len(set(plain)) > 1
    assert fewer * (POINTS + 1) == passes
    assert all_.space.digest() == before
    assert ask(all_) == (found, fewer)
    assert ask(all_, 1)[0] == pytest.approx(ask(one, 1)[0], rel=1e-5, abs=1e-6)  # and with other rows


@pytest.mark.parametrize("peft", ["none", "lora"])
def test_an_encoder(tmp_path: Path, tiny_encoder: Path, peft: str) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", rows(260))
    tune = {"peft": "lora"} if peft == "lora" else {"tune": r"bias|LayerNorm|query"}
    same({"model": str(tiny_encoder), "dataset": str(data), "labels": "bad,good", **tune})


def test_a_classifier(tmp_path: Path, tiny_classifier: Path) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", rows(260))
    same({"model": str(tiny_classifier), "dataset": str(data), "objective": "cross-entropy", "tune": "head"})


@pytest.mark.parametrize("peft", ["none", "lora"])
def test_generation(tiny_llama: Path, prompts: dict[str, Any], peft: str) -> None:
    tune = {"peft": "lora"} if peft == "lora" else {"tune": "v_proj|norm"}
    same({"model": str(tiny_llama), "objective": goal(prompts, "words"), **prompts, **tune})


def test_label_words(tmp_path: Path, tiny_llama: Path) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", rows(260))
    words = {"head": "causal", "template": "{text} it was {label}", "labels": "bad,good"}
    same({"model": str(tiny_llama), "dataset": str(data), "objective": "cross-entropy", "tune": "v_proj", **words})


def test_every_point_samples_its_own_text(tiny_llama: Path, prompts: dict[str, Any]) -> None:
    options = {"model": str(tiny_llama), "objective": goal(prompts, "words"), "tune": "v_proj", "temperature": 1.0}
    one, all_ = session("copy", **options, **prompts), session("joint", **options, **prompts)
    assert ask(all_) == ask(one)


def test_an_order(tiny_llama: Path, prompts: dict[str, Any]) -> None:
    judge = Path(prompts["dataset"]).with_name("order.py")
    judge.write_text(
        "import zotune\n@zotune.objective(direction='maximize', gives='order')\n"
        "def order(candidates, **_):\n    return [[float(len(set(c.split()))) for c in row] for row in candidates]\n"
    )
    options = {"model": str(tiny_llama), "objective": f"{judge}:order", "tune": "v_proj", **prompts}
    assert ask(session("joint", **options))[0] == ask(session("copy", **options))[0]


def test_weights_are_untouched_where_scoring_fails(tiny_llama: Path, prompts: dict[str, Any]) -> None:
    it = session("joint", model=str(tiny_llama), objective=goal(prompts, "fails"), tune="v_proj", **prompts)
    before, data = it.space.digest(), {n: p.data_ptr() for n, p in it.space.params.items()}
    with pytest.raises(ObjectiveError):
        ask(it)
    assert it.space.digest() == before
    assert all(p.data_ptr() == data[n] for n, p in it.space.params.items())
    assert it.task.forward.joint is not None
    assert it.task.forward.joint.count == 1


def test_a_failing_score_is_retried(tiny_llama: Path, prompts: dict[str, Any]) -> None:
    it = session("joint", model=str(tiny_llama), objective=goal(prompts, "odd"), tune="v_proj", **prompts)
    assert len(ask(it)[0]) == POINTS + 1


def test_unsupported_modules_are_refused(tmp_path: Path, tiny_encoder: Path) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", rows(260))
    options = {"model": str(tiny_encoder), "dataset": str(data), "labels": "bad,good", "tune": "all"}
    with pytest.raises(OptionError, match="--perturb joint"):
        session("joint", **options)
    assert session("auto", **options).oracle.joint is None


def test_auto_evaluates_greedy_text_jointly(tiny_llama: Path, prompts: dict[str, Any]) -> None:
    options = {"model": str(tiny_llama), "objective": goal(prompts, "words"), "tune": "layers.1.*v_proj", **prompts}
    assert session("auto", **options).oracle.joint is not None
    assert session("auto", **options, temperature=0.5).oracle.joint is None
    assert session("auto", **{**options, "tune": "all"}).oracle.joint is None


def test_parts() -> None:
    x, other = torch.arange(12).view(6, 2), torch.arange(5)
    assert part_of((x, {"a": x, "b": other, "c": "text"}), 1, 3, 2)[0].tolist() == [[4, 5], [6, 7]]
    assert part_of({"b": other}, 1, 3, 2)["b"] is other
    assert part_of([*"abcdef"], 2, 3, 2) == ["e", "f"]
    assert joined([torch.zeros(1, 2), torch.ones(1, 2)], 2, False).tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(ModelError):
        joined([torch.zeros(3, 2)], 2, True)
    with pytest.raises(ModelError):
        joined([torch.zeros(2, 2)], 2, False)  # as many rows as a point has, by chance
    with pytest.raises(ModelError):
        joined([(torch.zeros(2, 2),)], 2, True)


def test_a_pass_that_does_not_fit_is_made_with_fewer_rows(
    tiny_llama: Path, prompts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"model": str(tiny_llama), "objective": goal(prompts, "words"), "tune": "v_proj", **prompts}
    expected = ask(session("copy", **options))[0]
    it = session("joint", **options)
    generate: Callable[..., Any] = it.loaded.model.generate

    def short(*args: Any, **kwargs: Any) -> Any:
        if len(kwargs["input_ids"]) > 8:
            raise RuntimeError("CUDA out of memory")
        return generate(*args, **kwargs)

    monkeypatch.setattr(it.loaded.model, "generate", short)
    assert ask(it)[0] == pytest.approx(expected)
    assert isinstance(it.loaded.model, nn.Module)
