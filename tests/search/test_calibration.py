"""Calibration: the chosen options fit, their evaluations count, and they are journaled and resumed."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from zotune_optimizers import es, meazo, mezo, mezo_adam, mezo_momentum, zo_sgd

import zotune
from zotune.bench.workbench import Bench, same
from zotune.errors import OptionError, UsageError
from zotune.events import Calibrated
from zotune.search.calibration import Calibration, from_line, to_line
from zotune.search.journal import Journal
from zotune.types import Score


def calibration(bench: Bench, **more: Any) -> Calibration:
    start = bench.space.snapshot()
    options = {"lr": "lr", "eps": "eps", "steps": 100, "evals": 1000.0} | more
    return Calibration(
        bench.optimizer, options["lr"], options["eps"], bench.space, bench.oracle, bench.batches, options["steps"],
        options["evals"], lambda: start,
    )  # fmt: skip


RULES = [mezo.MeZO, mezo_momentum.MeZOMomentum, mezo_adam.MeZOAdam, meazo.MEAZO, zo_sgd.ZOSign, es.ES]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_ends_as_far_from_the_base_as_one_perturbation_reaches(rule: Any, dtype: torch.dtype) -> None:
    """For optimizers that use the learning rate in different ways, with momentum and moments."""
    bench = Bench(rule(), steps=100, dtype=dtype)
    before = bench.weights()
    result = calibration(bench).run()
    options = dict(result.options)
    assert same(bench.weights(), before)
    assert bench.space.fields == {}
    reach = options["eps"] * math.sqrt(bench.space.numel)
    run = Bench(replace(rule(), **options), steps=100, dtype=dtype).run()
    gone = math.sqrt(sum(float((w.double() - before[n].double()).square().sum()) for n, w in run.weights().items()))
    assert reach / 6 < gone < 6 * reach, (gone, reach, result)
    assert (result.perturbation, result.kl, result.steps) == (options["eps"], None, 100)
    assert result.loss_increase is not None
    assert result.loss_increase <= 0.05


def test_the_largest_tolerated_scale_is_chosen() -> None:
    """L of row i = i + bend |θ − θ₀|² / d: ±ε z costs bend ε², and the spread of a row is that of its indices."""
    spread = math.sqrt(sum((i - 11.5) ** 2 for i in range(24)) / 23)
    for bend in (1.0, 100.0, 1e4):
        bench = Bench(mezo.MeZO())
        start = {n: w.double() for n, w in bench.weights().items()}

        def loss(rows: Any, bench: Bench = bench, start: Any = start, bend: float = bend) -> Score:
            far = sum(float((p.detach().double() - start[n]).square().sum()) for n, p in bench.space.params.items())
            samples = tuple(i + bend * far / bench.space.numel for i in rows)
            return Score(sum(samples) / len(samples), samples)

        bench.oracle._evaluate = loss
        typical = math.sqrt(sum(float(w.square().sum()) for w in start.values()) / bench.space.numel)
        options = dict(calibration(bench, lr=None).run().options)
        grid = [typical * 2.0**-k for k in range(11)]
        tolerated = [e for e in grid if bend * e * e <= 0.1 * spread]
        assert options["eps"] == pytest.approx(max(tolerated), rel=1e-6)
        assert set(options) == {"eps"}


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 1000.0), (2.0**20, 0.0), (1e-6, -3.0)])
def test_a_shift_and_a_factor_of_the_objective_change_no_scale(factor: float, shift: float) -> None:
    def chosen(factor: float, shift: float) -> dict[str, float]:
        bench = Bench(mezo.MeZO(), dtype=torch.float64)

        def loss(rows: Any) -> Score:
            samples = tuple(factor * x + shift for x in bench.loss(rows).samples or ())
            return Score(math.fsum(samples) / len(samples), samples)

        bench.oracle._evaluate = loss
        return dict(calibration(bench, lr=None).run().options)

    assert chosen(factor, shift) == chosen(1.0, 0.0)


def test_a_flat_objective_has_no_learning_rate() -> None:
    bench = Bench(mezo.MeZO(), evaluate=lambda rows: Score(1.0))
    with pytest.raises(UsageError, match="no learning rate can be chosen"):
        calibration(bench).run()


def test_journal_lines_round_trip_and_may_lack_the_numbers() -> None:
    result = Calibrated((("lr", 0.5), ("eps", 0.25)), perturbation=0.25, kl=0.01, steps=9)
    assert from_line(to_line(result)) == result
    assert from_line({"options": {"lr": 0.5}, "lines": ["chosen: lr = 0.5"]}) == Calibrated((("lr", 0.5),))


def options(tiny_encoder: Path, toy: Path, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": str(tiny_encoder),
        "dataset": str(toy),
        "labels": "awful film,lovely film",
        "objective": "cross-entropy",
        "optimizer": "mezo-adam",
        "learning_rate": "auto",
        "eps": "auto",
        "batch_size": 8,
        "max_evals": 300,
        "preflight": False,
        "eval_steps": 20,
        "output_dir": str(out),
        **more,
    }


def test_a_run_counts_and_journals_the_calibration(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    events: list[Calibrated] = []
    result = zotune.fit(
        emit=lambda event: events.append(event) if isinstance(event, Calibrated) else None,
        **options(tiny_encoder, toy, tmp_path / "out"),
    )
    journal = Journal.open(tmp_path / "out/journal.jsonl", read_only=True)
    (line,) = [x for x in journal.lines if x["kind"] == "calibration"]
    assert set(line["options"]) == {"lr", "eps"}
    assert 0 < line["evals"] < 60
    assert events == [from_line(line)]
    assert dict(events[0].options) == line["options"]
    assert events[0].perturbation == line["options"]["eps"]
    assert result.forwards <= 300
    first = next(x for x in journal.lines if x["kind"] == "step")
    assert first["evals"] == line["evals"] + 2
    texts = (tmp_path / "out/journal.jsonl").read_bytes().splitlines(keepends=True)
    kinds = [json.loads(t)["body"]["kind"] for t in texts]
    for cut in (kinds.index("calibration"), kinds.index("calibration") + 1, kinds.index("eval") + 9):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(texts[:cut]))
        zotune.fit(resume="last", **options(tiny_encoder, toy, folder))
        assert (folder / "journal.jsonl").read_bytes() == b"".join(texts)
    again = copy.deepcopy(options(tiny_encoder, toy, tmp_path / "out"))
    assert zotune.fit(resume="last", **again).steps == result.steps


def test_options_that_cannot_be_calibrated_are_refused(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    made = options(tiny_encoder, toy, tmp_path / "out")
    with pytest.raises(OptionError, match="has no option 'lr' that can be calibrated"):
        zotune.fit(**{**made, "optimizer": "random-search"})
    with pytest.raises(OptionError, match="--eps must be a finite number or auto, got 'x'"):
        zotune.fit(**{**made, "eps": "x"})
    assert not (tmp_path / "out").exists()


def test_the_default_optimizer_calibrates_itself(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    made = options(tiny_encoder, toy, tmp_path / "out", optimizer="auto", max_evals=60)
    zotune.fit(**made)
    lines = Journal.open(tmp_path / "out/journal.jsonl", read_only=True).lines
    assert not [x for x in lines if x["kind"] == "calibration"]
