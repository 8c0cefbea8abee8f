"""Preflight: right on problems with a known signal, counted, journaled, and without effect on the weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from zotune_optimizers import es, mezo, rank_sgd, zo_sgd

import zotune
from zotune.bench.workbench import Bench, Weights, same
from zotune.cli.reports import preflight_lines
from zotune.events import PreflightDone
from zotune.runs.plan import embedded_data
from zotune.search import preflight
from zotune.search.journal import Journal
from zotune.search.preflight import Preflight
from zotune.types import Score

SIZE = 6


def bench(noise: float, rule: Any = None) -> Bench:
    """L_i = (a + noise b_i) · (θ − θ₀): each row has a slope of its own beside the common one."""
    module = Weights(50)
    start = module.flat().clone().double()
    g = torch.Generator().manual_seed(1)
    common = torch.randn(start.numel(), generator=g, dtype=torch.float64)
    own = torch.randn(24, start.numel(), generator=g, dtype=torch.float64)
    own -= own.mean(0)

    def loss(rows: Any) -> Score:
        way = module.flat().double() - start
        return Score(float(((common + noise * own[list(rows)]) @ way).mean()))

    return Bench(rule or mezo.MeZO(eps=0.01), module=module, evaluate=loss)


def look(made: Bench, monkeypatch: pytest.MonkeyPatch, count: int = 100) -> PreflightDone:
    monkeypatch.setattr(preflight, "DIRECTIONS", (4, count))
    ahead = Preflight(made.space, made.oracle, made.batches, 1e9, lambda: 2)
    before = made.weights()
    made.engine.initialize()
    seen = ahead.measure(made.optimizer, made.engine.state, 1000, count)
    assert same(before, made.weights())
    return seen


@pytest.mark.parametrize("noise", [0.0, 4.0])
@pytest.mark.parametrize("rule", [mezo.MeZO(eps=0.01), es.ES(eps=0.01, n=6), rank_sgd.RankSGD(eps=0.01, points=6)])
def test_signal_is_what_two_batches_share(noise: float, rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = look(bench(noise, rule), monkeypatch)
    # batches of 6 of 24 rows, whose own slopes sum to 0 and have a variance of 23/24, and two without a row in common
    own = noise**2 * 23 / 24
    right = (1 - own / 23) / (1 + own / SIZE * 18 / 23)
    assert seen.zero_share == 0.0
    assert seen.signal_share == pytest.approx(right, abs=0.2)


def test_a_run_without_signal_is_warned() -> None:
    made = bench(30.0)
    ahead = Preflight(made.space, made.oracle, made.batches, 1000.0, lambda: 2)
    report = ahead(made.optimizer, None, 9)
    assert report is not None
    assert report.directions is not None
    assert report.signal is not None
    assert report.signal_share is not None
    assert report.signal == pytest.approx(3.0 * report.signal_share)
    assert report.signal_error == pytest.approx(math.sqrt(9 / report.directions))
    warned = "a run of this budget can hardly learn anything" in preflight_lines(report)[1]
    assert warned == (report.signal + report.signal_error < 2)
    other = bench(0.0)
    clear = Preflight(other.space, other.oracle, other.batches, 1000.0, lambda: 2)(other.optimizer, None, 900)
    assert clear is not None
    assert clear.signal == pytest.approx(30.0)
    assert preflight_lines(clear)[1] == "expected signal over 900 steps: 30x the noise"


def test_flat_objectives_are_detected_and_a_wider_scale_is_tried() -> None:
    made = bench(0.0)
    evaluate = made.oracle._evaluate
    made.oracle._evaluate = lambda rows: Score(round(evaluate(rows).value * 2))
    ahead = Preflight(made.space, made.oracle, made.batches, 1000.0, lambda: 2)
    report = ahead(made.optimizer, None, 100)
    assert report is not None
    assert report.zero_share is not None
    assert report.zero_share > 0.25
    assert (report.eps, report.wider_eps) == (0.01, 0.04)
    assert "with --eps 0.04 instead of 0.01" in preflight_lines(report)[1]
    made.oracle._evaluate = lambda rows: Score(1.0)
    report = ahead(zo_sgd.ZOSign(eps=1e-4), None, 100)
    assert report is not None
    assert (report.zero_share, report.signal_share) == (1.0, None)
    assert "no signal" in preflight_lines(report)[0]


def test_journal_lines_round_trip_and_may_hold_a_text() -> None:
    report = PreflightDone(4, 16, 100, 0.5, 0.25, 2.5, 0.01, 0.04, 0.1, 0.9, 0.8)
    assert preflight.from_line(preflight.to_line(report)) == report
    assert preflight.from_line(preflight.to_line(PreflightDone(failed="no"))) == PreflightDone(failed="no")
    older = {"directions": 4, "zero": 0.5, "r": None, "signal": None, "lines": ["preflight: …"]}
    assert preflight.from_line(older) == PreflightDone(directions=4, zero_share=0.5)


def test_a_small_budget_has_no_preflight() -> None:
    made = bench(0.0)
    assert Preflight(made.space, made.oracle, made.batches, 200.0, lambda: 2)(made.optimizer, None, 100) is None
    assert made.calls == 0


def options(tiny_encoder: Path, toy: Path, out: Path, **more: Any) -> dict[str, Any]:
    model = {"model": str(tiny_encoder), "dataset": str(toy), "labels": "awful film,lovely film"}
    rule = {"optimizer": "mezo", "learning_rate": 1e-3, "eps": 0.01, "batch_size": 8, "eval_steps": 20}
    return {**model, **rule, "objective": "cross-entropy", "max_evals": 240, "output_dir": str(out), **more}


def test_a_run_journals_the_preflight_and_resumes(
    tiny_encoder: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "SHARE", 0.1)
    events: list[PreflightDone] = []
    result = zotune.fit(
        emit=lambda event: events.append(event) if isinstance(event, PreflightDone) else None,
        **options(tiny_encoder, toy, tmp_path / "out"),
    )
    texts = (tmp_path / "out/journal.jsonl").read_bytes().splitlines(keepends=True)
    kinds = [json.loads(t)["body"]["kind"] for t in texts]
    assert kinds[:5] == ["header", "init", "eval", "preflight", "step"]
    line = json.loads(texts[3])["body"]
    assert events == [preflight.from_line(line)]
    assert line["directions"] >= 4
    assert line["evals"] >= 4 * line["directions"]
    assert result.forwards <= 240
    for cut in (3, 4, 9):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(texts[:cut]))
        zotune.fit(resume="last", **options(tiny_encoder, toy, folder))
        assert (folder / "journal.jsonl").read_bytes() == b"".join(texts)
    zotune.fit(preflight=False, **options(tiny_encoder, toy, tmp_path / "none"))
    without = Journal.open(tmp_path / "none/journal.jsonl", read_only=True).lines
    assert not [x for x in without if x["kind"] == "preflight"]
    first = [
        next(x for x in lines if x["kind"] == "step") for lines in (without, [json.loads(t)["body"] for t in texts])
    ]
    assert first[0]["tape"] == first[1]["tape"]


def test_a_better_linear_probe_is_offered(minilm: Path, tmp_path: Path) -> None:
    events: list[PreflightDone] = []
    for name, rows in (("train", 128), ("validation", 100), ("test", 20)):
        lines = (embedded_data() / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines[:rows]), encoding="utf-8")
    zotune.fit(
        model=str(minilm),
        dataset=str(tmp_path),
        objective="accuracy",
        max_evals=82,
        init="none",
        output_dir=str(tmp_path / "out"),
        eval_steps=1000,
        interpolate=False,
        emit=lambda event: events.append(event) if isinstance(event, PreflightDone) else None,
    )
    (report,) = events
    assert report.linear_probe is not None
    assert report.base_score is not None
    assert report.linear_probe > report.base_score
    assert "--init linear-probe starts from it" in preflight_lines(report)[-1]
