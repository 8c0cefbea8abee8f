"""Runs whose tuned weights change no score are refused before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_fit import options

import zotune
from zotune.errors import UsageError


def test_weights_that_influence_no_score_are_refused(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    usual = options(tiny_encoder, toy, tmp_path, optimizer="mezo", max_steps=2)
    with pytest.raises(UsageError, match=r"do not influence the score: pooler.dense.bias, pooler.dense.weight"):
        zotune.fit(objective="cross-entropy", **usual, tune="pooler")
    assert not (tmp_path / "out").exists()


def test_nothing_is_scored_before_the_refusal(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(predictions: list[str]) -> float:
        calls.append(len(predictions))
        return 0.0

    usual = options(tiny_encoder, toy, tmp_path, optimizer="mezo", max_steps=2)
    with pytest.raises(UsageError, match="do not influence the score"):
        zotune.fit(objective=counted, **usual, tune="pooler")
    assert calls == []


def test_other_tuned_weights_are_not_refused(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    usual = options(tiny_encoder, toy, tmp_path, optimizer="mezo", max_steps=2)
    assert zotune.fit(objective="cross-entropy", **usual, tune="pooler|layer.1").steps == 2


def test_an_objective_that_runs_the_model_itself_is_not_refused(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    def pooled(model: Any, losses: list[float]) -> float:
        return float(model.pooler.dense.weight.sum())

    usual = options(tiny_encoder, toy, tmp_path, optimizer="mezo", max_steps=2)
    assert zotune.fit(objective=pooled, **usual, tune="pooler").steps == 2
