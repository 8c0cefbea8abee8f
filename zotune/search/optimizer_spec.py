"""What a user names as an optimizer, made into an object with init and step. Knows plugins and options; no weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from zotune import declarations, plugin_options, plugins
from zotune.errors import OptionError, UsageError
from zotune.scoring.objective import Objective
from zotune.types import Optimizer

AUTO = "auto"
"""For `--learning-rate` and `--eps`: found by a calibration before the first step."""
NAMES = {"lr": ("lr", "learning_rate"), "eps": ("eps", "epsilon")}
"""What optimizers call their options for `--learning-rate` and `--eps`."""


def resolve(
    spec: str | Optimizer, options: Mapping[str, Any], lr: float | str | None = None, eps: float | str | None = None
) -> Optimizer:
    """A name, `file.py:Class`, `package.module:Class` or an instance to an optimizer.

    lr and eps are `--learning-rate` and `--eps`, for optimizers that have such options; "auto" leaves them as they are,
    to be calibrated. Raises PluginError and OptionError.
    """
    options = dict(options)
    if not isinstance(spec, str):
        if options or any(x not in (None, AUTO) for x in (lr, eps)):
            raise OptionError("options are given to an optimizer's name, not to an instance")
        return spec
    if ":" in spec:
        target = plugins.by_path(spec, "optimizer")
    else:
        target = plugins.default().find("optimizer", spec).load()
    known = plugin_options.parameters(target)
    for value, names in ((lr, NAMES["lr"]), (eps, NAMES["eps"])):
        if value not in (None, AUTO):
            found = next((n for n in names if n in known), None)
            if found is None:
                raise OptionError(f"optimizer {spec!r} has no option {names[0]!r}", hint=f"it has {', '.join(known)}")
            options.setdefault(found, value)
    made = plugin_options.build(target, options, f"optimizer {spec!r}")
    if declarations.plugin_problem("optimizer", made):
        raise OptionError(f"optimizer {spec!r} has no init(theta) and step(theta, oracle, state, at)")
    return made  # type: ignore[no-any-return]


def calibrated(optimizer: Any, lr: float | str | None, eps: float | str | None) -> dict[str, str]:
    """The optimizer's options to calibrate, as {"lr": name, "eps": name}; none where it `calibrates` itself.

    Raises OptionError where it has no such option, or cannot be made again with another value.
    """
    out: dict[str, str] = {}
    if declarations.optimizer_info(optimizer).calibrates:
        return out
    for what, value in (("lr", lr), ("eps", eps)):
        if value != AUTO:
            continue
        known = [f.name for f in dataclasses.fields(optimizer) if f.init] if dataclasses.is_dataclass(optimizer) else []
        name = next((n for n in NAMES[what] if n in known), None)
        if name is None:
            raise OptionError(
                f"{type(optimizer).__name__} has no option {NAMES[what][0]!r} that can be calibrated",
                hint=f"it has {', '.join(known) or 'none'}",
            )
        out[what] = name
    return out


def check_needs(optimizer: Any, objective: Objective) -> None:
    """Refuse an optimizer that asks for what the objective cannot give. Raises UsageError."""
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
