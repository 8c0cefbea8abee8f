"""`--init auto`: tuning starts from a linear probe where its validation score is better, and the run keeps its head."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rows, write_jsonl

import zotune
from zotune.cli.result_lines import result_lines
from zotune.errors import RunFolderError
from zotune.events import Event, Note, RunStarted
from zotune.runs import initial_head
from zotune.runs.replay import replay
from zotune.runs.result import Result
from zotune.runs.run_directory import JOURNAL
from zotune.runs.verify import verify
from zotune.search.journal import Journal
from zotune.tasks import linear_probe

Fit = Callable[..., Result]


@pytest.fixture
def fit(tiny_encoder: Path, toy: Path, tmp_path: Path) -> Fit:
    def run(name: str, **more: Any) -> Result:
        options = {"model": str(tiny_encoder), "dataset": str(toy), "labels": "awful film,lovely film"}
        options |= {"max_steps": 6, "eval_steps": 2, "batch_size": 8, "preflight": False, "objective": "accuracy"}
        return zotune.fit(**{**options, "output_dir": str(tmp_path / name), **more})

    return run


def header(folder: Path) -> dict[str, Any]:
    return Journal.open(folder / JOURNAL, read_only=True).header


def test_the_result_shows_base_model_probe_and_kept_weights(fit: Fit, tmp_path: Path) -> None:
    events: list[Event] = []
    result = fit("run", emit=events.append)
    assert result.base is not None
    assert result.before == result.probe
    assert result.before.value > result.base.value
    assert result.before.rows == result.base.rows == result.after.rows
    assert result.after.value >= result.before.value
    (started,) = [e for e in events if isinstance(e, RunStarted)]
    assert (started.test_score, started.probe_score) == (result.base.value, result.before.value)
    assert any("tuning starts from a linear probe" in e.text for e in events if isinstance(e, Note))
    lines = [text for text, _ in result_lines("accuracy", result)]
    assert [line.split("  ")[1] for line in lines[2:5]] == ["base model", "linear probe", "kept weights"]
    assert Result.from_json(result.json()) == result
    assert header(tmp_path / "run")["task"]["init"] == "linear-probe"
    card = (tmp_path / "run" / "README.md").read_text().split("|---|---|")[1]
    assert card.index("base model |") < card.index("linear probe, where tuning started") < card.index("kept weights")
    assert all(check.ok for check in verify(tmp_path / "run"))
    base = fit("base", init="none")
    assert (base.before, base.base) == (result.base, None)


def test_an_interrupted_run_resumes_to_the_same_bits_and_fits_nothing(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit("whole")
    asked = iter(range(100))
    fit("cut", stop=lambda: next(asked) >= 2)
    monkeypatch.setattr(linear_probe, "fit", lambda *args, **more: pytest.fail("a probe is fitted again"))
    result = fit("cut", resume="last")
    assert (result.before, result.base, result.after) == (whole.before, whole.base, whole.after)
    for name in (JOURNAL, "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_a_replay_needs_neither_the_data_nor_a_fit(
    fit: Fit, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit("run")
    shutil.rmtree(toy)
    monkeypatch.setattr(linear_probe, "fit", lambda *args, **more: pytest.fail("a probe is fitted again"))
    steps = sum(line["kind"] == "step" for line in Journal.open(tmp_path / "run" / JOURNAL, read_only=True).lines)
    assert replay(tmp_path / "run", tmp_path / "again", step=steps).confirmed


def test_a_run_of_the_named_probe_keeps_its_head_with_an_adapter(
    fit: Fit, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = fit("run", init="linear-probe", peft="lora")
    assert result.base is None, "the head is written before the adapter is attached"
    shutil.rmtree(toy)
    monkeypatch.setattr(linear_probe, "fit", lambda *args, **more: pytest.fail("a probe is fitted again"))
    assert replay(tmp_path / "run", tmp_path / "again", step=6).confirmed


def test_the_base_model_stays_where_the_probe_is_no_better(fit: Fit, tmp_path: Path) -> None:
    def constant(predictions: list[int]) -> list[float]:
        return [0.5 for _ in predictions]

    events: list[Event] = []
    fit("auto", objective=constant, emit=events.append)
    fit("none", objective=constant, init="none")
    first, second = (Journal.open(tmp_path / name / JOURNAL, read_only=True) for name in ("auto", "none"))
    assert (first.header, first.lines) == (second.header, second.lines)
    assert not any("starts from a linear probe" in e.text for e in events if isinstance(e, Note))


def test_the_base_model_stays_where_no_probe_can_be_fitted(fit: Fit, toy: Path, tmp_path: Path) -> None:
    lone = [row for row in rows(40) if row["label"] == 1] + [row for row in rows(40) if row["label"] == 0][:1]
    write_jsonl(toy / "train.jsonl", lone)
    result = fit("run", objective="cross-entropy")
    assert result.base is None
    assert header(tmp_path / "run")["task"]["init"] == "none"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "lovely film" not in str(config.get("id2label", "")), "the probe's class names are taken back"


@pytest.mark.parametrize("fitted", [True, False])
def test_a_drawn_head_starts_from_the_probe_and_a_trained_one_stays(
    fitted: bool, fit: Fit, tiny_encoder: Path, tiny_classifier: Path, toy: Path, tmp_path: Path
) -> None:
    model = tiny_classifier if fitted else tiny_encoder
    result = fit("run", model=str(model), head="classification", objective="cross-entropy")
    assert (result.base is None) == fitted
    assert header(tmp_path / "run")["task"]["init"] == ("none" if fitted else "linear-probe")


def test_a_dry_run_has_the_tensors_of_the_run(tiny_encoder: Path, toy: Path, fit: Fit, tmp_path: Path) -> None:
    from zotune import config
    from zotune.runs.estimate import estimate

    options = {"model": str(tiny_encoder), "dataset": str(toy), "labels": "awful film,lovely film", "max_steps": 6}
    forecast = estimate(config.resolve({**options, "objective": "accuracy"}, None), lambda event: None)
    fit("run")
    assert forecast["tuned_weights"] == sum(
        torch.Size(shape).numel() for shape, _ in header(tmp_path / "run")["tensors"].values()
    )


WEIGHT = {"shape": [2, 3], "dtype": "<f4", "base64": "AAAA"}


@pytest.mark.parametrize("head", [[], {"weight": WEIGHT}, {"bias": 1}, {"weight": {**WEIGHT, "dtype": "O"}}, {}])
def test_a_damaged_head_is_refused(head: Any) -> None:
    with pytest.raises(RunFolderError, match="initial_head cannot be read"):
        initial_head.decode({"initial_head": head})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_head_is_kept_exactly(dtype: torch.dtype) -> None:
    head = {"weight": torch.randn(3, 4, dtype=dtype), "bias": torch.randn(3, dtype=dtype)}
    again = initial_head.decode({"initial_head": json.loads(json.dumps(initial_head.encode(head)))})
    assert again is not None
    assert all(torch.equal(again[name].to(dtype), x) for name, x in head.items())
    assert initial_head.decode({}) is None


def test_the_journal_alone_rebuilds_the_weights(fit: Fit, tmp_path: Path) -> None:
    fit("run")
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "run" / JOURNAL, tmp_path / "alone" / JOURNAL)
    assert replay(tmp_path / "alone", tmp_path / "again", step=6).confirmed
