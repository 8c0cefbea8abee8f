"""`auto` is its docstring: calibration, cap and steps, against plain references in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
from references import Reference, load, quadratic

from zotune.cli.terminal import Terminal
from zotune.events import Initialized
from zotune.testing import Bench


def test_auto_is_its_docstring() -> None:
    tau, eps, cap, beta, c, rows = 0.003, 0.5, 0.05, 0.9, 1.5, 12
    options = {
        "share": 100.0,
        "tolerance": tau,
        "eps": eps,
        "cap": cap,
        "beta": beta,
        "clip": c,
        "rows": rows,
        "bands": 2,
    }
    ref = Reference(load("auto", **options), steps=6)
    batch = ref.bench.batches.sample(-1, rows).rows
    assert len(set(batch)) == rows
    clean = quadratic(ref.theta, batch)

    def costs(D: dict[str, float], draw: int, share: float) -> bool:
        z = ref.noise("rademacher", -1, draw)
        probes = [quadratic(ref.moved({n: s * D[n] for n in D}, z), batch) for s in (1, -1)]
        return sum(probes) / 2 - clean > share * abs(clean)

    groups: dict[Any, list[str]] = {}
    for t in ref.kinds.values():
        groups.setdefault((t.block, t.kind, t.name.split(".")[-1]), []).append(t.name)
    D: dict[str, float] = {}
    for draw, names in enumerate(groups.values()):
        rms = {n: math.sqrt((ref.theta[n] ** 2).mean()) for n in names}
        typical = math.sqrt(sum(r * r for r in rms.values()) / len(names))
        unit = {n: max(rms[n], 0.1 * typical) if n in names else 0.0 for n in ref.theta}
        powers = [2.0**k for k in range(4, -7, -1)]
        fits = [p for p in powers if not costs({n: p * u for n, u in unit.items()}, draw, tau)]
        D |= {n: max(fits) * unit[n] for n in names}
    while costs({n: eps * d for n, d in D.items()}, len(groups), 5 * tau):
        eps /= 2
    cap *= math.sqrt(6 / 600)
    first = min(cap / math.sqrt(0.8 * 6), eps)
    v = weight = moved = 0.0
    for t in range(6):
        z, now = ref.noise("rademacher", t), ref.rows(t)
        up, down = (quadratic(ref.moved({n: s * eps * d for n, d in D.items()}, z), now) for s in (1, -1))
        g = (up - down) / (2 * eps)
        v, weight = beta * v + (1 - beta) * g * g, beta * weight + (1 - beta)
        d = max(-c, min(c, g / math.sqrt(v / weight)))
        step = first * min(1.0, (1 - t / 6) / 0.3) * d * min(1.0, 2 * math.sqrt(max(0.0, 1 - moved / (2 * cap) ** 2)))
        moved += step * step
        ref.theta = ref.moved({n: -step * x for n, x in D.items()}, z)
    ref.agrees()


def test_auto_in_units_of_drift_where_the_objective_says_nothing_of_scale() -> None:
    k, cap, eps = 0.5, 3.0, 2.0
    ref = Reference(load("auto", drift=k, share=100.0, bands=1, beta=0.9, clip=1.5), steps=6)
    start = {n: w.copy() for n, w in ref.theta.items()}

    def moved(x: Any) -> float:
        return 3 * sum(float(((x[n] - w) ** 2).sum()) for n, w in start.items())

    space = ref.bench.space
    ref.bench.oracle._kl = lambda: moved({n: p.detach().double().numpy() for n, p in space.params.items()})
    rms = {n: math.sqrt((w**2).mean()) for n, w in start.items()}
    groups: dict[Any, list[str]] = {}
    for n, t in ref.kinds.items():
        groups.setdefault((0 if t.block is None else 1, t.kind, n.rpartition(".")[2]), []).append(n)

    def drift(D: dict[str, float], draw: int) -> float:
        z = ref.noise("rademacher", -1, draw)
        points = [{n: w + s * D[n] * z[n] for n, w in start.items()} for s in (1, -1)]
        return sum(map(moved, points)) / 2

    D = dict.fromkeys(start, 0.0)
    for i, names in enumerate(groups.values()):
        typical = math.sqrt(sum(rms[n] ** 2 for n in names) / len(names)) or 1.0
        unit = {n: max(rms[n], 0.1 * typical) if n in names else 0.0 for n in start}
        reaches = [2.0**e for e in range(4, -8, -1)]
        fit = [r for r in reaches if drift({n: r * u for n, u in unit.items()}, i) <= k / 10]
        D |= {n: fit[0] * unit[n] for n in names}
    while (paid := drift({n: eps * d for n, d in D.items()}, len(groups))) > 0.4 * k:
        eps /= 2
    cap = min(cap, eps * math.sqrt(k / paid))
    rho, v, weight, gone = min(eps, cap / math.sqrt(0.8 * 6)), 0.0, 0.0, 0.0
    for t in range(6):
        z = ref.noise("rademacher", t)
        up, down = (quadratic(ref.moved({n: s * eps * d for n, d in D.items()}, z), ref.rows(t)) for s in (1, -1))
        g = (up - down) / (2 * eps)
        v, weight = 0.9 * v + 0.1 * g * g, 0.9 * weight + 0.1
        d = max(-1.5, min(1.5, g / math.sqrt(v / weight)))
        step = rho * min(1.0, (1 - t / 6) / 0.3) * d * min(1.0, 2 * math.sqrt(max(0.0, 1 - gone / (2 * cap) ** 2)))
        gone += step * step
        ref.theta = ref.moved({n: -step * x for n, x in D.items()}, z)
    ref.agrees()


def test_auto_stays_within_its_cap() -> None:
    bench = Bench(load("auto", cap=0.1), steps=200).run()
    assert math.sqrt(bench.engine.state.moved) <= 0.1 * 2.2


def test_auto_moves_less_in_a_short_run() -> None:
    """Signal adds up with the root of the steps: a quarter of the full number, half of the displacement."""
    caps = {steps: Bench(load("auto"), steps=steps) for steps in (150, 600, 5000)}
    for bench in caps.values():
        bench.engine.hooks.stop = lambda bench=bench: bench.engine.progress.step == 1
        bench.run()
    assert [bench.engine.state.cap for bench in caps.values()] == [1.5, 3.0, 3.0]


def test_auto_describes_its_calibration_in_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Any] = []
    bench = Bench(load("auto"), steps=1)
    bench.engine.hooks.emit = events.append
    bench.run()
    (event,) = [e for e in events if isinstance(e, Initialized)]
    numbers = dict(event.numbers)
    assert numbers["groups"] == 7  # embedding, norm and two layers, weights and biases apart
    assert numbers["perturbation scale"] == bench.engine.state.eps
    assert numbers["displacement cap"] == bench.engine.state.cap
    Terminal()(event)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("  optimizer: base loss ")
    assert f", perturbation scale {bench.engine.state.eps:.4g}, " in line
