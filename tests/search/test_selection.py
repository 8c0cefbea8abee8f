"""Selection: interpolated weights are evaluated at the end and before a rollback; replays and resumed runs agree."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import zotune
from zotune.bench.workbench import Bench, Weights, same
from zotune.runs.validation import Validation
from zotune.search.checkpoint import interpolate
from zotune.search.hooks import Settings
from zotune.search.journal import Journal
from zotune.search.progress import ValidationResult
from zotune.search.selection import best_weights


@dataclass(frozen=True)
class Straight:
    """Adds a constant to all weights in each step, whatever the objective returns."""

    pace: float = 0.25
    forwards: ClassVar[int] = 1
    interpolates: ClassVar[bool] = True

    def init(self, theta: Any) -> None:
        return None

    def step(self, theta: Any, oracle: Any, state: None, at: Any) -> tuple[Any, None]:
        oracle(theta)
        return theta + self.pace * theta.per(lambda t: 1.0), None


def bench(best: float, journal: Journal | None = None, steps: int = 8) -> Bench:
    """Eight steps of 0.25. The loss is smallest at the share `best` between the base and the last weights."""
    module = Weights()
    start = module.flat().clone()

    def loss(_: Bench) -> float:
        way = float((module.flat() - start).mean()) / 2.0
        return 1.0 + (way - best) ** 2

    made = Bench(Straight(), module=module, steps=steps, journal=journal, assess=loss, evaluate=lambda rows: _zero())
    made.engine.settings = Settings(eval_steps=100, interpolate=True)
    return made


def _zero() -> Any:
    return zotune.types.Score(0.0)


@pytest.mark.parametrize("best", [0.3, 0.5, 0.62, 0.9])
def test_the_share_with_the_smallest_loss_is_selected(best: float) -> None:
    run = bench(best)
    start = run.weights()
    run.run()
    p, last = run.engine.progress, run.weights()
    assert (p.best_step, p.best_share) == (8, pytest.approx(best, abs=0.005))
    assert all(torch.allclose(last[n], start[n] + 2.0) for n in start), "the weights end as they were"
    assert all(torch.allclose(w, start[n] + 2.0 * p.best_share) for n, w in best_weights(run.store, p).items())
    lines = [x for x in run.journal.lines if x["kind"] == "between"]
    assert [x["share"] for x in lines] == ([0.5, round(best, 2)])
    for cut in range(1, len(run.journal.lines) + 1):  # a replay, and runs that end in the middle of it
        journal = Journal.of(run.journal.lines[:cut])
        again = bench(best, journal).run()
        assert again.journal.lines == run.journal.lines
        assert same(again.weights(), last)
        assert same(best_weights(again.store, again.engine.progress), best_weights(run.store, p))


@pytest.mark.parametrize("best", [-0.5, 0.0, 1.0, 1.5])
def test_a_minimum_outside_costs_one_evaluation(best: float) -> None:
    run = bench(best).run()
    p = run.engine.progress
    assert (p.best_step, p.best_share) == ((0, 1.0) if best <= 0 else (8, 1.0))
    assert [x["share"] for x in run.journal.lines if x["kind"] == "between"] == [0.5]


def test_a_rollback_restores_the_best_interpolated_weights() -> None:
    def made(journal: Journal | None = None) -> Bench:
        run = bench(0.2, journal)
        evaluate, run.engine.settings.eval_steps = run.engine.hooks.validate, 4
        assert evaluate is not None

        def validate() -> ValidationResult:
            result = evaluate()
            assert result.loss is not None
            return replace(result, diverged="by a test") if result.loss > 1.05 else result

        run.engine.hooks.validate = validate
        return run

    run = made()
    start = run.weights()
    run.run()
    (line,) = [x for x in run.journal.lines if x["kind"] == "rollback"]
    # after four of eight steps it is at half of the way of `bench`, and best at 0.2: 0.4 of what it has gone
    assert (line["step"], line["to"], line["share"]) == (4, 4, 0.4)
    assert all(torch.allclose(w, start[n] + 0.4 + 4 * 0.25 * 0.25) for n, w in run.weights().items())
    for cut in range(1, len(run.journal.lines) + 1):
        journal = Journal.of(run.journal.lines[:cut])
        again = made(journal).run()
        assert again.journal.lines == run.journal.lines
        assert same(again.weights(), run.weights())


def test_interpolation_can_be_switched_off() -> None:
    made = bench(0.5)
    made.engine.settings.interpolate = False
    assert [x for x in made.run().journal.lines if x["kind"] == "between"] == []


def test_half_precision_is_rounded_once() -> None:
    x, y = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = interpolate({"w": x}, {"w": y}, 0.3)["w"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, (x.float() + (y.float() - x.float()) * 0.3).bfloat16())


def test_the_tuner_loads_the_best_interpolated_weights() -> None:
    module = Weights()
    start = module.flat().clone()

    def loss(model: Weights, batch: list[int]) -> float:
        return float(((model.flat() - start).mean() - 0.5) ** 2)

    tuner = zotune.Tuner(module, loss, Straight(), data=[0, 1], eval_data=[0, 1], direction="minimize")
    tuner.fit(max_steps=8, eval_steps=8)
    assert torch.allclose(module.flat(), start + 0.5, atol=0.01)


def test_a_run_keeps_the_best_interpolated_weights(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model": str(tiny_encoder),
        "dataset": str(toy),
        "labels": "awful film,lovely film",
        "objective": "cross-entropy",
        "optimizer": f"{__file__}:Straight",
        "optimizer_args": {"pace": 0.02},
        "tune": "all",
        "init": "none",
        "max_steps": 6,
        "eval_steps": 6,
        "guard": 0.0,
        "rollback": 0.0,
    }
    for name, more in (("with", {}), ("without", {"interpolate": False})):
        zotune.fit(output_dir=str(tmp_path / name), **options, **more)
        lines = Journal.open(tmp_path / name / "journal.jsonl", read_only=True).lines
        looked = {x["share"]: x["loss"] for x in lines if x["kind"] == "between"}
        assert bool(looked) == (name == "with")
        start, end = (x["loss"] for x in lines if x["kind"] == "eval")
        losses = {**looked, 1.0: end}
        best = min(losses, key=lambda share: losses[share])
        assert losses[best] < start
        saved = json.loads((tmp_path / name / "checkpoint-6/trainer_state.json").read_text())["progress"]
        assert (saved["best_step"], saved["best_share"]) == (6, best)


def straight(model: Path, data: Path, best: float) -> dict[str, Any]:
    """A run in a straight line, with an objective that is best at a distance from the base model."""
    start: list[float] = []

    def near(model: Any) -> float:
        mean = float(model.embeddings.LayerNorm.bias.detach().mean())
        start.append(mean)
        return -((mean - start[0] - best) ** 2)

    return {
        "model": str(model),
        "dataset": str(data),
        "labels": "awful film,lovely film",
        "objective": near,
        "optimizer": Straight(),
        "tune": "embeddings.LayerNorm.bias",
    }


@pytest.mark.parametrize("best", [0.3, -1.0])
def test_a_run_killed_after_its_last_checkpoint_resumes(
    tiny_encoder: Path, toy: Path, tmp_path: Path, best: float
) -> None:
    """That checkpoint was written after the interpolation; the end line and the test score are left to do."""
    made = {**straight(tiny_encoder, toy, best), "max_steps": 4, "eval_steps": 3, "rollback": 0.0}
    zotune.fit(output_dir=str(tmp_path / "out"), **made)
    texts = (tmp_path / "out/journal.jsonl").read_bytes().splitlines(keepends=True)
    first = json.loads((tmp_path / "out/checkpoint-4/trainer_state.json").read_text())["lines"]
    assert json.loads(texts[first - 1])["body"]["kind"] == "between"
    for cut in range(first, len(texts) + 1):
        folder = tmp_path / str(cut)
        shutil.copytree(tmp_path / "out", folder)
        (folder / "journal.jsonl").write_bytes(b"".join(texts[:cut]))
        zotune.fit(output_dir=str(folder), resume="last", **made)
        assert (folder / "journal.jsonl").read_bytes() == b"".join(texts)
        assert (folder / "model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()
    longer = zotune.fit(output_dir=str(tmp_path / "out"), resume="last", **{**made, "max_steps": 6})
    assert (longer.reason, longer.steps) == ("done", 6)


def test_every_checkpoint_of_a_run_with_a_rollback_resumes(
    tiny_encoder: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the checkpoint that was written before the rollback."""
    monkeypatch.setattr(Validation, "_diverged", lambda self, outputs, score, kl: "far" if score.value < -0.2 else "")
    made = straight(tiny_encoder, toy, 0.4) | {"max_steps": 8, "eval_steps": 4, "guard": 0.0}
    made |= {"save_steps": 2, "save_total_limit": 99}
    zotune.fit(output_dir=str(tmp_path / "out"), **made)
    texts = (tmp_path / "out/journal.jsonl").read_bytes().splitlines(keepends=True)
    lines = [json.loads(t)["body"] for t in texts]
    (place,) = [i for i, x in enumerate(lines) if x["kind"] == "rollback"]
    assert (lines[place]["step"], lines[place]["share"]) == (4, 0.4)
    model = (tmp_path / "out/model.safetensors").read_bytes()
    for step, cut in itertools.product((2, 4, 6, 8), (place, place + 1, len(texts))):
        if step > 4 and cut != len(texts):
            continue
        folder = tmp_path / f"{step}-{cut}"
        shutil.copytree(tmp_path / "out", folder)
        (folder / "journal.jsonl").write_bytes(b"".join(texts[:cut]))
        zotune.fit(output_dir=str(folder), resume=str(folder / f"checkpoint-{step}"), **made)
        assert [json.loads(t)["body"] for t in (folder / "journal.jsonl").read_bytes().splitlines()] == lines
        assert (folder / "model.safetensors").read_bytes() == model
