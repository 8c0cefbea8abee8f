"""Everything that zotune raises on purpose.

    ZotuneError                  one line for the user; exit code 1
    ├── UsageError               refused before training; exit code 2
    │   ├── OptionError          an option that does not exist or is out of range
    │   ├── DataError            records that cannot be used, with file and line
    │   ├── ModelError           a model that cannot be loaded or does not fit the task
    │   ├── PluginError          a plugin that cannot be found or loaded
    │   └── RunFolderError       a run folder that exists, is foreign, damaged or in use
    ├── OutOfMemory          a forward pass of a single row does not fit into memory
    ├── RecipeError              arithmetic that a recipe cannot express
    ├── OptimizerError           an optimizer raised, or returned no pair or a number that is not finite
    ├── Stopped                  asked to stop while waiting for an answer; exit code 130
    ├── ObjectiveError           one evaluation failed: raised, not finite, wrong length or type
    └── ObjectiveFailures        too many evaluations failed; exit code 3

Messages name the culprit, its value and the way out. This module imports nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DataError",
    "ModelError",
    "ObjectiveError",
    "ObjectiveFailures",
    "OptimizerError",
    "OptionError",
    "OutOfMemory",
    "PluginError",
    "RecipeError",
    "RunFolderError",
    "Stopped",
    "UsageError",
    "ZotuneError",
]


class ZotuneError(Exception):
    """Base of all errors: one line, in which what is no printable character of a value is escaped. `hint` says the way
    out."""

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


class RunFolderError(UsageError):
    pass


class OutOfMemory(ZotuneError):
    pass


class RecipeError(ZotuneError):
    pass


class OptimizerError(ZotuneError):
    pass


class ObjectiveError(ZotuneError):
    pass


class Stopped(ZotuneError):
    exit_code = 130


class ObjectiveFailures(ZotuneError):
    exit_code = 3


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint that offers the nearest known name, or lists them all."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(known) if known else "none is known"
