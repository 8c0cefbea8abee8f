"""Noise, recipes and written weights have the bits of a CPU; evaluations change no weight."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_parts import Check, part
from benchmarks.gpu_parts.models import shapes
from zotune.core.recipe import Factor, Noise, Recipe, maximum, only, outer, sign, sqrt, weighted_sum, where
from zotune.core.space import Space
from zotune.models import loading

Step = Callable[[Space, Any, int], tuple[Recipe, Any]]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
SIDES = {1000: (40, 25), 70_001: (70_001, 1), 63: (9, 7), 33: (33, 1), 8: (2, 4)}
"""Sides of the low-rank factors of the tensors that have some, by number of elements."""


class Tensors(nn.Module):
    """Tensors of sizes around the edges of vectors, blocks and chunks; on a GPU one of several million elements too."""

    def __init__(self, dtype: torch.dtype, device: str, large: bool) -> None:
        super().__init__()
        sizes = [1, 2, 3, 7, 8, 9, 31, 33, 63, 1000, 70_001, *([5_000_011] if large else [])]
        values = [torch.linspace(-1, 1, n) if n > 1 else torch.ones(1) for n in sizes]
        made = [(0.02 * (x + 0.1 * j)).to(dtype).to(device) for j, x in enumerate(values)]
        self.tensors = nn.ParameterList([nn.Parameter(x) for x in made])


def mezo(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    decay = space.theta.per(lambda x: 0.0 if x.numel < 9 else 1e-3)
    return space.theta - 0.0371 * Noise("normal", t, 0) - decay * space.theta, None


def adam(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    z, g = Noise("normal", t, 0), 0.3 - 0.2 * t
    m = g * z if state is None else 0.9 * state["m"] + 0.1 * g * z
    v = (g * z) ** 2 if state is None else 0.99 * state["v"] + 0.01 * (g * z) ** 2
    return space.theta - 1e-2 * m / (sqrt(v) + 1e-8), {"m": m, "v": v}


def masked(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    z, h = Noise("rademacher", t, 0), space.theta.per(lambda x: 0.015)
    return space.theta - 0.01 * where(abs(space.theta) <= h, z, 0.0) + maximum(sign(z), 0.0) * 1e-3, None


def sums(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    terms = [(0.01 * (k - 3.3), Noise("rademacher" if k % 5 == 4 else "normal", t, k)) for k in range(2 + 4 * t)]
    squares = [(abs(c), z) for c, z in terms]
    return space.theta + weighted_sum(terms) / sqrt(1e-3 + weighted_sum(squares, power=2)), None


def anchored(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    mask = space.theta.per(lambda x: x.numel > 8)
    anchor = space.theta if state is None else state["anchor"]
    moved = anchor + 1.01 * (space.theta - anchor) - 1e-3 * Noise("normal", t, 0)
    return moved, {"anchor": only(mask, anchor)}


def low_rank(space: Space, state: Any, t: int) -> tuple[Recipe, Any]:
    sides = {x.name: SIDES[x.numel] for x in space.theta.tensors if x.numel in SIDES}
    u, v = (Factor({name: (side[k], 1 + 3 * t) for name, side in sides.items()}, t, k) for k in (0, 1))
    mask = space.theta.per(lambda x: x.name in sides)
    return where(mask, space.theta - 0.01 * outer(u, v), space.theta), None


COMPILED = ["mezo", "adam"]
"""Recipes that are compiled in every dtype; the first dtype compiles all."""
SMALL = 64
"""Elements up to which a tensor of a tiny model is perturbed by copy, so that its matrices are not."""

RECIPES: dict[str, Step] = {
    "mezo": mezo,
    "adam": adam,
    "masked": masked,
    "sums": sums,
    "anchored": anchored,
    "low-rank": low_rank,
}


def outcome(step: Step, dtype: torch.dtype, device: str, compile: bool, large: bool) -> tuple[str, list[str]]:
    """A hash of all weights, fields and perturbed weights over three steps, and the kernels' notes."""
    space = Space(Tensors(dtype, device, large), seed=9, compile=compile)
    state: Any = None
    h = hashlib.sha256()
    for t in range(3):
        space.step = t
        with space.at(space.theta + 1e-1 * Noise("normal", t, 0)):
            _add(h, [p.data for p in space.params.values()])
        theta, state = step(space, state, t)
        state = space.assign(theta, state)
        _add(h, [p.data for p in space.params.values()])
    _add(h, [x for path in sorted(space.fields) for x in space.fields[path].values()])
    return h.hexdigest(), list(space.kernels.notes)


def _add(h: Any, tensors: list[Tensor]) -> None:
    for x in tensors:
        h.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())


@part("bits", "noise, recipes and stochastic rounding: the CPU's bits, eager and compiled, in every dtype", seconds=110)
def bits(check: Check) -> None:
    dtypes = ("bfloat16",) if check.tiny else ("bfloat16", "float32", "float16")
    recipes = {"mezo": mezo} if check.tiny else RECIPES
    for dtype in dtypes:
        expected = {n: outcome(step, DTYPES[dtype], "cpu", False, not check.tiny)[0] for n, step in recipes.items()}
        for compile in (False, True):
            some = list(recipes) if dtype == dtypes[0] or not compile else COMPILED  # compiling takes seconds each
            found = {n: outcome(recipes[n], DTYPES[dtype], check.device, compile, not check.tiny) for n in some}
            wrong = [n for n in some if found[n][0] != expected[n]]
            how = "compiled" if compile else "eager"
            claim = f"recipes in {dtype}, {how} on {check.device}, have the bits of the CPU"
            check.exact(claim, len(some) - len(wrong), len(some), ", ".join(wrong))
            if notes := sorted({note for _, lines in found.values() for note in lines}):
                check.row(f"kernels in {dtype} compile", "; ".join(notes), holds=False, bound="no note")
    _rounding(check)


def _rounding(check: Check) -> None:
    """An update far below the spacing of bfloat16 is kept on average by stochastic rounding."""
    module = nn.Module()
    count, update = (1 << 16 if check.tiny else 1 << 22), 2.0**-13
    module.w = nn.Parameter(torch.ones(count, dtype=torch.bfloat16, device=check.device))
    space = Space(module, seed=1)
    space.step = 0
    space.assign(space.theta + update)
    mean = float(module.w.detach().double().mean()) - 1.0
    spacing = 2.0**-7
    error = (spacing * update / count) ** 0.5
    check.row(
        "bfloat16 keeps an update of 1/64 of its spacing on average",
        f"{mean / update:.3f} of it (± {error / update:.3f})",
        holds=abs(mean - update) < 5 * error,
        bound="1 within 5 errors",
    )


def inputs(vocabulary: int, rows: int, tokens: int, device: str) -> dict[str, Tensor]:
    ids = torch.arange(rows * tokens, device=device).view(rows, tokens) * 7919 % vocabulary
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def _subject(check: Check, name: str, dtype: str) -> tuple[Any, dict[str, Tensor]]:
    family, config = shapes(check.tiny)[name]
    loaded = loading.random_model(family, config, device=check.device, dtype=dtype, seed=3, name=name)
    return loaded.model, inputs(config["vocab_size"], 2, 8, check.device)


@part("weights", "1,000 evaluations leave every bit of the weights alone, in forward and by copy", seconds=80)
@torch.no_grad()
def weights(check: Check) -> None:
    count = 20 if check.tiny else 1000
    for name in shapes(check.tiny):
        model, batch = _subject(check, name, "bfloat16")
        space = Space(model, seed=5)
        space.small = min(space.small, SMALL) if check.tiny else space.small
        before = space.digest()
        copied = space.perturb_in_forward(lambda model=model, batch=batch: model(**batch))
        for k, mode in enumerate(("in forward", "by copy")):
            forwards = 1 if mode == "in forward" else None
            for i in range(count // 2):
                space.step = i
                with space.at(space.theta + 1e-3 * Noise("normal", i, k), forwards):
                    model(**batch)
            equal = space.digest() == before
            check.exact(f"{name}: {count // 2} evaluations {mode} change no weight", int(equal), 1)
        large = sum(p.numel() > space.small for p in space.params.values())
        claim = f"{name}: every large tensor is perturbed in forward"
        check.exact(claim, large - len(copied), large, ", ".join(copied))


@part("logits", "logits of a pass that is perturbed in forward equal those of a written copy", seconds=40)
@torch.no_grad()
def logits(check: Check) -> None:
    for dtype in ("bfloat16", "float32"):
        equal, wrong = 0, []
        for name in shapes(check.tiny):
            model, batch = _subject(check, name, dtype)
            space = Space(model, seed=5)
            space.perturb_in_forward(lambda model=model, batch=batch: model(**batch))
            for i in range(4):
                space.step = i
                point = space.theta + 1e-2 * Noise("normal", i, 0)
                with space.at(point, 1):
                    forward = model(**batch).logits.clone()
                with space.at(point):
                    copy = model(**batch).logits
                same = torch.equal(forward.view(torch.uint8), copy.view(torch.uint8))
                equal += same
                wrong += [] if same else [f"{name} point {i}"]
        total = 4 * len(shapes(check.tiny))
        check.exact(f"logits in {dtype}: perturbed in forward as by copy", equal, total, ", ".join(wrong))
