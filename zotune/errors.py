"""The errors that zotune raises on purpose.

    ZotuneError                  one line for the user; exit code 1
    ├── UsageError               refused before training; exit code 2
    │   ├── OptionError          an option that does not exist or is out of range
    │   ├── DataError            records that cannot be used, with file and line
    │   ├── ModelError           a model that cannot be loaded or does not fit the task
    │   ├── PluginError          a plugin that cannot be found or loaded
    │   ├── EngineError          an inference engine that cannot be started, or does not support the model
    │   ├── SideEffectError      an objective that changed what it may only read, and what cannot be put back
    │   └── RunFolderError       a run folder that exists, is foreign, damaged or in use
    ├── OutOfMemory          a forward pass of a single row does not fit into memory
    ├── RecipeError              arithmetic that a recipe cannot express
    ├── OptimizerError           an optimizer raised, or returned no pair or a number that is not finite
    ├── Stopped                  stopped while waiting for an answer; exit code 130
    ├── ObjectiveError           one evaluation failed: raised, not finite, wrong length or type
    └── ObjectiveFailures        too many evaluations failed; exit code 3

A message names what is wrong, its value and the next step. This module imports nothing of zotune.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DataError",
    "EngineError",
    "ModelError",
    "ObjectiveError",
    "ObjectiveFailures",
    "OptimizerError",
    "OptionError",
    "OutOfMemory",
    "PluginError",
    "RecipeError",
    "RunFolderError",
    "SideEffectError",
    "Stopped",
    "UsageError",
    "ZotuneError",
]


class ZotuneError(Exception):
    """Base of all errors. Its text is one line, unprintable characters escaped; `hint` is the next step."""

    exit_code = 1
    told = False
    """Whether another process of the same run says it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        text = super().__str__()
        text = f"{text} ({self.hint})" if self.hint else text
        return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class UsageError(ZotuneError):
    exit_code = 2


class OptionError(UsageError):
    pass


class DataError(UsageError):
    pass


class ModelError(UsageError):
    pass


class PluginError(UsageError):
    pass


class EngineError(UsageError):
    pass


class RunFolderError(UsageError):
    pass


class SideEffectError(UsageError):
    pass


class OutOfMemory(ZotuneError):
    pass


class RecipeError(ZotuneError):
    pass


class OptimizerError(ZotuneError):
    pass


class ObjectiveError(ZotuneError):
    pass


class NonFiniteScore(ObjectiveError):
    pass


class Stopped(ZotuneError):
    exit_code = 130


class ObjectiveFailures(ZotuneError):
    exit_code = 3


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint with the name nearest to `name`, or with all names where none is near."""
    possible = sorted(names)
    close = difflib.get_close_matches(name, possible, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(possible) if possible else "none is known"
