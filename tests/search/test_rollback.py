"""Rollback: runs with far too large steps restore the best checkpoint, continue with smaller steps, and replay."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zotune
from zotune.errors import OptionError
from zotune.events import RolledBack
from zotune.runs.heldout import HeldOutSet
from zotune.runs.replay import replay
from zotune.search.journal import Journal
from zotune.types import Score


@pytest.fixture
def diverging(tiny_encoder: Path, toy: Path, tmp_path: Path) -> dict[str, Any]:
    """A learning rate at which every run diverges."""
    model = {"model": str(tiny_encoder), "dataset": str(toy), "labels": "awful film,lovely film", "tune": "all"}
    rule = {"optimizer": "mezo", "learning_rate": 1.0, "eps": 0.01, "batch_size": 8, "max_steps": 12, "eval_steps": 2}
    return {**model, **rule, "output_dir": str(tmp_path / "out")}


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [x for x in Journal.open(folder / "journal.jsonl", read_only=True).lines if x["kind"] == kind]


@pytest.mark.parametrize("objective", ["cross-entropy", "f1"])
def test_a_diverged_run_restores_the_best_weights(
    diverging: Any, tmp_path: Path, tiny_encoder: Path, objective: str
) -> None:
    events: list[RolledBack] = []
    result = zotune.fit(
        objective=objective,
        rollback=1.0,
        emit=lambda event: events.append(event) if isinstance(event, RolledBack) else None,
        **diverging,
    )
    found = lines(tmp_path / "out", "rollback")
    assert found
    assert events == [RolledBack(x["step"], x["to"], x["share"], x["damping"], x["why"]) for x in found]
    assert [x["damping"] for x in found] == [0.25**k for k in range(1, len(found) + 1)]
    assert all(float(x["why"].split()[0]) > 1.0 and "below the base model" in x["why"] for x in found)
    kept = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.isfinite(x).all() for x in kept.values())
    if result.kept == "start":
        assert all(torch.equal(x, kept[n]) for n, x in load_file(tiny_encoder / "model.safetensors").items())


def test_a_run_with_a_rollback_resumes_to_the_same_bits(diverging: Any, tmp_path: Path) -> None:
    zotune.fit(objective="cross-entropy", rollback=1.0, **diverging)
    whole = (tmp_path / "out/journal.jsonl").read_bytes()
    texts = whole.splitlines(keepends=True)
    places = [i for i, text in enumerate(texts) if json.loads(text)["body"]["kind"] == "rollback"]
    assert places
    for k in sorted({*places[:2], places[0] + 1, places[0] + 3}):  # up to before a rollback, after it, and further on
        folder = tmp_path / f"cut{k}"
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(texts[:k]))
        zotune.fit(objective="cross-entropy", rollback=1.0, resume="last", **{**diverging, "output_dir": str(folder)})
        assert (folder / "journal.jsonl").read_bytes() == whole
        assert (folder / "model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 8), (1e-3, 2)])
def test_a_run_killed_anywhere_resumes_with_a_larger_budget(
    diverging: Any, tmp_path: Path, rate: float, steps: int
) -> None:
    """After any line: before and between interpolated evaluations, before a rollback, before the end."""
    options = {**diverging, "learning_rate": rate, "interpolate": True, "rollback": 1.0, "objective": "cross-entropy"}
    zotune.fit(**{**options, "max_steps": steps})
    texts = (tmp_path / "out/journal.jsonl").read_bytes().splitlines(keepends=True)
    kinds = [json.loads(text)["body"]["kind"] for text in texts]
    assert "between" in kinds
    assert ("rollback" in kinds) == (rate == 1.0)
    after = {kind: k for k, kind in enumerate(kinds[:-1], 1)} | {"step": kinds.index("step") + 1}
    after |= {f"first {kind}": kinds.index(kind) + 1 for kind in ("eval", "between", "rollback") if kind in kinds}
    for k in sorted(set(after.values())):
        folder = tmp_path / f"cut{k}"
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(texts[:k]))
        settings = {**options, "max_steps": steps + 2, "output_dir": str(folder), "resume": "last"}
        assert zotune.fit(**settings).steps == steps + 2, kinds[k - 1]
        (end,) = [line for line in lines(folder, "end") if line["step"] == steps + 2]
        assert [line["step"] for line in lines(folder, "step")] == list(range(steps + 2))
        assert {line["step"] for line in lines(folder, "eval")} >= set(range(0, steps + 3, 2))
        before = (folder / "journal.jsonl").read_bytes()
        zotune.fit(**settings)
        assert (folder / "journal.jsonl").read_bytes() == before, "a second resume has nothing to do"
        assert replay(folder, tmp_path / f"replayed{k}", step=steps + 2).weights == end["weights"]


def test_rollback_0_switches_it_off(diverging: Any, tmp_path: Path) -> None:
    zotune.fit(objective="cross-entropy", rollback=0.0, **diverging)
    assert lines(tmp_path / "out", "rollback") == []
    with pytest.raises(OptionError, match="--rollback"):
        zotune.fit(rollback=-1.0, **diverging)


def test_the_deficit_is_in_paired_standard_errors() -> None:
    class Rows:
        def __len__(self) -> int:
            return 4

    class Goal:
        direction, ordered = "maximize", False

    held = HeldOutSet(None, Rows(), Goal())  # type: ignore[arg-type]
    before, after = (Score(2.0, (1.0, 2.0, 3.0, None)), Score(1.0, (0.5, 1.0, 1.5, 9.0)))
    gaps = [-0.5, -1.0, -1.5]
    error = math.sqrt(sum((g + 1.0) ** 2 for g in gaps) / 2 / 3)
    pair = ({}, before), ({}, after)
    assert held.standard_errors_below(*pair, held.paired_error(*pair, 0)) == pytest.approx(1.0 / error)
    assert held.standard_errors_below(({}, before), ({}, before), 0.0) is None
    held.objective.ordered = True  # type: ignore[misc]
    won = Score(0.25, (0.0, 0.5, 0.0, 0.5))
    pair = ({}, won), ({}, won)
    assert held.standard_errors_below(*pair, held.paired_error(*pair, 0)) == pytest.approx(
        0.25 / (math.sqrt(0.25 / 3) / 2)
    )


@pytest.mark.parametrize("optimizer", ["mezo", "auto", "mezo-momentum"])
def test_a_run_with_a_rollback_is_replayed_from_its_journal(diverging: Any, tmp_path: Path, optimizer: str) -> None:
    """Also where interpolated weights are evaluated before the rollback (`auto`)."""
    made = {**diverging, "optimizer": optimizer, "rollback": 0.2, "guard": 0.0}
    if optimizer == "auto":
        del made["learning_rate"], made["eps"]
        made["optimizer_args"] = {"cap": 300.0, "eps": 50.0}
    zotune.fit(objective="f1", **made)
    assert lines(tmp_path / "out", "rollback")
    assert replay(tmp_path / "out", tmp_path / "again").confirmed
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()
