"""EGGROLL against a plain reference in float64, and the populations that an optimizer asks for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from references import Members, Reference, load, quadratic

from zotune.errors import ObjectiveError, OptionError
from zotune.testing import Bench
from zotune.types import Score


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("units", ["rms", "absolute"])
def test_steps_are_the_formulas(each: int, units: str) -> None:
    alpha, sigma, beta, clip, rows = 0.05, 0.02, 0.7, 1.2, 12
    pairs = rows // (2 * each)
    ref = Reference(load("eggroll", lr=alpha, eps=sigma, rows=rows, each=each, beta=beta, clip=clip, units=units))
    members = Members(ref)
    rms = {n: math.sqrt((w**2).mean()) for n, w in ref.theta.items()}
    typical = math.sqrt(sum(r * r for r in rms.values()) / len(rms))
    S = {n: max(r, 0.1 * typical) if units == "rms" else 1.0 for n, r in rms.items()}
    V = weight = peak = 0.0
    for t in range(5):
        batch = ref.bench.batches.members(t, pairs * each).rows
        f = np.zeros((2, pairs))
        for half, sign in enumerate((1.0, -1.0)):
            for p in range(pairs):
                point = members.moved({n: sigma * s for n, s in S.items()}, sign * np.eye(pairs)[p], t)
                f[half, p] = -quadratic(point, batch[p * each : (p + 1) * each])
        D = (f[0] - f[1]) / 2
        V, weight = beta * V + (1 - beta) * (D**2).mean(), beta * weight + 1 - beta
        peak = max(peak, V / weight)
        z = np.clip(D / math.sqrt(peak), -clip, clip)
        ref.theta = members.moved({n: alpha * s / pairs for n, s in S.items()}, z, t)
    ref.agrees()


def test_members_run_through_epochs_and_repeat_rows_where_data_are_few() -> None:
    batches = Bench(load("eggroll")).batches  # 24 rows
    first, second = batches.members(0, 16).rows, batches.members(1, 16).rows
    assert len({*first, *second[:8]}) == 24, "an epoch holds every row once"
    many = batches.members(0, 100).rows
    assert len(many) == 100
    assert all(many.count(i) in (4, 5) for i in range(24))


def test_a_failed_member_drops_its_pair_and_half_of_them_the_step() -> None:
    def evaluate(failing: int) -> Any:
        calls = [0]

        def score(indices: Any) -> Score:
            calls[0] += 1
            if calls[0] % 16 < failing:  # 8 pairs a step
                raise ObjectiveError("no score")
            return Score(float(calls[0] % 7))

        return score

    bench = Bench(load("eggroll", rows=16), steps=4, evaluate=evaluate(3))
    bench.run()
    assert bench.engine.progress.dropped == 0
    values = bench.engine.journal.lines[-2]["tape"][0][1]
    assert len(values) == 16
    assert values.count(None) > 0
    bench = Bench(load("eggroll", rows=16), steps=4, evaluate=evaluate(16))
    bench.run()
    assert bench.engine.progress.dropped == 4


def test_equal_scores_move_nothing_and_the_best_score_is_signal() -> None:
    bench = Bench(load("eggroll", rows=16), steps=4, evaluate=lambda rows: Score(1.0))
    before = bench.space.digest()
    bench.run()
    assert bench.space.digest() == before
    assert bench.engine.progress.zero_share == 1.0
    count = [0]

    def solved(rows: Any) -> Score:
        count[0] += 1
        return Score(1.0 if count[0] <= 5 else 0.0)  # smaller is better: all members reach it in the second step

    bench = Bench(load("eggroll", rows=16), steps=4, evaluate=solved)
    bench.run()
    assert bench.engine.progress.zero_share == 0.0
    assert bench.engine.progress.compared == 1


def test_rows_must_be_whole_pairs() -> None:
    with pytest.raises(OptionError, match="multiple of 8"):
        load("eggroll", rows=20, each=4)
