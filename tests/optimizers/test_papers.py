"""Every optimizer is its paper: plain references in float64, one formula after the other, agree to 1e-12."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from references import Flat, Reference, load, quadratic

from zotune.bench.workbench import same
from zotune.testing import Bench
from zotune.types import Score


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("n", "batches"), [(1, "shared"), (3, "shared"), (3, "fresh")])
def test_mezo_is_its_paper(schedule: str, n: int, batches: str) -> None:
    lr, eps, decay, steps = 3e-3, 1e-2, 0.1, 5
    ref = Reference(load("mezo", lr=lr, eps=eps, n=n, weight_decay=decay, schedule=schedule, batches=batches))
    for t in range(steps):
        share = {"constant": 1.0, "linear": 1 - t / steps, "cosine": (1 + math.cos(math.pi * t / steps)) / 2}[schedule]
        eta = lr * share
        update = {name: np.zeros_like(w) for name, w in ref.theta.items()}
        for j in range(n):
            z = ref.noise("normal", t, j)
            rows = ref.rows(t, j if batches == "fresh" else 0)
            g = (quadratic(ref.moved(eps, z), rows) - quadratic(ref.moved(-eps, z), rows)) / (2 * eps)
            for name in update:
                update[name] += eta / n * g * z[name]
        for name, w in ref.theta.items():
            lam = 0.0 if ref.kinds[name].kind in ("bias", "norm") else decay
            ref.theta[name] = w - update[name] - eta * lam * w
    ref.agrees()


def test_random_search_keeps_the_best_of_all() -> None:
    ref = Reference(load("random-search", sigma=0.05, n=4))
    rms = {n: math.sqrt((w**2).mean()) for n, w in ref.theta.items()}
    for t in range(5):
        points = [ref.theta] + [
            ref.moved({n: 0.05 * r for n, r in rms.items()}, ref.noise("normal", t, j)) for j in range(4)
        ]
        values = [quadratic(p, ref.rows(t)) for p in points]
        ref.theta = points[int(np.argmin(values))]
    ref.agrees()


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


@pytest.mark.parametrize("scale_lr", [False, True])
def test_mezo_with_growing_n(scale_lr: bool) -> None:
    lr, eps, steps = 3e-3, 1e-2, 6
    ref = Flat("mezo", steps, lr=lr, eps=eps, n=3, growth="linear", scale_lr=scale_lr)
    x = ref.x
    for t in range(steps):
        n = [1, 1, 2, 2, 3, 3][t]
        update = np.zeros_like(x)
        for j in range(n):
            update += lr * (n if scale_lr else 1) / n * ref.slope(x, ref.z(t, j), eps, ref.rows(t)) * ref.z(t, j)
        x = x - update
    ref.ends_at(x)


@pytest.mark.parametrize("refresh", ["once", "epoch"])
@pytest.mark.parametrize("norms", ["parameter", "gradient"])
@pytest.mark.parametrize("modified", ["variance", "expectation"])
@pytest.mark.parametrize("name", ["mezo-modified", "mezo"])  # the options of mezo are aliases
def test_mezo_with_modified_estimates(name: str, modified: str, norms: str, refresh: str) -> None:
    lr, eps, steps, samples = 3e-3, 1e-2, 6, 2
    ref = Flat(name, steps, lr=lr, eps=eps, modified=modified, norms=norms, refresh=refresh, samples=samples)
    groups = [["embed.weight"], ["layers.0.bias", "layers.0.weight"], ["layers.1.bias", "layers.1.weight"]]
    groups.append(["norm.bias", "norm.weight"])  # outside of blocks and embeddings: the head

    def sizes(x: Any, t: int) -> Any:
        d = np.zeros_like(x)
        for k, names in enumerate(groups):
            inside = np.zeros_like(x)
            for n in names:
                inside[ref.spans[n]] = 1.0
            if norms == "parameter":
                d += inside * math.sqrt(((inside * x) ** 2).sum())
            else:
                zs = [inside * ref.z(t, 1 + k * samples + j) for j in range(samples)]
                d += inside * math.sqrt(sum(ref.slope(x, z, eps, ref.rows(max(t, -1))) ** 2 for z in zs) / samples)
        return d

    x = ref.x
    d = sizes(x, -1)
    for t in range(steps):
        if refresh == "epoch" and t == 4:  # 24 rows in batches of 6
            d = sizes(x, t)
        z = ref.z(t)
        g = ref.slope(x, z / d, eps, ref.rows(t))
        x = x - lr * g * (d * z if modified == "variance" else z)
    ref.ends_at(x)


@pytest.mark.parametrize("n", [1, 2])
def test_mezo_momentum_and_adam(n: int) -> None:
    lr, eps, b1, b2, sigma, decay = 3e-3, 1e-2, 0.8, 0.95, 1e-6, 0.1
    for name in ("mezo-momentum", "mezo-adam"):
        more = {"beta2": b2, "sigma": sigma} if name == "mezo-adam" else {}
        ref = Flat(name, lr=lr, eps=eps, beta1=b1, n=n, weight_decay=decay, **more)
        shrinks = ref.shrinks()
        x = ref.x
        m = v = np.zeros_like(x)
        for t in range(5):
            estimate = sum(ref.slope(x, ref.z(t, j), eps, ref.rows(t)) * ref.z(t, j) for j in range(n)) / n
            m = b1 * m + (1 - b1) * estimate
            v = b2 * v + (1 - b2) * estimate**2
            adam = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + sigma)
            x = x - lr * (adam if name == "mezo-adam" else m) - lr * decay * shrinks * x
        ref.ends_at(x, m=m, **({"v": v} if name == "mezo-adam" else {}))


@pytest.mark.parametrize("window", [2, 9])
def test_recomputed_moments_are_those_of_the_last_steps(window: int) -> None:
    lr, eps, b1, b2, sigma = 3e-3, 1e-2, 0.8, 0.95, 1e-6
    options = {"lr": lr, "eps": eps, "beta1": b1, "moments": "recomputed", "window": window}
    for name in ("mezo-momentum", "mezo-adam"):
        ref = Flat(name, **options, **({"beta2": b2, "sigma": sigma} if name == "mezo-adam" else {}))
        x, past = ref.x, []
        for t in range(5):
            past.append(ref.slope(x, ref.z(t), eps, ref.rows(t)) * ref.z(t))
            last = list(reversed(past))[:window]
            m = sum((1 - b1) * b1**k * e for k, e in enumerate(last))
            v = sum((1 - b2) * b2**k * e**2 for k, e in enumerate(last))
            adam = m / (1 - b1 ** len(last)) / (np.sqrt(v / (1 - b2 ** len(last))) + sigma)
            x = x - lr * (adam if name == "mezo-adam" else m)
        ref.ends_at(x)
        assert not ref.bench.space.fields


@pytest.mark.parametrize("signed", [True, False])
def test_zo_adamu(signed: bool) -> None:
    lr, eps, sigma, steps, t1, t2 = 3e-3, 1e-2, 1e-6, 10, 2, 7
    ends = {"alpha": 0.5, "beta1": 0.9, "beta2": 0.01}
    ref = Flat("zo-adamu", steps, lr=lr, eps=eps, sigma=sigma, warmup=0.2, anneal=0.7, signed=signed, **ends)
    x, m = ref.x, np.zeros_like(ref.x)
    for t in range(steps):
        if t < t1:
            alpha = beta1 = beta2 = 1.0
        elif t < t2:
            c = 0.5 + 0.5 * math.cos(math.pi * (t - t1) / (t2 - t1))
            alpha, beta1, beta2 = (end + (1 - end) * c for end in ends.values())
        else:
            alpha, beta1, beta2 = ends.values()
        inner = math.sqrt(alpha) * ref.z(t, 0)
        outer = m + math.sqrt(1 - alpha) * ref.z(t, 1)
        d = beta1 * inner + (1 - beta1) * outer
        v = beta2 * inner**2 + (1 - beta2) * outer**2
        g = ref.slope(x, d, eps, ref.rows(t))
        x = x - lr * g * d / np.sqrt(v + sigma)
        m = np.sign(g) * d if signed else d
    ref.ends_at(x, m=m)


@pytest.mark.parametrize("on", ["gradient", "perturbation"])
@pytest.mark.parametrize("momentum", ["adam", "adamw", "adamax", "adamm"])
def test_zo_adamm_and_its_schedules(momentum: str, on: str) -> None:
    lr, eps, b1, b2, sigma, decay = 3e-3, 1e-2, 0.8, 0.9, 1e-6, 0.1
    options = {"lr": lr, "eps": eps, "beta1": b1, "beta2": b2, "sigma": sigma, "weight_decay": decay}
    ref = Flat("zo-adamm", momentum=momentum, on=on, **options)
    shrinks = ref.shrinks()
    x = ref.x
    m = v = most = np.zeros_like(x)
    for t in range(5):
        z = ref.z(t)
        taken = ref.slope(x, z, eps, ref.rows(t)) * z if on == "gradient" else z
        m = b1 * m + (1 - b1) * taken
        first = m if momentum == "adamm" else m / (1 - b1 ** (t + 1))
        if momentum == "adamax":
            v = np.maximum(b2 * v, abs(taken))
            root = v
        else:
            v = b2 * v + (1 - b2) * taken**2
            most = np.maximum(most, v)
            root = np.sqrt(most if momentum == "adamm" else v / (1 - b2 ** (t + 1)))
        d = first / (root + sigma)
        update = d if on == "gradient" else ref.slope(x, d, eps, ref.rows(t)) * d
        x = x - lr * update - (lr * decay * shrinks * x if momentum == "adamw" else 0.0)
    ref.ends_at(x, m=m, v=v, **({"most": most} if momentum == "adamm" else {}))


@pytest.mark.parametrize("full", [0, 12])
@pytest.mark.parametrize("directions", ["shared", "independent"])
@pytest.mark.parametrize("anchored", ["stored", "recomputed"])
def test_mezo_svrg_with_both_kinds_of_step_and_annealing(anchored: str, directions: str, full: int) -> None:
    lr1, lr2, eps, q, factor, kappa, steps = 3e-3, 2e-3, 1e-2, 3, 2.0, 0.5, 13
    options = {"lr1": lr1, "lr2": lr2, "eps": eps, "q": q, "full": full, "anneal": factor, "kappa": kappa}
    ref = Flat("mezo-svrg", steps, anchor=anchored, z=directions, **options)
    x, losses, scale = ref.x, [], 1.0
    anchor, g_full, z_full = x, 0.0, x
    for t in range(steps):
        if t and t % 4 == 0 and t >= 8 and np.mean(losses[t - 4 : t]) / np.mean(losses[t - 8 : t - 4]) > kappa:
            scale /= factor
        z = ref.z(t)
        if t % q == 0:
            rows = ref.bench.batches.sample(t, full).rows if full else tuple(range(24))
            up, down = ref.L(x + eps * z, rows), ref.L(x - eps * z, rows)
            anchor, g_full, z_full = x, (up - down) / (2 * eps), z
            update = lr1 * scale * g_full * z_full
        else:
            rows, other = ref.rows(t), ref.z(t, 0 if directions == "shared" else 1)
            up, down = ref.L(x + eps * z, rows), ref.L(x - eps * z, rows)
            g, fixed = (up - down) / (2 * eps), ref.slope(anchor, other, eps, rows)
            update = lr2 * scale * (g * z - fixed * other + g_full * z_full)
        losses.append((up + down) / 2)
        x = x - update
    ref.ends_at(x)
    assert ref.bench.engine.state["scale"] == scale < 1.0
    assert len(ref.bench.space.fields) == (anchored == "stored")


@pytest.mark.parametrize("full", [0, 12])
def test_zo_svrg_with_a_direction_for_each_row(full: int) -> None:
    lr, eps, q = 1e-3, 1e-2, 2
    ref = Flat("zo-svrg", lr=lr, eps=eps, q=q, full=full)
    x = anchor = G = ref.x

    def estimate(x: Any, rows: Any, t: int) -> Any:
        return sum(ref.slope(x, ref.z(t, i), eps, (row,)) * ref.z(t, i) for i, row in enumerate(rows)) / len(rows)

    for t in range(5):
        if t % q == 0:
            anchor, G = x, estimate(x, ref.bench.batches.sample(t, full).rows if full else range(24), t)
            x = x - lr * G
        else:
            x = x - lr * (estimate(x, ref.rows(t), t) - estimate(anchor, ref.rows(t), t) + G)
    ref.ends_at(x, anchor=anchor, G=G)


def sizes(ref: Flat) -> dict[str, tuple[int, int]]:
    """Rows and columns of every matrix."""
    return {n: (w.shape[0], w.size // w.shape[0]) for n, w in ref.theta.items() if w.ndim > 1}


def by_matrix(ref: Flat, made: Any, elsewhere: Any) -> Any:
    """One vector of what `made` gives for each matrix, and of `elsewhere` for all other tensors."""
    out = elsewhere.copy()
    for n in sizes(ref):
        out[ref.spans[n]] = made(n).ravel()
    return out


@pytest.mark.parametrize("schedule", ["constant", "linear"])
@pytest.mark.parametrize("sampling", ["independent", "antithetic"])
def test_es(sampling: str, schedule: str) -> None:
    alpha, sigma, n = 0.05, 1e-2, 6
    ref = Flat("es", lr=alpha, eps=sigma, n=n, sampling=sampling, schedule=schedule)
    x = ref.x
    for t in range(5):
        if sampling == "independent":
            z = [ref.z(t, i) for i in range(n)]
        else:
            z = [sign * ref.z(t, i) for sign in (1, -1) for i in range(n // 2)]
        R = np.array([-ref.L(x + sigma * e, ref.rows(t)) for e in z])
        Z = (R - R.mean()) / R.std()
        share = 1 - t / 5 if schedule == "linear" else 1.0
        x = x + alpha * share / n * sum(a * e for a, e in zip(Z, z, strict=True))
    ref.ends_at(x)
    assert ref.bench.engine.state is None


def test_fzoo() -> None:
    eta, eps, n = 0.05, 1e-2, 4
    ref = Flat("fzoo", lr=eta, eps=eps, n=n)
    x = ref.x
    for t in range(5):
        u = [ref.z(t, i, "rademacher") for i in range(n)]
        clean = ref.L(x, ref.rows(t))
        losses = np.array([ref.L(x + eps * e, ref.rows(t)) for e in u])
        x = x - eta * sum((a - clean) * e for a, e in zip(losses, u, strict=True)) / (n * losses.std(ddof=1))
    ref.ends_at(x)


@pytest.mark.parametrize("n", [1, 3])
def test_meazo(n: int) -> None:
    eta, eps, beta, zeta, decay = 3e-3, 1e-2, 0.8, 0.5, 0.1
    ref = Flat("meazo", lr=eta, eps=eps, n=n, beta=beta, zeta=zeta, weight_decay=decay)
    x, v, shrinks = ref.x, 0.0, ref.shrinks()
    for t in range(5):
        z = [ref.z(t, j) for j in range(n)]
        g = [ref.slope(x, e, eps, ref.rows(t)) for e in z]
        v = beta * v + (1 - beta) * np.mean(g) ** 2
        estimate = sum(a * e for a, e in zip(g, z, strict=True)) / n
        x = x - eta / (math.sqrt(v / (1 - beta ** (t + 1))) + zeta) * estimate - eta * decay * shrinks * x
    ref.ends_at(x)
    assert ref.bench.engine.state["v"] == pytest.approx(v, rel=1e-12)


@pytest.mark.parametrize("objective", ["flat", "steep"])
@pytest.mark.parametrize("name", ["es", "fzoo", "meazo", "zo-muon", "grzo"])
def test_losses_that_are_all_the_same_move_nothing(name: str, objective: str) -> None:
    def evaluate(rows: Any) -> Score:
        return Score(0.1 if objective == "flat" else float(sum(p.detach().sum() for p in bench.space.params.values())))

    bench = Bench(load(name), steps=2, evaluate=evaluate)
    start = bench.weights()
    assert same(start, bench.run().weights()) == (objective == "flat")


@pytest.mark.parametrize("interval", [2, 100])
@pytest.mark.parametrize(("beta", "window"), [(0.0, 32), (0.8, 32), (0.8, 3)])
def test_lozo_and_its_momentum(beta: float, window: int, interval: int) -> None:
    eta, eps, r = 3e-3, 1e-2, 3
    ref = Flat("lozo", lr=eta, eps=eps, rank=r, interval=interval, beta=beta, window=window)
    x, past = ref.x, []
    M = np.zeros_like(x)

    def V(n: str, t: int) -> Any:
        return ref.factor(n, sizes(ref)[n][1], r, t - t % interval, 1)

    def U(n: str, t: int) -> Any:
        return ref.factor(n, sizes(ref)[n][0], r, t, 0)

    def momentum(n: str) -> Any:
        """N of the paper, started at 0 before the window, and N Vᵀ."""
        N = np.zeros((sizes(ref)[n][0], r))
        for t, g in past[-window:]:
            if t % interval == 0 and t:
                N = N @ V(n, t - 1).T @ V(n, t) / sizes(ref)[n][1]
            N = beta * N + (1 - beta) * g * U(n, t)
        return N @ V(n, past[-1][0]).T / r

    for t in range(5):
        z = by_matrix(ref, lambda n, t=t: U(n, t) @ V(n, t).T, ref.z(t))
        g = ref.slope(x, z, eps, ref.rows(t))
        past.append((t, g))
        M = beta * M + (1 - beta) * g * by_matrix(ref, lambda n: np.zeros(sizes(ref)[n]), ref.z(t))
        plain = by_matrix(ref, lambda n, t=t, g=g: g * U(n, t) @ V(n, t).T / r, g * ref.z(t))
        x = x - eta * (by_matrix(ref, momentum, M) if beta else plain)
    ref.ends_at(x)
    assert set(ref.bench.space.fields) == ({"M"} if beta else set())
    stored = ref.bench.space.fields.get("M", {})
    assert not set(stored) & set(sizes(ref)), "the momentum of a matrix is no field"
    for n, m in stored.items():
        np.testing.assert_allclose(m.numpy().ravel(), M[ref.spans[n]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("rank", "interval"), [(3, 2), (64, 100)])
def test_zo_muon(rank: int, interval: int) -> None:
    gamma, other, mu, N = 0.02, 3e-3, 0.1, 4
    ref = Flat("zo-muon", lr=gamma, vector_lr=other, eps=mu, rank=rank, n=N, interval=interval)
    x = ref.x

    def P(n: str, t: int) -> Any:
        rows = sizes(ref)[n][0]
        Q, R = np.linalg.qr(ref.factor(n, rows, min(rank, rows), t - t % interval, 0))
        assert np.allclose(Q.T @ Q, np.eye(Q.shape[1]))
        return Q * np.sign(np.diag(R))

    def psi(n: str, t: int, i: int) -> Any:
        rows, columns = sizes(ref)[n]
        return ref.factor(n, columns, min(rank, rows), t, 1 + i).T

    def msign(G: Any) -> Any:
        X = G / (np.linalg.norm(G) + 1e-7)
        for _ in range(5):
            A = X @ X.T
            X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
        sizes_of_all = np.linalg.svd(X, compute_uv=False)
        assert 0.3 < sizes_of_all[0] < 1.3
        return X

    for t in range(5):
        Z = [by_matrix(ref, lambda n, t=t, i=i: P(n, t) @ psi(n, t, i), ref.z(t, i)) for i in range(N)]
        clean = ref.L(x, ref.rows(t))
        g = [(ref.L(x + mu * z, ref.rows(t)) - clean) / mu for z in Z]

        def update(n: str, t: int = t, g: Any = g) -> Any:
            return gamma * P(n, t) @ msign(sum(g[i] * psi(n, t, i) for i in range(N)) / N)

        x = x - by_matrix(ref, update, other / N * sum(g[i] * ref.z(t, i) for i in range(N)))
    ref.ends_at(x)


def test_grzo_with_a_direction_for_each_row() -> None:
    eta, sigma, floor = 1e-3, 1e-2, 1e-3
    ref = Flat("grzo", lr=eta, eps=sigma, floor=floor)
    x = ref.x

    def sign(n: str, side: int, t: int, i: int) -> Any:
        return np.where(ref.factor(n, sizes(ref)[n][side], 1, t, 2 * i + side) >= 0, 1.0, -1.0)

    for t in range(5):
        rows, U = ref.rows(t), ref.noise("normal", t)

        def direction(i: int, t: int = t, U: Any = U) -> Any:
            made = lambda n: U[n] * (sign(n, 0, t, i) @ sign(n, 1, t, i).T)  # noqa: E731
            return by_matrix(ref, made, ref.z(t, i, "rademacher"))

        z = [direction(i) for i in range(len(rows))]
        delta = np.array(
            [ref.L(x + sigma * z[i], (row,)) - ref.L(x - sigma * z[i], (row,)) for i, row in enumerate(rows)]
        )
        a = delta / (delta.std() + floor)
        x = x - eta / (2 * sigma * len(rows)) * sum(a[i] * z[i] for i in range(len(rows)))
    ref.ends_at(x)


def quantile(values: Any, q: float) -> float:
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    return float(ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low))


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
@pytest.mark.parametrize("kind", ["dynamic", "constant", "random"])
def test_sparse_mezo_and_its_masks(kind: str, sparsity: float) -> None:
    lr, eps = 3e-2, 1e-2
    ref = Flat("sparse-mezo", lr=lr, eps=eps, sparsity=sparsity, mask=kind)
    x = ref.x
    size = abs(ref.z(-1)) if kind == "random" else abs(x)
    h = np.full_like(x, np.inf)
    for n, part in ref.spans.items():
        if ref.kinds[n].kind not in ("bias", "norm"):
            h[part] = quantile(size[part], 1 - sparsity)
    first = size <= h
    assert (first.mean() == 1.0) == (sparsity == 0.0), "the largest weight is at the threshold of sparsity 0"
    changed = 0
    for t in range(5):
        mask = abs(x) <= h if kind == "dynamic" else first
        changed += int((mask != first).sum())
        z = mask * ref.z(t)
        x = x - lr * ref.slope(x, z, eps, ref.rows(t)) * z
    ref.ends_at(x)
    assert (changed > 0) == (kind == "dynamic")


@pytest.mark.parametrize("perturb", ["relative", "absolute"])
@pytest.mark.parametrize("mode", ["zo", "adam"])
def test_dizo_and_its_rounds_of_projection(mode: str, perturb: str) -> None:
    lr, eps, interval, iters, tau = 3e-3, 1e-2, 2, 3, 0.2
    rate = {"zo": 5.0, "adam": 0.05}[mode] * (1.0 if perturb == "relative" else 0.1)
    probe = 0.1 if perturb == "relative" else 0.01
    options = {"lr": lr, "eps": eps, "interval": interval, "iters": iters, "gamma_lr": rate, "gamma_eps": probe}
    ref = Flat("dizo", pattern="layers", mode=mode, perturb=perturb, tau=tau, **options)
    x, start = ref.x, ref.x.copy()
    layers = [n for n in ref.spans if "layers" in n]
    L, clipped = len(layers), 0
    for t in range(5):
        z, rows = ref.z(t), ref.rows(t)
        x = x - lr * ref.slope(x, z, eps, rows) * z
        if (t + 1) % interval:
            continue
        delta = {n: x[ref.spans[n]] - start[ref.spans[n]] for n in layers}
        d = [math.sqrt((delta[n] ** 2).sum()) for n in layers]
        gamma = np.array(d) if perturb == "absolute" else np.ones(L)
        low, high = (1 - tau) * gamma, (1 + tau) * gamma

        def at(gamma: Any, x: Any = x, delta: Any = delta, d: Any = d) -> Any:
            moved = x.copy()
            for k, n in enumerate(layers):
                ratio = gamma[k] / d[k] if perturb == "absolute" else gamma[k]
                moved[ref.spans[n]] = start[ref.spans[n]] + ratio * delta[n]
            return moved

        def along(u: Any, gamma: Any, rows: Any = rows, at: Any = at) -> float:
            return (ref.L(at(gamma + probe * u), rows) - ref.L(at(gamma - probe * u), rows)) / (2 * probe)

        m = v = np.zeros(L)
        for k in range(iters):
            if mode == "zo":
                u = np.array(ref.vector(t, L, k))
                down = along(u, gamma) * u / L
            else:
                gradient = np.array([along(np.eye(L)[i], gamma) for i in range(L)])
                m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                down = m / (1 - 0.9 ** (k + 1)) / (np.sqrt(v / (1 - 0.999 ** (k + 1))) + 1e-8)
            step = gamma - rate * down
            clipped += int(((step < low) | (step > high)).sum())
            gamma = np.clip(step, low, high)
        x = at(gamma)
    ref.ends_at(x)
    assert mode == "adam" or clipped, "no ratio was clipped: the test shows less than it says"


@pytest.mark.parametrize("growth", [1.01, 1e9])
def test_hizoo(growth: float) -> None:
    lr, eps, s = 3e-3, 1e-2, 0.05
    ref = Flat("hizoo", lr=lr, eps=eps, smooth=s, growth=growth)
    x, H = ref.x, np.ones_like(ref.x)
    for t in range(5):
        z, rows = ref.z(t), ref.rows(t)
        clean, up, down = ref.L(x, rows), ref.L(x + eps * z / np.sqrt(H), rows), ref.L(x - eps * z / np.sqrt(H), rows)
        new = (1 - s) * H + s * abs(up + down - 2 * clean) / (2 * eps**2) * H * z**2
        H = np.minimum(new, growth * H)
        x = x - lr * (up - down) / (2 * eps) * z / np.sqrt(H)
    assert (growth == 1.01) == bool((H <= 1.01**5).all())
    ref.ends_at(x, H=H)


def test_zo_sign_and_zo_conservative() -> None:
    lr, eps = 1e-3, 1e-2
    for name in ("zo-sign", "zo-conservative"):
        ref = Flat(name, lr=lr, eps=eps, schedule="linear")
        x = ref.x
        for t in range(5):
            z, rows, eta = ref.z(t), ref.rows(t), lr * (1 - t / 5)
            g = ref.slope(x, z, eps, rows)
            points = [x, x - eta * g * z, x + eta * g * z]
            best = int(np.argmin([ref.L(p, rows) for p in points]))
            x = x - eta * np.sign(g) * z if name == "zo-sign" else points[best]
        ref.ends_at(x)


@pytest.mark.parametrize(("best", "lines", "units"), [(0, 0, "rms"), (2, 0, "absolute"), (0, 3, "rms"), (1, 2, "rms")])
def test_rank_sgd_with_orders_top_k_and_line_search(best: int, lines: int, units: str) -> None:
    lr, eps, m, gamma = 0.3, 0.02, 5, 0.4
    ref = Flat("rank-sgd", lr=lr, eps=eps, points=m, best=best, lines=lines, gamma=gamma, units=units)
    x, sizes = ref.x, {n: math.sqrt((w**2).mean()) for n, w in ref.theta.items()}
    typical = math.sqrt(sum(s * s for s in sizes.values()) / len(sizes))
    unit = ref.join(
        {n: np.full(w.shape, 1.0 if units == "absolute" else max(sizes[n], typical / 10)) for n, w in ref.theta.items()}
    )
    for t in range(5):
        rows, eta = ref.rows(t), lr * (1 - t / 5)
        xi = [ref.z(t, i) for i in range(m)]
        order = sorted(range(m), key=lambda i, x=x, xi=xi, rows=rows: ref.L(x + eps * unit * xi[i], rows))
        told = order[: best or m]
        edges = [(i, j) for a, i in enumerate(told) for j in order[a + 1 :]]
        g = sum(xi[j] - xi[i] for i, j in edges) / len(edges) * unit
        tried = [x] + [x - eta * gamma**j * g for j in range(lines)]
        x = tried[int(np.argmin([ref.L(p, rows) for p in tried]))] if lines else x - eta * g
    ref.ends_at(x)


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


def test_rank_sgd_leaves_the_weights_where_no_point_is_better() -> None:
    rule = load("rank-sgd", points=4)
    assert rule.pairs([0, 0, 0, 0]) == []
    assert rule.pairs([None, None, None, None]) == []
    assert rule.pairs([0, 1, 1, None]) == [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    assert load("rank-sgd", points=4, best=1).pairs([1, 0, 2, 3]) == [(1, 0), (1, 2), (1, 3)]
