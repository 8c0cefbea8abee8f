"""CMA-ES over the coefficients of a fixed low-rank basis, by pycma. Search: Hansen and Ostermeier 2001,
doi:10.1162/106365601750190398; low-rank coordinates: ESSA, Korotyshova et al. 2025, arXiv:2507.04453, and BBTv2, Sun et
al. 2022, arXiv:2205.11200.

    once, for each matrix and k = 1 … r:  u_k ~ N(0, I);  v_k ~ N(0, I);  S: root mean square of the matrix
    θ(x) = θ₀ + S Σ_k x_k u_k v_kᵀ, one x_k for each matrix and k; all x together have n numbers
    each step:
        x_i ~ m + σ N(0, C),  i = 1 … λ;  f_i ← L(θ(x_i); B)
        m, σ, C ← CMA-ES update from the order of f
        θ ← θ(m)

Evaluations a step: λ. Extra memory: θ₀ of the matrices, which is 1 × them. The state holds the losses of all steps, and
pycma's state is computed from them again; the change of a matrix has rank r and is exact but for the rounding of
weights.

Differs from the paper: ESSA searches the singular values of a trained adapter and BBTv2 the prompts of each layer; the
basis here is drawn once from the run's seed, on the base weights, and needs no adapter. C is diagonal by default (Ros
and Hansen 2008, doi:10.1007/978-3-540-87700-4_30): a few hundred evaluations do not tell n² covariances. If all f_i are
equal, the weights stay and m, σ and C, too. A replay needs a machine whose numpy rounds as the run's did.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import math
import struct
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from zotune import direction_sum, only, where
from zotune.errors import OptionError
from zotune.types import At, Directions, Oracle, PerTensor, Recipe, Theta
from zotune_optimizers.eggroll import units
from zotune_optimizers.option_checks import at_least, positive, require

Generation = tuple[int, tuple[float, ...]]
"""A step: the seed of its samples, and their losses."""


class State(NamedTuple):
    """Names are those of saved states."""

    base: Recipe  # θ₀ on the matrices
    S: PerTensor  # unit of each matrix
    generations: tuple[Generation, ...]


class Draws:
    """Standard normal numbers as pycma asks for them, from a seed of each generation."""

    def __init__(self) -> None:
        self.seed(0)

    def seed(self, seed: int) -> None:
        import numpy as np

        self._generator: Any = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> Any:
        return self._generator.standard_normal(shape)


@functools.lru_cache(maxsize=4)
def searched(n: int, sigma: float, members: int, diagonal: bool, generations: tuple[Generation, ...]) -> Any:
    """pycma's search over n numbers after these generations; a caller changes copies of it alone."""
    if generations:
        seed, losses = generations[-1]
        search = copy.deepcopy(searched(n, sigma, members, diagonal, generations[:-1]))
        search.tell(sampled(search, seed), list(losses))
        return search
    quiet = {"seed": math.nan, "verbose": -9, "verb_log": 0, "verb_disp": 0, "maxiter": math.inf}
    options = {**quiet, "popsize": members, "CMA_diagonal": diagonal, "randn": Draws()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pycma warns where matplotlib is missing, which its plots alone need
        pycma = importlib.import_module("cma")
    return pycma.CMAEvolutionStrategy([0.0] * n, sigma, options)


def sampled(search: Any, seed: int) -> list[Any]:
    """The points of the search's next generation."""
    search.opts["randn"].seed(seed)
    points: list[Any] = search.ask()
    return points


@dataclass(frozen=True)
class CMA:
    eps: float = 0.1  # σ: perturbation scale of the first step, in units of S
    n: int = 0  # λ: members a step; 0: 4 + 3 ln n for n coefficients
    rank: int = 2  # r: directions of each matrix
    diagonal: bool = True  # C is diagonal

    needs: ClassVar[str] = "comparisons"
    affine: ClassVar[bool] = True
    fields: ClassVar[int] = 1

    def __post_init__(self) -> None:
        positive("cma", eps=self.eps)
        at_least(0, "cma", n=self.n)
        at_least(1, "cma", rank=self.rank)
        require(self.n != 1, "cma: n must be at least 2, got 1", "n=2")
        if importlib.util.find_spec("cma") is None:
            raise OptionError("cma: pycma is not installed", hint="pip install 'zotune[cma]'")

    def members(self, directions: Directions) -> int:
        return self.n or 4 + int(3 * math.log(directions.count * len(directions.shapes)))

    def cost(self, theta: Theta, at: At) -> int:
        return self.members(at.directions(self.rank, step=0))

    def init(self, theta: Theta, oracle: Oracle, at: At) -> State:
        shapes = at.directions(self.rank, step=0).shapes
        return State(only(theta.per(lambda t: t.name in shapes), theta), units(theta, at), ())

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At) -> tuple[Recipe, State]:
        directions, past = at.directions(self.rank, step=0), state.generations
        size = self.rank * len(directions.shapes), self.eps, self.members(directions), self.diagonal
        seed = int.from_bytes(struct.pack("<d", at.vector(1)[0]), "little")
        points = sampled(copy.deepcopy(searched(*size, past)), seed)
        losses = oracle(*(place(theta, state, directions, x) for x in points))
        if max(losses) == min(losses):
            return theta, state
        past = (*past, (seed, tuple(losses)))
        return place(theta, state, directions, searched(*size, past).mean), state._replace(generations=past)


def place(theta: Theta, state: State, directions: Directions, x: Any) -> Recipe:
    """θ(x)."""
    moved = state.base
    for k in range(directions.count):
        number = dict(zip(directions.shapes, map(float, x[k :: directions.count]), strict=True))
        S = theta.per(lambda t, c=number: c.get(t.name, 0.0) * state.S.values[t.name])  # type: ignore[misc]
        moved = moved + S * direction_sum(directions, [float(j == k) for j in range(directions.count)])
    return where(theta.per(lambda t: t.name in directions.shapes), moved, theta)
