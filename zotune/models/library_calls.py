"""Calls into transformers and peft: without their progress bars, and with their errors on one line.

Knows the logging of transformers; knows no model.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers shows no progress bar, no warning and no advice about new heads; errors are raised as
    usual."""
    from transformers.utils import logging as hf

    verbosity, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity_error()
    hf.disable_progress_bar()
    logger = logging.getLogger("transformers")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf.set_verbosity(verbosity)
        if bars:
            hf.enable_progress_bar()
        logger.setLevel(verbosity)


@contextlib.contextmanager
def silent_stderr(enabled: bool) -> Iterator[None]:
    """Inside, nothing reaches standard error, where a library shows a progress bar that cannot be turned off."""
    with contextlib.redirect_stderr(io.StringIO()) if enabled else contextlib.nullcontext():
        yield


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, or the error's type where it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


__all__ = ["first_line", "quiet", "silent_stderr"]
