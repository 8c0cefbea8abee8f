"""The library of a tracker, imported when a run uses it."""

from __future__ import annotations

import importlib
from typing import Any

from zotune.errors import OptionError


def library(name: str, tracker: str, extra: str) -> Any:
    """A module by name. Raises OptionError with the extra to install where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OptionError(
            f"--report-to {tracker} needs a package: {error}", hint=f"pip install 'zotune[{extra}]'"
        ) from error


def checked_name(value: str, what: str) -> str:
    """A name that is not empty. Raises OptionError."""
    if not value.strip():
        raise OptionError(f"{what} is empty")
    return value


__all__ = ["checked_name", "library"]
