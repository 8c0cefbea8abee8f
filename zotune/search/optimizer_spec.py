"""Resolves what the user names as an optimizer to an object with `init` and `step`.

Knows plugins, options and declarations; knows no weights and no run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from zotune import declarations, plugin_options, plugins
from zotune.errors import OptionError, UsageError
from zotune.scoring.objective import Objective
from zotune.types import Optimizer

AUTO = "auto"
"""The value of `--learning-rate` and `--eps` for which a calibration before the first step chooses the option."""
NAMES = {"lr": ("lr", "learning_rate"), "eps": ("eps", "epsilon")}
"""The names that optimizers have for the options of `--learning-rate` and `--eps`."""


def resolve(
    spec: str | Optimizer, options: Mapping[str, Any], lr: float | str | None = None, eps: float | str | None = None
) -> Optimizer:
    """The optimizer that `spec` names: a name, `file.py:Class`, `package.module:Class` or an instance.

    lr, eps: `--learning-rate` and `--eps`, for optimizers that have such options; "auto" leaves the option to the
    calibration. Raises PluginError and OptionError.
    """
    options = dict(options)
    if not isinstance(spec, str):
        if options or any(x not in (None, AUTO) for x in (lr, eps)):
            raise OptionError("options belong to the name of an optimizer; an instance has its options already")
        return spec
    if ":" in spec:
        target = plugins.by_path(spec, "optimizer")
    else:
        target = plugins.default().find("optimizer", spec).load()
    parameters = plugin_options.parameters(target)
    for value, names in ((lr, NAMES["lr"]), (eps, NAMES["eps"])):
        if value not in (None, AUTO):
            name = next((n for n in names if n in parameters), None)
            if name is None:
                raise OptionError(
                    f"optimizer {spec!r} has no option {names[0]!r}", hint=f"it has {', '.join(parameters)}"
                )
            options.setdefault(name, value)
    optimizer = plugin_options.build(target, options, f"optimizer {spec!r}")
    if declarations.plugin_problem("optimizer", optimizer):
        raise OptionError(f"optimizer {spec!r} has no init(theta) and step(theta, oracle, state, at)")
    return optimizer  # type: ignore[no-any-return]


def with_recorded(
    optimizer: Any, recorded: Mapping[str, Any], options: Mapping[str, Any], lr: Any = None, eps: Any = None
) -> Any:
    """The optimizer with the options that a run recorded, except those that the user gives: `options`,
    `--learning-rate` and `--eps`. Options that came later than the run have the value that it had. An optimizer that is
    no dataclass is returned as it is."""
    if not dataclasses.is_dataclass(optimizer) or isinstance(optimizer, type):
        return optimizer
    recorded = {**declarations.unrecorded(optimizer), **recorded}
    own = set(options) | {n for value, what in ((lr, "lr"), (eps, "eps")) if value is not None for n in NAMES[what]}
    values = {f.name: recorded[f.name] for f in dataclasses.fields(optimizer) if f.init and f.name in recorded}
    present = {name: value for name, value in values.items() if name not in own}
    plain = json.loads(json.dumps(dataclasses.asdict(optimizer), default=str))
    return dataclasses.replace(optimizer, **{n: v for n, v in present.items() if plain.get(n) != v})


def calibrated(optimizer: Any, lr: float | str | None, eps: float | str | None) -> dict[str, str]:
    """The names of the options to calibrate, as {"lr": name, "eps": name}; empty where the optimizer calibrates itself.

    Raises OptionError where it has no such option, or is no dataclass, so that the option cannot be replaced.
    """
    names: dict[str, str] = {}
    if declarations.optimizer_info(optimizer).calibrates:
        return names
    for what, value in (("lr", lr), ("eps", eps)):
        if value != AUTO:
            continue
        fields = (
            [f.name for f in dataclasses.fields(optimizer) if f.init] if dataclasses.is_dataclass(optimizer) else []
        )
        name = next((n for n in NAMES[what] if n in fields), None)
        if name is None:
            raise OptionError(
                f"{type(optimizer).__name__} has no option {NAMES[what][0]!r} that can be calibrated",
                hint=f"it has {', '.join(fields) or 'none'}",
            )
        names[what] = name
    return names


def check_needs(optimizer: Any, objective: Objective) -> None:
    """Raises UsageError where the optimizer needs values that the objective cannot give."""
    needs = declarations.optimizer_info(optimizer).needs
    name, info = type(optimizer).__name__, objective.info
    if info.gives == "order" and needs not in ("comparisons", "order"):
        raise UsageError(
            f"{name} needs values of single points, but objective {objective.name!r} compares and has no values",
            hint="rank-sgd, or one of the two-point optimizers such as mezo",
        )
    if needs == "per_sample" and info.level == "set":
        raise UsageError(
            f"{name} needs one score a row, but objective {objective.name!r} scores all rows together",
            hint="choose a sample-level objective, such as cross-entropy or accuracy",
        )
