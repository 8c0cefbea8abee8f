"""Calls into transformers and peft: without their progress bars, and with their errors on one line.

Knows the logging of transformers; knows no model.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Final, TextIO


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


OWN_THREAD: Final = "zotune"
"""Threads whose names begin so are heard where standard error is silent."""


class _OwnLines(io.TextIOBase):
    """A stream that passes on what zotune's own threads write, such as how long a phase takes, and drops the rest."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, text: str) -> int:
        own = threading.current_thread().name.startswith(OWN_THREAD)
        return self._stream.write(text) if own else len(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def silent_stderr(enabled: bool) -> Iterator[None]:
    """Inside, a library's progress bars, which cannot be turned off, do not reach standard error."""
    with contextlib.redirect_stderr(_OwnLines(sys.stderr)) if enabled else contextlib.nullcontext():
        yield


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, or the error's type where it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


__all__ = ["OWN_THREAD", "first_line", "quiet", "silent_stderr"]
