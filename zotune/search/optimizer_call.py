"""Calls an optimizer's `init` and `step` and checks what they return.

Every fault of an optimizer becomes one `OptimizerError` that names the optimizer. Knows the optimizer protocol, recipes
and spaces; knows no algorithm, no journal and no file.

A step may go wrong in two ways that are found at different times:

- A scalar of the returned recipe is NaN or infinite (a learning rate, a projected gradient, a coefficient of
  `weighted_sum`, a number a tensor). `checked_step` finds it on the host before anything is written, at the cost of a
  walk over the recipe, which is a few dozen nodes.
- An element becomes NaN while the recipe is evaluated (0 / 0, the root of a negative number, an overflow, a torch
  function of factors). Looking for it would cost a pass over the weights in every step, so nothing looks while all is
  well. The objective of such weights usually fails; `check_weights`, called where an objective failed, then tells a
  broken optimizer from a broken objective. An objective that gives a finite score for NaN weights hides them.
"""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zotune import types
from zotune.core.recipe import (
    Constant,
    Directions,
    DirectionSum,
    Factor,
    Noise,
    Only,
    Op,
    PerTensor,
    Recipe,
    Theta,
    WeightedSum,
)
from zotune.core.space import Space
from zotune.core.state_codec import map_recipes
from zotune.errors import OptimizerError, RecipeError, ZotuneError
from zotune.search import oracle as oracle_module
from zotune.search.context import At
from zotune.search.oracle import Oracle
from zotune.types import Optimizer

INFINITE_OPERANDS = frozenset({"le", "lt", "ge", "gt", "maximum", "minimum"})
"""Operations with a meaning for an infinite operand: a threshold or a bound that no weight reaches."""
PACKAGE = Path(oracle_module.__file__).parents[1]


def initial_state(optimizer: Optimizer, space: Space, oracle: Oracle, at: At) -> Any:
    """The optimizer's state before its first step; its recipes are stored as fields of the space.

    `init` takes (theta), or (theta, oracle, at). Raises OptimizerError, and what the oracle raises.
    """
    init: Callable[..., Any] = optimizer.init
    takes_oracle = len(inspect.signature(init).parameters) >= 3
    arguments = (space.theta, oracle, at) if takes_oracle else (space.theta,)
    state = _call(optimizer, "init", init, arguments)
    _check_scalars(optimizer, "init", state)
    return space.assign(space.theta, state)


def checked_step(optimizer: Optimizer, theta: Recipe, oracle: Oracle, state: Any, at: At) -> tuple[Recipe, Any]:
    """The next weights as a recipe and the next state. Nothing is written.

    Raises OptimizerError where the step raises, returns anything but (recipe, state), or returns a recipe with a scalar
    that is not finite; and what the oracle raises, ObjectiveError above all.
    """
    result = _call(optimizer, "step", optimizer.step, (theta, oracle, state, at))
    if not isinstance(result, tuple | list) or len(result) != 2:
        length = f" of {len(result)} items" if isinstance(result, tuple | list) else ""
        raise OptimizerError(
            f"optimizer {_name(optimizer)}: step returned {_type(result)}{length} instead of a pair",
            hint="return next_theta, next_state; the state may be None",
        )
    next_theta, next_state = result
    if not isinstance(next_theta, Recipe):
        raise OptimizerError(
            f"optimizer {_name(optimizer)}: step returned {_type(next_theta)} as the next theta instead of a recipe",
            hint="return an expression of theta, such as theta - lr * g * z",
        )
    _check_scalars(optimizer, "step", [next_theta, next_state])
    return next_theta, next_state


def check_weights(optimizer: Optimizer, space: Space, step: int) -> None:
    """Raise OptimizerError if a tuned weight is not finite.

    One pass over the weights: to be called where an objective failed, not in every step.
    """
    for name, parameter in space.params.items():
        if not bool(parameter.data.isfinite().all()):
            raise OptimizerError(
                f"optimizer {_name(optimizer)}: tensor {name} is not finite before step {step}, "
                "so the objective cannot be evaluated",
                hint="try a smaller learning rate; if that does not help, look for 0/0 or sqrt of a negative number",
            )


def _call(optimizer: Optimizer, method: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except RecipeError as error:
        raise OptimizerError(f"optimizer {_name(optimizer)}: {method} built no recipe: {error}") from error
    except ZotuneError:  # a failed objective or an option out of range: one line already, and not the optimizer's fault
        raise
    except Exception as error:  # a plugin's code may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        if any(Path(frame.filename) == Path(oracle_module.__file__) for frame in frames):
            raise  # the model failed during an evaluation: not the optimizer's fault
        own = [frame for frame in frames if not Path(frame.filename).is_relative_to(PACKAGE)]
        place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
        text = (str(error).splitlines() or [""])[0]
        message = f"optimizer {_name(optimizer)}: {method} raised {type(error).__name__}: {text}{place}"
        raise OptimizerError(message, hint="ZOTUNE_DEBUG=1 shows the traceback") from error


def _check_scalars(optimizer: Optimizer, method: str, returned: Any) -> None:
    """Raise OptimizerError if a recipe in a state, or in (theta, state), holds a NaN, or an infinite scalar that is no
    operand of a comparison, a minimum or a maximum."""
    recipes: list[Recipe] = []

    def collect(_: str, recipe: Recipe) -> Recipe:
        recipes.append(recipe)
        return recipe

    map_recipes(returned, collect)
    seen: set[tuple[int, bool]] = set()
    for recipe in recipes:
        for value in _scalars(recipe, seen, bound=False):
            raise OptimizerError(
                f"optimizer {_name(optimizer)}: {method} returned a recipe with the scalar {value}",
                hint="guard the division or the root that gives it; the weights are as they were",
            )


def _scalars(recipe: Recipe, seen: set[tuple[int, bool]], bound: bool) -> Iterable[float]:
    """Scalars of a recipe that are NaN or infinite; infinite ones are left out where `bound` holds."""
    if (id(recipe), bound) in seen:  # recipes share parts
        return
    seen.add((id(recipe), bound))
    match recipe:
        case Constant(value=value):
            values: Iterable[float] = (value,)
        case PerTensor(values=by_tensor):
            values = by_tensor.values()
        case WeightedSum(terms=terms):
            values = (coefficient for coefficient, _ in terms)
        case DirectionSum(weights=weights):
            values = weights
        case Op(name=name, args=args):
            for part in args:
                yield from _scalars(part, seen, name in INFINITE_OPERANDS)
            return
        case Only(recipe=inner):
            yield from _scalars(inner, seen, False)
            return
        case _:
            return
    yield from (x for x in values if math.isnan(x) or (math.isinf(x) and not bound))


def _name(optimizer: Optimizer) -> str:
    return type(optimizer).__name__


def _type(value: Any) -> str:
    """What a value is, in an optimizer author's words."""
    if value is None:
        return "None"
    name = type(value).__name__
    return "one recipe" if isinstance(value, Recipe) else f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


if TYPE_CHECKING:  # the classes that a step works with have the shapes that plugins are typed with

    def _step_arguments(theta: Theta, oracle: Oracle, at: At) -> tuple[types.Theta, types.Oracle, types.At]:
        return theta, oracle, at

    def _recipes(recipe: Recipe, per: PerTensor, z: Noise, u: Factor, d: Directions) -> tuple[object, ...]:
        pairs: tuple[types.Recipe, types.PerTensor, types.Noise, types.Factor, types.Directions] = (
            recipe,
            per,
            z,
            u,
            d,
        )
        return pairs


__all__ = ["check_weights", "checked_step", "initial_state"]
