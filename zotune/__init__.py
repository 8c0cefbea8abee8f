"""zotune tunes a local model's weights for any scalar that a person can compute, with forward passes only.

    zotune.fit(objective="f1")                                  the embedded model and data
    zotune.fit(model="…", dataset="…", objective=my_function)   your own
    zotune.fit(model=model, tokenizer=tokenizer, data=records)  what is loaded already
    zotune.Tuner(module, objective)                             any torch module
    zotune.evaluate(model="…", dataset="…", objective="f1")     score only
    zotune.report("runs/f1-1")                                  a page of what a run has reached

Names are imported when they are first used, so that a plugin module stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from zotune.version import __version__

if TYPE_CHECKING:
    from zotune.api import evaluate as evaluate
    from zotune.api import fit as fit
    from zotune.api import resume as resume
    from zotune.core.recipe import bits as bits
    from zotune.core.recipe import clip as clip
    from zotune.core.recipe import constant as constant
    from zotune.core.recipe import direction_sum as direction_sum
    from zotune.core.recipe import each as each
    from zotune.core.recipe import maximum as maximum
    from zotune.core.recipe import minimum as minimum
    from zotune.core.recipe import only as only
    from zotune.core.recipe import outer as outer
    from zotune.core.recipe import sign as sign
    from zotune.core.recipe import sqrt as sqrt
    from zotune.core.recipe import weighted_sum as weighted_sum
    from zotune.core.recipe import where as where
    from zotune.declarations import objective as objective
    from zotune.hookspecs import hookimpl as hookimpl
    from zotune.runs.run_report import report as report
    from zotune.tuner import Tuner as Tuner

_HOME = {
    "hookimpl": "zotune.hookspecs",
    "objective": "zotune.declarations",
    "fit": "zotune.api",
    "resume": "zotune.api",
    "evaluate": "zotune.api",
    "report": "zotune.runs.run_report",
    "Tuner": "zotune.tuner",
    **dict.fromkeys(
        (
            "bits",
            "clip",
            "constant",
            "direction_sum",
            "each",
            "maximum",
            "minimum",
            "only",
            "outer",
            "sign",
            "sqrt",
            "weighted_sum",
            "where",
        ),
        "zotune.core.recipe",
    ),
}

__all__ = [
    "Tuner",
    "__version__",
    "bits",
    "clip",
    "constant",
    "direction_sum",
    "each",
    "evaluate",
    "fit",
    "hookimpl",
    "maximum",
    "minimum",
    "objective",
    "only",
    "outer",
    "report",
    "resume",
    "sign",
    "sqrt",
    "weighted_sum",
    "where",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zotune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
