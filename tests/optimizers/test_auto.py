"""`auto` is its docstring: calibration of both editions, cap and steps, against plain references in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
from references import Reference, load, quadratic
from zotune_optimizers.auto_population import best_scale
from zotune_optimizers.auto_spending import Situation, share, squared_length
from zotune_optimizers.eggroll import normalised

from zotune.cli.terminal import Terminal
from zotune.errors import OptionError
from zotune.events import Initialized, Note
from zotune.scales import deviation, largest_tolerated
from zotune.search import optimizer_spec
from zotune.testing import Bench
from zotune.types import Score


def test_the_first_edition_is_its_docstring() -> None:
    tau, eps, cap, beta, c, rows = 0.003, 0.5, 0.05, 0.9, 1.5, 12
    options = {
        "edition": 1,
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


def test_the_first_edition_in_units_of_kl() -> None:
    k, cap, eps = 0.5, 3.0, 2.0
    ref = Reference(load("auto", edition=1, drift=k, share=100.0, bands=1, beta=0.9, clip=1.5), steps=6)
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


@pytest.mark.parametrize("kl", [False, True])
def test_auto_is_its_docstring(kl: bool) -> None:
    """Each scale is the largest power of two below which all are tolerated: the reference tries one after the other."""
    tau, eps, cap, k = 0.003, 0.5, 0.05, 0.3
    options = {"share": 100.0, "tolerance": tau, "eps": eps, "cap": cap, "drift": k, "rows": 12, "bands": 2}
    ref = Reference(load("auto", **options), steps=6)
    start = {n: w.copy() for n, w in ref.theta.items()}
    batch = ref.bench.batches.sample(-1, 12).rows

    def far(x: Any) -> float:
        return 3 * sum(float(((x[n] - w) ** 2).sum()) for n, w in start.items())

    space = ref.bench.space
    if kl:
        ref.bench.oracle._kl = lambda: far({n: p.detach().double().numpy() for n, p in space.params.items()})
    clean, unit = (0.0, 1.0) if kl else (quadratic(start, batch), 0.0)
    measure = far if kl else (lambda x: quadratic(x, batch))

    def points(u: dict[str, float], scale: float, draw: int) -> list[Any]:
        z = ref.noise("rademacher", -1, draw)
        return [ref.moved({n: s * scale * u[n] for n in u}, z) for s in (1, -1)]

    def cost(u: dict[str, float], scale: float, draw: int) -> float:
        return sum(measure(x) - clean for x in points(u, scale, draw)) / 2

    groups: dict[Any, list[str]] = {}
    for t in ref.kinds.values():
        band = 0 if t.block is None else 1 + t.block
        groups.setdefault((band, t.kind, t.name.split(".")[-1]), []).append(t.name)
    u: dict[str, float] = {}
    for names in groups.values():
        rms = {n: math.sqrt((start[n] ** 2).mean()) for n in names}
        typical = math.sqrt(sum(r * r for r in rms.values()) / len(names))
        u |= {n: max(rms[n], 0.1 * typical) for n in names}
    if not kl:  # the objective gives one number for all rows, and twelve rows have no parts
        unit = deviation([clean, *(measure(x) for draw in (0, 1) for x in points(u, 0.25, draw))])
    joint, single = (0.4 * k, k / 10) if kl else (5 * tau * unit, tau * unit)

    def largest(u: dict[str, float], draw: int, limit: float, ends: tuple[int, int]) -> float:
        fits = [2.0**e for e in range(*ends) if cost(u, 2.0**e, draw) <= limit]
        return max(fits)

    s = largest(u, len(groups), joint, (-10, 3))
    D: dict[str, float] = {}
    for draw, names in enumerate(groups.values()):
        only = {n: x if n in names else 0.0 for n, x in u.items()}
        D |= {n: largest(only, draw, single, (-10, 3)) * u[n] for n in names}
    scale = largest(D, len(groups), joint, (-10, 0))
    assert scale <= eps
    assert s > 0
    cap = min(cap, scale * math.sqrt(k / cost(D, scale, len(groups)))) if kl else cap * math.sqrt(6 / 600)
    ref.bench.run()
    state = ref.bench.engine.state
    assert dict(state.D.values) == pytest.approx(D, rel=1e-12)
    assert (state.eps, state.cap) == (scale, pytest.approx(cap, rel=1e-9))
    assert state.rho == pytest.approx(min(scale, cap / math.sqrt(0.8 * 6)), rel=1e-9)
    assert state.short == ""


@pytest.mark.parametrize("steps", [3, 6, 20, 60, 200, 800])
def test_no_perturbation_scale_is_used_that_was_not_evaluated(steps: int) -> None:
    """In a short run too; and a run whose budget cuts the calibration short says how many evaluations it takes."""
    bench, events = Bench(load("auto"), steps=steps), list[Any]()
    bench.engine.hooks.emit = events.append
    moved: list[float] = []
    evaluate, start = bench.oracle._evaluate, {n: w.double() for n, w in bench.weights().items()}

    def spied(rows: Any) -> Score:
        gap = [float((p.detach().double() - start[n]).abs().max()) for n, p in bench.space.params.items()]
        moved.append(max(gap))
        return evaluate(rows)

    bench.oracle._evaluate = spied
    bench.engine.hooks.stop = lambda: True  # after the first step
    bench.run()
    state = bench.engine.state
    perturbed = state.eps * max(state.D.values.values())
    assert any(x == pytest.approx(perturbed, rel=1e-3) for x in moved[:-2])
    assert moved[-1] == pytest.approx(perturbed, rel=1e-3)
    notes = [e.text for e in events if isinstance(e, Note)]
    assert bool(state.short) == (steps < 800)
    assert notes == ([state.short] if state.short else [])
    assert not notes or "a whole one takes about" in notes[0]


def test_a_group_that_was_measured_keeps_what_was_measured() -> None:
    """The budget ends within the search: each scale is one that was evaluated and tolerated."""
    for budget in range(1, 12):
        tried: list[float] = []

        def cost(scale: float, tried: list[float] = tried) -> float:
            tried.append(scale)
            return scale * scale

        found = largest_tolerated(cost, 0.05, 2.0**-5, 2.0**-10, 4.0, lambda n=budget, t=tried: len(t) < n)  # type: ignore[misc]
        assert len(tried) <= budget
        assert found == (max(x for x in tried if x * x <= 0.05), found.scale**2)
        assert budget < 4 or found.scale == 0.125
    assert largest_tolerated(lambda s: s, 1e-9, 1.0, 0.125, 4.0, lambda: True) == (0.125, 0.125)


@pytest.mark.parametrize(("factor", "shift"), [(2.0**-30, 0.0), (2.0**40, 0.0), (1.0, 1000.0), (1e6, -7.0)])
def test_populations_do_not_depend_on_a_shift_or_a_factor(factor: float, shift: float) -> None:
    scales = [1.0, 0.5, 0.25] * 4
    up = [0.31, 0.92, 0.15, 0.77, None, 0.4, 0.33, 0.21, 0.95, 0.5, 0.12, 0.66]
    down = [0.25, 0.9, 0.55, 0.71, 0.3, 0.44, None, 0.29, 0.91, 0.1, 0.19, 0.6]

    def changed(values: list[float | None]) -> list[float | None]:
        return [None if v is None else factor * v + shift for v in values]

    assert best_scale(scales, changed(up), changed(down)) == best_scale(scales, up, down)
    plain = normalised(up, down, 0.0, 0.0, 0.0, beta=0.8, clip=3.0)
    other = normalised(changed(up), changed(down), 0.0, 0.0, 0.0, beta=0.8, clip=3.0)
    if shift == 0.0:  # a power of two: the same bits
        assert other.z == plain.z
    assert other.z == pytest.approx(plain.z, abs=1e-9)


def test_the_edition_of_a_run_is_that_which_it_recorded() -> None:
    recorded = {"cap": 3.0, "tolerance": 0.05}
    auto: Any = load("auto")
    assert auto.edition == 3
    assert optimizer_spec.with_recorded(auto, recorded, {}).edition == 1
    assert optimizer_spec.with_recorded(auto, {**recorded, "edition": 2}, {}).edition == 2
    assert optimizer_spec.with_recorded(load("auto", cap=1.0), recorded, {"cap": 1.0}).cap == 1.0
    with pytest.raises(OptionError, match="edition must be 1, 2 or 3, got 4"):
        load("auto", edition=4)
    shares = {e: [share(rows, e) for rows in (640, 1280, 2560, 10000)] for e in (2, 3)}
    assert shares[2] == pytest.approx([0.9, 0.9, 0.9 * 0.5 ** (1 / 3), 0.5])
    assert shares[3] == pytest.approx([0.31, 0.31, 0.31 * 2**0.75, 0.7])


def test_a_step_spends_its_share_of_the_kl() -> None:
    """Against the formulas of auto_spending.py, with numbers that are easy to follow."""
    now = Situation(0.04, 0.0, 0.1, 0.27, 1.0, 1.0, 1.0, 1280, 10, 20, 3)
    assert not now.rare
    assert squared_length(now) == pytest.approx(0.06 / 10)
    assert squared_length(now._replace(energy=0.5)) == pytest.approx(0.06 / 10), "small differences make small steps"
    assert squared_length(now._replace(room=0.3)) == pytest.approx(0.06 / 10 * 0.6**2)
    assert squared_length(now._replace(room=0.3, kl=0.0)) == pytest.approx(0.1 / 10), "the first of it is free"
    assert squared_length(now._replace(energy=0.0)) == 0.0
    assert squared_length(now._replace(kl=0.1)) == 0.0
    assert squared_length(now._replace(spared=0.05)) == pytest.approx(0.11 / 10), "counted from where it was found"
    assert squared_length(now._replace(spared=0.25, kl=0.26)) == pytest.approx(0.01 / 10), "up to the bound"
    assert squared_length(now._replace(spared=0.25, kl=0.28)) == 0.0
    rare = now._replace(differing=0.1, energy=0.5)
    assert rare.rare
    assert squared_length(rare) == pytest.approx(0.23 / 10)
    assert squared_length(rare._replace(left=1, kl=0.0)) == pytest.approx(16 * 0.27 / 20), "at most"
    assert not rare._replace(room=0.7).rare
    long = now._replace(rows=2560, room=0.1, energy=0.1)
    assert squared_length(long) == pytest.approx(0.06 / 10 / 0.3), "long runs go on moving"
    second = now._replace(edition=2, energy=0.1, differing=0.1)
    assert squared_length(second) == pytest.approx(0.06 / 10)
    assert squared_length(second._replace(room=0.3)) == pytest.approx(0.06 / 10 * 0.42**2)
    assert squared_length(second._replace(rows=2560, room=0.1)) == pytest.approx(0.06 / 10)


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
