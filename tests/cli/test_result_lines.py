"""Results as lines of text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zotune.cli.result_lines import estimate_lines, result_lines, score_lines
from zotune.runs.result import Difference, Result, ScoreEstimate, ScoringCost

RESULT = Result(
    folder=Path("runs/f1-1"),
    reason="done",
    kept="tuned",
    before=ScoreEstimate(0.49, 0.03, 300),
    tuned=ScoreEstimate(-0.00001, 0.03, 300, (("f1", 0.5), ("length", -0.00001))),
    difference=Difference(-0.00001, 0.02, -0.04, 0.05),
    probe=ScoreEstimate(0.7438, 0.0282, 300),
    steps=1200,
    forwards=2400,
    dropped=2,
    zero_share=0.4,
    best_step=960,
    best_share=0.5,
    seconds=91.4,
    scoring=ScoringCost(1000, 24, 50.0, 0.5, {"retries": 3, "restarts": 0}),
    files={"model.safetensors": "0"},
)


def test_a_result() -> None:
    lines = [text for text, _ in result_lines("f1", RESULT)]
    assert lines[:5] == [
        "",
        "test f1 (300 rows, ± one standard error)",
        "  base model    0.4900 ± 0.0300",
        "  kept weights  0.0000 ± 0.0300 (f1 0.5000, length 0.0000)",
        "  linear probe  0.7438 ± 0.0282   logistic regression on the base model's embeddings",
    ]
    assert lines[5].startswith("The tuned weights are kept: 0.0000")
    assert lines[-4:] == [
        "1,200 steps, 2 dropped, 2,400 evaluations in 91 s; best step 960 (interpolated, 0.5 of the distance); "
        "40 % of steps without signal",
        "  many steps without signal: try --eps auto, a larger --batch-size or a smoother objective",
        "scoring: 50 % of the time, 1000 rows scored, 24 from the cache, 3 retries",
        "kept weights: runs/f1-1",
    ]


def test_the_optimizer_has_a_line_where_it_says_something_about_its_last_state() -> None:
    lines = [text for text, _ in result_lines("f1", replace(RESULT, optimizer={"observed steps": 40, "raised": 0.475}))]
    assert "optimizer: observed steps 40, raised 0.475" in lines
    assert not any(text.startswith("optimizer:") for text, _ in result_lines("f1", RESULT))


def test_an_interrupted_run_and_a_run_without_a_model() -> None:
    stopped = [text for text, _ in result_lines("f1", replace(RESULT, reason="interrupted"))]
    assert stopped == [
        "interrupted after step 1200; a checkpoint is written",
        "resume with: zotune resume runs/f1-1",
    ]
    journal_only = [text for text, _ in result_lines("f1", replace(RESULT, files={}))]
    assert journal_only[-1] == ("no model is written; rebuild the weights with: zotune replay runs/f1-1 -o DIRECTORY")


def test_scores_of_an_evaluation_stand_in_one_column() -> None:
    scores = {"f1": ScoreEstimate(0.5, 0.03, 60), "accuracy": ScoreEstimate(-0.00001, None, 60)}
    assert score_lines(scores) == ["f1       0.5000 ± 0.0300 (60 rows)", "accuracy 0.0000 (60 rows)"]


def test_an_estimate() -> None:
    estimate = {
        "config": {"objective": "f1", "seed": 0},
        "model": "m",
        "head": "causal",
        "classes": [],
        "task": "generation",
        "tuned_weights": 4224,
        "steps": 1200,
        "evaluations": 2400,
        "seconds": 0.123,
        "memory_mb": {"model": 86.6, "probing": 0.0, "fields": 0.0, "peak": 1234.5},
    }
    assert estimate_lines(estimate) == [
        "options other than the defaults:",
        "  objective: f1",
        "model: m (causal head), 4,224 weights tuned",
        "task: generation",
        "estimate: 1,200 steps, 2,400 evaluations, about 0.123 s",
        "memory: model 86.6 MB, perturbation 0.0 MB, optimizer 0.0 MB; peak about 1,234 MB",
    ]
