"""What the core reads from the objects of users and plugins: the only module that looks attributes up by name.

An objective declares itself with `@zotune.objective(...)` or a method `info()`, an optimizer with class attributes and
methods. Everything is looked up on the class and without running an object's own attribute hooks, so a user's option
may have any name, and an object may refuse any attribute that it does not declare. Knows records and errors; calls no
objective and runs no step.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, TypeVar, get_args

from zotune.errors import UsageError, ZotuneError
from zotune.types import CallOption, Direction, Gives, Level, Needs, ObjectiveInfo, OptimizerInfo

_DECLARATION: Final = "zotune_objective"
_MISSING: Final = object()
TRACKER_METHODS: Final = ("on_run_start", "on_step_end", "on_evaluation", "on_run_end")
ENGINE_METHODS: Final = (
    *("start", "versions", "matrices", "generate"),
    *("update", "load", "export", "weights_hash", "close"),
)
_SHIPPED: Final = frozenset({"zotune", "zotune_engines", "zotune_optimizers", "zotune_objectives", "zotune_trackers"})
"""Packages of zotune's own distribution."""
F = TypeVar("F", bound=Callable[..., Any])


def objective(
    direction: Direction = "maximize",
    *,
    level: Level | None = None,
    gives: Gives = "values",
    needs: Sequence[str] | None = None,
    batch_size: int | None = None,
    cacheable: bool | None = None,
    fast: bool | None = None,
    timeout: float | None = None,
    candidates: int = 4,
    validates: bool = True,
    test_rows: int | None = None,
    max_scores: int | None = None,
    call_options: Sequence[CallOption] = (),
) -> Callable[[F], F]:
    """Declare an objective: `@zotune.objective(direction="minimize")`. The fields are those of `types.ObjectiveInfo`.

    Works on functions and on classes whose instances are callable. Without the decorator an objective is maximized,
    unless `--direction` overrides it. Raises OptionError for values that no field takes.
    """
    info = ObjectiveInfo(
        direction,
        level,
        gives,
        None if needs is None else tuple(needs),
        batch_size,
        cacheable,
        fast,
        timeout,
        candidates,
        validates,
        test_rows,
        max_scores,
        tuple(call_options),
    )

    def mark(target: F) -> F:
        setattr(target, _DECLARATION, info)
        return target

    return mark


def objective_info(target: Any) -> ObjectiveInfo:
    """The declaration of an objective: what its method `info()` returns, else the decorator's, else the default.

    Raises UsageError where `info()` fails or returns something else.
    """
    method = _method(target, "info")
    if method is None:
        return _decorated(target) or ObjectiveInfo()
    try:
        info = method()
    except ZotuneError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(f"{name_of(target)}.info() raised {type(error).__name__}: {error}") from error
    if not isinstance(info, ObjectiveInfo):
        raise UsageError(
            f"{name_of(target)}.info() returned a {type(info).__name__}",
            hint="info() is an objective's declaration: return a zotune.types.ObjectiveInfo, or rename the method",
        )
    return replace(info, call_options=call_options(target))


def copy_declaration(source: Any, target: F) -> F:
    """Give a function the declaration of the callable that it wraps."""
    setattr(target, _DECLARATION, objective_info(source))
    return target


def call_options(target: Any) -> tuple[CallOption, ...]:
    """The options of an objective's class that the `--score-…` flags set."""
    info = _decorated(target)
    return info.call_options if info else ()


def optimizer_info(optimizer: Any) -> OptimizerInfo:
    """The declared capabilities of an optimizer. Raises UsageError for values that they do not take."""
    default, name = OptimizerInfo(), type(optimizer).__name__
    needs, stored = _capability(optimizer, "needs", default.needs), _capability(optimizer, "fields", default.fields)
    compares = _capability(optimizer, "compares", default.compares)
    if needs not in get_args(Needs):
        raise UsageError(f"{name}: needs must be values, comparisons, order or per_sample, got {needs!r}")
    if isinstance(stored, bool) or not isinstance(stored, int | float) or not stored >= 0:
        raise UsageError(f"{name}: fields must be a number of stored tensors for each weight, got {stored!r}")
    if isinstance(compares, bool) or not isinstance(compares, int) or compares < 2:
        raise UsageError(f"{name}: compares must be a whole number of at least 2, got {compares!r}")
    return OptimizerInfo(
        needs,
        stored,
        compares,
        calibrates=bool(_capability(optimizer, "calibrates", default.calibrates)),
        stratifies=bool(_capability(optimizer, "stratifies", default.stratifies)),
        interpolates=bool(_capability(optimizer, "interpolates", default.interpolates)),
        populations=bool(_capability(optimizer, "populations", default.populations)),
        sharpens=bool(_capability(optimizer, "sharpens", default.sharpens)),
        reuses_answers=bool(_capability(optimizer, "reuses_answers", default.reuses_answers)),
        affine=bool(_capability(optimizer, "affine", default.affine)),
    )


def unrecorded(target: Any) -> dict[str, Any]:
    """Options of an optimizer that are younger than recorded runs, each with the value that such runs had: the class
    attribute `unrecorded`."""
    cls: Any = target if inspect.isclass(target) else type(target)
    values = _static(cls, "unrecorded")
    return dict(values) if isinstance(values, Mapping) and "unrecorded" not in options(cls) else {}


def step_cost(optimizer: Any, theta: Any, at: Callable[[], Any]) -> int | None:
    """Evaluations that a step makes: what its method `cost(theta, at)` returns, else `forwards`; None: not declared.

    at: makes the moment of the step, called only where there is such a method.
    """
    cost = _capability(optimizer, "cost", None)
    if callable(cost):
        return int(cost(theta, at()))
    forwards = _capability(optimizer, "forwards", None)
    return forwards if isinstance(forwards, int) else None


def declares_cost(optimizer: Any) -> bool:
    """Whether an optimizer declares what each of its steps costs."""
    declared = isinstance(_capability(optimizer, "forwards", None), int)
    return declared or callable(_capability(optimizer, "cost", None))


def description(optimizer: Any, state: Any) -> dict[str, float]:
    """Numbers by name that an optimizer's method `describe(state)` returns for the state after init; empty where it has
    none. Raises UsageError where it returns anything else."""
    return _numbers(optimizer, "describe", state)


def findings(optimizer: Any, state: Any) -> dict[str, float]:
    """Numbers by name that an optimizer's method `summarize(state)` returns for the last state; empty where it has
    none. Raises UsageError where it returns anything else."""
    return _numbers(optimizer, "summarize", state)


def _numbers(optimizer: Any, method: str, state: Any) -> dict[str, float]:
    called = _capability(optimizer, method, None)
    numbers = called(state) if callable(called) else {}
    if not isinstance(numbers, Mapping) or not all(isinstance(x, int | float) for x in numbers.values()):
        raise UsageError(f"{name_of(optimizer)}: {method} must return numbers by name, got {numbers!r:.80}")
    return {str(name): float(x) for name, x in numbers.items()}


def warning(optimizer: Any, state: Any) -> str:
    """What an optimizer's method `warning(state)` says of the state after init; "" where it has none. Raises UsageError
    where it returns anything but a text."""
    warns = _capability(optimizer, "warning", None)
    text = warns(state) if callable(warns) else ""
    if not isinstance(text, str):
        raise UsageError(f"{name_of(optimizer)}: warning must return a text, got {text!r:.80}")
    return text


def eps(optimizer: Any) -> Any:
    """The value of the option `eps`, the perturbation scale, by convention; None where an optimizer has none."""
    return _value(optimizer, "eps", None)


def plugin_problem(kind: str, target: Any) -> str:
    """Why an object is no optimizer, objective, tracker or engine; an empty text where it is one."""
    if kind == "engine":
        missing = next((name for name in ENGINE_METHODS if not callable(_static(target, name))), None)
        return f"{name_of(target)!r} has no {missing} method (zotune.inference.InferenceEngine)" if missing else ""
    if kind == "tracker":
        missing = next((name for name in TRACKER_METHODS if not callable(_static(target, name))), None)
        hint = "subclass zotune.types.Tracker to leave methods out"
        return f"{name_of(target)!r} has no {missing} method ({hint})" if missing else ""
    if not callable(target) and not callable(_static(target, "step")):
        return f"the target is a {type(target).__name__}, not a class or function"
    if kind == "optimizer":
        for method, form in (("step", "step(theta, oracle, state, at)"), ("init", "init(theta)")):
            if not callable(_static(target, method)):
                return f"{name_of(target)!r} has no {form} method"
    return ""


def name_of(target: Any, default: str | None = None) -> str:
    """The `__name__` of a function, a class or an object that has one; else the default, or the type's name."""
    if inspect.isclass(target) or inspect.isroutine(target):
        return str(target.__name__)
    name = _static(target, "__name__")
    return name if isinstance(name, str) else type(target).__name__ if default is None else default


def definition(target: Any) -> Any:
    """The class or function that defines an object's behaviour."""
    return target if inspect.isclass(target) or inspect.isroutine(target) else type(target)


def source_file(target: Any) -> str | None:
    """The file that defines a function or an object's class; None for builtins and what is typed at a prompt."""
    try:
        return inspect.getfile(definition(target))
    except (OSError, TypeError):
        return None


def signature(target: Callable[..., Any]) -> inspect.Signature:
    """How a callable is called. Raises TypeError and ValueError as `inspect.signature` does."""
    call = _call_of(target)
    if call is None:
        return inspect.signature(target)
    declared = _static(target, "__signature__")
    if isinstance(declared, inspect.Signature):
        return declared
    bound = inspect.signature(call)
    return bound.replace(parameters=list(bound.parameters.values())[1:])


def is_async(target: Callable[..., Any]) -> bool:
    """Whether a function, or an object's `__call__`, is a coroutine function."""
    return inspect.iscoroutinefunction(_call_of(target) or target)


def plain(value: Any) -> Any:
    """A number or array of numpy or torch as Python's own; any other value as it is."""
    convert = None if isinstance(value, str | bytes) else _static(type(value), "tolist")
    return value if not callable(convert) else value.tolist()


def scalar(value: Any) -> Any:
    """A numpy or torch scalar, or an array of one element, as Python's own number; any other value as it is."""
    convert = _static(type(value), "item")
    return value.item() if callable(convert) else value


def length(value: Any) -> int | None:
    """The rows of an array of numpy or torch; None for any other value, and for a scalar."""
    shape: Any = value.shape if _static(type(value), "shape") is not _MISSING else ()
    return int(shape[0]) if len(shape) else None


@functools.cache
def options(cls: Any) -> frozenset[str]:
    """The names of a class's options: its dataclass fields and the parameters of its `__init__`."""
    names = {f.name for f in fields(cls)} if is_dataclass(cls) else set()
    try:
        return frozenset(names | set(inspect.signature(cls.__init__).parameters))  # type: ignore[misc]
    except (TypeError, ValueError):
        return frozenset(names)


def _decorated(target: Any) -> ObjectiveInfo | None:
    """The declaration that `@objective` left on a function, on an object, or on a class or one of its bases."""
    target = target.__func__ if isinstance(target, types.MethodType) else target
    info = _static(target, _DECLARATION)
    return info if isinstance(info, ObjectiveInfo) else None


def _capability(owner: Any, name: str, default: Any) -> Any:
    """A class attribute, property or bound method; the default where the class has none, or has an option so called."""
    cls: type = type(owner)
    if name in options(cls):
        return default
    for base in cls.__mro__:
        if name in vars(base):
            return _bound(vars(base)[name], owner, cls)
    return default


def _method(target: Any, name: str) -> Callable[..., Any] | None:
    """A method that is defined as a function in an object's class or in a base; None for functions and classes."""
    if inspect.isclass(target) or inspect.isroutine(target) or name in options(definition(target)):
        return None
    attribute = next((vars(base)[name] for base in type(target).__mro__ if name in vars(base)), None)
    return types.MethodType(attribute, target) if inspect.isfunction(attribute) else None


def _static(target: Any, name: str) -> Any:
    return inspect.getattr_static(target, name, _MISSING)


def _value(target: Any, name: str, default: Any) -> Any:
    """The value of an attribute of an object or its class, without the object's own attribute hooks."""
    attribute = _static(target, name)
    return default if attribute is _MISSING else _bound(attribute, target, type(target))


def _bound(attribute: Any, owner: Any, cls: type) -> Any:
    """What reading a class's attribute on an instance gives: properties are computed, functions are bound."""
    get = _static(type(attribute), "__get__")
    return attribute if get is _MISSING else get(attribute, owner, cls)


def _call_of(target: Any) -> Any:
    """`__call__` of a class in Python whose instance this is; None for functions, classes and builtins."""
    if inspect.isclass(target) or inspect.isroutine(target):
        return None
    call = _static(type(target), "__call__")
    return call if inspect.isfunction(call) else None


def is_shipped(target: Any) -> bool:
    """Whether a function or an object's class comes with zotune: its version, which is compared too, stands for it."""
    module: str = definition(target).__module__ or ""
    return module.partition(".")[0] in _SHIPPED


__all__ = [
    "call_options",
    "copy_declaration",
    "declares_cost",
    "definition",
    "description",
    "eps",
    "findings",
    "is_async",
    "is_shipped",
    "length",
    "name_of",
    "objective",
    "objective_info",
    "optimizer_info",
    "options",
    "plain",
    "plugin_problem",
    "scalar",
    "signature",
    "source_file",
    "step_cost",
]
