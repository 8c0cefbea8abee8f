"""Files that are written whole or not at all, appended lines, and checksums.

A kill or a power cut at any time leaves the old file or the new one. This module knows paths and bytes; it does not
know what a run directory holds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

from zotune.errors import ZotuneError

RESUME: Final = "the run can be resumed: zotune resume"
"""The hint of an error that interrupts a run without loss."""
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES})
"""Errors of file systems that cannot sync, or cannot sync directories."""


@contextlib.contextmanager
def writing(path: Path, hint: str = RESUME) -> Iterator[None]:
    """Turn the errors of a full or broken disk inside the block into a ZotuneError that names the file."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise ZotuneError(f"{path} cannot be written: {why}", hint=hint) from None


def write(path: Path, text: str, hint: str = RESUME) -> None:
    """Replace a small file atomically; surrogates in the text, which UTF-8 cannot hold, become "?". Raises
    ZotuneError."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path, hint):
        try:
            temporary.write_bytes(text.encode("utf-8", "replace"))
            sync(temporary)
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C too: no temporary file stays
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def append(path: Path, text: str) -> None:
    """Append to a file in one write. Raises ZotuneError."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def sync(path: Path) -> None:
    """Force a file or a directory to the disk; does nothing if the file system cannot.

    Raises OSError if the disk is full or broken: a file that is not on the disk must not replace another one.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """The BLAKE2b-128 hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


__all__ = ["RESUME", "append", "checksum", "sync", "write", "writing"]
